// This instruction set's table. The convolutions have files of their own, which compile side by
// side.
#include "../kernels.h"

#include "im2col.h"
#include "pool.h"
#include "reduce.h"
#include "tables.h"
#include "update.h"

#define PYCONV_STRING_(text) #text
#define PYCONV_STRING(text) PYCONV_STRING_(text)

namespace pyconv::PYCONV_TARGET {
namespace {

template <class T>
void reshape(const ConvProblem& p, Pass pass, const Buffers& b) {
  if (pass == Pass::im2col) return im2col<T>(p, b);
  if (pass == Pass::col2im) return col2im<T>(p, b);
  bwd_bias<T>(p, b);
}

}  // namespace

extern const Kernels kernels_table;
const Kernels kernels_table{PYCONV_STRING(PYCONV_TARGET),
                            {nullptr, direct_kernels, gemm_kernels, winograd_kernels, fft_kernels},
                            {reshape<float>, reshape<double>},
                            {pool<float>, pool<double>},
                            {activation_backward<float>, activation_backward<double>},
                            {layer<float>, layer<double>},
                            indices_within};

}  // namespace pyconv::PYCONV_TARGET

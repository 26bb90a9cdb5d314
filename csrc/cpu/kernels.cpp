// Fills this instruction set's table.
#include "../kernels.h"

#include "direct.h"
#include "fft_conv.h"
#include "gemm_weight.h"
#include "pointwise.h"
#include "pool.h"
#include "reduce.h"
#include "update.h"
#include "winograd_kernel.h"

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

template <class T>
constexpr ConvKernel direct_kernel{nullptr,
                                   direct_packed_bytes<T>,
                                   channel_lanes_pack<T>,
                                   direct_scratch_bytes<T>,
                                   direct_shared_bytes<T>,
                                   direct<T>};
template <class T>
constexpr ConvKernel gemm_kernel{
    nullptr, gemm_packed_bytes<T>, gemm_pack<T>, gemm_scratch_bytes<T>, gemm_shared_bytes<T>,
    gemm<T>};

constexpr ConvKernel winograd_kernel{
    Winograd::refuse,       Winograd::packed_bytes, Winograd::pack, Winograd::scratch_bytes,
    Winograd::shared_bytes, Winograd::run,          Winograd::packs};

template <class T>
constexpr ConvKernel fft_kernel{FftConvolution<T>::refuse,       FftConvolution<T>::packed_bytes,
                                FftConvolution<T>::pack,         FftConvolution<T>::scratch_bytes,
                                FftConvolution<T>::shared_bytes, FftConvolution<T>::run};

}  // namespace

extern const Kernels kernels_table;
const Kernels kernels_table{PYCONV_STRING(PYCONV_TARGET),
                            {{},
                             {direct_kernel<float>, direct_kernel<double>},
                             {gemm_kernel<float>, gemm_kernel<double>},
                             {winograd_kernel, {}},
                             {fft_kernel<float>, fft_kernel<double>}},
                            {reshape<float>, reshape<double>},
                            {pool<float>, pool<double>},
                            {activation_backward<float>, activation_backward<double>},
                            {layer<float>, layer<double>},
                            indices_within};

}  // namespace pyconv::PYCONV_TARGET

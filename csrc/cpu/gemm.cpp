// The im2col + GEMM kernels of this instruction set.
#include "gemm_weight.h"
#include "tables.h"

namespace pyconv::PYCONV_TARGET {
namespace {

template <class T>
constexpr ConvKernel kernel{
    nullptr, gemm_packed_bytes<T>, gemm_pack<T>, gemm_scratch_bytes<T>, gemm_shared_bytes<T>,
    gemm<T>, gemm_packs<T>};

}  // namespace

const ConvKernel gemm_kernels[2]{kernel<float>, kernel<double>};

}  // namespace pyconv::PYCONV_TARGET

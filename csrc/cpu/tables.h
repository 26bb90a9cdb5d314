// What the files of this directory give to the table of this instruction set: [dtype].
#pragma once
#include "../kernels.h"

namespace pyconv::PYCONV_TARGET {

extern const ConvKernel direct_kernels[2], gemm_kernels[2], winograd_kernels[2], fft_kernels[2];

}  // namespace pyconv::PYCONV_TARGET

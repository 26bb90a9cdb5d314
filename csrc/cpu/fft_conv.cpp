// The FFT kernels of this instruction set.
#include "fft_conv.h"

#include "tables.h"

namespace pyconv::PYCONV_TARGET {
namespace {

template <class T>
constexpr ConvKernel kernel{FftConvolution<T>::refuse,       FftConvolution<T>::packed_bytes,
                            FftConvolution<T>::pack,         FftConvolution<T>::scratch_bytes,
                            FftConvolution<T>::shared_bytes, FftConvolution<T>::run};

}  // namespace

const ConvKernel fft_kernels[2]{kernel<float>, kernel<double>};

}  // namespace pyconv::PYCONV_TARGET

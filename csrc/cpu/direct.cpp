// The direct kernels of this instruction set.
#include "direct.h"

#include "tables.h"

namespace pyconv::PYCONV_TARGET {
namespace {

template <class T>
constexpr ConvKernel kernel{nullptr,
                            direct_packed_bytes<T>,
                            channel_lanes_pack<T>,
                            direct_scratch_bytes<T>,
                            direct_shared_bytes<T>,
                            direct<T>};

}  // namespace

const ConvKernel direct_kernels[2]{kernel<float>, kernel<double>};

}  // namespace pyconv::PYCONV_TARGET

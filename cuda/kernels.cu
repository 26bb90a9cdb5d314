// The one table of this module, and what csrc/plan.h asks of csrc/targets.cpp in the other.
#include "../csrc/plan.h"
#include "kernels.cuh"

namespace pyconv {
namespace cuda {
namespace {

template <class T>
void reshape(const ConvProblem& p, Pass pass, const Buffers& b) {
  if (pass == Pass::im2col) return im2col<T>(p, b);
  if (pass == Pass::col2im) return col2im<T>(p, b);
  bwd_bias<T>(p, b);
}

template <class T>
constexpr ConvKernel direct_kernel{nullptr,  nullptr, nullptr, nullptr, direct_shared_bytes<T>,
                                   direct<T>};
template <class T>
constexpr ConvKernel gemm_kernel{nullptr, nullptr, nullptr, nullptr, gemm_shared_bytes<T>, gemm<T>};

const ConvKernel direct_kernels[2]{direct_kernel<float>, direct_kernel<double>};
const ConvKernel gemm_kernels[2]{gemm_kernel<float>, gemm_kernel<double>};

// By the tiles of gemm.cu, whose rows are result channels; no GPU has measured where it should be.
bool prefers_direct(const ConvProblem& p, Pass pass) {
  return (pass == Pass::bwd_data ? p.c_per_group() : p.k_per_group()) <= 8;
}

const Kernels kernels_table{"cuda",
                            {nullptr, direct_kernels, gemm_kernels},
                            {reshape<float>, reshape<double>},
                            {pool<float>, pool<double>},
                            {activation_backward<float>, activation_backward<double>},
                            {layer<float>, layer<double>},
                            nullptr,
                            prefers_direct};

}  // namespace
}  // namespace cuda

int target_count() {
  return 1;
}

const Kernels& target(int) {
  return cuda::kernels_table;
}

const Kernels& current_target() {
  return cuda::kernels_table;
}

void set_target(const char* name) {
  if (std::string(name) != "cuda")
    throw ValueError("target (=\"" + std::string(name) + "\") is not in this module (cuda)");
}

}  // namespace pyconv

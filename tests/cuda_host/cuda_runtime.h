// Stands in for the toolkit's header: a .cu file becomes plain C++ and its kernels run on the CPU.
//
// The threads of a block are fibres. One runs until it meets a barrier; which one goes on next is
// drawn from a seeded generator, so that a missing barrier changes results. Blocks run one after
// another, also in a drawn order; __shared__ is therefore static. A barrier that not all threads
// reach, or a warp function that not all of the warp reach, is an error. Under AddressSanitizer
// every access outside an array, a shared one included, ends the process.
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>

#define __global__
#define __device__
#define __host__
#define __shared__ static
#define __grid_constant__
#define __forceinline__ inline
#define __launch_bounds__(...)

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  dim3(unsigned x_ = 1) : x(x_) {}
};

extern dim3 threadIdx, blockIdx, blockDim, gridDim;

typedef int cudaError_t;
typedef void* cudaStream_t;
constexpr cudaError_t cudaSuccess = 0;
inline cudaError_t cudaGetLastError() {
  return cudaSuccess;
}
inline const char* cudaGetErrorString(cudaError_t) {
  return "no such device";
}
// One device.
#define CUDART_VERSION 0
inline cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}
enum { cudaDevAttrComputeCapabilityMajor };
inline cudaError_t cudaDeviceGetAttribute(int* value, int, int) {
  *value = 8;
  return cudaSuccess;
}
inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
inline cudaError_t cudaSetDevice(int device) {
  return device == 0 ? cudaSuccess : 101;
}

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  std::size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
};

namespace cuda_host {

void run(const cudaLaunchConfig_t& config, const std::function<void()>& kernel);
void block_barrier();
void warp_barrier();
// What all lanes of the warp show, `shown_bytes` apart.
constexpr std::size_t shown_bytes = 32;
const char* show(const void* value, std::size_t bytes);
// m16n8k8 of the warp; see mma.h.
void mma_tf32(float* d, const unsigned* a, const unsigned* b);
// Asynchronous copies of a thread; from == nullptr: zeros.
void copy_later(void* to, const void* from, std::size_t bytes);
void commit_copies();
void wait_copies(std::size_t groups_left);
[[noreturn]] void fail(const char* text);

}  // namespace cuda_host

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments... arguments) {
  cuda_host::run(*config, [=] { kernel(arguments...); });
  return cudaSuccess;
}

inline void __syncthreads() {
  cuda_host::block_barrier();
}
inline void __syncwarp(unsigned = 0xffffffffu) {
  cuda_host::warp_barrier();
}
template <class T>
T __shfl_sync(unsigned, T value, int lane) {
  std::memcpy(&value, cuda_host::show(&value, sizeof value) + lane * cuda_host::shown_bytes,
              sizeof value);
  return value;
}

inline double normcdf(double x) {
  return 0.5 * std::erfc(x * -0.70710678118654752440);
}
inline float normcdf(float x) {
  return float(normcdf(double(x)));
}

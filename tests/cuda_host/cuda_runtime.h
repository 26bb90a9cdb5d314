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
// What lane `from` of the warp gives for `value`, of at most 8 bytes.
void exchange(void* value, std::size_t bytes, int from);

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
  cuda_host::exchange(&value, sizeof value, lane);
  return value;
}

inline double normcdf(double x) {
  return 0.5 * std::erfc(x * -0.70710678118654752440);
}
inline float normcdf(float x) {
  return float(normcdf(double(x)));
}

// Launching, and the indices of a launch. Kernels are started by cudaLaunchKernelEx alone, which is
// plain C++, asynchronous and safe under graph capture; a host build of the tests supplies its own.
#pragma once
#include <cuda_runtime.h>

#include <climits>
#include <stdexcept>
#include <string>

#include "../csrc/correlation.h"

namespace pyconv::cuda {

constexpr int block_threads = 256;

PYCONV_HD inline i64 ceil_div(i64 a, i64 b) {
  return (a + b - 1) / b;
}

template <class T>
PYCONV_HD inline T min_of(T a, T b) {
  return b < a ? b : a;
}

inline void require(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // a launch that failed must not be found by the caller's next check
  throw std::runtime_error(std::string("pyconv: ") + what + ": " + cudaGetErrorString(error));
}

template <class... Parameters, class... Arguments>
void launch(const char* name, void (*kernel)(Parameters...), i64 blocks, int threads, void* stream,
            Arguments... arguments) {
  if (blocks == 0) return;
  if (blocks > INT_MAX)
    throw std::runtime_error(std::string("pyconv: ") + name + ": needs " + std::to_string(blocks) +
                             " blocks, CUDA runs at most 2147483647");
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(unsigned(blocks));
  config.blockDim = dim3(unsigned(threads));
  config.stream = static_cast<cudaStream_t>(stream);
  require(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...), name);
}

// A thread for each of `size` elements.
template <class... Parameters, class... Arguments>
void launch_each(const char* name, void (*kernel)(Parameters...), i64 size, void* stream,
                 Arguments... arguments) {
  launch(name, kernel, ceil_div(size, block_threads), block_threads, stream, arguments...);
}

__device__ inline i64 thread_index() {
  return i64(blockIdx.x) * blockDim.x + threadIdx.x;
}

// Takes the last digit off a mixed-radix number. Division of 64-bit numbers is a call of some 70
// instructions on a GPU, and most numbers have 32.
__device__ inline i64 take(i64& number, i64 radix) {
  if (((number | radix) >> 32) == 0) {
    const unsigned rest = unsigned(number), quotient = rest / unsigned(radix);
    number = quotient;
    return rest - quotient * unsigned(radix);
  }
  const i64 digit = number % radix;
  number /= radix;
  return digit;
}

// Element `index` of an array (N, C, D, H, W), counted in the order of memory.
struct Element {
  i64 n, c, at[3];
};

__device__ inline Element element_of(i64 index, Layout layout, i64 channels, const i64 (&size)[3]) {
  Element e;
  if (layout == Layout::nhwc) e.c = take(index, channels);
  for (int a = 2; a >= 0; --a) e.at[a] = take(index, size[a]);
  if (layout == Layout::nchw) e.c = take(index, channels);
  e.n = index;
  return e;
}

}  // namespace pyconv::cuda

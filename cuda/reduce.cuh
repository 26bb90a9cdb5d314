// Sums within a block, as a fixed tree: the same bits in every run.
#pragma once
#include "launch.cuh"

namespace pyconv::cuda {

// The sum of every thread's value, in thread 0; `shared` holds block_threads values and may be used
// again at once.
template <class T>
__device__ inline T block_sum(T value, T* shared) {
  const int t = int(threadIdx.x);
  shared[t] = value;
  for (int half = block_threads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (t < half) shared[t] += shared[t + half];
  }
  const T sum = shared[0];
  __syncthreads();
  return sum;
}

}  // namespace pyconv::cuda

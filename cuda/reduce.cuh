// Sums within a block, as a fixed tree: the same bits in every run.
#pragma once
#include "launch.cuh"

namespace pyconv::cuda {

// sums[i] of thread 0 becomes the sum of every thread's sums[i]; the block's size is a power of 2,
// at most block_threads.
template <class T, int COUNT>
__device__ inline void block_sum(T (&sums)[COUNT]) {
  __shared__ T shared[COUNT][block_threads];
  const int t = int(threadIdx.x);
  for (int i = 0; i < COUNT; ++i) shared[i][t] = sums[i];
  for (int half = int(blockDim.x) / 2; half > 0; half /= 2) {
    __syncthreads();
    if (t < half)
      for (int i = 0; i < COUNT; ++i) shared[i][t] += shared[i][t + half];
  }
  for (int i = 0; i < COUNT; ++i) sums[i] = shared[i][t];
}

// As many threads as there are elements for, as a power of 2.
inline int threads_for(i64 elements) {
  int threads = 32;
  while (threads < block_threads && threads < elements) threads *= 2;
  return threads;
}

}  // namespace pyconv::cuda

// The CPU's side of cuda/mma.cuh. An mma sums exactly, then rounds toward zero, which is no better
// than what tensor cores do. A copy happens at the wait for its group, not before: a kernel that
// reads too early reads NaN.
#pragma once
#include <cstdint>
#include <cstring>

#include "cuda_runtime.h"

namespace pyconv::cuda {

inline unsigned to_tf32(float x) {
  unsigned bits;
  std::memcpy(&bits, &x, 4);
  if ((bits & 0x7f800000u) == 0x7f800000u)
    return (bits & 0xffffe000u) | (bits & 0x1fff ? 0x400000u : 0);
  return (bits + 0x1000u) & 0xffffe000u;
}

inline float of_bits(unsigned bits) {
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}

inline void mma_tf32(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  cuda_host::mma_tf32(d, a, b);
}

template <int BYTES>
void copy_async(void* shared, const void* global, bool inside) {
  if (reinterpret_cast<std::uintptr_t>(shared) % BYTES ||
      (inside && reinterpret_cast<std::uintptr_t>(global) % BYTES))
    cuda_host::fail("a copy of misaligned memory");
  const unsigned nan = 0xffffffffu;
  for (int i = 0; i < BYTES; i += 4) std::memcpy(static_cast<char*>(shared) + i, &nan, 4);
  cuda_host::copy_later(shared, inside ? global : nullptr, BYTES);
}

inline void copies_commit() {
  cuda_host::commit_copies();
}
template <int LEFT>
void copies_wait() {
  cuda_host::wait_copies(LEFT);
}

}  // namespace pyconv::cuda

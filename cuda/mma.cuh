// Tensor cores and asynchronous copies, a warp's and a thread's instruction each. The host build of
// the tests has its own of the same names (tests/cuda_host/mma.h): fragments are explicit there.
//
// Fragments of mma.m16n8k8 in TF32 (PTX ISA, "Matrix fragments for mma.m16n8k8"): lane l has, with
// g = l / 4 and t = l % 4,
//   a  rows g, g + 8 of step t, then of step t + 4        b  column g of steps t, t + 4
//   d  row g of columns 2 t, 2 t + 1, then row g + 8 of them
#pragma once
#include <cstdint>

#if !defined(__CUDACC__)
#include "mma.h"
#else

namespace pyconv::cuda {

// The nearest of the numbers with 10 bits behind the point, ties away from zero.
__device__ inline unsigned to_tf32(float x) {
  unsigned bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
  return bits;
}

__device__ inline float of_bits(unsigned bits) {
  return __uint_as_float(bits);
}

__device__ inline void mma_tf32(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
      "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// BYTES (4, 8 or 16, to which both ends are aligned) from global to shared memory; zeros, and
// nothing is read, unless `inside`.
template <int BYTES>
__device__ inline void copy_async(void* shared, const void* global, bool inside) {
  const unsigned to = unsigned(__cvta_generic_to_shared(shared));
  const int bytes = inside ? BYTES : 0;
  if constexpr (BYTES == 16)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global), "r"(bytes)
                 : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(to), "l"(global), "n"(BYTES),
                 "r"(bytes)
                 : "memory");
}

// Ends a group of copies; copies_wait<LEFT> waits for all groups but the last LEFT.
__device__ inline void copies_commit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int LEFT>
__device__ inline void copies_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory");
}

}  // namespace pyconv::cuda

#endif

// How it is done: a checked problem, the algorithm the rules chose for it, the kernel and the bytes
// it needs. Planning takes under a microsecond and allocates nothing but the plan.
#pragma once
#include <string>

#include "kernels.h"

struct pyconv_plan {
  bool pools;
  bool transposed;
  pyconv::Pass pass;   // of the problem
  pyconv::Pass asked;  // by the caller; they differ in a transposed convolution
  pyconv::ConvProblem conv;
  pyconv::PoolProblem pool;
  const pyconv::Kernels* table;
  const pyconv::ConvKernel* kernel;  // nullptr where there is one way only
  pyconv::Algorithm algorithm;
  std::string reason;
  std::string op;  // for errors at run time

  std::size_t packed_bytes;                 // of weights that are kept
  std::size_t call_packed_bytes;            // the same, or 0 where a plain call does without
  std::size_t shared_bytes, scratch_bytes;  // each a multiple of 64
  std::size_t buffer_bytes[6];              // a, b, bias, residual, out, aux
  int most_threads;
  int rank;
  pyconv::i64 shape[5];
  double flops, bytes;
};

namespace pyconv {

// Below this much work, some 25 us of a core, a second thread is not woken: that takes 5 us on an
// idle machine, and milliseconds on one whose cores are busy. A byte takes as long as six
// operations: an average of 16 x 512 planes of 7x7 31 us with one thread, 18 with two.
constexpr double serial_flops = 4e6, flops_per_byte = 6;

inline int threads_worth(double flops, double bytes) {
  return flops + flops_per_byte * bytes < serial_flops ? 1 : 1 << 20;
}

const char* algorithm_name(Algorithm);

// Throws ValueError.
pyconv_plan plan_conv(const pyconv_conv_desc&);
pyconv_plan plan_pool(const pyconv_pool_desc&);

// targets.cpp: the tables built in that this machine can run, best first, and the chosen one.
int target_count();
const Kernels& target(int i);
const Kernels& current_target();  // throws ValueError where PYCONV_TARGET names no table
void set_target(const char* name);

}  // namespace pyconv

// The table type. An instruction set is one table: for each operation a row of functions, filled by
// cpu/*.cpp compiled for that set. A null row or a null `run` means that it does not serve.
#pragma once
#include <cstddef>

#include "layer.h"
#include "problem.h"

namespace pyconv {

struct Buffers {
  const void *a, *b;  // as in pyconv_buffers
  const void *bias, *residual;
  void *out, *aux;
  const void* packed;         // weights as pack() left them, if the algorithm packs
  char* shared;               // shared_bytes(), 64-byte aligned
  char* scratch;              // threads * scratch_bytes(), 64-byte aligned
  std::size_t scratch_bytes;  // of one thread, a multiple of 64
  int threads;
  void* stream;  // of a device
};

struct ConvKernel {
  const char* (*refuse)(const ConvProblem&, Pass);  // why it cannot serve, or nullptr
  std::size_t (*packed_bytes)(const ConvProblem&, Pass);
  void (*pack)(const ConvProblem&, Pass, const void* w, void* packed, int threads);
  std::size_t (*scratch_bytes)(const ConvProblem&, Pass);  // of one thread
  std::size_t (*shared_bytes)(const ConvProblem&, Pass);   // beside it, for all threads together
  void (*run)(const ConvProblem&, Pass, const Buffers&);
  // Whether a plain call packs first (nullptr: yes); else its run() reads `b`, `packed` is nullptr.
  bool (*packs)(const ConvProblem&, Pass) = nullptr;
};

struct Kernels {
  const char* name;
  const ConvKernel* conv[algorithm_count];                       // [algorithm][dtype]
  void (*reshape[2])(const ConvProblem&, Pass, const Buffers&);  // [dtype]: im2col, col2im, bias
  void (*pool[2])(const PoolProblem&, Pass, const Buffers&);
  void (*activation_backward[2])(Activation, i64 size, const void* dy, const void* y, void* dx,
                                 int threads, void* stream);
  void (*layer[2])(const LayerProblem&, void* const* buffers, int threads, void* stream);
  // Whether all indices lie in [0, plane). Null where buffers are a device's, whose kernels ignore
  // what points outside.
  bool (*indices_within)(const i64* indices, i64 count, i64 plane, int threads) = nullptr;
  // A device's rule between its two algorithms, direct and GEMM; null: the rules of plan.cpp.
  bool (*prefers_direct)(const ConvProblem&, Pass) = nullptr;
};

}  // namespace pyconv

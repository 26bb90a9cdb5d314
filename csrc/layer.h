// What networks do between convolutions: one struct for all of it, checked in one place.
#pragma once
#include "problem.h"

namespace pyconv {

enum class LayerKind : int { batch_norm, local_response_norm, dropout, activation, sgd, adam };
constexpr int layer_kind_count = 6, layer_buffers = 8;

struct LayerProblem {
  LayerKind kind;
  bool backward, training;
  DType dtype;
  Layout layout;
  Activation activation;
  i64 n, c, pixels;  // (N, C, pixels), or (N, pixels, C) for NHWC; optimizers: n elements
  i64 size;          // local response norm: channels of a window
  std::uint64_t seed;
  const double* numbers;

  i64 elements() const { return n * c * pixels; }
};

// Throws ValueError. `bytes`: what each buffer holds, 0 for one that is not used; a negative number
// for one that may be absent.
LayerProblem check_layer(const pyconv_layer_desc& desc, i64 (&bytes)[layer_buffers]);

}  // namespace pyconv

// Activations and their derivatives for one number; formulas as in csrc/cpu/pointwise.h.
#pragma once
#include <cmath>

#include "../csrc/kernels.h"
#include "launch.cuh"

namespace pyconv::cuda {

template <class T>
__device__ inline T sigmoid_of(T x) {
  const T e = exp(-fabs(x));  // <= 1, so that neither side loses digits
  return (x < 0 ? e : T(1)) / (1 + e);
}

template <class T>
__device__ inline T activate(Activation activation, T x) {
  switch (activation) {
    case Activation::none: return x;
    case Activation::relu: return x <= 0 ? T(0) : x;  // NaN is not <= 0 and passes
    case Activation::leaky_relu: return x > 0 ? x : x * T(0.01);
    case Activation::tanh: return tanh(x);
    case Activation::sigmoid: return sigmoid_of(x);
    case Activation::gelu: return x * normcdf(x);
    case Activation::silu: return x * sigmoid_of(x);
    case Activation::relu6: return x <= 0 ? T(0) : x > 6 ? T(6) : x;
  }
  return x;
}

// act'(.) from `y`, the output, or for gelu and silu the input.
template <class T>
__device__ inline T chain(Activation activation, T dy, T y) {
  switch (activation) {
    case Activation::none: return dy;
    case Activation::relu: return y <= 0 ? T(0) : dy;
    case Activation::leaky_relu: return y > 0 ? dy : dy * T(0.01);
    case Activation::tanh: return dy * (1 - y * y);
    case Activation::sigmoid: return dy * (y * (1 - y));
    case Activation::gelu:
      return dy * (normcdf(y) + y * (T(0.398942280401432677940) * exp(T(-0.5) * y * y)));
    case Activation::silu:  // sigmoid(-y) keeps the digits 1 - sigmoid(y) would lose
      return dy * (sigmoid_of(y) * (1 + y * sigmoid_of(-y)));
    case Activation::relu6: return y <= 0 || y >= 6 ? T(0) : dy;
  }
  return dy;
}

// The last step of a convolution kernel: y = activation(sum + bias + residual).
template <class T>
struct Epilogue {
  const T* bias;      // or nullptr
  const T* residual;  // or nullptr; lies as the result does
  T* out;
  Activation activation;

  __device__ void store(T sum, i64 channel, i64 at) const {
    if (bias) sum += bias[channel];
    if (residual) sum += residual[at];
    out[at] = activate(activation, sum);
  }
};

template <class T>
Epilogue<T> epilogue(const ConvProblem& p, const Buffers& b) {
  return {static_cast<const T*>(b.bias), static_cast<const T*>(b.residual), static_cast<T*>(b.out),
          p.activation};
}

}  // namespace pyconv::cuda

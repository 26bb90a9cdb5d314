// Activations and their derivatives, a vector at a time.
//
//   relu max(x, 0), leaky_relu max(x, 0.01 x), tanh, sigmoid 1 / (1 + e^-x), gelu x Phi(x) with Phi
//   the normal distribution's integral, silu x sigmoid(x)
//
// float32 runs polynomials on whole vectors, a few ulp from the truth over the whole line; float64
// asks the C library lane by lane. A value's result is the same in every lane and in a lone scalar.
// Sources: Moshier, Cephes (expf, tanhf); Phi is our own fit, see normal_tail.
#pragma once
#include "parallel.h"

namespace pyconv::PYCONV_TARGET {

// |slope| of leaky_relu's negative side, as in PyTorch.
constexpr double leak = 0.01;
constexpr double inv_sqrt_2pi = 0.398942280401432677940;

template <class T>
PYCONV_INLINE Vec<T> abs_of(Vec<T> x) {
  return x < 0 ? -x : x;
}

template <class F>
PYCONV_INLINE Vec<double> each_lane(Vec<double> x, F&& f) {
  for (int i = 0; i < lanes<double>; ++i) x[i] = f(x[i]);
  return x;
}

// e^(x + rest), |rest| below one ulp of x; subnormal results included.
PYCONV_INLINE Vec<float> exp_of(Vec<float> x, Vec<float> rest = Vec<float>{}) {
  using Bits = decltype(x < x);
  typedef unsigned Words __attribute__((vector_size(PYCONV_VECTOR_BYTES)));
  x = x < -104.0f ? splat(-104.0f) : x;  // e^-104 rounds to 0
  x = x > 89.0f ? splat(89.0f) : x;      // e^89 to infinity; NaN passes both
  // Adding 1.5 2^23 leaves the nearest integer in the low mantissa bits.
  const float shift = 12582912.0f;
  const Vec<float> shifted = x * 1.44269504088896341f + shift;
  const Vec<float> whole = shifted - shift;
  // ln 2 in two parts: whole * 0.693359375 is exact.
  const Vec<float> r = x - whole * 0.693359375f + whole * 2.12194440e-4f + rest;
  Vec<float> p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  // 2^whole as a product of two powers, so that neither leaves the exponent's range.
  const Bits n = (Bits)((Words)shifted - 0x4b400000u);
  const Bits half = n >> 1;
  const Words low = ((Words)half + 127u) << 23;
  const Words high = ((Words)n - (Words)half + 127u) << 23;
  return p * (Vec<float>)low * (Vec<float>)high;
}

PYCONV_INLINE Vec<double> exp_of(Vec<double> x) {
  return each_lane(x, [](double v) { return __builtin_exp(v); });
}

PYCONV_INLINE Vec<float> tanh_of(Vec<float> x) {
  const Vec<float> z = x * x;
  Vec<float> p = z * -5.70498872745e-3f + 2.06390887954e-2f;
  p = p * z - 5.37397155531e-2f;
  p = p * z + 1.33314422036e-1f;
  p = p * z - 3.33332819422e-1f;
  const Vec<float> a = abs_of<float>(x);
  const Vec<float> far = 1.0f - 2.0f / (exp_of(a + a) + 1.0f);
  return a < 0.625f ? p * z * x + x : x < 0 ? -far : far;
}

PYCONV_INLINE Vec<double> tanh_of(Vec<double> x) {
  return each_lane(x, [](double v) { return __builtin_tanh(v); });
}

template <class T>
PYCONV_INLINE Vec<T> sigmoid_of(Vec<T> x) {
  const Vec<T> e = exp_of(-abs_of<T>(x));  // <= 1, so that neither side loses digits
  return (x < 0 ? e : splat(T(1))) / (1 + e);
}

// The normal density at x, and Phi(-|x|): full relative accuracy where 1 + erf would cancel.
template <class T>
struct Normal {
  Vec<T> density, tail;
};

// Phi(-a) = e^(-a^2 / 2) Q(t) / (1 + a), t = (a - 4) / (a + 4): Q is smooth on [-1, 1]; a
// least-squares fit of degree 9 at Chebyshev points is 1.0 2^-24 off.
PYCONV_INLINE Normal<float> normal_at(Vec<float> x) {
  typedef unsigned Words __attribute__((vector_size(PYCONV_VECTOR_BYTES)));
  Vec<float> a = abs_of<float>(x);
  a = a > 15.0f ? splat(15.0f) : a;  // Phi(-15) is below the least subnormal
  const Vec<float> t = (a - 4.0f) / (a + 4.0f);
  Vec<float> q = t * 8.685725333634764e-05f + 0.0007173253688961267f;
  q = q * t - 0.00041283026803284883f;
  q = q * t - 0.005048112478107214f;
  q = q * t + 0.017967980355024338f;
  q = q * t - 0.032185301184654236f;
  q = q * t + 0.028597133234143257f;
  q = q * t + 0.013998650945723057f;
  q = q * t - 0.09670337289571762f;
  q = q * t + 0.4720532298088074f;
  // a^2 = top^2 + (a - top) (a + top), and top^2 has few enough bits to be exact: rounding a^2
  // itself would cost 100 ulp at a = 13.
  const Vec<float> top = (Vec<float>)((Words)a & 0xfffff000u);
  const Vec<float> e = exp_of(top * top * -0.5f) * exp_of((top - a) * (top + a) * 0.5f);
  return {e * float(inv_sqrt_2pi), e * q / (1.0f + a)};
}

PYCONV_INLINE Normal<double> normal_at(Vec<double> x) {
  return {each_lane(x, [](double v) { return inv_sqrt_2pi * __builtin_exp(-0.5 * v * v); }),
          each_lane(x, [](double v) {
            return 0.5 * __builtin_erfc(__builtin_fabs(v) * 0.70710678118654752440);
          })};
}

template <class T>
PYCONV_INLINE Vec<T> activate(Activation activation, Vec<T> x) {
  switch (activation) {
    case Activation::none: return x;
    case Activation::relu: return x <= 0 ? Vec<T>{} : x;  // NaN is not <= 0 and passes
    case Activation::leaky_relu: return x > 0 ? x : x * T(leak);
    case Activation::tanh: return tanh_of(x);
    case Activation::sigmoid: return sigmoid_of<T>(x);
    case Activation::gelu: {
      const Vec<T> tail = normal_at(x).tail;
      return x * (x < 0 ? tail : 1 - tail);
    }
    case Activation::silu: return x * sigmoid_of<T>(x);
    case Activation::relu6: return x <= 0 ? Vec<T>{} : x > 6 ? Vec<T>{} + 6 : x;
  }
  return x;
}

template <class T>
PYCONV_INLINE T activate_one(Activation activation, T x) {
  return activate<T>(activation, splat(x))[0];
}

// act'(.) from `y`, the output, or for gelu and silu the input.
template <class T>
PYCONV_INLINE Vec<T> chain(Activation activation, Vec<T> dy, Vec<T> y) {
  switch (activation) {
    case Activation::none: return dy;
    case Activation::relu: return y <= 0 ? Vec<T>{} : dy;
    case Activation::leaky_relu: return y > 0 ? dy : dy * T(leak);
    case Activation::tanh: return dy * (1 - y * y);
    case Activation::sigmoid: return dy * (y * (1 - y));
    case Activation::gelu: {
      const Normal<T> normal = normal_at(y);
      return dy * ((y < 0 ? normal.tail : 1 - normal.tail) + y * normal.density);
    }
    case Activation::silu:  // sigmoid(-y) keeps the digits 1 - sigmoid(y) would lose
      return dy * (sigmoid_of<T>(y) * (1 + y * sigmoid_of<T>(-y)));
    case Activation::relu6: return ((y <= 0) | (y >= 6)) ? Vec<T>{} : dy;
  }
  return dy;
}

template <class T, Activation activation>
void chain_block(const T* dy, const T* y, T* dx, i64 count) {
  i64 i = 0;
  for (; i + lanes<T> <= count; i += lanes<T>)
    store(dx + i, chain<T>(activation, load(dy + i), load(y + i)));
  if (i == count) return;
  const int rest = int(count - i);
  store_first(dx + i, chain<T>(activation, load_first(dy + i, rest), load_first(y + i, rest)),
              rest);
}

template <class T>
void activation_backward(Activation activation, i64 size, const void* dy, const void* y, void* dx,
                         int threads, void*) {
  using A = Activation;
  // By activation, each with a loop of its own.
  static constexpr void (*const blocks[])(const T*, const T*, T*, i64) = {
      chain_block<T, A::none>, chain_block<T, A::relu>,    chain_block<T, A::leaky_relu>,
      chain_block<T, A::tanh>, chain_block<T, A::sigmoid>, chain_block<T, A::gelu>,
      chain_block<T, A::silu>, chain_block<T, A::relu6>};
  constexpr i64 block = 16384;  // 64 KB of floats: long against starting a task
  const T* const from = static_cast<const T*>(dy);
  const T* const at = static_cast<const T*>(y);
  T* const to = static_cast<T*>(dx);
  parallel_for(ceil_div(size, block), threads, [&](i64 task, int) {
    const i64 i = task * block;
    blocks[int(activation)](from + i, at + i, to + i, min_of(block, size - i));
  });
}

}  // namespace pyconv::PYCONV_TARGET

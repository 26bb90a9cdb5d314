// Local response normalisation, both passes. Krizhevsky et al., NIPS 2012, section 3.3.
#pragma once
#include "../layer.h"
#include "pointwise.h"

namespace pyconv::PYCONV_TARGET {

PYCONV_INLINE float root(float x) {
  return __builtin_sqrtf(x);
}
PYCONV_INLINE double root(double x) {
  return __builtin_sqrt(x);
}

// s^-beta; the literature's 0.75 without logarithms.
template <class T>
PYCONV_INLINE Vec<T> power_of(Vec<T> s, double beta) {
  Vec<T> y;
  if (beta == 0.75) {
    for (int i = 0; i < lanes<T>; ++i) y[i] = root(s[i] * root(s[i]));
    return 1 / y;
  }
  for (int i = 0; i < lanes<T>; ++i) y[i] = T(__builtin_pow(double(s[i]), -beta));
  return y;
}

// Every element of a part of the images, a vector at a time: its offset, and the neighbouring
// channels [low, high] within the window of any of its lanes. near(array, j) is the channel j
// further on, zero where there is none. body(offset, count, low, high, near)
template <class T, class Body>
PYCONV_INLINE void each_window(const LayerProblem& p, i64 task, i64 below, Body&& body) {
  const i64 above = p.size - 1 - below;
  if (p.layout == Layout::nchw) {  // 256 pixels of every channel: a window of them stays in L1
    const i64 blocks = ceil_div(p.pixels, 256), n = task / blocks, first = task % blocks * 256;
    const i64 last = min_of(p.pixels, first + 256);
    for (i64 c = 0; c < p.c; ++c)
      for (i64 i = first; i < last; i += lanes<T>) {
        const i64 at = (n * p.c + c) * p.pixels + i;
        const int count = int(min_of<i64>(lanes<T>, last - i));
        body(at, count, max_of(-below, -c), min_of(above, p.c - 1 - c),
             [&](const T* array, i64 j) { return load_first(array + at + j * p.pixels, count); });
      }
    return;
  }
  const i64 last = min_of(p.n * p.pixels, (task + 1) * 64);
  for (i64 row = task * 64; row < last; ++row)
    for (i64 c = 0; c < p.c; c += lanes<T>) {
      const i64 at = row * p.c + c;
      const int count = int(min_of<i64>(lanes<T>, p.c - c));
      body(at, count, max_of(-below, 1 - c - count), min_of(above, p.c - 1 - c),
           [&](const T* array, i64 j) {
             return load_between(array + at + j, int(max_of<i64>(0, -c - j)),
                                 int(min_of<i64>(lanes<T>, p.c - c - j)));
           });
    }
}

PYCONV_INLINE i64 window_tasks(const LayerProblem& p) {
  return p.layout == Layout::nchw ? p.n * ceil_div(p.pixels, i64(256))
                                  : ceil_div(p.n * p.pixels, i64(64));
}

// y = x s^-beta, s = k + alpha/size * (sum of x^2 over the window); numbers: alpha/size, beta, k.
template <class T>
void local_response_norm(const LayerProblem& p, void* const* buffers, int threads) {
  const T* x = static_cast<const T*>(buffers[0]);
  T *y = static_cast<T*>(buffers[1]), *saved = static_cast<T*>(buffers[2]);
  const double beta = p.numbers[1];
  const T alpha = T(p.numbers[0]), k = T(p.numbers[2]);
  parallel_for(window_tasks(p), threads, [&](i64 task, int) {
    each_window<T>(p, task, p.size / 2, [&](i64 at, int count, i64 low, i64 high, auto near) {
      Vec<T> sum{};
      for (i64 j = low; j <= high; ++j) {
        const Vec<T> value = near(x, j);
        sum += value * value;
      }
      const Vec<T> s = k + alpha * sum;
      if (saved) store_first(saved + at, s, count);
      store_first(y + at, load_first(x + at, count) * power_of<T>(s, beta), count);
    });
  });
}

// dx = dy s^-beta - 2 alpha/size beta x (sum of dy y / s): that sum runs over the channels whose
// window holds this one, so the window is mirrored. dy y / s takes the place of s.
template <class T>
void local_response_norm_backward(const LayerProblem& p, void* const* buffers, int threads) {
  const T *dy = static_cast<const T*>(buffers[0]), *x = static_cast<const T*>(buffers[1]);
  T *s = static_cast<T*>(buffers[2]), *dx = static_cast<T*>(buffers[3]);
  const double beta = p.numbers[1];
  const T factor = T(2 * p.numbers[0] * beta);
  parallel_for(window_tasks(p), threads, [&](i64 task, int) {
    const i64 below = p.size - 1 - p.size / 2;
    each_window<T>(p, task, below, [&](i64 at, int count, i64, i64, auto) {
      const Vec<T> root = load_first(s + at, count);
      const Vec<T> straight = load_first(dy + at, count) * power_of<T>(root, beta);
      store_first(dx + at, straight, count);
      store_first(s + at, straight * load_first(x + at, count) / root, count);
    });
    each_window<T>(p, task, below, [&](i64 at, int count, i64 low, i64 high, auto near) {
      Vec<T> sum{};
      for (i64 j = low; j <= high; ++j) sum += near(s, j);
      const Vec<T> value = load_first(dx + at, count) - factor * load_first(x + at, count) * sum;
      store_first(dx + at, value, count);
    });
  });
}

}  // namespace pyconv::PYCONV_TARGET

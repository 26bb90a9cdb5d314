// The one-dimensional transforms of Winograd's F(M, R) with M + R = 7: F(4, 3) and F(2, 5), and
// F(3, 4) and F(5, 2) for the weight gradient; points 0, +-5/8, +-3/2,
// infinity, and the moves between rows of pixels and vectors of tiles. See winograd.h.
#pragma once
#include "vec.h"

namespace pyconv::PYCONV_TARGET {

constexpr int alpha = 6;  // tile edge

// The points' squares and the products that the transforms need.
constexpr double point_a = 0.625, point_b = 1.5;
constexpr double a2 = point_a * point_a, b2 = point_b * point_b;

// (Vec<T> is no template argument here: as one it would lose its alignment of a single element.)
// B^T of one column or row: six values in, six out.
template <class T>
PYCONV_INLINE void transform_input(Vec<T> (&d)[alpha]) {
  const Vec<T> even_a = d[4] - d[2] * T(b2), odd_a = (d[3] - d[1] * T(b2)) * T(point_a);
  const Vec<T> even_b = d[4] - d[2] * T(a2), odd_b = (d[3] - d[1] * T(a2)) * T(point_b);
  const Vec<T> first = d[4] - d[2] * T(a2 + b2) + d[0] * T(a2 * b2);
  const Vec<T> last = d[5] - d[3] * T(a2 + b2) + d[1] * T(a2 * b2);
  d[0] = first;
  d[1] = even_a + odd_a;
  d[2] = even_a - odd_a;
  d[3] = even_b + odd_b;
  d[4] = even_b - odd_b;
  d[5] = last;
}

// A^T: six values in, M out.
template <int M, class T>
PYCONV_INLINE void transform_output(const Vec<T> (&m)[alpha], Vec<T> (&y)[M]) {
  const Vec<T> sum_a = m[1] + m[2], dif_a = m[1] - m[2], sum_b = m[3] + m[4], dif_b = m[3] - m[4];
  y[0] = m[0] + sum_a + sum_b;
  y[1] = dif_a * T(point_a) + dif_b * T(point_b);
  if constexpr (M > 2) y[2] = sum_a * T(a2) + sum_b * T(b2);
  if constexpr (M > 3) y[3] = dif_a * T(a2 * point_a) + dif_b * T(b2 * point_b);
  if constexpr (M > 4) y[4] = sum_a * T(a2 * a2) + sum_b * T(b2 * b2);
  y[M - 1] += m[5];
}

// G: R taps in, six values out.
template <int R, class T>
PYCONV_INLINE void transform_filter(const Vec<T> (&g)[R], Vec<T> (&u)[alpha]) {
  constexpr double scale_a = 1 / (2 * a2 * (a2 - b2)), scale_b = 1 / (2 * b2 * (b2 - a2));
  Vec<T> even_a = g[0], odd_a = g[1] * T(point_a), even_b = g[0], odd_b = g[1] * T(point_b);
  if constexpr (R > 2) even_a += g[2] * T(a2), even_b += g[2] * T(b2);
  if constexpr (R > 3) odd_a += g[3] * T(a2 * point_a), odd_b += g[3] * T(b2 * point_b);
  if constexpr (R > 4) even_a += g[4] * T(a2 * a2), even_b += g[4] * T(b2 * b2);
  u[0] = g[0] * T(1 / (a2 * b2));
  u[1] = (even_a + odd_a) * T(scale_a);
  u[2] = (even_a - odd_a) * T(scale_a);
  u[3] = (even_b + odd_b) * T(scale_b);
  u[4] = (even_b - odd_b) * T(scale_b);
  u[5] = g[R - 1];
}

// Lanes of `mask` from memory, the others from `rest`; nothing else is read.
PYCONV_INLINE Vec<float> load_lanes(const float* p, unsigned mask, Vec<float> rest) {
#if PYCONV_VECTOR_BYTES == 64
  return Vec<float>(_mm512_mask_loadu_ps(__m512(rest), __mmask16(mask), p));
#else
  if (mask == (1u << lanes<float>)-1) return load(p);
  for (int i = 0; i < lanes<float>; ++i)
    if (mask >> i & 1) rest[i] = p[i];
  return rest;
#endif
}

PYCONV_INLINE void store_lanes(float* p, Vec<float> v, unsigned mask) {
#if PYCONV_VECTOR_BYTES == 64
  _mm512_mask_storeu_ps(p, __mmask16(mask), __m512(v));
#else
  if (mask == (1u << lanes<float>)-1) return store(p, v);
  for (int i = 0; i < lanes<float>; ++i)
    if (mask >> i & 1) p[i] = v[i];
#endif
}

// Columns M t + j of a line of M vectors, t over the lanes, for j = 0 .. M - 1.
template <int M>
PYCONV_INLINE void load_phases(const float* line, Vec<float>* e) {
  constexpr int width = lanes<float>;
  const Vec<float> v0 = load(line), v1 = load(line + width);
  e[0] = every_other<float>(v0, v1, 0);
  e[1] = every_other<float>(v0, v1, 1);
  if constexpr (M == 4) {
    const Vec<float> v2 = load(line + 2 * width), v3 = load(line + 3 * width);
    const Vec<float> even = every_other<float>(v2, v3, 0), odd = every_other<float>(v2, v3, 1);
    e[2] = every_other<float>(e[0], even, 1);
    e[3] = every_other<float>(e[1], odd, 1);
    e[0] = every_other<float>(e[0], even, 0);
    e[1] = every_other<float>(e[1], odd, 0);
  }
}

// The opposite: M vectors of phases become the columns of a line.
template <int M>
PYCONV_INLINE void to_columns(Vec<float> (&y)[M]) {
  if constexpr (M == 4) {
    const Vec<float> even0 = interleaved<float>(y[0], y[2], 0),
                     even1 = interleaved<float>(y[0], y[2], 1);
    const Vec<float> odd0 = interleaved<float>(y[1], y[3], 0),
                     odd1 = interleaved<float>(y[1], y[3], 1);
    y[0] = interleaved<float>(even0, odd0, 0);
    y[1] = interleaved<float>(even0, odd0, 1);
    y[2] = interleaved<float>(even1, odd1, 0);
    y[3] = interleaved<float>(even1, odd1, 1);
  } else {
    const Vec<float> first = interleaved<float>(y[0], y[1], 0);
    y[1] = interleaved<float>(y[0], y[1], 1);
    y[0] = first;
  }
}

}  // namespace pyconv::PYCONV_TARGET

// Backward of the plain average: dx_i = sum_o dy_o / (taps of o) over the outputs o that cover i.
//
// NHWC: lanes are channels, and several vectors of a pixel collect from its outputs. NCHW: the rows
// of dy that cover a row of dx are added up first, lanes along the row and zeros beyond it; an
// input then adds the few neighbours whose windows reach it, a vector for each phase of the stride.
#pragma once
#include "pool_window.h"

namespace pyconv::PYCONV_TARGET {

constexpr i64 spread_outputs = 2048;  // of a row at a time: 8 KB of floats on the stack

// Whether average_row serves: the neighbours that reach one input fit its block.
PYCONV_INLINE bool spreads_by_row(const PoolProblem& p) {
  return !p.adaptive && p.dilation[2] == 1 && p.window[2] / p.stride[2] < spread_outputs / 2;
}

// The outputs whose windows reach over a row of inputs.
struct Rows {
  Range z, h;
  i64 at_z, at_h;  // the row
};

// body(row of dy, its share in the divisor) for each of them; the share is 1 where `equal` is the
// divisor of all.
template <class T, class Body>
PYCONV_INLINE void each_row(const PoolProblem& p, const Rows& rows, T equal, Body&& body) {
  for (i64 z = rows.z.begin; z < rows.z.end; ++z) {
    if (tap_at(p, 0, z, rows.at_z) < 0) continue;
    const T deep = equal != 0 ? T(1) : T(counted(p, taps_of(p, 0, z)));
    for (i64 h = rows.h.begin; h < rows.h.end; ++h)
      if (tap_at(p, 1, h, rows.at_h) >= 0)
        body(z * p.out[1] + h, equal != 0 ? T(1) : deep * T(counted(p, taps_of(p, 1, h))));
  }
}

// A divisor that is every output's, or 0.
template <class T>
PYCONV_INLINE T equal_divisor(const PoolProblem& p) {
  if (p.divisor) return T(p.divisor);
  for (int axis = 0; axis < 3; ++axis)
    if (!divides_equally(p, axis)) return 0;
  return T(p.window[0]) * T(p.window[1]) * T(p.window[2]);
}

// `Vectors` vectors of a pixel, or the first `count` lanes of one.
template <int Vectors, class T>
PYCONV_INLINE void average_pixel(const PoolProblem& p, const Rows& rows, Range over, i64 i, T equal,
                                 const T* dy, T* dx, int count) {
  Vec<T> sum[Vectors] = {};
  each_row(p, rows, equal, [&](i64 row, T share) {
    for (i64 o = over.begin; o < over.end; ++o) {
      if (tap_at(p, 2, o, i) < 0) continue;
      const T* const from = dy + (row * p.out[2] + o) * p.c;
      const T divisor = equal != 0 ? share : share * T(counted(p, taps_of(p, 2, o)));
      for (int j = 0; j < Vectors; ++j) {
        const Vec<T> v = count < lanes<T> ? load_first(from, count) : load(from + j * lanes<T>);
        sum[j] += equal != 0 ? v : v / divisor;
      }
    }
  });
  for (int j = 0; j < Vectors; ++j) {
    if (equal != 0) sum[j] /= equal;
    if (count < lanes<T>)
      store_first(dx, sum[j], count);
    else
      store(dx + j * lanes<T>, sum[j]);
  }
}

template <class T>
void average_row_nhwc(const PoolProblem& p, const Rows& rows, T equal, const T* dy, T* dx) {
  for (i64 i = 0; i < p.in[2]; ++i, dx += p.c) {
    const Range over = covering(p, 2, i);
    i64 c = 0;
    for (; c + 4 * lanes<T> <= p.c; c += 4 * lanes<T>)
      average_pixel<4>(p, rows, over, i, equal, dy + c, dx + c, lanes<T>);
    for (; c + lanes<T> <= p.c; c += lanes<T>)
      average_pixel<1>(p, rows, over, i, equal, dy + c, dx + c, lanes<T>);
    if (c < p.c) average_pixel<1>(p, rows, over, i, equal, dy + c, dx + c, int(p.c - c));
  }
}

template <class T>
void average_row(const PoolProblem& p, const Rows& rows, T equal, const T* dy, T* dx) {
  const i64 stride = p.stride[2], q = p.out[2], before = (p.window[2] - 1) / stride;
  alignas(64) T row[spread_outputs + 4 * lanes<T>];
  const i64 together = (spread_outputs - before - 1) * stride;
  for (i64 first = 0; first < p.in[2]; first += together) {
    const i64 columns = min_of(together, p.in[2] - first);
    // Of outputs from `least` on, the last that may start at or before the last column.
    const i64 least = (first + p.pad[2]) / stride - before;
    const i64 most = (first + columns - 1 + p.pad[2]) / stride + 1;
    const i64 begin = max_of<i64>(0, least), end = min_of(q, most);
    for (i64 o = 0; o < most - least + 2 * lanes<T>; o += lanes<T>) store(row + o, Vec<T>{});
    T* const sums = row - least;
    each_row(p, rows, equal, [&](i64 from_row, T share) {
      const T* const from = dy + from_row * q;
      const Vec<T> divisor = splat(share);
      i64 o = begin;
      for (; o + lanes<T> <= end; o += lanes<T>) {
        const Vec<T> v = load(from + o);
        store(sums + o, load(sums + o) + (equal != 0 ? v : v / divisor));
      }
      if (o < end) {
        const Vec<T> v = load_first(from + o, int(end - o));
        store(sums + o, load(sums + o) + (equal != 0 ? v : v / divisor));
      }
    });
    if (equal != 0)
      for (i64 o = 0; o < most - least; o += lanes<T>) store(row + o, load(row + o) / equal);
    else
      for (i64 o = begin; o < end; ++o) sums[o] /= T(counted(p, taps_of(p, 2, o)));

    // Inputs first + phase + stride * (j, j + 1, ...).
    auto collect = [&](i64 phase, i64 j) {
      const i64 at = first + phase + p.pad[2], own = at % stride;
      const T* from = sums + at / stride + j;
      Vec<T> sum{};
      for (i64 k = own; k < p.window[2]; k += stride) sum += load(from--);
      return sum;
    };
    T* const to = dx + first;
    for (i64 j = 0; j * stride < columns; j += lanes<T>) {
      const i64 left = columns - j * stride;
      auto put = [&](i64 i, Vec<T> v) {
        if (i + lanes<T> <= columns)
          store(to + i, v);
        else if (i < columns)
          store_first(to + i, v, int(columns - i));
      };
      if (stride == 1) {
        put(j, collect(0, j));
      } else if (stride == 2) {
        const Vec<T> even = collect(0, j), odd = collect(1, j);
        put(2 * j, interleaved<T>(even, odd, 0));
        put(2 * j + lanes<T>, interleaved<T>(even, odd, 1));
      } else {
        for (i64 phase = 0; phase < min_of(stride, left); ++phase) {
          const Vec<T> sum = collect(phase, j);
          const i64 count = min_of<i64>(lanes<T>, ceil_div(left - phase, stride));
          for (i64 i = 0; i < count; ++i) to[(j + i) * stride + phase] = sum[i];
        }
      }
    }
  }
}

}  // namespace pyconv::PYCONV_TARGET

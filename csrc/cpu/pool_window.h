// What forward and backward pooling share: which taps a window has, which windows cover an input,
// what an average divides by, and rows run in parallel.
#pragma once
#include "../kernels.h"
#include "parallel.h"

namespace pyconv::PYCONV_TARGET {

// Bounds of an adaptive window may need more than 64 bits on the way.
PYCONV_INLINE i64 scaled_down(i64 i, i64 size, i64 parts) {
  return i64(__int128(i) * size / parts);
}
PYCONV_INLINE i64 scaled_up(i64 i, i64 size, i64 parts) {
  return i64((__int128(i) * size + parts - 1) / parts);
}

// One output's window on one axis.
struct Taps {
  i64 first, count;  // the taps inside the input: position of the first, how many
  i64 skipped;       // taps before them
  i64 padded;        // taps inside the padded input
};

PYCONV_INLINE i64 taps_within(i64 length, const PoolProblem& p, int axis) {
  const i64 step = p.dilation[axis];
  return min_of(p.window[axis], length <= 0 ? 0 : step == 1 ? length : ceil_div(length, step));
}

PYCONV_INLINE Taps taps_of(const PoolProblem& p, int axis, i64 o) {
  if (p.adaptive) {
    const i64 first = scaled_down(o, p.in[axis], p.out[axis]);
    const i64 count = scaled_up(o + 1, p.in[axis], p.out[axis]) - first;
    return {first, count, 0, count};
  }
  const i64 start = o * p.stride[axis] - p.pad[axis];
  const i64 skipped = taps_within(-start, p, axis);
  return {start + skipped * p.dilation[axis], taps_within(p.in[axis] - start, p, axis) - skipped,
          skipped, taps_within(p.in[axis] + p.pad[axis] - start, p, axis)};
}

// The outputs [begin, end) whose windows reach over input i.
struct Range {
  i64 begin, end;
};

PYCONV_INLINE Range covering(const PoolProblem& p, int axis, i64 i) {
  if (p.adaptive)
    return {scaled_down(i, p.out[axis], p.in[axis]), scaled_up(i + 1, p.out[axis], p.in[axis])};
  const i64 last = i + p.pad[axis], reach = (p.window[axis] - 1) * p.dilation[axis];
  return {last <= reach ? 0 : ceil_div(last - reach, p.stride[axis]),
          min_of(p.out[axis], last / p.stride[axis] + 1)};
}

// The outputs of a row whose windows lie inside it.
PYCONV_INLINE Range inside(const PoolProblem& p) {
  if (p.adaptive) return {0, 0};
  const i64 q = p.out[2], begin = min_of(q, ceil_div(p.pad[2], p.stride[2]));
  const i64 room = p.in[2] + p.pad[2] - (p.window[2] - 1) * p.dilation[2];
  return {begin, room <= 0 ? begin : max_of(begin, min_of(q, ceil_div(room, p.stride[2])))};
}

// Which tap of output o reads input i; -1 where dilation steps over it.
PYCONV_INLINE i64 tap_at(const PoolProblem& p, int axis, i64 o, i64 i) {
  if (p.adaptive) return i - scaled_down(o, p.in[axis], p.out[axis]);
  const i64 distance = i + p.pad[axis] - o * p.stride[axis];
  return distance % p.dilation[axis] ? -1 : distance / p.dilation[axis];
}

// The same pooling, easier to run: adaptive windows of one size are a stride, and axes pooled away
// as a whole are one long axis.
PYCONV_INLINE PoolProblem simplified(PoolProblem p) {
  if (p.adaptive) {
    p.adaptive = p.in[0] % p.out[0] || p.in[1] % p.out[1] || p.in[2] % p.out[2];
    for (int axis = 0; axis < 3; ++axis) {
      p.window[axis] = p.stride[axis] = p.in[axis] / p.out[axis];
      p.dilation[axis] = 1;
      p.pad[axis] = 0;
    }
  }
  auto whole = [&](int axis) {
    return p.out[axis] == 1 && p.window[axis] == p.in[axis] && p.pad[axis] == 0 &&
           (p.dilation[axis] == 1 || p.window[axis] == 1);
  };
  if (p.adaptive || p.weighted || p.layout == Layout::nhwc || !whole(2)) return p;
  for (int axis = 1; axis >= 0 && whole(axis); --axis) {
    p.in[2] *= p.in[axis];
    p.in[axis] = p.window[axis] = 1;
  }
  p.window[2] = p.in[2];
  p.dilation[2] = 1;
  return p;
}

// A sum over the window's weights where the average counts them.
template <class T>
T weight_of(const PoolProblem& p, const Taps (&t)[3], const T* weights) {
  i64 begin[3], end[3];
  for (int axis = 0; axis < 3; ++axis) {
    begin[axis] = p.include_pad ? 0 : t[axis].skipped;
    end[axis] = p.include_pad ? t[axis].padded : t[axis].skipped + t[axis].count;
  }
  T sum = 0;
  for (i64 z = begin[0]; z < end[0]; ++z)
    for (i64 h = begin[1]; h < end[1]; ++h)
      for (i64 w = begin[2]; w < end[2]; ++w)
        sum += weights[(z * p.window[1] + h) * p.window[2] + w];
  return sum;
}

// What an average divides by.
template <class T>
PYCONV_INLINE T divisor_of(const PoolProblem& p, const Taps (&t)[3], const T* weights) {
  if (p.divisor) return T(p.divisor);
  if (weights) return weight_of(p, t, weights);
  return p.include_pad ? T(t[0].padded) * T(t[1].padded) * T(t[2].padded)
                       : T(t[0].count) * T(t[1].count) * T(t[2].count);
}

// x^p lane by lane, in double: float32 powers neither overflow nor lose digits.
template <class V>
PYCONV_INLINE V power_of(V x, double p) {
  for (int i = 0; i < int(sizeof x / sizeof x[0]); ++i) x[i] = __builtin_pow(double(x[i]), p);
  return x;
}
PYCONV_INLINE float power_of(float x, double p) {
  return float(__builtin_pow(double(x), p));
}
PYCONV_INLINE double power_of(double x, double p) {
  return __builtin_pow(x, p);
}

template <class V>
PYCONV_INLINE V magnitude(V x) {
  return x < 0 ? -x : x;
}

// body(image, z, h) over all rows of `images` grids, several rows a task.
template <class Body>
PYCONV_INLINE void parallel_rows(i64 images, const i64 (&grid)[3], i64 row_work, int threads,
                                 Body&& body) {
  const i64 rows = images * grid[0] * grid[1];
  const i64 together = max_of<i64>(1, 16384 / max_of<i64>(1, row_work));
  parallel_for(ceil_div(rows, together), threads, [&](i64 task, int) {
    for (i64 row = task * together; row < min_of(rows, (task + 1) * together); ++row)
      body(row / grid[1] / grid[0], row / grid[1] % grid[0], row % grid[1]);
  });
}

}  // namespace pyconv::PYCONV_TARGET

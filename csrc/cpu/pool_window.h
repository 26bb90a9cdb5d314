// What forward and backward pooling share beside ../window.h: simpler equal problems, powers, and
// rows run in parallel.
#pragma once
#include "../kernels.h"
#include "../window.h"
#include "parallel.h"

namespace pyconv::PYCONV_TARGET {

// The outputs of a row whose windows lie inside it.
PYCONV_INLINE Range inside(const PoolProblem& p) {
  if (p.adaptive) return {0, 0};
  const i64 q = p.out[2], begin = min_of(q, ceil_div(p.pad[2], p.stride[2]));
  const i64 room = p.in[2] + p.pad[2] - (p.window[2] - 1) * p.dilation[2];
  return {begin, room <= 0 ? begin : max_of(begin, min_of(q, ceil_div(room, p.stride[2])))};
}

// Whether all outputs along an axis have the same share in an average's divisor.
PYCONV_INLINE bool divides_equally(const PoolProblem& p, int axis) {
  const i64 last = p.out[axis] - 1;
  return p.divisor || (!p.adaptive && counted(p, taps_of(p, axis, 0)) == p.window[axis] &&
                       counted(p, taps_of(p, axis, last)) == p.window[axis]);
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

// body(image, z, begin, end) over all rows of `images` grids, several rows a task.
template <class Body>
PYCONV_INLINE void parallel_rows(i64 images, const i64 (&grid)[3], i64 row_work, int threads,
                                 Body&& body) {
  const i64 rows = images * grid[0] * grid[1];
  const i64 together = max_of<i64>(1, 16384 / max_of<i64>(1, row_work));
  parallel_for(ceil_div(rows, together), threads, [&](i64 task, int) {
    const i64 last = min_of(rows, (task + 1) * together);
    for (i64 row = task * together, end; row < last; row = end) {
      const i64 plane = row / grid[1], first = plane * grid[1];
      end = min_of(last, first + grid[1]);
      body(plane / grid[0], plane % grid[0], row - first, end - first);
    }
  });
}

}  // namespace pyconv::PYCONV_TARGET

// A pooling's windows, for host and device: which taps an output has, which outputs cover an input,
// what an average divides by.
#pragma once
#include "problem.h"

namespace pyconv {

PYCONV_HD inline i64 steps_within(i64 length, i64 step) {
  return length <= 0 ? 0 : step == 1 ? length : (length + step - 1) / step;
}

// Bounds of an adaptive window may need more than 64 bits on the way, but that division is a call.
PYCONV_HD inline i64 scaled_down(i64 i, i64 size, i64 parts) {
  return (i | size) >> 31 ? i64(__int128(i) * size / parts) : i * size / parts;
}
PYCONV_HD inline i64 scaled_up(i64 i, i64 size, i64 parts) {
  return (i | size | parts) >> 31 ? i64((__int128(i) * size + parts - 1) / parts)
                                  : (i * size + parts - 1) / parts;
}

// One output's window on one axis.
struct Taps {
  i64 first, count;  // the taps inside the input: position of the first, how many
  i64 skipped;       // taps before them
  i64 padded;        // taps inside the padded input
};

PYCONV_HD inline i64 taps_within(i64 length, const PoolProblem& p, int axis) {
  const i64 fit = steps_within(length, p.dilation[axis]);
  return fit < p.window[axis] ? fit : p.window[axis];
}

PYCONV_HD inline Taps taps_of(const PoolProblem& p, int axis, i64 o) {
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

PYCONV_HD inline Range covering(const PoolProblem& p, int axis, i64 i) {
  if (p.adaptive)
    return {scaled_down(i, p.out[axis], p.in[axis]), scaled_up(i + 1, p.out[axis], p.in[axis])};
  const i64 last = i + p.pad[axis], reach = (p.window[axis] - 1) * p.dilation[axis];
  const i64 end = last / p.stride[axis] + 1;
  return {steps_within(last - reach, p.stride[axis]), end < p.out[axis] ? end : p.out[axis]};
}

// Which tap of output o reads input i; -1 where dilation steps over it.
PYCONV_HD inline i64 tap_at(const PoolProblem& p, int axis, i64 o, i64 i) {
  if (p.adaptive) return i - scaled_down(o, p.in[axis], p.out[axis]);
  const i64 distance = i + p.pad[axis] - o * p.stride[axis];
  if (p.dilation[axis] == 1) return distance;
  return distance % p.dilation[axis] ? -1 : distance / p.dilation[axis];
}

// A sum over the window's weights where the average counts them.
template <class T>
PYCONV_HD inline T weight_of(const PoolProblem& p, const Taps (&t)[3], const T* weights) {
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

// The taps of one axis that an average counts.
PYCONV_HD inline i64 counted(const PoolProblem& p, const Taps& t) {
  return p.include_pad ? t.padded : t.count;
}

// What an average divides by.
template <class T>
PYCONV_HD inline T divisor_of(const PoolProblem& p, const Taps (&t)[3], const T* weights) {
  if (p.divisor) return T(p.divisor);
  if (weights) return weight_of(p, t, weights);
  return T(counted(p, t[0])) * T(counted(p, t[1])) * T(counted(p, t[2]));
}

}  // namespace pyconv

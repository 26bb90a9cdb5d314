// Forward and input gradient are the same sum, seen from two ends. This file is the one place that
// knows it; host and device compile it.
//
//   result[k, o] = sum over source channels c and taps j of  w(k, c, tap(j)) * source[c, i(o, j)]
//
// Forward: source x, result y, i = stride o - pad + dilation t. Input gradient: source dy, result
// dx; position h receives the taps t with (h + pad - dilation t) divisible by the stride, so dx
// splits into phases h mod stride, each a stride-1 correlation with its own subset of taps: no
// product with an inserted zero is ever made. There are no more phases than taps.
#pragma once
#include "problem.h"

namespace pyconv {

struct AxisMap {
  i64 source_size;
  i64 count;                      // results of this phase
  i64 result_first, result_step;  // result o lies at result_first + o * result_step
  i64 taps;
  i64 first, step,
      tap_step;  // result o, tap j read source position first + o * step + j * tap_step
  i64 weight_first, weight_step;  // tap j is weight weight_first + j * weight_step of this axis

  PYCONV_HD i64 source(i64 o, i64 j) const { return first + o * step + j * tap_step; }
};

PYCONV_HD inline AxisMap forward_axis(const ConvProblem& p, int a) {
  return {p.in[a],
          p.out[a],
          0,
          1,
          p.filter[a],
          -p.pad[a],
          p.stride[a],
          p.dilation[a],
          p.flip ? p.filter[a] - 1 : 0,
          p.flip ? -1 : 1};
}

PYCONV_HD inline i64 greatest_common_divisor(i64 a, i64 b) {
  while (b) {
    const i64 rest = a % b;
    a = b;
    b = rest;
  }
  return a;
}

// Valid taps of a phase lie this far apart; as many first taps have a phase of their own.
PYCONV_HD inline i64 tap_spacing(const ConvProblem& p, int a) {
  return p.stride[a] / greatest_common_divisor(p.stride[a], p.dilation[a]);
}

// The phase whose first tap is t0. Phases that no tap reaches (stride beyond the filter) are not
// among them; their results are a sum of nothing.
PYCONV_HD inline AxisMap backward_axis(const ConvProblem& p, int a, i64 t0) {
  const i64 s = p.stride[a], every = tap_spacing(p, a);
  i64 phase = (t0 * p.dilation[a] - p.pad[a]) % s;
  if (phase < 0) phase += s;
  return {p.out[a],
          phase < p.in[a] ? (p.in[a] - phase - 1) / s + 1 : 0,
          phase,
          s,
          (p.filter[a] - 1 - t0) / every + 1,
          (phase + p.pad[a] - t0 * p.dilation[a]) / s,
          1,
          -(p.dilation[a] * every / s),
          p.flip ? p.filter[a] - 1 - t0 : t0,
          p.flip ? -every : every};
}

// Strides in elements, of (N, C, D, H, W) however it lies in memory.
struct Strides {
  i64 n, c, axis[3];
};

PYCONV_HD inline Strides dense_strides(Layout layout, i64 channels, const i64 (&size)[3]) {
  const i64 pixels = size[0] * size[1] * size[2];
  if (layout == Layout::nchw) return {channels * pixels, pixels, {size[1] * size[2], size[2], 1}};
  return {channels * pixels, 1, {size[1] * size[2] * channels, size[2] * channels, channels}};
}

struct Correlation {
  i64 n, groups;
  i64 source_channels, result_channels;  // of one group
  AxisMap axis[3];
  Border border;  // of the source
  Layout layout;
  Strides source, result;
  i64 weight_result, weight_source, weight_group;  // strides of w in elements, taps innermost
  i64 weight_axis[3];

  PYCONV_HD i64 taps() const { return axis[0].taps * axis[1].taps * axis[2].taps; }
  PYCONV_HD i64 depth() const { return source_channels * taps(); }
  PYCONV_HD i64 image_pixels() const { return axis[0].count * axis[1].count * axis[2].count; }
  PYCONV_HD i64 pixels() const { return n * image_pixels(); }

  // Where in w's taps the tap (jd, jh, jw) stands.
  PYCONV_HD i64 weight_tap(i64 jd, i64 jh, i64 jw) const {
    const i64 j[3] = {jd, jh, jw};
    i64 at = 0;
    for (int a = 0; a < 3; ++a)
      at += (axis[a].weight_first + j[a] * axis[a].weight_step) * weight_axis[a];
    return at;
  }
};

// How many phases with taps a pass falls into: 1 for forward.
PYCONV_HD inline i64 phase_count(const ConvProblem& p, Pass pass, int a) {
  if (pass != Pass::bwd_data) return 1;
  const i64 spacing = tap_spacing(p, a);
  return spacing < p.filter[a] ? spacing : p.filter[a];
}

// Whether some results belong to no phase.
PYCONV_HD inline bool has_untapped_results(const ConvProblem& p, Pass pass) {
  for (int a = 0; a < 3 && pass == Pass::bwd_data; ++a) {
    i64 reached = 0;
    for (i64 t0 = 0; t0 < phase_count(p, pass, a); ++t0) reached += backward_axis(p, a, t0).count;
    if (reached < p.in[a]) return true;
  }
  return false;
}

PYCONV_HD inline i64 phase_count(const ConvProblem& p, Pass pass) {
  return phase_count(p, pass, 0) * phase_count(p, pass, 1) * phase_count(p, pass, 2);
}

PYCONV_HD inline Correlation correlation(const ConvProblem& p, Pass pass, i64 phase = 0) {
  const bool backward = pass == Pass::bwd_data;
  Correlation q{};
  q.n = p.n;
  q.groups = p.groups;
  q.source_channels = backward ? p.k_per_group() : p.c_per_group();
  q.result_channels = backward ? p.c_per_group() : p.k_per_group();
  q.border = backward ? Border::zeros : p.border;
  q.layout = p.layout;
  const Strides x = dense_strides(p.layout, p.c, p.in), y = dense_strides(p.layout, p.k, p.out);
  q.source = backward ? y : x;
  q.result = backward ? x : y;
  const i64 filter = p.c_per_group() * p.taps();
  q.weight_result = backward ? p.taps() : filter;
  q.weight_source = backward ? filter : p.taps();
  q.weight_group = p.k_per_group() * filter;
  q.weight_axis[0] = p.filter[1] * p.filter[2];
  q.weight_axis[1] = p.filter[2];
  q.weight_axis[2] = 1;
  for (int a = 2; a >= 0; --a) {
    const i64 count = phase_count(p, pass, a);
    q.axis[a] = backward ? backward_axis(p, a, phase % count) : forward_axis(p, a);
    phase /= count;
  }
  return q;
}

}  // namespace pyconv

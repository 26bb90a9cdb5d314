// The last step of every convolution kernel: y = activation(sum + bias + residual), stored once.
// Tails and single elements go through the same vector arithmetic as full vectors, so that a
// result does not depend on where in a tile its pixel happens to lie.
#pragma once
#include "../correlation.h"
#include "../kernels.h"
#include "pointwise.h"

namespace pyconv::PYCONV_TARGET {

template <class T>
struct Epilogue {
  const T* bias;      // of the group's first result channel, or nullptr
  const T* residual;  // same strides as the result
  T* out;
  Activation activation;

  // Whether the sums are the results.
  PYCONV_INLINE bool plain() const { return !bias && !residual && activation == Activation::none; }

  PYCONV_INLINE Vec<T> finish(Vec<T> sum, Vec<T> added, Vec<T> beside) const {
    if (bias) sum += added;
    if (residual) sum += beside;
    return activation == Activation::none ? sum : activate<T>(activation, sum);
  }

  // `count` elements of one channel, `step` apart in memory.
  PYCONV_NOINLINE void store_pixels(const T* sums, i64 channel, i64 at, i64 step, i64 count) const {
    const Vec<T> added = splat<T>(bias ? bias[channel] : T(0));
    for (i64 i = 0; i < count; i += lanes<T>) {
      const int some = int(min_of<i64>(lanes<T>, count - i));
      T* to = out + at + i * step;
      const T* beside = residual ? residual + at + i * step : nullptr;
      if (step == 1 && some == lanes<T>) {
        store(to, finish(load(sums + i), added, beside ? load(beside) : Vec<T>{}));
        continue;
      }
      if (step == 1) {
        const Vec<T> more = beside ? load_first(beside, some) : Vec<T>{};
        store_first(to, finish(load_first(sums + i, some), added, more), some);
        continue;
      }
      if (step == 2 && !beside) {  // a phase of an input gradient
        store_even(to, finish(load_first(sums + i, some), added, Vec<T>{}), some);
        continue;
      }
      T other[lanes<T>] = {}, result[lanes<T>];
      for (int e = 0; beside && e < some; ++e) other[e] = beside[e * step];
      store(result, finish(load_first(sums + i, some), added, load(other)));
      for (int e = 0; e < some; ++e) to[e * step] = result[e];
    }
  }

  // `count` neighbouring channels (NHWC) of pixels `step` apart, whose sums are `width` apart.
  PYCONV_NOINLINE void store_channels(const T* sums, i64 width, i64 channel, i64 at, i64 step,
                                      i64 count, i64 pixels) const {
    for (i64 i = 0; i < count; i += lanes<T>) {
      const int some = int(min_of<i64>(lanes<T>, count - i));
      const Vec<T> added = bias ? load_first(bias + channel + i, some) : Vec<T>{};
      i64 to = at + i;
      for (i64 e = 0; e < pixels; ++e, to += step) {
        const Vec<T> beside = residual ? load_first(residual + to, some) : Vec<T>{};
        store_first(out + to, finish(load_first(sums + e * width + i, some), added, beside), some);
      }
    }
  }
  PYCONV_INLINE void store_channels(const T* sums, i64 channel, i64 at, i64 count) const {
    store_channels(sums, 0, channel, at, 0, count, 1);
  }
};

template <class T>
PYCONV_INLINE Epilogue<T> epilogue(const ConvProblem& p, const Correlation& q, const Buffers& b,
                                   i64 group) {
  const i64 channel = group * q.result_channels;
  const T* residual = static_cast<const T*>(b.residual);
  return {b.bias ? static_cast<const T*>(b.bias) + channel : nullptr,
          residual ? residual + channel * q.result.c : nullptr,
          static_cast<T*>(b.out) + channel * q.result.c, p.activation};
}

// Whether a phase has results at a position of an axis.
PYCONV_INLINE bool tapped(const ConvProblem& p, int a, i64 position) {
  for (i64 t0 = 0; t0 < phase_count(p, Pass::bwd_data, a); ++t0) {
    const AxisMap m = backward_axis(p, a, t0);
    if ((position - m.result_first) % m.result_step == 0) return true;
  }
  return false;
}

// Results that no tap reaches get the epilogue of an empty sum. In NCHW, where they lie between
// others, whole rows do.
template <class T>
void finish_untapped(const ConvProblem& p, Pass pass, const Buffers& b) {
  if (!has_untapped_results(p, pass)) return;
  const Correlation q = correlation(p, Pass::bwd_data);
  const bool channels_last = p.layout == Layout::nhwc;
  const i64 rows = p.in[0] * p.in[1];
  parallel_for(p.n * rows, b.threads, [&](i64 task, int) {
    const T nothing[lanes<T>] = {};
    const i64 row = task % rows, at = task / rows * q.result.n + row * q.result.axis[1];
    const bool crossed = tapped(p, 0, row / p.in[1]) && tapped(p, 1, row % p.in[1]);
    if (channels_last) {
      for (i64 w = 0; w < p.in[2]; ++w) {
        if (crossed && tapped(p, 2, w)) continue;
        for (i64 group = 0; group < q.groups; ++group) {
          const Epilogue<T> end = epilogue<T>(p, q, b, group);
          for (i64 c = 0; c < q.result_channels; c += lanes<T>)
            end.store_channels(nothing, c, at + w * q.result.axis[2] + c,
                               min_of<i64>(lanes<T>, q.result_channels - c));
        }
      }
      return;
    }
    for (i64 c = 0; c < p.c; ++c) {
      const Epilogue<T> end = epilogue<T>(p, q, b, c / q.result_channels);
      const i64 channel = c % q.result_channels;
      for (i64 w = 0; w < p.in[2]; w += lanes<T>)
        end.store_pixels(nothing, channel, at + channel * q.result.c + w, 1,
                         min_of<i64>(lanes<T>, p.in[2] - w));
    }
  });
}

// body(phase) for every phase that has results, and before it what no phase has.
template <class T, class Body>
PYCONV_INLINE void for_each_phase(const ConvProblem& p, Pass pass, const Buffers& b, Body&& body) {
  finish_untapped<T>(p, pass, b);
  for (i64 phase = 0; phase < phase_count(p, pass); ++phase) {
    const Correlation q = correlation(p, pass, phase);
    body(q);
  }
}

// body(phase, its first tap among all phases')
template <class Body>
PYCONV_INLINE void each_tapped_phase(const ConvProblem& p, Pass pass, Body&& body) {
  i64 taps = 0;
  for (i64 phase = 0; phase < phase_count(p, pass); ++phase) {
    const Correlation q = correlation(p, pass, phase);
    body(q, taps);
    taps += q.taps();
  }
}

template <class Body>
PYCONV_INLINE void phase_taps(const Correlation& q, Body&& body) {
  for (i64 jd = 0; jd < q.axis[0].taps; ++jd)
    for (i64 jh = 0; jh < q.axis[1].taps; ++jh)
      for (i64 jw = 0; jw < q.axis[2].taps; ++jw) body(jd, jh, jw);
}

}  // namespace pyconv::PYCONV_TARGET

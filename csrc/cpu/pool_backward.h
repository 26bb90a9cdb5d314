// Backward of average and p-norm pooling: rows of inputs run in parallel, and each collects from
// the rows of outputs that cover it, so that no sum depends on threads. The plain average, whose
// weights do not depend on the input, is in pool_average.h; here are all others.
//
//   avg  dx_i = sum_o dy_o w_(o, i) / sum(w)
//   lp   dx_i = sum_o dy_o sign(x_i) (|x_i| / y_o)^(p - 1)
#pragma once
#include "pool_average.h"

namespace pyconv::PYCONV_TARGET {

// dy / dx of the p-norm: sign(x) (|x| / y)^(p - 1), 0 at x = 0 and at y = 0.
template <class V>
PYCONV_INLINE V norm_slope(V x, V y, double p) {
  const V ratio = magnitude(x) / y;
  V part = ratio;
  if (p == 1)
    part = ratio * 0 + 1;
  else if (p == __builtin_inf())
    part = magnitude(x) == y ? V{} + 1 : V{};
  else if (p != 2)
    part = power_of(ratio, p - 1);
  const V slope = x > 0 ? part : -part;
  return ((x == 0) | (y == 0)) ? V{} : slope;
}

// What one output, or several, give to one tap of theirs.
template <class T>
struct Share {
  bool lp;
  double p;
  T divisor;
  const T* weight;  // of the tap, or nullptr

  template <class V>
  PYCONV_INLINE V of(V dy, V x, V y) const {
    V part = dy / divisor;
    if (lp) part *= norm_slope(x, y, p);
    if (weight) part *= *weight;
    return part;
  }

  // Input i from output i, or from the one output there is.
  template <bool One>
  PYCONV_INLINE void add_run(T* dx, const T* x, const T* dy, const T* y, i64 count) const {
    auto add = [&](i64 i, int some) {
      const Vec<T> from = One ? splat(*dy) : load_first(dy + i, some);
      Vec<T> at{}, norm{};
      if (lp) {
        at = load_first(x + i, some);
        norm = One ? splat(*y) : load_first(y + i, some);
      }
      store_first(dx + i, load_first(dx + i, some) + of(from, at, norm), some);
    };
    i64 i = 0;
    for (; i + lanes<T> <= count; i += lanes<T>) add(i, lanes<T>);
    if (i < count) add(i, int(count - i));
  }

  // Input i * step from output i.
  PYCONV_INLINE void add_strided(T* dx, const T* x, const T* dy, const T* y, i64 count,
                                 i64 step) const {
    for (i64 i = 0; i < count; ++i)
      dx[i * step] += of(dy[i], lp ? x[i * step] : T(0), lp ? y[i] : T(0));
  }
};

// The part of one row of outputs in one row of inputs.
template <class T>
struct RowPair {
  const PoolProblem& p;
  i64 channels;     // elements of a pixel
  const T* weight;  // of the window's row, or nullptr
  T* dx;
  const T *x, *dy, *y;

  // Output by output, each to all its taps.
  void by_output(Share<T> share, Taps (&t)[3], const T* weights) const {
    const i64 step = p.dilation[2];
    for (i64 o = 0; o < p.out[2]; ++o) {
      t[2] = taps_of(p, 2, o);
      if (!share.lp) share.divisor = divisor_of(p, t, weights);
      const i64 run = channels == 1 && step == 1 && !weight ? t[2].count : 1;
      for (i64 w = 0; w < t[2].count; w += run) {
        if (weight) share.weight = weight + t[2].skipped + w;
        const i64 i = (t[2].first + w * step) * channels, from = o * channels;
        if (channels == 1)
          share.template add_run<true>(dx + i, x + i, dy + from, y + from, run);
        else
          share.template add_run<false>(dx + i, x + i, dy + from, y + from, channels);
      }
    }
  }

  // Tap by tap, each from all outputs; the last tap first, so that an input still sums its outputs
  // from left to right. Only outputs at the edge have divisors of their own.
  void by_tap(Share<T> share, Taps (&t)[3], const T* weights) const {
    const i64 stride = p.stride[2], q = p.out[2];
    const bool same = share.lp || p.divisor;
    const Range whole = same ? Range{0, q} : inside(p);
    auto divide_as = [&](i64 o) {
      t[2] = taps_of(p, 2, o);
      if (!share.lp) share.divisor = divisor_of(p, t, weights);
    };
    for (i64 k = p.window[2] - 1; k >= 0; --k) {
      const i64 offset = k * p.dilation[2] - p.pad[2];  // output o reads input o stride + offset
      const i64 begin = offset >= 0 ? 0 : min_of(q, ceil_div(-offset, stride));
      const i64 room = p.in[2] - offset;
      const i64 end = room <= 0 ? 0 : min_of(q, ceil_div(room, stride));
      if (weight) share.weight = weight + k;
      auto add = [&](i64 o, i64 count) {
        const i64 i = (o * stride + offset) * channels, from = o * channels;
        if (stride == 1)
          share.template add_run<false>(dx + i, x + i, dy + from, y + from, count * channels);
        else if (channels == 1)
          share.add_strided(dx + i, x + i, dy + from, y + from, count, stride);
        else
          for (i64 j = 0; j < count; ++j) {
            const i64 to = i + j * stride * channels, of = from + j * channels;
            share.template add_run<false>(dx + to, x + to, dy + of, y + of, channels);
          }
      };
      for (i64 o = begin; o < end;) {
        const i64 count = o >= whole.begin && o < whole.end ? min_of(end, whole.end) - o : 1;
        divide_as(o);
        add(o, count);
        o += count;
      }
    }
  }
};

// A row of dx: zero, and what every row of outputs that reaches it gives.
template <class T>
void input_row(const PoolProblem& p, const Buffers& b, i64 channels, i64 image, i64 z, i64 h) {
  const bool lp = p.kind == PoolKind::lp;
  const T* const weights = p.weighted ? static_cast<const T*>(b.b) : nullptr;
  const i64 row = ((image * p.in[0] + z) * p.in[1] + h) * p.in[2] * channels;
  RowPair<T> pair{p, channels, nullptr, static_cast<T*>(b.out) + row, nullptr, nullptr, nullptr};
  __builtin_memset(pair.dx, 0, std::size_t(p.in[2] * channels) * sizeof(T));
  const Range over_z = covering(p, 0, z), over_h = covering(p, 1, h);
  for (i64 oz = over_z.begin; oz < over_z.end; ++oz) {
    const i64 tap_z = tap_at(p, 0, oz, z);
    for (i64 oh = over_h.begin; oh < over_h.end && tap_z >= 0; ++oh) {
      const i64 tap_h = tap_at(p, 1, oh, h);
      if (tap_h < 0) continue;
      const i64 from = ((image * p.out[0] + oz) * p.out[1] + oh) * p.out[2] * channels;
      pair.dy = static_cast<const T*>(b.a) + from;
      // Unused arrays stay valid pointers to step along.
      pair.x = lp ? static_cast<const T*>(b.b) + row : pair.dx;
      pair.y = lp ? static_cast<const T*>(b.aux) + from : pair.dy;
      if (weights) pair.weight = weights + (tap_z * p.window[1] + tap_h) * p.window[2];
      Taps t[3] = {taps_of(p, 0, oz), taps_of(p, 1, oh), {}};
      const Share<T> share{lp, p.norm_type, 1, nullptr};
      if (p.adaptive || p.window[2] >= 2 * lanes<T>)
        pair.by_output(share, t, weights);
      else
        pair.by_tap(share, t, weights);
    }
  }
}

template <class T>
void backward(const PoolProblem& p, const Buffers& b) {
  const bool nhwc = p.layout == Layout::nhwc;
  const i64 channels = nhwc ? p.c : 1;
  const bool plain = p.kind == PoolKind::avg && !p.weighted && (nhwc || spreads_by_row(p));
  const T equal = plain ? equal_divisor<T>(p) : T(0);
  auto rows_of = [&](i64 image, i64 z, i64 begin, i64 end) {
    for (i64 h = begin; h < end; ++h) {
      if (!plain) {
        input_row<T>(p, b, channels, image, z, h);
        continue;
      }
      const Rows rows{covering(p, 0, z), covering(p, 1, h), z, h};
      const T* dy = static_cast<const T*>(b.a) + image * p.out_pixels() * channels;
      const i64 row = ((image * p.in[0] + z) * p.in[1] + h) * p.in[2] * channels;
      T* const dx = static_cast<T*>(b.out) + row;
      if (nhwc)
        average_row_nhwc<T>(p, rows, equal, dy, dx);
      else
        average_row<T>(p, rows, equal, dy, dx);
    }
  };
  parallel_rows(nhwc ? p.n : p.n * p.c, p.in, p.in[2] * channels, b.threads, rows_of);
}

}  // namespace pyconv::PYCONV_TARGET

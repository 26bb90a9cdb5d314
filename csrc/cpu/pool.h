// Pooling forward and backward: a window's positions per axis, an operation over its taps.
//
//   max   y = max x, indices of the maxima        avg  y = sum(w x) / sum(w), w = 1 if not given
//   lp    y = (sum |x|^p)^(1/p)                   unpool  y[index] = x, else 0
//
// Forward runs over rows of outputs in parallel. Lanes are channels (NHWC), neighbouring outputs of
// a row (NCHW), or, where one window is long, its taps. Backward of max and unpooling scatter by
// index, a plane (or a block of channels) a task; that of avg and lp is in pool_backward.h. So no
// result depends on threads, batch or place in the image.
#pragma once
#include <utility>

#include "pool_backward.h"

namespace pyconv::PYCONV_TARGET {

template <class T, int N>
struct PackOf {
  typedef T type __attribute__((vector_size(N * sizeof(T)), aligned(sizeof(T)), may_alias));
};
template <class T, int N>
using Pack = typename PackOf<T, N>::type;

// Operations --------------------------------------------------------------------------------------
//
// Each sees a window's taps in order: made with its first pixel, then for every row of the window
// tap(values, pixel of lane 0, number of the tap) and end_row(). fold() joins lanes that are taps
// of one window into lane 0; `filler` of a row's first value pads such lanes.

template <class T>
struct Frame {
  const PoolProblem& p;
  const T* weights;  // or nullptr
  i64 pitch;         // elements from a pixel to the next
  i64 lane_pixels;   // pixels from a lane to the next
};

// The larger, NaN if either is.
template <class V>
PYCONV_INLINE V larger(V best, V x) {
  return ((x > best) | (x != x)) ? x : best;
}

template <class T>
struct Max {
  static constexpr int width = lanes<T>;
  using V = Vec<T>;
  V best;

  PYCONV_INLINE Max(const Frame<T>&, const Taps (&)[3], i64) : best(splat(-T(__builtin_inf()))) {}
  static PYCONV_INLINE T filler(T first) { return first; }
  PYCONV_INLINE void tap(V x, i64, i64) { best = larger(best, x); }
  PYCONV_INLINE void end_row() {}
  PYCONV_INLINE void fold() {
    for (int i = 1; i < width; ++i) best[0] = larger(T(best[0]), T(best[i]));
  }
  PYCONV_INLINE void store_to(T* y, i64*, int count) { store_first(y, best, count); }
};

// Max with the pixel of the first NaN, else of the first maximum. Pixels are counted in I, as wide
// as T where a plane allows it.
template <class T, class I>
struct ArgMax {
  static constexpr int width =
      PYCONV_VECTOR_BYTES / int(sizeof(I) > sizeof(T) ? sizeof(I) : sizeof(T));
  using V = Pack<T, width>;
  using P = Pack<I, width>;
  V best;
  P where, offset;

  PYCONV_INLINE ArgMax(const Frame<T>& f, const Taps (&)[3], i64 first)
      : best(V{} - T(__builtin_inf())) {
    for (int i = 0; i < width; ++i) offset[i] = I(i * f.lane_pixels);
    where = offset + I(first);
  }
  static PYCONV_INLINE T filler(T first) { return first; }
  PYCONV_INLINE void tap(V x, i64 pixel, i64) {
    const auto wins = ~(x <= best) & (best == best);
    best = wins ? x : best;
    if constexpr (sizeof(I) == sizeof(T))
      where = wins ? offset + I(pixel) : where;
    else
      where = __builtin_convertvector(wins, P) ? offset + I(pixel) : where;
  }
  PYCONV_INLINE void end_row() {}
  PYCONV_INLINE void fold() {
    for (int i = 1; i < width; ++i) {
      const bool nan = best[0] != best[0], other_nan = best[i] != best[i];
      const bool same = nan ? other_nan : best[i] == best[0];
      if (same ? where[i] < where[0] : !nan && (other_nan || best[i] > best[0])) {
        best[0] = best[i];
        where[0] = where[i];
      }
    }
  }
  PYCONV_INLINE void store_to(T* y, i64* at, int count) {
    I pixels[width];
    __builtin_memcpy(pixels, &where, sizeof where);
    __builtin_memcpy(y, &best, std::size_t(count) * sizeof(T));
    for (int i = 0; i < count; ++i) at[i] = pixels[i];
  }
};

// Sums by rows of the window first: shorter chains of additions err less.
template <class T, bool Weighted>
struct Average {
  static constexpr int width = lanes<T>;
  using V = Vec<T>;
  V total{}, row{};
  const T* weights;
  T divisor;

  PYCONV_INLINE Average(const Frame<T>& f, const Taps (&t)[3], i64)
      : weights(f.weights), divisor(divisor_of(f.p, t, f.weights)) {}
  static PYCONV_INLINE T filler(T) { return 0; }
  PYCONV_INLINE void tap(V x, i64, i64 number) { row += Weighted ? x * weights[number] : x; }
  PYCONV_INLINE void end_row() {
    total += row;
    row = V{};
  }
  PYCONV_INLINE void fold() { total[0] = sum_lanes<T>(total); }
  PYCONV_INLINE void store_to(T* y, i64*, int count) { store_first(y, total / divisor, count); }
};

template <class T>
struct Lp {
  static constexpr int width = lanes<T>;
  using V = Vec<T>;
  V total{}, row{};
  const double p;
  const bool largest;

  PYCONV_INLINE Lp(const Frame<T>& f, const Taps (&)[3], i64)
      : p(f.p.norm_type), largest(p == __builtin_inf()) {}
  static PYCONV_INLINE T filler(T) { return 0; }
  PYCONV_INLINE void tap(V x, i64, i64) {
    if (p == 2)
      row += x * x;
    else if (p == 1)
      row += magnitude(x);
    else if (largest)
      row = larger(row, magnitude(x));
    else
      row += power_of(magnitude(x), p);
  }
  PYCONV_INLINE void end_row() {
    total = largest ? larger(total, row) : total + row;
    row = V{};
  }
  PYCONV_INLINE void fold() {
    if (!largest)
      total[0] = sum_lanes<T>(total);
    else
      for (int i = 1; i < width; ++i) total[0] = larger(T(total[0]), T(total[i]));
  }
  PYCONV_INLINE void store_to(T* y, i64*, int count) {
    V root = total;
    if (p == 2)
      for (int i = 0; i < width; ++i) root[i] = T(__builtin_sqrt(root[i]));
    else if (p != 1 && !largest)
      root = power_of(total, 1 / p);
    store_first(y, root, count);
  }
};

// Forward -----------------------------------------------------------------------------------------

// Every second of 2 N - 1 elements, and not one read beyond them.
template <class V, class T, int... I>
PYCONV_INLINE V every_second(const T* p, std::integer_sequence<int, I...>) {
  constexpr int n = sizeof...(I);
  V low, high;
  __builtin_memcpy(&low, p, sizeof low);
  __builtin_memcpy(&high, p + n - 1, sizeof high);
#if defined(__clang__) || __GNUC__ >= 12
  return __builtin_shufflevector(low, high, (2 * I < n ? 2 * I : 2 * I + 1)...);
#else
  return V{(2 * I < n ? low[2 * I < n ? 2 * I : 0] : high[2 * I < n ? 0 : 2 * I + 1 - n])...};
#endif
}

// The first `count` lanes of p[0], p[step], ...; Step is step where it is 1 or 2, else 0.
template <class V, int Step, class T>
PYCONV_INLINE V load_lanes(const T* p, i64 step, int count) {
  constexpr int width = sizeof(V) / sizeof(T);
  if constexpr (Step == 2 && width > 1)
    if (count == width) return every_second<V>(p, std::make_integer_sequence<int, width>());
  V v{};
  if constexpr (Step == 1)
    __builtin_memcpy(&v, p, std::size_t(count) * sizeof(T));
  else
    for (int i = 0; i < count; ++i) v[i] = p[i * step];
  return v;
}

// `count` results, one a lane, of windows with the same taps.
template <class Op, int Step, class T>
PYCONV_INLINE void reduce(const Frame<T>& f, const Taps (&t)[3], const T* x, T* y, i64* at,
                          int count) {
  const PoolProblem& p = f.p;
  const i64 first = (t[0].first * p.in[1] + t[1].first) * p.in[2] + t[2].first;
  const i64 step = p.dilation[2];
  Op op(f, t, first);
  for (i64 z = 0; z < t[0].count; ++z)
    for (i64 h = 0; h < t[1].count; ++h) {
      i64 pixel = first + (z * p.dilation[0] * p.in[1] + h * p.dilation[1]) * p.in[2];
      i64 number = f.weights ? ((t[0].skipped + z) * p.window[1] + t[1].skipped + h) * p.window[2] +
                                   t[2].skipped
                             : 0;
      const T* from = x + pixel * f.pitch;
      for (i64 w = 0; w < t[2].count; ++w) {
        op.tap(load_lanes<typename Op::V, Step>(from, f.lane_pixels, count), pixel, number);
        pixel += step;
        number += 1;
        from += step * f.pitch;
      }
      op.end_row();
    }
  op.store_to(y, at, count);
}

template <class Op, int Step, class T>
void outputs(const Frame<T>& f, const Taps (&t)[3], const T* x, T* y, i64* at, int count) {
  if (count == Op::width)
    reduce<Op, Step>(f, t, x, y, at, Op::width);
  else
    reduce<Op, Step>(f, t, x, y, at, count);
}

// One result; lanes are neighbouring taps.
template <class Op, class T>
void long_window(const Frame<T>& f, const Taps (&t)[3], const T* x, T* y, i64* at) {
  const PoolProblem& p = f.p;
  const i64 first = (t[0].first * p.in[1] + t[1].first) * p.in[2] + t[2].first;
  Op op(f, t, first);
  for (i64 z = 0; z < t[0].count; ++z)
    for (i64 h = 0; h < t[1].count; ++h) {
      const i64 row = first + (z * p.dilation[0] * p.in[1] + h * p.dilation[1]) * p.in[2];
      const T* from = x + row;
      i64 w = 0;
      typename Op::V v{};
      for (; w + Op::width <= t[2].count; w += Op::width) {
        __builtin_memcpy(&v, from + w, sizeof v);
        op.tap(v, row + w, 0);
      }
      if (w < t[2].count) {
        v = typename Op::V{} + Op::filler(from[w]);
        __builtin_memcpy(&v, from + w, std::size_t(t[2].count - w) * sizeof(T));
        op.tap(v, row + w, 0);
      }
      op.end_row();
    }
  op.fold();
  op.store_to(y, at, 1);
}

// A row of outputs in NCHW: where windows hang over the edge one by one, inside by vectors.
template <class Op, int Step, class T>
void output_row(const Frame<T>& f, Taps (&t)[3], const T* x, T* y, i64* at) {
  const PoolProblem& p = f.p;
  const Range whole = inside(p);
  for (i64 o = 0; o < p.out[2];) {
    int count = 1;
    if (o >= whole.begin && o < whole.end) {
      count = int(min_of<i64>(Op::width, whole.end - o));
      // The last whole vector overlaps the one before; it computes the same numbers again.
      if (whole.end - whole.begin >= Op::width && count < Op::width) {
        o = whole.end - Op::width;
        count = Op::width;
      }
    }
    t[2] = taps_of(p, 2, o);
    outputs<Op, Step>(f, t, x, y + o, at ? at + o : nullptr, count);
    o += count;
  }
}

// A row of outputs in NHWC.
template <class Op, class T>
void output_row_nhwc(const Frame<T>& f, Taps (&t)[3], const T* x, T* y, i64* at) {
  const i64 channels = f.p.c;
  for (i64 o = 0; o < f.p.out[2]; ++o) {
    t[2] = taps_of(f.p, 2, o);
    for (i64 c = 0; c < channels; c += Op::width) {
      if (channels >= Op::width) c = min_of<i64>(c, channels - Op::width);
      const i64 to = o * channels + c;
      outputs<Op, 1>(f, t, x + c, y + to, at ? at + to : nullptr,
                     int(min_of<i64>(Op::width, channels - c)));
    }
  }
}

template <class Op, class T>
void forward(const PoolProblem& p, const Buffers& b) {
  const bool nhwc = p.layout == Layout::nhwc;
  const i64 channels = nhwc ? p.c : 1;
  const bool along_window = !nhwc && !p.weighted && p.dilation[2] == 1 && p.window[2] >= 8 &&
                            (p.adaptive || p.stride[2] > 2 || p.out[2] < Op::width);
  const Frame<T> f{p, p.weighted ? static_cast<const T*>(b.b) : nullptr, channels,
                   nhwc           ? 0
                   : along_window ? 1
                                  : p.stride[2]};
  const i64 work = max_of(p.in_pixels(), p.out_pixels()) / (p.out[0] * p.out[1]) * channels;
  parallel_rows(nhwc ? p.n : p.n * p.c, p.out, work, b.threads, [&](i64 image, i64 z, i64 h) {
    const T* x = static_cast<const T*>(b.a) + image * p.in_pixels() * channels;
    const i64 to = ((image * p.out[0] + z) * p.out[1] + h) * p.out[2] * channels;
    T* y = static_cast<T*>(b.out) + to;
    i64* at = b.aux ? static_cast<i64*>(b.aux) + to : nullptr;
    Taps t[3] = {taps_of(p, 0, z), taps_of(p, 1, h), {}};
    if (nhwc) return output_row_nhwc<Op>(f, t, x, y, at);
    if (along_window) {
      for (i64 o = 0; o < p.out[2]; ++o) {
        t[2] = taps_of(p, 2, o);
        long_window<Op>(f, t, x, y + o, at ? at + o : nullptr);
      }
      return;
    }
    if (p.stride[2] == 1) return output_row<Op, 1>(f, t, x, y, at);
    if (p.stride[2] == 2) return output_row<Op, 2>(f, t, x, y, at);
    return output_row<Op, 0>(f, t, x, y, at);
  });
}

// Scatter -----------------------------------------------------------------------------------------

// to = 0, then to[index] += from (or = from) in order; `pixels` of the small and of the big plane.
template <class T, bool Add>
void scatter(const PoolProblem& p, i64 from_pixels, i64 to_pixels, const Buffers& b) {
  const bool nhwc = p.layout == Layout::nhwc;
  const i64 channels = nhwc ? p.c : 1;
  constexpr i64 block = 64 / sizeof(T);  // channels of a task: a cache line
  const i64 blocks = ceil_div(channels, block);
  parallel_for((nhwc ? p.n : p.n * p.c) * blocks, b.threads, [&](i64 task, int) {
    const i64 image = task / blocks, c = task % blocks * block;
    const T* from = static_cast<const T*>(b.a) + image * from_pixels * channels + c;
    const i64* index = static_cast<const i64*>(b.b) + image * from_pixels * channels + c;
    T* to = static_cast<T*>(b.out) + image * to_pixels * channels + c;
    if (channels == 1) {
      __builtin_memset(to, 0, std::size_t(to_pixels) * sizeof(T));
      for (i64 i = 0; i < from_pixels; ++i) to[index[i]] = from[i] + (Add ? to[index[i]] : 0);
      return;
    }
    const i64 count = min_of(block, channels - c);
    for (i64 i = 0; i < to_pixels; ++i)
      __builtin_memset(to + i * channels, 0, std::size_t(count) * sizeof(T));
    for (i64 i = 0; i < from_pixels; ++i, from += channels, index += channels)
      for (i64 j = 0; j < count; ++j) {
        T& cell = to[index[j] * channels + j];
        cell = from[j] + (Add ? cell : 0);
      }
  });
}

template <class T>
void pool(const PoolProblem& asked, Pass pass, const Buffers& b) {
  if (asked.n == 0) return;
  if (asked.kind == PoolKind::unpool)
    return scatter<T, false>(asked, asked.in_pixels(), asked.out_pixels(), b);
  if (asked.kind == PoolKind::max && pass != Pass::fwd)
    return scatter<T, true>(asked, asked.out_pixels(), asked.in_pixels(), b);
  const PoolProblem p = simplified(asked);
  if (pass != Pass::fwd) return backward<T>(p, b);
  switch (p.kind) {
    case PoolKind::avg:
      return p.weighted ? forward<Average<T, true>, T>(p, b) : forward<Average<T, false>, T>(p, b);
    case PoolKind::lp: return forward<Lp<T>, T>(p, b);
    default: break;
  }
  if (!b.aux) return forward<Max<T>, T>(p, b);
  if constexpr (sizeof(T) == sizeof(std::int32_t))
    if (p.in_pixels() <= INT32_MAX) return forward<ArgMax<T, std::int32_t>, T>(p, b);
  forward<ArgMax<T, i64>, T>(p, b);
}

}  // namespace pyconv::PYCONV_TARGET

// Pooling forward and backward: a window's positions per axis, an operation over its taps.
//
//   max   y = max x, indices of the maxima        avg  y = sum(w x) / sum(w), w = 1 if not given
//   lp    y = (sum |x|^p)^(1/p)                   unpool  y[index] = x, else 0
//
// Forward runs over rows of outputs in parallel. Lanes are channels (NHWC), neighbouring outputs of
// a row (NCHW), or, where one window is long, its taps. Backward of avg and lp runs over rows of
// inputs in parallel: a row collects from the outputs that cover it, in window order. Backward of
// max and unpooling scatter by index, a plane (or a block of channels) a task. So no result depends
// on threads, batch or place in the image.
#pragma once
#include <utility>

#include "../kernels.h"
#include "parallel.h"

namespace pyconv::PYCONV_TARGET {

template <class T, int N>
struct PackOf {
  typedef T type __attribute__((vector_size(N * sizeof(T)), aligned(sizeof(T)), may_alias));
};
template <class T, int N>
using Pack = typename PackOf<T, N>::type;

// Windows -----------------------------------------------------------------------------------------

// Bounds of an adaptive window may need more than 64 bits on the way.
PYCONV_INLINE i64 scaled_down(i64 i, i64 size, i64 parts) { return i64(__int128(i) * size / parts); }
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

// Operations --------------------------------------------------------------------------------------
//
// Each sees a window's taps in order: start(first pixel), then for every row of the window
// tap(values, pixel of lane 0, number of the tap) and end_row(). fold() joins lanes that are taps of
// one window into lane 0; `filler` of a row's first value pads such lanes.

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

// x^p lane by lane, in double: float32 powers neither overflow nor lose digits.
template <class V>
PYCONV_INLINE V power_of(V x, double p) {
  for (int i = 0; i < int(sizeof x / sizeof x[0]); ++i) x[i] = __builtin_pow(double(x[i]), p);
  return x;
}
PYCONV_INLINE float power_of(float x, double p) { return float(__builtin_pow(double(x), p)); }
PYCONV_INLINE double power_of(double x, double p) { return __builtin_pow(x, p); }

template <class V>
PYCONV_INLINE V magnitude(V x) {
  return x < 0 ? -x : x;
}

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
    if (p == 2) row += x * x;
    else if (p == 1) row += magnitude(x);
    else if (largest) row = larger(row, magnitude(x));
    else row += power_of(magnitude(x), p);
  }
  PYCONV_INLINE void end_row() {
    total = largest ? larger(total, row) : total + row;
    row = V{};
  }
  PYCONV_INLINE void fold() {
    if (!largest) total[0] = sum_lanes<T>(total);
    else
      for (int i = 1; i < width; ++i) total[0] = larger(T(total[0]), T(total[i]));
  }
  PYCONV_INLINE void store_to(T* y, i64*, int count) {
    V root = total;
    if (p == 2)
      for (int i = 0; i < width; ++i) root[i] = T(__builtin_sqrt(root[i]));
    else if (p != 1 && !largest) root = power_of(total, 1 / p);
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
      i64 pixel =
          first + (z * p.dilation[0] * p.in[1] + h * p.dilation[1]) * p.in[2];
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
        for (int i = 0; i < Op::width; ++i)
          v[i] = w + i < t[2].count ? from[w + i] : Op::filler(from[w]);
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
  const i64 q = p.out[2], stride = p.stride[2];
  const i64 reach = (p.window[2] - 1) * p.dilation[2];
  const i64 low = p.adaptive ? q : min_of(q, ceil_div(p.pad[2], stride));
  const i64 room = p.in[2] + p.pad[2] - reach;  // positions a whole window can start at, plus pad
  const i64 high = p.adaptive || room <= 0 ? low : max_of(low, min_of(q, ceil_div(room, stride)));
  for (i64 o = 0; o < q;) {
    int count = 1;
    if (o >= low && o < high) {
      count = int(min_of<i64>(Op::width, high - o));
      // The last whole vector overlaps the one before; it computes the same numbers again.
      if (high - low >= Op::width && count < Op::width) {
        o = high - Op::width;
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

template <class Op, class T>
void forward(const PoolProblem& p, const Buffers& b) {
  const bool nhwc = p.layout == Layout::nhwc;
  const i64 channels = nhwc ? p.c : 1;
  const bool along_window = !nhwc && !p.weighted && p.dilation[2] == 1 &&
                            p.window[2] >= 2 * Op::width &&
                            (p.adaptive || p.stride[2] > 2 || p.out[2] < Op::width);
  const Frame<T> f{p, p.weighted ? static_cast<const T*>(b.b) : nullptr, channels,
                   nhwc ? 0 : along_window ? 1 : p.stride[2]};
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

// Backward ----------------------------------------------------------------------------------------

// A scalar or a vector of the first `count` elements.
template <class V, class T>
PYCONV_INLINE V get(const T* p, int count) {
  V v{};
  if (count == int(sizeof(V) / sizeof(T)))
    __builtin_memcpy(&v, p, sizeof v);
  else
    __builtin_memcpy(&v, p, std::size_t(count) * sizeof(T));
  return v;
}

template <class V, class T>
PYCONV_INLINE void put(T* p, V v, int count) {
  if (count == int(sizeof(V) / sizeof(T)))
    __builtin_memcpy(p, &v, sizeof v);
  else
    __builtin_memcpy(p, &v, std::size_t(count) * sizeof(T));
}

// dy / dx of the p-norm: sign(x) (|x| / y)^(p - 1), 0 at x = 0 and at y = 0.
template <class V>
PYCONV_INLINE V norm_slope(V x, V y, double p) {
  const V ratio = magnitude(x) / y;
  V part = ratio;
  if (p == 1) part = ratio * 0 + 1;
  else if (p == __builtin_inf()) part = magnitude(x) == y ? V{} + 1 : V{};
  else if (p != 2) part = power_of(ratio, p - 1);
  const V slope = x > 0 ? part : -part;
  return ((x == 0) | (y == 0)) ? V{} : slope;
}

// One row of dx, V wide along the channels.
template <class T, class V>
void input_row(const PoolProblem& p, const Buffers& b, i64 channels, i64 image, i64 z, i64 h) {
  constexpr int width = int(sizeof(V) / sizeof(T));
  const bool lp = p.kind == PoolKind::lp;
  const T* const dy = static_cast<const T*>(b.a);
  const T* const y = static_cast<const T*>(b.aux);
  const T* const weights = p.weighted ? static_cast<const T*>(b.b) : nullptr;
  const i64 row = ((image * p.in[0] + z) * p.in[1] + h) * p.in[2] * channels;
  T* const dx = static_cast<T*>(b.out) + row;
  const T* const x = lp ? static_cast<const T*>(b.b) + row : nullptr;
  __builtin_memset(dx, 0, std::size_t(p.in[2] * channels) * sizeof(T));
  const Range over_z = covering(p, 0, z), over_h = covering(p, 1, h);
  for (i64 oz = over_z.begin; oz < over_z.end; ++oz) {
    const i64 tap_z = tap_at(p, 0, oz, z);
    for (i64 oh = over_h.begin; oh < over_h.end && tap_z >= 0; ++oh) {
      const i64 tap_h = tap_at(p, 1, oh, h);
      if (tap_h < 0) continue;
      Taps t[3] = {taps_of(p, 0, oz), taps_of(p, 1, oh), {}};
      const i64 from = ((image * p.out[0] + oz) * p.out[1] + oh) * p.out[2];
      for (i64 ow = 0; ow < p.out[2]; ++ow) {
        t[2] = taps_of(p, 2, ow);
        const T divisor = lp ? T(1) : divisor_of(p, t, weights);
        const T* const weight =
            weights ? weights + (tap_z * p.window[1] + tap_h) * p.window[2] + t[2].skipped : nullptr;
        for (i64 c = 0; c < channels; c += width) {
          const int count = int(min_of<i64>(width, channels - c));
          const i64 o = (from + ow) * channels + c;
          const V g = get<V>(dy + o, count) / divisor;
          const V norm = lp ? get<V>(y + o, count) : V{};
          for (i64 w = 0; w < t[2].count; ++w) {
            const i64 i = (t[2].first + w * p.dilation[2]) * channels + c;
            V part = g;
            if (lp) part *= norm_slope(get<V>(x + i, count), norm, p.norm_type);
            if (weight) part *= weight[w];
            put(dx + i, V(get<V>(dx + i, count) + part), count);
          }
        }
      }
    }
  }
}

template <class T>
void backward(const PoolProblem& p, const Buffers& b) {
  const bool nhwc = p.layout == Layout::nhwc;
  const i64 channels = nhwc ? p.c : 1;
  parallel_rows(nhwc ? p.n : p.n * p.c, p.in, p.in[2] * channels, b.threads,
                [&](i64 image, i64 z, i64 h) {
                  if (channels > 1) input_row<T, Vec<T>>(p, b, channels, image, z, h);
                  else input_row<T, T>(p, b, channels, image, z, h);
                });
}

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

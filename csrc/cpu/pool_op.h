// What a pooling does with the taps of its windows, a vector of windows (or of one window's taps)
// at a time.
//
// Made for the windows of a vector, an operation then sees their taps in order: tap(values, pixel)
// and, after each row of the window, end_row(). fold() joins lanes that are taps of one window into
// lane 0; `filler` of a row's first value pads such lanes. A tap in the padding holds `padding`.
#pragma once
#include "pool_window.h"

namespace pyconv::PYCONV_TARGET {

template <class T, int N>
struct PackOf {
  typedef T type __attribute__((vector_size(N * sizeof(T)), aligned(sizeof(T)), may_alias));
};
template <class T, int N>
using Pack = typename PackOf<T, N>::type;

// Where the taps of a call are: distances in elements.
template <class T>
struct Frame {
  const PoolProblem& p;
  const T* weights;  // or nullptr
  const T* columns;  // of averages whose divisor differs along a row: its factor for each output
  i64 plane, row;    // from a tap to the next one of the window, on the outer axes
  i64 step;          // on the last axis, and where pixels lie apart by their phase,
  i64 turn, run;     // the phases' share of it, and the elements of a row of all phases
  i64 lane_pixels;   // pixels from a lane to the next
};

// The window, or the first of those, an operation is made for.
struct Window {
  const Taps (&taps)[3];
  i64 first;   // pixel of the first tap
  i64 tap;     // its number
  i64 column;  // of that tap, negative in the padding
  i64 output;  // its number in `columns`
};

// The larger, NaN if either is, `best` if they are equal.
template <class V>
PYCONV_INLINE V larger(V best, V x) {
#if PYCONV_VECTOR_BYTES == 64
  // vmaxps gives its second operand where either is NaN. Comparing for it took two instructions
  // more, on the one port that compares.
  if constexpr (sizeof best == 64 && sizeof best[0] == 4)
    return V(_mm512_mask_max_ps(__m512(best), _mm512_cmp_ps_mask(__m512(best), __m512(best), 7),
                                __m512(best), __m512(x)));
  else if constexpr (sizeof best == 64)
    return V(_mm512_mask_max_pd(__m512d(best), _mm512_cmp_pd_mask(__m512d(best), __m512d(best), 7),
                                __m512d(best), __m512d(x)));
#endif
  return ((x > best) | (x != x)) ? x : best;
}

// `join` of the halves, of their halves, ... of a vector.
template <class T, int N, class Join>
PYCONV_INLINE T join_halves(const T* v, Join&& join) {
  if constexpr (N == 1) {
    return *v;
  } else {
    Pack<T, N / 2> low, high;
    __builtin_memcpy(&low, v, sizeof low);
    __builtin_memcpy(&high, v + N / 2, sizeof high);
    low = join(low, high);
    return join_halves<T, N / 2>(reinterpret_cast<const T*>(&low), join);
  }
}

template <class T, int Width>
struct Max {
  static constexpr int width = Width;
  using Place = i64;
  static constexpr bool divides = false;
  using V = Pack<T, Width>;
  V best;

  PYCONV_INLINE Max(const Frame<T>&, const Window&, int) : best(V{} - T(__builtin_inf())) {}
  static constexpr T padding = -T(__builtin_inf());
  static PYCONV_INLINE T filler(T first) { return first; }
  PYCONV_INLINE void tap(V x, i64, i64) { best = larger(best, x); }
  PYCONV_INLINE void end_row() {}
  PYCONV_INLINE void fold() {
    best[0] = join_halves<T, Width>(reinterpret_cast<const T*>(&best),
                                    [](auto a, auto b) { return larger(a, b); });
  }
  PYCONV_INLINE V result(Place*, int) const { return best; }
};

// `count` lanes of small numbers as bytes.
template <class V>
PYCONV_INLINE void store_bytes(std::uint8_t* to, V v, int count) {
  constexpr int width = int(sizeof v / sizeof v[0]);
  const auto bytes = __builtin_convertvector(v, Pack<std::uint8_t, width>);
#if PYCONV_VECTOR_BYTES == 64
  if constexpr (width == 16)  // a memcpy of unknown length is a call
    return _mm_mask_storeu_epi8(to, first_lanes(count), __m128i(bytes));
#endif
  if (count == width)
    __builtin_memcpy(to, &bytes, sizeof bytes);
  else
    __builtin_memcpy(to, &bytes, std::size_t(count));
}

// Max with the place of the first NaN, else of the first maximum: its pixel, counted in I, as wide
// as T where a plane allows it, or with Place = std::uint8_t its tap.
template <class T, class I, int Width, class At = i64>
struct ArgMax {
  static constexpr int width = Width;
  using Place = At;
  static constexpr bool by_tap = sizeof(Place) == 1;
  static constexpr bool divides = false;
  using V = Pack<T, Width>;
  using P = Pack<I, Width>;
  V best;
  P where, offset;  // of lane 0, and what to add for the others

  // Padding never wins, so a window of nothing above it names its first tap.
  PYCONV_INLINE ArgMax(const Frame<T>& f, const Window& w, int vector)
      : best(V{} - T(__builtin_inf())), where(P{} + I(by_tap ? w.tap : w.first)), offset{} {
    I lane[Width];
    for (int i = 0; i < Width && !by_tap; ++i) lane[i] = I((vector * Width + i) * f.lane_pixels);
    if (!by_tap) __builtin_memcpy(&offset, lane, sizeof offset);
    const i64 column = w.column + vector * Width * f.lane_pixels, step = f.p.dilation[2];
    if (column < 0)
      for (int i = 0; i < Width; ++i)
        where[i] += I(steps_within(-column - i * f.lane_pixels, step) * (by_tap ? 1 : step));
  }
  static constexpr T padding = -T(__builtin_inf());
  static PYCONV_INLINE T filler(T first) { return first; }
  PYCONV_INLINE void tap(V x, i64 pixel, i64 number) {
    const auto wins = ~(x <= best) & (best == best);
    const P place = P{} + I(by_tap ? number : pixel);
    best = wins ? x : best;
    if constexpr (sizeof(I) == sizeof(T))
      where = wins ? place : where;
    else
      where = __builtin_convertvector(wins, P) ? place : where;
  }
  PYCONV_INLINE void end_row() {}
  PYCONV_INLINE void fold() {
    where += offset;
    offset = P{};
    for (int i = 1; i < Width; ++i) {
      const bool nan = best[0] != best[0], other_nan = best[i] != best[i];
      const bool same = nan ? other_nan : best[i] == best[0];
      if (same ? where[i] < where[0] : !nan && (other_nan || best[i] > best[0])) {
        best[0] = best[i];
        where[0] = where[i];
      }
    }
  }
  PYCONV_INLINE V result(Place* at, int count) const {
    if constexpr (by_tap) {
      store_bytes(at, where, count);
      return best;
    }
    const auto pixels = __builtin_convertvector(where + offset, Pack<i64, Width>);
    if (count == Width)
      __builtin_memcpy(at, &pixels, sizeof pixels);
    else
      __builtin_memcpy(at, &pixels, std::size_t(count) * sizeof(i64));
    return best;
  }
};

// Sums by rows of the window first: shorter chains of additions err less.
template <class T, bool Weighted, int Width>
struct Average {
  static constexpr int width = Width;
  using Place = i64;
  static constexpr bool divides = true;
  using V = Pack<T, Width>;
  V total{}, row{}, divisor;
  const T* weights;

  PYCONV_INLINE Average(const Frame<T>& f, const Window& w, int vector) : weights(f.weights) {
    if (!f.columns) {
      divisor = V{} + divisor_of(f.p, w.taps, f.weights);
      return;
    }
    __builtin_memcpy(&divisor, f.columns + w.output + vector * Width, sizeof divisor);
    divisor *= T(counted(f.p, w.taps[0])) * T(counted(f.p, w.taps[1]));
  }
  static constexpr T padding = 0;
  static PYCONV_INLINE T filler(T) { return 0; }
  PYCONV_INLINE void tap(V x, i64, i64 number) { row += Weighted ? x * weights[number] : x; }
  PYCONV_INLINE void end_row() {
    total += row;
    row = V{};
  }
  PYCONV_INLINE void fold() {
    total[0] = join_halves<T, Width>(reinterpret_cast<const T*>(&total),
                                     [](auto a, auto b) { return a + b; });
  }
  PYCONV_INLINE V result(Place*, int) const { return total / divisor; }
};

template <class T, int Width>
struct Lp {
  static constexpr int width = Width;
  using Place = i64;
  static constexpr bool divides = false;
  using V = Pack<T, Width>;
  V total{}, row{};
  const double p;
  const bool largest;

  PYCONV_INLINE Lp(const Frame<T>& f, const Window&, int)
      : p(f.p.norm_type), largest(p == __builtin_inf()) {}
  static constexpr T padding = 0;
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
    const T* const lane = reinterpret_cast<const T*>(&total);
    total[0] = largest ? join_halves<T, Width>(lane, [](auto a, auto b) { return larger(a, b); })
                       : join_halves<T, Width>(lane, [](auto a, auto b) { return a + b; });
  }
  PYCONV_INLINE V result(Place*, int) const {
    V root = total;
    if (p == 2)
      for (int i = 0; i < Width; ++i) root[i] = T(__builtin_sqrt(root[i]));
    else if (p != 1 && !largest)
      root = power_of(total, 1 / p);
    return root;
  }
};

}  // namespace pyconv::PYCONV_TARGET

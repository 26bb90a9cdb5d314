// The register tiles of direct convolution: sums over the taps of a band (band.h).
//
//   sum_taps    ROWS result channels x VECTORS of pixels
//   sum_lines   one result channel, LINES lines x VECTORS: a vector of the band serves every line
//               it is a tap of, so a depthwise filter of R lines loads it (LINES + R - 1) / LINES
//               times, not R times
#pragma once
#include "band.h"

namespace pyconv::PYCONV_TARGET {

// body(0), ..., body(N - 1) with constant arguments: arrays of vectors that only such code touches
// are registers from the start. (GCC keeps them in memory where a loop of `if`s is unrolled late.)
template <int I>
struct Constant {
  constexpr operator int() const { return I; }
};
template <int N, class Body>
PYCONV_INLINE void unrolled(Body&& body) {
  if constexpr (N > 0) {
    unrolled<N - 1>(body);
    body(Constant<N - 1>{});
  }
}
#define PYCONV_ALWAYS __attribute__((always_inline))

// A load into a register. GCC would rather make it an operand of every FMA that uses it and load as
// often: 80 instead of 120 GFLOP/s where loads bound the loop.
template <class T>
PYCONV_INLINE Vec<T> load_once(const T* p) {
  Vec<T> v = load(p);
#if defined(__x86_64__)
  asm("" : "+v"(v));
#elif defined(__aarch64__)
  asm("" : "+w"(v));
#endif
  return v;
}

// 24 sums hide the latency of the FMA and leave room for the operands in 32 registers, 12 in 16.
constexpr int tile_sums = vector_registers == 32 ? 24 : 12;
constexpr int direct_rows = vector_registers == 32 ? 8 : 6;
constexpr int direct_vectors(int rows) {
  return tile_sums / rows < 8 ? tile_sums / rows : 8;
}

// sums[rows, vectors] (+)= sum over channels and taps of w * band.
template <class T>
struct TapSum {
  const Tap* taps;
  i64 count, channels;
  const T* band;
  i64 band_channel, weight_channel, weight_row, sums_row;
  bool add;
};

template <class T, int ROWS, int VECTORS>
PYCONV_NOINLINE void sum_taps(const TapSum<T>& a, const T* w, i64 at, T* sums) {
  Vec<T> tile[ROWS][VECTORS];
  unrolled<ROWS>([&](auto r) PYCONV_ALWAYS {
    unrolled<VECTORS>([&](auto v) PYCONV_ALWAYS {
      tile[r][v] = a.add ? load(sums + r * a.sums_row + v * lanes<T>) : Vec<T>{};
    });
  });
  const T* band = a.band + at;
  for (i64 c = 0; c < a.channels; ++c) {
    const Tap* const last = a.taps + a.count;
    for (const Tap* tap = a.taps; tap != last; ++tap) {
      const T *x = band + tap->source, *left = w + tap->weight;
      if constexpr (ROWS < VECTORS) {
        Vec<T> weight[ROWS];
        unrolled<ROWS>([&](auto r) PYCONV_ALWAYS { weight[r] = splat(left[r * a.weight_row]); });
        unrolled<VECTORS>([&](auto v) PYCONV_ALWAYS {
          const Vec<T> pixels = load_once(x + v * lanes<T>);
          unrolled<ROWS>([&](auto r) PYCONV_ALWAYS { tile[r][v] += weight[r] * pixels; });
        });
      } else {
        Vec<T> pixels[VECTORS];
        unrolled<VECTORS>([&](auto v) PYCONV_ALWAYS { pixels[v] = load_once(x + v * lanes<T>); });
        unrolled<ROWS>([&](auto r) PYCONV_ALWAYS {
          const Vec<T> weight = splat(left[r * a.weight_row]);
          unrolled<VECTORS>([&](auto v) PYCONV_ALWAYS { tile[r][v] += weight * pixels[v]; });
        });
      }
    }
    band += a.band_channel;
    w += a.weight_channel;
  }
  unrolled<ROWS>([&](auto r) PYCONV_ALWAYS {
    unrolled<VECTORS>(
        [&](auto v) PYCONV_ALWAYS { store(sums + r * a.sums_row + v * lanes<T>, tile[r][v]); });
  });
}

template <class T, int ROWS, int VECTORS>
PYCONV_INLINE void sum_vectors(const TapSum<T>& a, int vectors, const T* w, i64 at, T* sums) {
  if constexpr (VECTORS > 1)
    if (vectors < VECTORS) return sum_vectors<T, ROWS, VECTORS - 1>(a, vectors, w, at, sums);
  sum_taps<T, ROWS, VECTORS>(a, w, at, sums);
}

// A run of vectors, as tiles of nearly equal width.
template <class T, int ROWS>
PYCONV_INLINE void sum_run(const TapSum<T>& a, int rows, i64 vectors, const T* w, i64 at, T* sums) {
  if constexpr (ROWS > 1)
    if (rows < ROWS) return sum_run<T, ROWS - 1>(a, rows, vectors, w, at, sums);
  constexpr int widest = direct_vectors(ROWS);
  for (i64 left = vectors; left > 0;) {
    const i64 width = ceil_div(left, ceil_div(left, widest));
    sum_vectors<T, ROWS, widest>(a, int(width), w, at, sums);
    at += width * lanes<T>;
    sums += width * lanes<T>;
    left -= width;
  }
}

// A position of the band that is a tap of some lines of a block.
constexpr int most_lines = 8;
struct LineTap {
  i64 source;
  i64 weight[most_lines];  // of each line's filter, or -1
};

// Lines of the tile for that many vectors; the widest tile.
constexpr int tile_lines(int vectors) {
  return vectors <= tile_sums / 8 ? 8 : 4;
}
constexpr int widest_lines = tile_sums / 4;

template <class T>
struct LineSum {
  const LineTap* taps;
  i64 count, channels;
  const T* band;
  i64 band_channel, weight_channel, sums_line;
  int lines;  // wanted; a tile may compute more
  bool add;
};

// `columns`: pixels to store of each line.
template <class T, int LINES, int VECTORS>
PYCONV_NOINLINE void sum_lines(const LineSum<T>& a, const T* w, i64 at, i64 columns, T* sums) {
  Vec<T> tile[LINES][VECTORS];
  unrolled<LINES>([&](auto l) PYCONV_ALWAYS {
    unrolled<VECTORS>([&](auto v) PYCONV_ALWAYS {
      tile[l][v] = a.add && l < a.lines ? load(sums + l * a.sums_line + v * lanes<T>) : Vec<T>{};
    });
  });
  const T* band = a.band + at;
  for (i64 c = 0; c < a.channels; ++c) {
    const LineTap* const last = a.taps + a.count;
    for (const LineTap* tap = a.taps; tap != last; ++tap) {
      Vec<T> pixels[VECTORS];
      unrolled<VECTORS>(
          [&](auto v) PYCONV_ALWAYS { pixels[v] = load_once(band + tap->source + v * lanes<T>); });
      unrolled<LINES>([&](auto l) PYCONV_ALWAYS {
        if (tap->weight[l] < 0) return;
        const Vec<T> weight = splat(w[tap->weight[l]]);
        unrolled<VECTORS>([&](auto v) PYCONV_ALWAYS { tile[l][v] += weight * pixels[v]; });
      });
    }
    band += a.band_channel;
    w += a.weight_channel;
  }
  unrolled<LINES>([&](auto l) PYCONV_ALWAYS {
    unrolled<VECTORS>([&](auto v) PYCONV_ALWAYS {
      if (l >= a.lines) return;
      T* to = sums + l * a.sums_line + v * lanes<T>;
      const i64 some = columns - v * lanes<T>;
      if (some >= lanes<T>)
        store(to, tile[l][v]);
      else if (some > 0)
        store_first(to, tile[l][v], int(some));
    });
  });
}

template <class T, int LINES, int VECTORS>
PYCONV_INLINE void sum_lines_vectors(const LineSum<T>& a, int vectors, const T* w, i64 at,
                                     i64 columns, T* sums) {
  if constexpr (VECTORS > 1)
    if (vectors < VECTORS)
      return sum_lines_vectors<T, LINES, VECTORS - 1>(a, vectors, w, at, columns, sums);
  sum_lines<T, LINES, VECTORS>(a, w, at, columns, sums);
}

// Up to `tile` lines, any number of columns.
template <class T>
PYCONV_INLINE void sum_line_block(const LineSum<T>& a, int tile, const T* w, i64 at, i64 columns,
                                  T* sums) {
  const int widest = tile == 8 ? tile_sums / 8 : widest_lines;
  while (columns > 0) {
    const i64 vectors = ceil_div(columns, lanes<T>);
    const i64 width = ceil_div(vectors, ceil_div(vectors, widest));
    if (tile == 8 && a.lines > 4)
      sum_lines_vectors<T, 8, tile_sums / 8>(a, int(width), w, at, columns, sums);
    else
      sum_lines_vectors<T, 4, widest_lines>(a, int(width), w, at, columns, sums);
    at += width * lanes<T>;
    sums += width * lanes<T>;
    columns -= width * lanes<T>;
  }
}

// The table for `tile` lines; -> its size. Without `to` only that.
PYCONV_INLINE i64 list_lines(const Correlation& q, const Band& band, int tile, LineTap* to) {
  const BandAxis &D = band.axis[0], &H = band.axis[1], &W = band.axis[2];
  i64 count = 0;
  for (i64 jd = 0; jd < D.taps; ++jd)
    for (i64 run = 0; run < H.runs; ++run)
      for (i64 e = 0; e < tile + H.length - H.count; ++e) {
        i64 tap[most_lines];
        bool any = false;
        for (int l = 0; l < tile; ++l) {
          tap[l] = -1;
          for (i64 jh = 0; jh < H.taps; ++jh)
            if (H.run_of(jh) == run && H.shift_of(jh) == e - l) tap[l] = jh, any = true;
        }
        if (!any) continue;
        if (!to) {
          count += W.taps;
          continue;
        }
        const i64 d = D.run_of(jd) * D.length + D.shift_of(jd);
        const i64 row = ((d * H.runs + run) * H.length + e) * band.row;
        for (i64 jw = 0; jw < W.taps; ++jw, ++count) {
          LineTap& entry = to[count];
          entry.source = W.run_of(jw) * band.plane + row + W.shift_of(jw);
          for (int l = 0; l < tile; ++l)
            entry.weight[l] =
                tap[l] < 0 ? -1 : q.weight_tap(D.tap0 + jd, H.tap0 + tap[l], W.tap0 + jw);
        }
      }
  return count;
}

}  // namespace pyconv::PYCONV_TARGET

// The register tiles of direct convolution: sums over the taps of a band (band.h).
//
//   sum_taps    ROWS result channels x VECTORS of pixels
//   sum_lines   one result channel, LINES lines x VECTORS: a vector of the band serves every line
//               it is a tap of, so a depthwise filter of R lines loads it (LINES + R - 1) / LINES
//               times, not R times
#pragma once
#include "band.h"

namespace pyconv::PYCONV_TARGET {

// A value in a register. GCC would rather make a load an operand of every FMA that uses it and load
// as often: 80 instead of 120 GFLOP/s where loads bound the loop.
template <class T>
PYCONV_INLINE Vec<T> once(Vec<T> v) {
#if defined(__x86_64__)
  asm("" : "+v"(v));
#elif defined(__aarch64__)
  asm("" : "+w"(v));
#endif
  return v;
}
template <class T>
PYCONV_INLINE Vec<T> load_once(const T* p) {
  return once<T>(load(p));
}

// What the thread's next task will read, fetched a little with each register tile of this one: a
// task of few products would wait for memory longer than it computes.
template <class T>
struct Ahead {
  const T* from = nullptr;
  i64 chunk = 0, step = 0, chunks = 0;  // elements side by side, from chunk to chunk, how many
  i64 at = 0, lines = 0;                // cache lines for each tile

  static constexpr i64 line = 64 / i64(sizeof(T));
  Ahead() = default;
  Ahead(const T* first, i64 elements, i64 apart, i64 count, i64 tiles)
      : from(first),
        chunk(elements),
        step(apart),
        chunks(count),
        lines(ceil_div(count * ceil_div(elements, line), tiles)) {}

  PYCONV_INLINE void fetch() {
    for (i64 i = 0; i < lines && chunks > 0; ++i) {
      __builtin_prefetch(from + at, 0, 2);
      if ((at += line) < chunk) continue;
      at = 0;
      from += step;
      --chunks;
    }
  }
};

// `results` of `planes` neighbouring groups or images (one in NHWC) from at[] on, in `tiles`
// register tiles. `image`: the first channel of the first.
template <class T>
PYCONV_INLINE Ahead<T> ahead_of(const Correlation& q, const T* image, i64 planes,
                                const i64 (&at)[3], const i64 (&results)[3], i64 tiles) {
  const AxisMap& D = q.axis[0];
  const i64 d = D.source(at[0], 0);
  i64 first[3], size[3];  // of the source's rows, and of their columns
  for (int a = 1; a < 3; ++a) {
    const AxisMap& m = q.axis[a];
    const i64 reach = m.tap_step * (m.taps - 1), begin = m.source(at[a], 0) + min_of<i64>(0, reach);
    const i64 end = begin + (results[a] - 1) * m.step + max_of(reach, -reach) + 1;
    first[a] = max_of<i64>(0, begin);
    size[a] = min_of(end, m.source_size) - first[a];
  }
  const i64 row = q.source.axis[1], pixel = q.source.axis[2], width = q.axis[2].source_size;
  // Part of several lines is no one piece of memory.
  if (d < 0 || d >= D.source_size || size[1] <= 0 || size[2] <= 0 ||
      (size[1] > 1 && 2 * size[2] < width))
    return {};
  image += d * q.source.axis[0] + first[1] * row + first[2] * pixel;
  if (q.layout == Layout::nchw || q.groups == 1)
    return {image, (size[1] - 1) * row + size[2] * pixel, q.source.c,
            q.layout == Layout::nchw ? planes * q.source_channels : 1, tiles};
  return {image, q.source_channels, pixel, (size[1] - 1) * width + size[2], tiles};
}

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

// A run of vectors, as tiles of nearly equal width; done(elements) after each of them.
template <class T, int ROWS, class Done>
PYCONV_INLINE void sum_run(const TapSum<T>& a, int rows, i64 vectors, const T* w, i64 at, T* sums,
                           Done&& done) {
  if constexpr (ROWS > 1)
    if (rows < ROWS) return sum_run<T, ROWS - 1>(a, rows, vectors, w, at, sums, done);
  constexpr int widest = direct_vectors(ROWS);
  for (i64 v = 0; v < vectors;) {
    const i64 left = vectors - v, width = ceil_div(left, ceil_div(left, widest));
    sum_vectors<T, ROWS, widest>(a, int(width), w, at + v * lanes<T>, sums + v * lanes<T>);
    v += width;
    done(v * lanes<T>);
  }
}

// A row of the band, a tap of the lines [low, high) of a tile; `weight` is that of line 0, were it
// one of them.
struct LineRow {
  i64 source, weight;
  int low, high;
};

// The widest tiles of 4 and 8 lines, and which serves a line of so many vectors. (24 sums of 8
// lines and 8 lines in float64 would cost 6 s of compile time.)
constexpr int widest_of_4 = tile_sums / 4, widest_of_8 = tile_sums / 12;
template <class T>
constexpr int lines_beside(i64 vectors) {
  return vectors <= widest_of_8 && sizeof(T) == 4 ? 8 : 4;
}

template <class T>
struct LineSum {
  const LineRow* rows;
  i64 row_count;
  const Tap* across;  // taps of a row, relative to it
  i64 across_count, channels;
  const T* band;
  i64 band_channel, weight_channel, weight_line, sums_line;
  int lines;  // at most those of the tile
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
  const Tap* const end = a.across + a.across_count;
  for (i64 c = 0; c < a.channels; ++c) {
    const LineRow* const last = a.rows + a.row_count;
    for (const LineRow* row = a.rows; row != last; ++row) {
      const int count = min_of(row->high, a.lines) - row->low;
      // One loop for each window of lines, so that none tests a line for every tap.
      unrolled<LINES>([&](auto low) PYCONV_ALWAYS {
        if (row->low != low) return;
        unrolled<LINES - low>([&](auto more) PYCONV_ALWAYS {
          if (count != more + 1) return;
          for (const Tap* tap = a.across; tap != end; ++tap) {
            const T *x = band + row->source + tap->source, *left = w + row->weight + tap->weight;
            Vec<T> pixels[VECTORS];
            unrolled<VECTORS>([&](auto v)
                                  PYCONV_ALWAYS { pixels[v] = load_once(x + v * lanes<T>); });
            unrolled<more + 1>([&](auto l) PYCONV_ALWAYS {
              const Vec<T> weight = splat(left[(low + l) * a.weight_line]);
              unrolled<VECTORS>([&](auto v)
                                    PYCONV_ALWAYS { tile[low + l][v] += weight * pixels[v]; });
            });
          }
        });
      });
    }
    band += a.band_channel;
    w += a.weight_channel;
  }
  unrolled<LINES>([&](auto l) PYCONV_ALWAYS {
    if (l >= a.lines) return;
    T* to = sums + l * a.sums_line;
    unrolled<VECTORS>([&](auto v) PYCONV_ALWAYS {
      const i64 some = columns - v * lanes<T>;
      if (v + 1 < VECTORS || some >= lanes<T>)
        store(to + v * lanes<T>, tile[l][v]);
      else
        store_first(to + v * lanes<T>, tile[l][v], int(some));
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
  const int widest = tile == 8 ? widest_of_8 : widest_of_4;
  while (columns > 0) {
    const i64 vectors = ceil_div(columns, lanes<T>);
    const i64 width = ceil_div(vectors, ceil_div(vectors, widest));
    bool done = false;
    if constexpr (lines_beside<T>(1) == 8)
      if ((done = tile == 8 && a.lines > 4))
        sum_lines_vectors<T, 8, widest_of_8>(a, int(width), w, at, columns, sums);
    if (!done) sum_lines_vectors<T, 4, widest_of_4>(a, int(width), w, at, columns, sums);
    at += width * lanes<T>;
    sums += width * lanes<T>;
    columns -= width * lanes<T>;
  }
}

// The tables for tiles of `tile` lines. Needs taps of H whose positions in a run are neighbours.
struct LineTables {
  LineRow* rows = nullptr;
  i64 row_count = 0;
  Tap* across = nullptr;
  i64 weight_line = 0;

  LineTables() = default;

  static PYCONV_INLINE bool fit(const Band& band) {
    const AxisMap& H = band.axis[1].map;
    return H.step % H.tap_step == 0 && !band.axis[1].by_tap;
  }
  // An upper bound.
  static PYCONV_INLINE i64 bytes(const Band& band, int tile) {
    const BandAxis &D = band.axis[0], &H = band.axis[1], &W = band.axis[2];
    return D.taps * H.runs * (tile + H.length - H.count) * i64(sizeof(LineRow)) +
           W.taps * i64(sizeof(Tap));
  }

  LineTables(const Correlation& q, const Band& band, int tile, char* memory) {
    const BandAxis &D = band.axis[0], &H = band.axis[1], &W = band.axis[2];
    const i64 forward = H.map.tap_step < 0 ? -1 : 1;
    weight_line = -forward * H.runs * H.map.weight_step * q.weight_axis[1];
    across = reinterpret_cast<Tap*>(memory);
    rows = reinterpret_cast<LineRow*>(across + W.taps);
    for (i64 jw = 0; jw < W.taps; ++jw)
      across[jw] = {W.run_of(jw) * band.plane + W.shift_of(jw),
                    jw * W.map.weight_step * q.weight_axis[2]};
    for (i64 jd = 0; jd < D.taps; ++jd)
      for (i64 run = 0; run < H.runs; ++run) {
        i64 least = H.length, most = -1;  // shifts of the run's taps
        for (i64 jh = 0; jh < H.taps; ++jh) {
          if (H.run_of(jh) != run) continue;
          const i64 shift = H.shift_of(jh);
          least = min_of(least, shift);
          most = max_of(most, shift);
        }
        for (i64 e = 0; e < tile + most; ++e) {
          const i64 low = max_of<i64>(0, e - most), high = min_of<i64>(tile, e - least + 1);
          if (low >= high) continue;
          i64 tap = 0;
          while (H.run_of(tap) != run || H.shift_of(tap) != e - low) ++tap;
          const i64 d = D.run_of(jd) * D.length + D.shift_of(jd);
          rows[row_count++] = {((d * H.runs + run) * H.length + e) * band.row,
                               q.weight_tap(D.tap0 + jd, H.tap0 + tap, W.tap0) - low * weight_line,
                               int(low), int(high)};
        }
      }
  }
};

}  // namespace pyconv::PYCONV_TARGET

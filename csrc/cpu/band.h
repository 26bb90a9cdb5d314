// A band: the source pixels a tile of results needs, copied so that every tap of the filter is one
// offset.
//
//   result o of the tile, tap j:  band[offset(j) + o],  in all three axes at once
//
// Along an axis a run holds source positions `step` apart, so that neighbouring results read
// neighbouring elements: one run for step 1, one for each phase of a larger step, or one for each
// tap where dilation would leave mostly gaps. Borders are filled in here; the loops over a band
// know neither edges, steps, dilation nor layout.
#pragma once
#include "im2col.h"
#include "transpose.h"

namespace pyconv::PYCONV_TARGET {

PYCONV_INLINE i64 floor_div(i64 a, i64 b) {
  return a / b - (a % b < 0);
}

// One axis of a band for `count` results and the taps from `tap0` on.
struct BandAxis {
  AxisMap map;
  i64 tap0, taps, count;
  bool by_tap;
  i64 every;         // positions from phase to phase
  i64 least;         // steps from result 0's own position to the first element of a run
  i64 runs, length;  // elements of a run

  BandAxis() = default;
  BandAxis(const AxisMap& m, i64 results, i64 first_tap, i64 tap_count)
      : map(m), tap0(first_tap), taps(tap_count), count(results) {
    const i64 reach = m.tap_step * (taps - 1);
    every = greatest_common_divisor(m.step, m.tap_step < 0 ? -m.tap_step : m.tap_step);
    runs = m.step / every;
    length = count + ceil_div(reach < 0 ? -reach : reach, m.step);
    least = floor_div(tap0 * m.tap_step + min_of<i64>(0, reach), m.step);
    by_tap = double(runs) * double(length) > double(taps) * double(count);
    if (by_tap) runs = taps, length = count;
  }

  // Source position of a run's first element, for the tile that begins at result `o`.
  PYCONV_INLINE i64 start(i64 run, i64 o) const {
    return by_tap ? map.source(o, tap0 + run) : map.source(o, 0) + every * run + least * map.step;
  }
  PYCONV_INLINE i64 run_of(i64 j) const {
    const i64 at = (tap0 + j) * map.tap_step;
    return by_tap ? j : (at - floor_div(at, map.step) * map.step) / every;
  }
  PYCONV_INLINE i64 shift_of(i64 j) const {
    return by_tap ? 0 : floor_div((tap0 + j) * map.tap_step, map.step) - least;
  }
};

struct Tap {
  i64 source, weight;  // offsets in a channel of the band and in its filter
};

// Channels [runs of W][rows: runs of D, D, runs of H, H][W].
struct Band {
  BandAxis axis[3];
  i64 row, plane, channel;  // elements

  Band() = default;
  Band(const Correlation& q, const i64 (&results)[3], const i64 (&tap0)[3], const i64 (&taps)[3]) {
    for (int a = 0; a < 3; ++a) axis[a] = BandAxis(q.axis[a], results[a], tap0[a], taps[a]);
    row = axis[2].length;
    plane = axis[0].runs * axis[0].length * axis[1].runs * axis[1].length * row;
    channel = axis[2].runs * plane;
    // Channels a multiple of 4 KB apart would share the sets of an L1 cache.
    channel = round_up(channel, 16);
    channel += channel % 512 == 0 ? 16 : 0;
  }

  void list_taps(const Correlation& q, Tap* to) const {
    const BandAxis &D = axis[0], &H = axis[1], &W = axis[2];
    for (i64 jd = 0; jd < D.taps; ++jd)
      for (i64 jh = 0; jh < H.taps; ++jh) {
        const i64 d = D.run_of(jd) * D.length + D.shift_of(jd);
        const i64 h = H.run_of(jh) * H.length + H.shift_of(jh);
        const i64 rows = (d * H.runs * H.length + h) * row;
        for (i64 jw = 0; jw < W.taps; ++jw)
          *to++ = {W.run_of(jw) * plane + rows + W.shift_of(jw),
                   q.weight_tap(D.tap0 + jd, H.tap0 + jh, W.tap0 + jw)};
      }
  }
};

// A phase cut into tiles of whole or part lines, its filter into boxes of taps (nearly always one);
// all but the last of an axis are equal.
struct BandTiles {
  i64 columns, column_tiles, lines, line_blocks;  // of results
  i64 taps[3], boxes[3];                          // taps of a box; boxes

  BandTiles() = default;
  // About `target` results in a tile. A box has at most 1024 taps, a channel of its band at most
  // 2^20 elements.
  BandTiles(const Correlation& q, i64 target) {
    const AxisMap &D = q.axis[0], &H = q.axis[1], &W = q.axis[2];
    const i64 apart = W.tap_step < 0 ? -W.tap_step : W.tap_step;
    const i64 reach = ceil_div((W.taps - 1) * apart, W.step);
    const i64 widest = max_of(target, min_of<i64>(2 * reach, 4096));
    column_tiles = ceil_div(W.count, widest);
    columns = column_tiles == 1 ? W.count : round_up(ceil_div(W.count, column_tiles), 16);
    column_tiles = ceil_div(W.count, columns);
    cut_taps(2, W, columns, 1024, 1 << 16);
    const BandAxis across(W, columns, 0, taps[2]);
    const i64 row = across.runs * across.length;

    cut_lines(H, max_of<i64>(1, min_of(target / across.length, (1 << 18) / row)));
    cut_taps(1, H, lines, max_of<i64>(1, 1024 / taps[2]), (1 << 20) / row);
    const BandAxis down(H, lines, 0, taps[1]);
    cut_taps(0, D, 1, max_of<i64>(1, 1024 / taps[2] / taps[1]),
             (1 << 20) / (row * down.runs * down.length));
  }

  void cut_lines(const AxisMap& H, i64 most) {
    line_blocks = ceil_div(H.count, most);
    lines = ceil_div(H.count, line_blocks);
    line_blocks = ceil_div(H.count, lines);
  }

  PYCONV_INLINE i64 box_count() const { return boxes[0] * boxes[1] * boxes[2]; }
  PYCONV_INLINE i64 box_taps() const { return taps[0] * taps[1] * taps[2]; }

  Band box(const Correlation& q, i64 index) const {
    const i64 place[3] = {index / boxes[2] / boxes[1], index / boxes[2] % boxes[1],
                          index % boxes[2]};
    const i64 results[3] = {1, lines, columns};
    i64 tap0[3], count[3];
    for (int a = 0; a < 3; ++a) {
      tap0[a] = place[a] * taps[a];
      count[a] = min_of(taps[a], q.axis[a].taps - tap0[a]);
    }
    return Band(q, results, tap0, count);
  }

 private:
  // Boxes of at most `most` taps, whose runs hold at most `elements`.
  void cut_taps(int a, const AxisMap& m, i64 results, i64 most, i64 elements) {
    const BandAxis whole(m, results, 0, m.taps);
    if (double(whole.runs) * double(whole.length) > double(elements))
      most = min_of(most, max_of<i64>(1, elements / results));
    boxes[a] = ceil_div(m.taps, most);
    taps[a] = ceil_div(m.taps, boxes[a]);
    boxes[a] = ceil_div(m.taps, taps[a]);
  }
};

// Vectors over the results of a tile: across its lines and the gaps between them, or line by line.
struct Sweep {
  bool flat;
  i64 lines, vectors;  // runs, and vectors of each

  PYCONV_INLINE Sweep(bool is_flat, const Band& band, i64 tile_lines, i64 columns, int width)
      : flat(is_flat),
        lines(flat ? 1 : tile_lines),
        vectors(ceil_div(flat ? (tile_lines - 1) * band.row + columns : columns, i64(width))) {}
};

// A run across a source row: elements [low, high) lie inside, the others follow the border.
struct Run {
  i64 start, step, count, low, high;

  Run(const BandAxis& axis, i64 run, i64 o, i64 results)
      : start(axis.start(run, o)), step(axis.map.step), count(axis.length - axis.count + results) {
    const i64 size = axis.map.source_size;
    low = start < 0 ? min_of(count, steps(-start)) : 0;
    high = start >= size ? 0 : min_of(count, steps(size - start));
    high = max_of(low, high);
  }

 private:
  PYCONV_INLINE i64 steps(i64 distance) const {
    return step == 1 ? distance : ceil_div(distance, step);  // a division takes 20 cycles
  }
};

// border_index, with a zero for what no result needs: a run also holds positions between taps.
PYCONV_INLINE i64 border_position(i64 i, i64 size, Border border) {
  const i64 at = border_index(i, size, border);
  return at >= 0 && at < size ? at : -1;
}

// The lines of one run of a channel, [H][W], with zeros outside. `source`: row 0, or nullptr where
// all is outside. Vectors reach beyond the end of a line: the last of every line is stored first,
// what follows the plane is filled later.
template <class T>
PYCONV_INLINE void fill_plane(const Correlation& q, const T* source, const Run& down,
                              const Run& across, i64 row, T* to) {
  const i64 pixel = q.source.axis[2], step = across.step * pixel;
  const i64 line = down.step * q.source.axis[1];
  const i64 low = source ? down.low : down.count, high = source ? down.high : down.count;
  for (i64 e = (across.count - 1) / lanes<T> * lanes<T>; e >= 0; e -= lanes<T>) {
    const int first = int(min_of<i64>(lanes<T>, max_of<i64>(0, across.low - e)));
    const int last = int(min_of<i64>(lanes<T>, max_of<i64>(0, across.high - e)));
    const bool some = first < last;
    const i64 from_low = some ? low : down.count, from_high = some ? high : down.count;
    i64 i = 0;
    for (; i < from_low; ++i) store(to + i * row + e, Vec<T>{});
    if (i < from_high) {
      // A run may begin further out than a pointer reaches, its elements inside do not.
      const T* from = source + (down.start + i * down.step) * q.source.axis[1] +
                      (across.start + (e + first) * across.step) * pixel;
      const auto fill = [&](auto apart) PYCONV_ALWAYS {
        from -= first * apart;
        for (; i < from_high; ++i, from += line)
          store(to + i * row + e, load_stepped<apart>(from, first, last));
      };
      // By shuffles: one by one took 43 % of the first layer of a MobileNet in NHWC, 3 channels at
      // stride 2.
      switch (step) {
        case 1: fill(Constant<1>{}); break;
        case 2: fill(Constant<2>{}); break;
        case 3: fill(Constant<3>{}); break;
        case 4: fill(Constant<4>{}); break;
        case 6: fill(Constant<6>{}); break;
        case 8: fill(Constant<8>{}); break;
        case 12: fill(Constant<12>{}); break;
        default:
          for (; i < from_high; ++i, from += line) {
            T* into = to + i * row + e;
            for (int l = 0; l < min_of<i64>(lanes<T>, across.count - e); ++l)
              into[l] = l < first || l >= last ? T(0) : from[(l - first) * step];
          }
      }
    }
    for (; i < down.count; ++i) store(to + i * row + e, Vec<T>{});
  }
}

// What lies outside, where that is not zeros.
template <class T>
PYCONV_NOINLINE void fill_border(const Correlation& q, const T* source, const Run& down,
                                 const Run& across, i64 row, T* to) {
  for (i64 i = 0; source && i < down.count; ++i) {
    const i64 h = border_position(down.start + i * down.step, q.axis[1].source_size, q.border);
    const bool inside = i >= down.low && i < down.high;
    for (i64 e = 0; h >= 0 && e < across.count; ++e) {
      if (inside && e == across.low) e = max_of(e, across.high);
      if (e >= across.count) break;
      const i64 w =
          border_position(across.start + e * across.step, q.axis[2].source_size, q.border);
      if (w >= 0) to[i * row + e] = source[h * q.source.axis[1] + w * q.source.axis[2]];
    }
  }
}

// A line of neighbouring channels, `apart` elements from each other in the band, and nothing beyond
// its end. `row`: the source row's first pixel, or nullptr for zeros.
template <class T>
PYCONV_INLINE void turn_run(const T* row, i64 pixel, i64 size, const Run& run, Border border,
                            i64 channels, T* to, i64 apart) {
  for (i64 e = row ? run.low : run.count; e < run.high; e += lanes<T>)
    transpose_rows(row + (run.start + e * run.step) * pixel, run.step * pixel,
                   int(min_of<i64>(lanes<T>, run.high - e)), channels, to + e, apart);
  for (i64 e = 0; e < run.count; ++e) {
    if (row && e == run.low) e = max_of(e, run.high);
    if (e >= run.count) break;
    const i64 at = row ? border_position(run.start + e * run.step, size, border) : -1;
    for (i64 c = 0; c < channels; ++c) to[c * apart + e] = at < 0 ? T(0) : row[at * pixel + c];
  }
}

// A tile of results begins at at[] and has results[] of them; `source` is the image of its first
// channel. Few channels of NHWC are cheaper to fetch one by one than to turn.
template <class T>
PYCONV_NOINLINE void fill_band(const Correlation& q, const Band& band, const T* source,
                               i64 channels, const i64 (&at)[3], const i64 (&results)[3], T* to) {
  const BandAxis &D = band.axis[0], &H = band.axis[1], &W = band.axis[2];
  const bool turns = q.layout == Layout::nhwc && channels > 4;
  for (i64 c = 0; c < (turns ? 1 : channels); ++c)
    for (i64 w = 0; w < W.runs; ++w) {
      const Run across(W, w, at[2], results[2]);
      for (i64 dr = 0; dr < D.runs; ++dr)
        for (i64 di = 0; di < D.length; ++di) {
          const i64 d =
              border_position(D.start(dr, at[0]) + di * D.map.step, D.map.source_size, q.border);
          const T* image = d < 0 ? nullptr : source + c * q.source.c + d * q.source.axis[0];
          for (i64 hr = 0; hr < H.runs; ++hr) {
            const Run down(H, hr, at[1], results[1]);
            T* lines = to + c * band.channel + w * band.plane +
                       ((dr * D.length + di) * H.runs + hr) * H.length * band.row;
            if (!turns) {
              fill_plane(q, image, down, across, band.row, lines);
              if (q.border != Border::zeros) fill_border(q, image, down, across, band.row, lines);
              continue;
            }
            for (i64 i = 0; i < down.count; ++i) {
              const i64 h =
                  border_position(down.start + i * down.step, H.map.source_size, q.border);
              turn_run(image && h >= 0 ? image + h * q.source.axis[1] : nullptr, q.source.axis[2],
                       W.map.source_size, across, q.border, channels, lines + i * band.row,
                       band.channel);
            }
          }
        }
    }
}

}  // namespace pyconv::PYCONV_TARGET

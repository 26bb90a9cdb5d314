// Weight gradient of direct convolution, lanes along pixels.
//
//   dw[k, c, tap] = sum over images and pixels of dy[k, o] * band[c, offset(tap) + o]
//
// A register tile is an outer product: rows of dy x shifted vectors of the band, each sum a vector
// whose lanes are added at the very end. Rows are channels of k; with one channel of k in a group
// they are lines of dy against one line of the band instead, so that a depthwise filter too loads
// (R + S) vectors for R S products. Gaps between lines are zeros in the copy of dy; where 0 times
// infinity has got into a sum, that sum is done again pixel by pixel.
//
// Parallel over groups, blocks of k, chunks of c, boxes of taps and parts of the pixels. The number
// of parts is fixed by the problem and their sums are added in order; a tile is flushed every block
// of pixels, which bounds the rounding error of long sums.
#pragma once
#include "direct_tile.h"
#include "reduce.h"

namespace pyconv::PYCONV_TARGET {

// Vectors of the band beside `rows` rows of dy.
constexpr int weight_columns(int rows) {
  return tile_sums / rows < 8 ? tile_sums / rows : 8;
}

// sums[rows, columns] += sum over lines and vectors of dy[row] * band[column].
template <class T>
struct PixelSum {
  const T *dy, *band;
  i64 dy_row, dy_line, band_line, lines, vectors, sums_row;
};

template <class T, int ROWS, int COLUMNS>
PYCONV_NOINLINE void sum_pixels(const PixelSum<T>& a, const i64* offsets, T* sums) {
  Vec<T> tile[ROWS][COLUMNS];
  unrolled<ROWS>([&](auto r) PYCONV_ALWAYS {
    unrolled<COLUMNS>([&](auto c) PYCONV_ALWAYS { tile[r][c] = Vec<T>{}; });
  });
  for (i64 line = 0; line < a.lines; ++line) {
    const T* dy = a.dy + line * a.dy_line;
    const T* x[COLUMNS];
    unrolled<COLUMNS>([&](auto c)
                          PYCONV_ALWAYS { x[c] = a.band + line * a.band_line + offsets[c]; });
    for (i64 i = 0; i < a.vectors * lanes<T>; i += lanes<T>) {
      if constexpr (ROWS < COLUMNS) {
        Vec<T> left[ROWS];
        unrolled<ROWS>([&](auto r) PYCONV_ALWAYS { left[r] = load_once(dy + r * a.dy_row + i); });
        unrolled<COLUMNS>([&](auto c) PYCONV_ALWAYS {
          const Vec<T> right = load_once(x[c] + i);
          unrolled<ROWS>([&](auto r) PYCONV_ALWAYS { tile[r][c] += left[r] * right; });
        });
      } else {
        Vec<T> right[COLUMNS];
        unrolled<COLUMNS>([&](auto c) PYCONV_ALWAYS { right[c] = load_once(x[c] + i); });
        unrolled<ROWS>([&](auto r) PYCONV_ALWAYS {
          const Vec<T> left = load_once(dy + r * a.dy_row + i);
          unrolled<COLUMNS>([&](auto c) PYCONV_ALWAYS { tile[r][c] += left * right[c]; });
        });
      }
    }
  }
  unrolled<ROWS>([&](auto r) PYCONV_ALWAYS {
    unrolled<COLUMNS>([&](auto c) PYCONV_ALWAYS {
      T* to = sums + r * a.sums_row + c * lanes<T>;
      store(to, load(to) + tile[r][c]);
    });
  });
}

template <class T, int ROWS, int COLUMNS>
PYCONV_INLINE void sum_pixel_columns(const PixelSum<T>& a, i64 columns, const i64* offsets,
                                     T* sums) {
  if constexpr (COLUMNS > 1)
    if (columns < COLUMNS)
      return sum_pixel_columns<T, ROWS, COLUMNS - 1>(a, columns, offsets, sums);
  sum_pixels<T, ROWS, COLUMNS>(a, offsets, sums);
}

// Any number of columns, as tiles of nearly equal width.
template <class T, int ROWS>
PYCONV_INLINE void sum_pixel_rows(const PixelSum<T>& a, i64 rows, i64 columns, const i64* offsets,
                                  T* sums, Ahead<T>& next) {
  if constexpr (ROWS > 1)
    if (rows < ROWS) return sum_pixel_rows<T, ROWS - 1>(a, rows, columns, offsets, sums, next);
  for (i64 left = columns; left > 0;) {
    const i64 width = ceil_div(left, ceil_div(left, i64(weight_columns(ROWS))));
    sum_pixel_columns<T, ROWS, weight_columns(ROWS)>(a, width, offsets, sums);
    next.fetch();
    offsets += width;
    sums += width * lanes<T>;
    left -= width;
  }
}

template <class T>
struct DirectWeightBlocks {
  BandTiles tiles;
  bool shifted;  // rows are lines of dy, not channels
  bool flat;
  i64 rows, channels;                             // of k and c in a task
  i64 row_blocks, channel_blocks;                 // tasks of a group
  i64 images, parts, part_images;                 // tiles of all images, cut into parts
  i64 batch;                                      // images summed at once
  i64 tile_rows, columns;                         // of the sums: [rows, tile_rows][columns]
  i64 margin, dy_line, dy_row;                    // the copy of dy: zeros around, line and channel
  i64 band_elements, dy_elements, sums_elements;  // of scratch; the first two of an image

  explicit DirectWeightBlocks(const Correlation& q) {
    const AxisMap& H = q.axis[1];
    // 4 KB of pixels for each row of a tile of 8: dy stays in an L1 cache beside a line of taps.
    const bool one = q.result_channels == 1;
    tiles = BandTiles(q, (one ? 16 * 1024 : 4 * 1024) / i64(sizeof(T)));
    const Band band = tiles.box(q, 0);
    shifted = one && H.step == 1 && tiles.taps[1] > 1 && !band.axis[1].by_tap;
    margin = shifted ? (band.axis[1].length - tiles.lines) * band.row : 0;
    const Sweep across(true, band, tiles.lines, tiles.columns, lanes<T>);
    const Sweep by_line(false, band, tiles.lines, tiles.columns, lanes<T>);
    flat = shifted || 4 * across.vectors <= 5 * by_line.lines * by_line.vectors;
    dy_line = flat ? band.row : by_line.vectors * lanes<T>;
    const i64 dy_pixels = (tiles.lines - 1) * dy_line + round_up(tiles.columns, lanes<T>);
    dy_row = round_up(dy_pixels + 2 * margin + 2 * lanes<T>, 16);

    rows = min_of<i64>(q.result_channels, 4 * direct_rows);
    const i64 elements = (1 << 18) / i64(sizeof(T));  // 256 KB each of the band and the sums
    const i64 vectors = rows * tiles.box_taps() * lanes<T>;
    channels = max_of<i64>(1, min_of(elements / band.channel, elements / vectors));
    channels = min_of(channels, q.source_channels);
    row_blocks = ceil_div(q.result_channels, rows);
    channel_blocks = ceil_div(q.source_channels, channels);
    tile_rows = shifted ? tiles.taps[1] : 1;
    columns = channels * tiles.box_taps() / tile_rows;
    band_elements = round_up(channels * band.channel + lanes<T>, 16);
    dy_elements = rows * dy_row;
    sums_elements = rows * tile_rows * columns * lanes<T>;

    images = q.n * q.axis[0].count * tiles.line_blocks * tiles.column_tiles;
    const i64 tasks = q.groups * row_blocks * channel_blocks * tiles.box_count();
    const i64 filter_bytes = q.groups * q.result_channels * q.depth() * i64(sizeof(T));
    parts = max_of<i64>(1, min_of(min_of(16 / tasks, (8 << 20) / filter_bytes), images));
    part_images = max_of<i64>(1, ceil_div(images, parts));
    parts = max_of<i64>(1, ceil_div(images, part_images));
    // Small images share the loads and stores of the sums: 10x10 is only 9 vectors long.
    const bool equal = flat && tiles.line_blocks == 1 && tiles.column_tiles == 1;
    batch = equal ? max_of<i64>(1, (4 << 10) / i64(sizeof(T)) / dy_pixels) : 1;
    batch = min_of(batch, part_images);
  }

  std::size_t scratch_bytes() const {
    return std::size_t(round_up(tiles.box_taps() * i64(sizeof(Tap)), 64)) +
           std::size_t(round_up(columns * i64(sizeof(i64)), 64)) +
           std::size_t(batch * (band_elements + dy_elements) + sums_elements) * sizeof(T);
  }
};

template <class T>
struct DirectWeightTask {
  const Correlation& q;
  const Strides& y;
  const DirectWeightBlocks<T>& blocks;
  const T *dy, *x;
  T* out;

  void run(i64 task, char* scratch) const {
    const BandTiles& tiles = blocks.tiles;
    const i64 part = task % blocks.parts;
    task /= blocks.parts;
    const Band box = tiles.box(q, task % tiles.box_count());
    task /= tiles.box_count();
    const i64 c0 = task % blocks.channel_blocks * blocks.channels;
    task /= blocks.channel_blocks;
    const i64 k0 = task % blocks.row_blocks * blocks.rows;
    const i64 group = task / blocks.row_blocks;
    const i64 rows = min_of(blocks.rows, q.result_channels - k0);
    const i64 channels = min_of(blocks.channels, q.source_channels - c0);
    const i64 box_taps = box.axis[0].taps * box.axis[1].taps * box.axis[2].taps;
    const i64 tile_rows = blocks.shifted ? box.axis[1].taps : 1;

    Tap* taps = reinterpret_cast<Tap*>(scratch);
    scratch += round_up(tiles.box_taps() * i64(sizeof(Tap)), 64);
    i64* offsets = reinterpret_cast<i64*>(scratch);
    scratch += round_up(blocks.columns * i64(sizeof(i64)), 64);
    T* band = reinterpret_cast<T*>(scratch);
    T* lines = band + blocks.batch * blocks.band_elements;
    T* sums = lines + blocks.batch * blocks.dy_elements;
    // What is never filled meets the zeros of dy and must be finite.
    for (T *at = band, *end = sums + blocks.sums_elements; at < end; ++at) *at = T(0);

    box.list_taps(q, taps);
    i64 columns = 0;
    for (i64 c = 0; c < channels; ++c)
      for (i64 t = 0; t < box_taps; ++t)
        if (!blocks.shifted || t / box.axis[2].taps % box.axis[1].taps == 0)
          offsets[columns++] = c * box.channel + taps[t].source;

    const T* gradient = dy + (group * q.result_channels + k0) * y.c;
    const T* source = x + (group * q.source_channels + c0) * q.source.c;
    const i64 last = min_of(blocks.images, (part + 1) * blocks.part_images);
    for (i64 image = part * blocks.part_images; image < last; image += blocks.batch) {
      const i64 images = min_of(blocks.batch, last - image);
      i64 at[3], results[3];
      for (i64 i = 0; i < images; ++i) {
        const i64 n = place(image + i, at, results);
        fill_band(q, box, source + n * q.source.n, channels, at, results,
                  band + i * blocks.band_elements);
        fill_lines(gradient + n * y.n + at[0] * y.axis[0] + at[1] * y.axis[1] + at[2] * y.axis[2],
                   rows, results, lines + i * blocks.dy_elements + blocks.margin);
      }
      Ahead<T> next;
      if (y.axis[2] == 1 && image + images < last) {
        i64 then[3], lines_then[3];
        const T* from = gradient + place(image + images, then, lines_then) * y.n +
                        then[0] * y.axis[0] + then[1] * y.axis[1];
        const bool together = rows * y.c == y.n;
        next = {from, together ? blocks.batch * y.n : lines_then[1] * y.axis[1], y.c,
                together ? 1 : rows, ceil_div(rows * tile_rows * columns, i64(tile_sums))};
      }
      add_products(box, rows, tile_rows, columns, images, results, band, lines, offsets, sums,
                   next);
    }

    T* to = out + part * q.groups * q.weight_group + group * q.weight_group + k0 * q.weight_result +
            c0 * q.weight_source;
    for (i64 k = 0; k < rows; ++k)
      for (i64 c = 0; c < channels; ++c)
        for (i64 t = 0, jd = 0; jd < box.axis[0].taps; ++jd)
          for (i64 jh = 0; jh < box.axis[1].taps; ++jh)
            for (i64 jw = 0; jw < box.axis[2].taps; ++jw, ++t) {
              const i64 row = blocks.shifted ? k * tile_rows + jh : k;
              const i64 column = blocks.shifted
                                     ? (c * box.axis[0].taps + jd) * box.axis[2].taps + jw
                                     : c * box_taps + t;
              T sum = sum_lanes<T>(load(sums + (row * columns + column) * lanes<T>));
              if (!__builtin_isfinite(sum))
                sum = sum_exactly(
                    gradient + k * y.c, source + c * q.source.c, part,
                    {box.axis[0].tap0 + jd, box.axis[1].tap0 + jh, box.axis[2].tap0 + jw});
              to[k * q.weight_result + c * q.weight_source + taps[t].weight] = sum;
            }
  }

 private:
  // Where a tile of all images lies; -> its image.
  i64 place(i64 index, i64 (&at)[3], i64 (&results)[3]) const {
    const BandTiles& tiles = blocks.tiles;
    at[2] = index % tiles.column_tiles * tiles.columns;
    index /= tiles.column_tiles;
    at[1] = index % tiles.line_blocks * tiles.lines;
    index /= tiles.line_blocks;
    at[0] = index % q.axis[0].count;
    results[0] = 1;
    results[1] = min_of(tiles.lines, q.axis[1].count - at[1]);
    results[2] = min_of(tiles.columns, q.axis[2].count - at[2]);
    return index / q.axis[0].count;
  }

  // dy with zeros from the end of a line to the next, and after the last one.
  PYCONV_NOINLINE void fill_lines(const T* from, i64 rows, const i64 (&results)[3], T* to) const {
    const i64 count = results[2], pixel = y.axis[2];
    const i64 end = round_up((results[1] - 1) * blocks.dy_line + count, lanes<T>) + blocks.margin;
    const bool turns = y.c == 1 && pixel > 1 && rows > 4;
    for (i64 k = 0; k < rows; ++k, to += blocks.dy_row) {
      for (i64 line = 0; line < results[1]; ++line) {
        const T* row = from + k * y.c + line * y.axis[1];
        T* out = to + line * blocks.dy_line;
        const i64 next = line + 1 < results[1] ? blocks.dy_line : end - line * blocks.dy_line;
        i64 i = 0;
        if (pixel == 1)  // and beyond, where the next line is filled later
          for (; i < count; i += lanes<T>)
            store(out + i,
                  i + lanes<T> <= count ? load(row + i) : load_first(row + i, int(count - i)));
        else if (turns && k == 0)
          for (; i < count; i += lanes<T>)
            transpose_rows(row + i * pixel, pixel, int(min_of<i64>(lanes<T>, count - i)), rows,
                           out + i, blocks.dy_row);
        else if (!turns)
          for (; i < count; ++i) out[i] = row[i * pixel];
        for (i = count; i < next; ++i) out[i] = T(0);
      }
    }
  }

  void add_products(const Band& box, i64 rows, i64 tile_rows, i64 columns, i64 images,
                    const i64 (&results)[3], const T* band, const T* lines, const i64* offsets,
                    T* sums, Ahead<T>& next) const {
    if (blocks.shifted) {
      // Line l of the band meets line l - shift(tap) of dy, over all lines of the band.
      const BandAxis& H = box.axis[1];
      const i64 pixels = (results[1] - 1 + H.length - H.count) * box.row + results[2];
      for (i64 row = 0; row < tile_rows; row += direct_rows) {
        const PixelSum<T> a{lines + blocks.margin - H.shift_of(row) * box.row,
                            band,
                            -H.map.tap_step * box.row,
                            blocks.dy_elements,
                            blocks.band_elements,
                            images,
                            ceil_div(pixels, i64(lanes<T>)),
                            columns * lanes<T>};
        sum_pixel_rows<T, direct_rows>(a, min_of<i64>(direct_rows, tile_rows - row), columns,
                                       offsets, sums + row * columns * lanes<T>, next);
      }
      return;
    }
    const Sweep sweep(blocks.flat, box, results[1], results[2], lanes<T>);
    const i64 row_tiles = ceil_div(rows, i64(direct_rows)), size = ceil_div(rows, row_tiles);
    for (i64 row = 0; row < rows; row += size) {
      const PixelSum<T> a{lines + row * blocks.dy_row,
                          band,
                          blocks.dy_row,
                          blocks.flat ? blocks.dy_elements : blocks.dy_line,
                          blocks.flat ? blocks.band_elements : box.row,
                          blocks.flat ? images : sweep.lines,
                          sweep.vectors,
                          columns * lanes<T>};
      sum_pixel_rows<T, direct_rows>(a, min_of(size, rows - row), columns, offsets,
                                     sums + row * columns * lanes<T>, next);
    }
  }

  struct Place {
    i64 j[3];
  };

  // One weight over a part, without the zeros of the copies.
  PYCONV_NOINLINE T sum_exactly(const T* gradient, const T* source, i64 part, Place tap) const {
    T sum = 0;
    const i64 last = min_of(blocks.images, (part + 1) * blocks.part_images);
    for (i64 image = part * blocks.part_images; image < last; ++image) {
      i64 at[3], results[3];
      const i64 n = place(image, at, results);
      const i64 d =
          border_index(q.axis[0].source(at[0], tap.j[0]), q.axis[0].source_size, q.border);
      for (i64 line = at[1]; d >= 0 && line < at[1] + results[1]; ++line) {
        const i64 h =
            border_index(q.axis[1].source(line, tap.j[1]), q.axis[1].source_size, q.border);
        for (i64 o = at[2]; h >= 0 && o < at[2] + results[2]; ++o) {
          const i64 w =
              border_index(q.axis[2].source(o, tap.j[2]), q.axis[2].source_size, q.border);
          if (w < 0) continue;
          sum += gradient[n * y.n + at[0] * y.axis[0] + line * y.axis[1] + o * y.axis[2]] *
                 source[n * q.source.n + d * q.source.axis[0] + h * q.source.axis[1] +
                        w * q.source.axis[2]];
        }
      }
    }
    return sum;
  }
};

template <class T>
void direct_bwd_weight(const ConvProblem& p, const Buffers& b) {
  const Correlation q = correlation(p, Pass::fwd);
  const DirectWeightBlocks<T> blocks(q);
  const Strides y = dense_strides(p.layout, p.k, p.out);
  const i64 filters = p.groups * q.weight_group;
  T* dw = static_cast<T*>(b.out);
  T* partial = blocks.parts > 1 ? reinterpret_cast<T*>(b.shared) : dw;
  const DirectWeightTask<T> tasks{
      q, y, blocks, static_cast<const T*>(b.a), static_cast<const T*>(b.b), partial};
  const i64 count = q.groups * blocks.row_blocks * blocks.channel_blocks *
                    blocks.tiles.box_count() * blocks.parts;
  parallel_for(count, b.threads, [&](i64 task, int thread) {
    tasks.run(task, b.scratch + std::size_t(thread) * b.scratch_bytes);
  });
  if (blocks.parts > 1) add_parts(partial, blocks.parts, filters, dw, b.threads);
}

}  // namespace pyconv::PYCONV_TARGET

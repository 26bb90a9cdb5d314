// Winograd's weight gradient, F(3x3, 4x4) and F(5x5, 2x2) on the tiles of 6x6 of the forward pass:
//
//   dW = A^T [ sum over tiles of (G dy G^T) . (B^T x B) ] A
//
// A gradient's tile of dy is the filter, so the depth of the 36 GEMMs [K, tile] [tile, C] is the
// tiles of all images. Lanes are channels here: pixels are copied as vectors of channels, which
// leaves both transforms without a shuffle, and the products to the tile of channel_weight_tile.h.
//
// Parallel over groups, blocks of 64 channels of k and of 64 (tap of D, channel of c), and parts of
// the tiles, whose results are added in order. A task transforms 32 tiles, multiplies them into its
// own sums and goes on to the next: 1.2 MB, which stay in an L2 cache. Filters whose gradient is
// not finite are summed directly. See winograd.h.
#pragma once
#include "channel_weight_tile.h"
#include "winograd_filter.h"
#include "winograd_tiles.h"

namespace pyconv::PYCONV_TARGET {

template <int R>
struct WinogradWeight {
  static constexpr int M = alpha + 1 - R, width = lanes<float>;
  static constexpr i64 edge = 64;               // rows and columns of a task
  static constexpr i64 depth = winograd_flush;  // tiles transformed, then multiplied
  static constexpr i64 side_step = depth * edge + winograd_pad,
                       sums_step = edge * edge + winograd_pad;
  static constexpr i64 strip = alpha * (M * width + R - 1) * width;  // pixels of a row of tiles
  static constexpr i64 scratch_elements = alpha * alpha * (2 * side_step + sums_step) + strip;

  const ConvProblem& p;
  const Correlation q;
  const Strides y;
  const i64 high, wide, tiles;  // tiles of a plane, of all planes
  const i64 deep, padded;       // taps of D; channels of x, in whole vectors
  const i64 rows, columns;      // of a task, whole vectors: k; (tap of D, channel of x)
  const i64 row_blocks, column_blocks;
  i64 parts, part_tiles;

  explicit WinogradWeight(const ConvProblem& problem)
      : p(problem),
        q(correlation(problem, Pass::fwd)),
        y(dense_strides(problem.layout, problem.k, problem.out)),
        high(ceil_div(q.axis[1].count, M)),
        wide(ceil_div(q.axis[2].count, M)),
        tiles(q.n * q.axis[0].count * high * wide),
        deep(q.axis[0].taps),
        padded(round_up(q.source_channels, width)),
        rows(even_block(q.result_channels)),
        columns(even_block(deep * padded)),
        row_blocks(ceil_div(q.result_channels, rows)),
        column_blocks(ceil_div(deep * padded, columns)) {
    // A part of fewer than 64 tiles takes longer to transform back than it saves by its company.
    const i64 tasks = q.groups * row_blocks * column_blocks;
    const i64 filter_bytes = q.groups * q.weight_group * i64(sizeof(float));
    parts = min_of(min_of(16 / tasks, (8 << 20) / filter_bytes), max_of<i64>(2, tiles / 64));
    part_tiles = round_up(ceil_div(tiles, max_of<i64>(1, parts)), depth);
    parts = max_of<i64>(1, ceil_div(tiles, max_of<i64>(1, part_tiles)));
  }

  // Blocks of whole vectors, at most `edge` wide and as even as can be.
  static PYCONV_INLINE i64 even_block(i64 size) {
    return round_up(ceil_div(size, ceil_div(size, edge)), width);
  }
  i64 shared_elements() const { return parts > 1 ? parts * q.groups * q.weight_group : 0; }

  // Planes of one side, E x E pixels of which make a tile; what lies outside follows the border.
  struct Plane {
    const Strides& s;
    i64 rows, columns;  // pixels
    Border border;
    i64 row_end,
        column_end;  // positions from there on are read by no result: zeros
  };

  // `channels` channels of rows x columns pixels from (top, left) on, as vectors [row][column].
  static PYCONV_NOINLINE void copy_pixels(const float* from, const Plane& a, i64 top, i64 left,
                                          i64 rows, i64 columns, i64 channels, float* to) {
    const i64 pixel = a.s.axis[2];
    for (i64 i = 0; i < rows; ++i, to += columns * width) {
      const i64 h = from && top + i < a.row_end ? border_index(top + i, a.rows, a.border) : -1;
      const float* row = h < 0 ? nullptr : from + h * a.s.axis[1];
      for (i64 x = 0; x < columns;) {
        const i64 at = left + x;
        const i64 run = min_of(min_of(a.columns, a.column_end) - at, columns - x);
        if (row && at >= 0 && run > 0) {
          if (a.s.c == 1)
            for (i64 e = 0; e < run; ++e)
              store(to + (x + e) * width, load_first(row + (at + e) * pixel, int(channels)));
          else
            transpose_rows(row + at * pixel, a.s.c, int(channels), run, to + x * width, width);
          x += run;
          continue;
        }
        const i64 w = !row || at >= a.column_end ? -1 : border_index(at, a.columns, a.border);
        store(to + x * width, Vec<float>{});
        for (i64 c = 0; w >= 0 && c < channels; ++c) to[x * width + c] = row[w * pixel + c * a.s.c];
        ++x;
      }
    }
  }

  // The 36 parts of one tile of E x E vectors: row i at rows[i], its pixels steps[i] apart, zeros
  // but in the columns [low, high).
  template <int E>
  static PYCONV_INLINE void transform(const float* const (&rows)[E], const i64 (&steps)[E], i64 low,
                                      i64 high, float* to) {
    Vec<float> half[alpha][alpha];
    for (int j = 0; j < E; ++j) {
      Vec<float> d[E]{}, u[alpha]{};
      if (j >= low && j < high) {
        for (int i = 0; i < E; ++i) d[i] = load(rows[i] + j * steps[i]);
        one_axis(d, u);
      }
      for (int i = 0; i < alpha; ++i) half[i][j] = u[i];
    }
    for (int i = 0; i < alpha; ++i) {
      Vec<float> d[E], u[alpha];
      for (int j = 0; j < E; ++j) d[j] = half[i][j];
      one_axis(d, u);
      for (int j = 0; j < alpha; ++j) store(to + (i * alpha + j) * side_step, u[j]);
    }
  }
  template <int E>
  static PYCONV_INLINE void one_axis(Vec<float> (&d)[E], Vec<float> (&u)[alpha]) {
    if constexpr (E == alpha) {
      transform_input<float>(d);
      for (int i = 0; i < alpha; ++i) u[i] = d[i];
    } else {
      transform_filter<E, float>(d, u);
    }
  }

  // Neighbouring tiles, the first at (top, left): a vector of channels of each, where they lie if
  // channels are neighbours and zeros around them.
  template <int E>
  static PYCONV_NOINLINE void transform_tiles(const float* from, const Plane& a, i64 top, i64 left,
                                              int count, i64 channels, float* to, i64 to_step,
                                              float* pixels) {
    static constexpr float zeros[width] = {};
    const float* rows[E];
    i64 steps[E];
    if (a.s.c != 1 || channels < width || a.border != Border::zeros) {
      const i64 strip = M * (count - 1) + E;
      copy_pixels(from, a, top, left, E, strip, channels, pixels);
      for (int i = 0; i < E; ++i) rows[i] = pixels + i * strip * width, steps[i] = width;
      for (int t = 0; t < count; ++t, to += to_step) {
        transform<E>(rows, steps, 0, E, to);
        for (int i = 0; i < E; ++i) rows[i] += M * width;
      }
      return;
    }
    const i64 down = min_of(a.rows, a.row_end), across = min_of(a.columns, a.column_end);
    for (int t = 0; t < count; ++t, left += M, to += to_step) {
      // (A tile begins at most a filter's width outside.)
      for (int i = 0; i < E; ++i) {
        const bool inside = from && top + i >= 0 && top + i < down;
        rows[i] = inside ? from + (top + i) * a.s.axis[1] + left * a.s.axis[2] : zeros;
        steps[i] = inside ? a.s.axis[2] : 0;
      }
      transform<E>(rows, steps, -left, across - left, to);
    }
  }

  // Both sides of up to a vector of tiles as [36][tile][channel], a vector of channels at a time.
  // Column `column` is a channel of x at a tap of D.
  void transform_x(const float* x, const TileVector<M>& at, i64 column, float* to,
                   float* pixels) const {
    const AxisMap &D = q.axis[0], &H = q.axis[1], &W = q.axis[2];
    const i64 jd = column / padded, c = column % padded;
    const Plane plane{q.source,
                      H.source_size,
                      W.source_size,
                      q.border,
                      H.first + H.count + R - 1,
                      W.first + W.count + R - 1};
    for (int s = 0; s < at.segment_count; ++s) {
      const Segment& segment = at.segments[s];
      const i64 d = border_index(D.source(segment.at.o[0], jd), D.source_size, q.border);
      const float* from = x + segment.at.n * q.source.n + c * q.source.c + d * q.source.axis[0];
      transform_tiles<alpha>(d < 0 ? nullptr : from, plane, segment.at.o[1] + H.first,
                             segment.at.o[2] + W.first, segment.count,
                             min_of<i64>(width, q.source_channels - c), to + segment.lane * columns,
                             columns, pixels);
    }
  }
  void transform_dy(const float* dy, const TileVector<M>& at, i64 k, float* to,
                    float* pixels) const {
    const Plane plane{y, p.out[1], p.out[2], Border::zeros, p.out[1], p.out[2]};
    for (int s = 0; s < at.segment_count; ++s) {
      const Segment& segment = at.segments[s];
      transform_tiles<M>(dy + segment.at.n * y.n + k * y.c + segment.at.o[0] * y.axis[0], plane,
                         segment.at.o[1], segment.at.o[2], segment.count,
                         min_of<i64>(width, q.result_channels - k), to + segment.lane * rows, rows,
                         pixels);
    }
  }

  // sums[36][row][column] (+)= left[36][tile][row] right[36][tile][column].
  void multiply(i64 some_rows, i64 some_columns, i64 count, bool add, const float* left,
                const float* right, float* sums, Ahead<float> (&next)[2]) const {
    constexpr i64 most = channel_vectors * width;
    i64 offsets[edge];
    for (i64 r = 0; r < some_rows; ++r) offsets[r] = r * columns;
    const auto nothing = reinterpret_cast<std::size_t>(sums);
    PixelBox box{{rows, 0, 0}, {columns, 0, 0}, 1, 1, count, add, {{nothing, 0}, {nothing, 0}}};
    for (i64 v = 0; v < some_columns; v += most) {
      const int vectors = int(min_of(most, some_columns - v) / width);
      const i64 tile = ceil_div(some_rows, ceil_div(some_rows, channel_rows(vectors)));
      const SumChannels<float> whole = sum_channels_of<float>(int(tile), vectors);
      const SumChannels<float> rest = sum_channels_of<float>(int(some_rows % tile), vectors);
      for (i64 xi = 0; xi < alpha * alpha; ++xi)
        for (i64 r = 0; r < some_rows; r += tile) {
          (r + tile <= some_rows ? whole : rest)(box, left + xi * side_step + r,
                                                 right + xi * side_step + v, offsets + r,
                                                 sums + xi * sums_step + v);
          next[0].fetch();
          next[1].fetch();
        }
    }
  }

  // dw of one row and a vector of columns.
  void transform_back(i64 group, i64 k, i64 column, const float* from, i64 part, const Buffers& b,
                      float* out) const {
    const AxisMap &D = q.axis[0], &H = q.axis[1], &W = q.axis[2];
    const i64 jd = column / padded, c = column % padded;
    const i64 channels = min_of<i64>(width, q.source_channels - c);
    float taps[R * R][width];
    Vec<float> half[R][alpha], bad{};
    for (int e = 0; e < alpha; ++e) {
      Vec<float> m[alpha], u[R];
      for (int i = 0; i < alpha; ++i) m[i] = load(from + (i * alpha + e) * sums_step);
      transform_output<R, float>(m, u);
      for (int i = 0; i < R; ++i) half[i][e] = u[i];
    }
    for (int i = 0; i < R; ++i) {
      Vec<float> u[R];
      transform_output<R, float>(half[i], u);
      for (int e = 0; e < R; ++e) {
        bad += u[e] * 0.0f;
        store(taps[(H.weight_first + i * H.weight_step) * R + W.weight_first + e * W.weight_step],
              u[e]);
      }
    }
    float* to = out + group * q.weight_group + k * q.weight_result + c * q.weight_source +
                (D.weight_first + jd * D.weight_step) * q.weight_axis[0];
    for (int r = 0; r < R * R; r += width)
      transpose_rows(taps[r], width, min_of(width, R * R - r), channels, to + r, q.weight_source);
    for (i64 e = 0; e < channels; ++e)
      if (bad[e] != 0)
        sum_directly(
            static_cast<const float*>(b.a) + (group * q.result_channels + k) * y.c,
            static_cast<const float*>(b.b) + (group * q.source_channels + c + e) * q.source.c, jd,
            part, to + e * q.weight_source);
  }

  // One plane of taps over a part's tiles; a sum that has become NaN stays one.
  PYCONV_NOINLINE void sum_directly(const float* dy, const float* x, i64 jd, i64 part,
                                    float* to) const {
    const AxisMap &H = q.axis[1], &W = q.axis[2];
    const i64 last = min_of(tiles, (part + 1) * part_tiles);
    for (i64 tap = 0; tap < R * R; ++tap) {
      float sum = 0;
      const i64 jh = tap / R, jw = tap % R;
      for (i64 tile = part * part_tiles; tile < last && sum == sum; ++tile) {
        const i64 plane = tile / wide / high, n = plane / q.axis[0].count,
                  z = plane % q.axis[0].count;
        const i64 d = border_index(q.axis[0].source(z, jd), q.axis[0].source_size, q.border);
        const i64 top = tile / wide % high * M, left = tile % wide * M;
        float part_sum = 0;
        for (i64 o = top; d >= 0 && o < min_of(top + M, H.count); ++o) {
          const i64 h = border_index(H.source(o, jh), H.source_size, q.border);
          const float* from = x + n * q.source.n + d * q.source.axis[0] + h * q.source.axis[1];
          const float* with = dy + n * y.n + z * y.axis[0] + o * y.axis[1];
          for (i64 e = left; h >= 0 && e < min_of(left + M, W.count); ++e) {
            const i64 w = border_index(W.source(e, jw), W.source_size, q.border);
            if (w >= 0) part_sum += with[e * y.axis[2]] * from[w * q.source.axis[2]];
          }
        }
        sum += part_sum;
      }
      to[(H.weight_first + jh * H.weight_step) * R + W.weight_first + jw * W.weight_step] = sum;
    }
  }

  // The pixels that the tiles from `tile` on add to those before them, where a task takes all their
  // channels: a run of memory. (Asking for parts of pixels lost 5 % at 28 x 28 x 128.)
  Ahead<float> ahead(const float* from, const Strides& s, i64 pixels_h, i64 pixels_w, i64 tile,
                     i64 channels, i64 calls) const {
    if (s.c != 1 || channels != s.axis[2]) return {};
    const auto pixel = [&](i64 t) {
      const i64 row = min_of(ceil_div(t, wide) % high * M, pixels_h);
      return (ceil_div(t, wide) / high * pixels_h + row) * pixels_w;
    };
    const i64 first = pixel(tile), last = pixel(min_of(tiles, tile + depth));
    return {from + first * channels, (last - first) * channels, 0, last > first, calls};
  }

  void run_task(i64 task, const Buffers& b, float* scratch, float* out) const {
    float *left = scratch, *right = left + alpha * alpha * side_step;
    float *sums = right + alpha * alpha * side_step, *pixels = sums + alpha * alpha * sums_step;
    const i64 part = task % parts;
    task /= parts;
    const i64 column0 = task % column_blocks * columns;
    task /= column_blocks;
    const i64 k0 = task % row_blocks * rows, group = task / row_blocks;
    const i64 some_rows = min_of(rows, q.result_channels - k0);
    const i64 some_columns = min_of(columns, deep * padded - column0);
    const float* x = static_cast<const float*>(b.b) + group * q.source_channels * q.source.c;
    const float* dy = static_cast<const float*>(b.a) + group * q.result_channels * y.c;
    const i64 first = part * part_tiles, last = min_of(tiles, first + part_tiles);
    for (i64 tile0 = first; tile0 == first || tile0 < last; tile0 += depth) {
      const i64 count = min_of(depth, last - tile0);
      for (i64 t = 0; t < count; t += width) {
        const TileVector<M> at(q, high, wide, tile0 + t, int(min_of<i64>(width, count - t)));
        for (i64 v = 0; v < some_columns; v += width)
          transform_x(x, at, column0 + v, right + t * columns + v, pixels);
        for (i64 v = 0; v < some_rows; v += width)
          transform_dy(dy, at, k0 + v, left + t * rows + v, pixels);
      }
      Ahead<float> next[2];
      if (tile0 + depth < last) {
        const i64 calls = alpha * alpha * ceil_div(some_rows, channel_rows(channel_vectors));
        const AxisMap &H = q.axis[1], &W = q.axis[2];
        next[0] =
            ahead(x, q.source, H.source_size, W.source_size, tile0 + depth, some_columns, calls);
        next[1] = ahead(dy, y, H.count, W.count, tile0 + depth, some_rows, calls);
      }
      multiply(some_rows, some_columns, max_of<i64>(0, count), tile0 > first, left, right, sums,
               next);
    }
    for (i64 r = 0; r < some_rows; ++r)
      for (i64 v = 0; v < some_columns; v += width)
        transform_back(group, k0 + r, column0 + v, sums + r * columns + v, part, b, out);
  }

  void run(const Buffers& b) const {
    const i64 filters = q.groups * q.weight_group;
    float* dw = static_cast<float*>(b.out);
    float* partial = parts > 1 ? reinterpret_cast<float*>(b.shared) : dw;
    parallel_for(q.groups * row_blocks * column_blocks * parts, b.threads,
                 [&](i64 task, int thread) {
                   run_task(task, b, reinterpret_cast<float*>(b.scratch + thread * b.scratch_bytes),
                            partial + task % parts * filters);
                 });
    if (parts > 1) add_parts(partial, parts, filters, dw, b.threads);
  }
};

}  // namespace pyconv::PYCONV_TARGET

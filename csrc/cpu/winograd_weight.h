// Winograd's weight gradient, F(3x3, 4x4) and F(5x5, 2x2) on the tiles of 6x6 of the forward pass:
//
//   dW = A^T [ sum over tiles of (G dy G^T) . (B^T x B) ] A
//
// A gradient's tile of dy is the filter, so the depth of the 36 GEMMs [K, tile] [tile, C] is the
// tiles of all images. Lanes are channels here: pixels are copied as vectors of channels, which
// leaves both transforms without a shuffle. The tiles of a block are transformed by all threads,
// then each multiplies other parts; sums stay in place from block to block and are flushed every 32
// tiles. Filters whose gradient is not finite are summed directly. See winograd.h.
#pragma once
#include "winograd_filter.h"
#include "winograd_tiles.h"

namespace pyconv::PYCONV_TARGET {

template <int R>
struct WinogradWeight {
  static constexpr int M = alpha + 1 - R, width = lanes<float>;
  static constexpr i64 task_tiles = width;  // transformed at a time: 25 KB of pixels
  static constexpr i64 task_rows = 8 * tile_rows;
  static constexpr i64 most_bytes = 7 << 20;  // of the transformed tiles, and of the sums

  const ConvProblem& p;
  const Correlation q;
  const Strides y;
  const i64 high, wide, tiles;  // tiles of a plane, of all planes
  const i64 deep, padded;       // taps of D; channels of x, in whole vectors
  const i64 columns;            // of the products: (tap of D, channel of x)
  i64 rows, block;              // rows and tiles that are summed together

  explicit WinogradWeight(const ConvProblem& problem)
      : p(problem),
        q(correlation(problem, Pass::fwd)),
        y(dense_strides(problem.layout, problem.k, problem.out)),
        high(ceil_div(q.axis[1].count, M)),
        wide(ceil_div(q.axis[2].count, M)),
        tiles(q.n * q.axis[0].count * high * wide),
        deep(q.axis[0].taps),
        padded(round_up(q.source_channels, width)),
        columns(deep * padded) {
    const i64 floats = most_bytes / (alpha * alpha * i64(sizeof(float)));
    rows = min_of(q.result_channels, max_of<i64>(1, floats / columns / task_rows) * task_rows);
    const i64 each = round_up(rows, width) + columns;  // values of a tile
    block = max_of<i64>(1, floats / each / winograd_flush) * winograd_flush;
    block = min_of(block, max_of<i64>(1, tiles));
  }

  i64 left_step() const { return rows * block + winograd_pad; }
  i64 right_step() const { return columns * block + winograd_pad; }
  i64 sums_step() const {
    return sums_elements<float>(row_side<float>(rows), column_side<float>(columns)) + winograd_pad;
  }
  i64 shared_elements() const { return alpha * alpha * (left_step() + right_step() + sums_step()); }
  static constexpr i64 scratch_elements = alpha * (M * task_tiles + R - 1) * width;

  // `channels` channels of rows x columns pixels from (top, left) on, as vectors [row][column];
  // from `row_end` and `column_end` on, and outside a border of zeros, they are 0.
  static PYCONV_NOINLINE void copy_pixels(const float* plane, const Strides& s, const i64* size,
                                          Border border, i64 top, i64 left, i64 rows, i64 columns,
                                          i64 row_end, i64 column_end, i64 channels, float* to) {
    for (i64 i = 0; i < rows; ++i, to += columns * width) {
      const i64 h = plane && top + i < row_end ? border_index(top + i, size[1], border) : -1;
      for (i64 x = 0; x < columns;) {
        const i64 at = left + x;
        const i64 run = min_of(min_of(size[2], column_end) - at, columns - x);
        const float* row = plane + (h < 0 ? 0 : h) * s.axis[1];
        if (h >= 0 && at >= 0 && run > 0) {
          if (s.c == 1)
            for (i64 e = 0; e < run; ++e)
              store(to + (x + e) * width, load_first(row + (at + e) * s.axis[2], int(channels)));
          else
            transpose_rows(row + at * s.axis[2], s.c, int(channels), run, to + x * width, width);
          x += run;
          continue;
        }
        const i64 w = h < 0 || at >= column_end ? -1 : border_index(at, size[2], border);
        for (i64 c = 0; c < width; ++c)
          to[x * width + c] = w < 0 || c >= channels ? 0 : row[w * s.axis[2] + c * s.c];
        ++x;
      }
    }
  }

  // parts[xi] of one tile of E x E vectors, `pitch` vectors from row to row.
  template <int E>
  static PYCONV_INLINE void transform(const float* from, i64 pitch,
                                      float (&parts)[alpha * alpha][width]) {
    Vec<float> half[alpha][alpha];
    for (int j = 0; j < E; ++j) {
      Vec<float> d[E], u[alpha];
      for (int i = 0; i < E; ++i) d[i] = load(from + (i * pitch + j) * width);
      one_axis(d, u);
      for (int i = 0; i < alpha; ++i) half[i][j] = u[i];
    }
    for (int i = 0; i < alpha; ++i) {
      Vec<float> d[E], u[alpha];
      for (int j = 0; j < E; ++j) d[j] = half[i][j];
      one_axis(d, u);
      for (int j = 0; j < alpha; ++j) store(parts[i * alpha + j], u[j]);
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

  // Columns of x: a vector of channels, one tap of D.
  void transform_x(const float* x, i64 tile0, i64 first, i64 count, i64 jd, i64 c, float* v,
                   float* scratch) const {
    const Side side = column_side<float>(columns);
    const i64 column = jd * padded + c, panel = column / side.width, stored = side.stored(panel);
    const AxisMap &D = q.axis[0], &H = q.axis[1], &W = q.axis[2];
    const i64 size[3] = {D.source_size, H.source_size, W.source_size};
    const i64 channels = min_of<i64>(width, q.source_channels - c);
    const TileVector<M> at(q, high, wide, tile0 + first, int(count));
    float* to = v + panel * side.width * block + first * stored + column % side.width;
    for (int s = 0; s < at.segment_count; ++s) {
      const Segment& segment = at.segments[s];
      const i64 d = border_index(D.source(segment.at.o[0], jd), D.source_size, q.border);
      const float* plane =
          d < 0 ? nullptr : x + segment.at.n * q.source.n + c * q.source.c + d * q.source.axis[0];
      const i64 pitch = M * segment.count + R - 1;
      copy_pixels(plane, q.source, size, q.border, segment.at.o[1] + H.first,
                  segment.at.o[2] + W.first, alpha, pitch, H.first + H.count + R - 1,
                  W.first + W.count + R - 1, channels, scratch);
      for (int t = 0; t < segment.count; ++t, to += stored) {
        float parts[alpha * alpha][width];
        transform<alpha>(scratch + t * M * width, pitch, parts);
        for (int xi = 0; xi < alpha * alpha; ++xi) store(to + xi * right_step(), load(parts[xi]));
      }
    }
  }

  // Rows of dy: a vector of channels, k of them on, the k0 first of which are not summed now.
  void transform_dy(const float* dy, i64 tile0, i64 first, i64 count, i64 k0, i64 k, i64 some_rows,
                    float* left, float* scratch) const {
    const i64 size[3] = {p.out[0], p.out[1], p.out[2]};
    const i64 channels = min_of<i64>(width, some_rows - k);
    const TileVector<M> at(q, high, wide, tile0 + first, int(count));
    for (int s = 0; s < at.segment_count; ++s) {
      const Segment& segment = at.segments[s];
      const float* plane = dy + segment.at.n * y.n + (k0 + k) * y.c + segment.at.o[0] * y.axis[0];
      const i64 pitch = M * segment.count;
      copy_pixels(plane, y, size, Border::zeros, segment.at.o[1], segment.at.o[2], M, pitch,
                  p.out[1], p.out[2], channels, scratch);
      for (int t = 0; t < segment.count; ++t) {
        float parts[alpha * alpha][width];
        transform<M>(scratch + t * M * width, pitch, parts);
        store_rows(parts, k, int(channels), row_side<float>(some_rows), block,
                   first + segment.lane + t, left, left_step());
      }
    }
  }

  // sums[xi] of task_rows rows (+)= the products of `depth` tiles.
  void multiply(const Side& all, i64 row0, i64 depth, const float* left, const float* right,
                float* sums, bool add) const {
    const Side side = row_side<float>(min_of(task_rows, all.size - row0));
    const Side wide_side = column_side<float>(columns);
    for (i64 j = 0; j < wide_side.panels(); ++j) {
      const Side one = column_side<float>(wide_side.valid(j));
      float* to =
          sums + (row0 * wide_side.panels() + j * side.panels() * tile_rows) * wide_side.width;
      for (i64 k = 0; k == 0 || k < depth; k += winograd_flush)  // no tiles: zeros
        multiply_block<float>(side, one, min_of(winograd_flush, depth - k),
                              {left + row0 * block, block, k},
                              {right + j * wide_side.width * block, block, k}, to, add || k > 0);
    }
  }

  // dw of row k0 + k: every tap of D and channel.
  void transform_back(const Side& all, i64 group, i64 k0, i64 k, const float* sums,
                      const Buffers& b) const {
    const AxisMap &D = q.axis[0], &H = q.axis[1], &W = q.axis[2];
    const Side side = column_side<float>(columns);
    const i64 row0 = k / task_rows * task_rows,
              panels = ceil_div(min_of(task_rows, all.size - row0), i64(tile_rows));
    const i64 channel = group * q.result_channels + k0 + k;
    for (i64 column = 0; column < columns; column += width) {
      const i64 jd = column / padded, c = column % padded, j = column / side.width;
      const i64 inside = k - row0;
      const float* from = sums + row0 * side.panels() * side.width +
                          (j * panels + inside / tile_rows) * tile_rows * side.width +
                          inside % tile_rows * side.stored(j) + column % side.width;
      float taps[R * R][width];
      Vec<float> half[R][alpha], bad{};
      for (int e = 0; e < alpha; ++e) {
        Vec<float> m[alpha], u[R];
        for (int i = 0; i < alpha; ++i) m[i] = load(from + (i * alpha + e) * sums_step());
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
      const i64 channels = min_of<i64>(width, q.source_channels - c);
      float* to = static_cast<float*>(b.out) + channel * q.source_channels * q.taps() +
                  c * q.weight_source + (D.weight_first + jd * D.weight_step) * q.weight_axis[0];
      for (int r = 0; r < R * R; r += width)
        transpose_rows(taps[r], width, min_of(width, R * R - r), channels, to + r, q.weight_source);
      for (i64 e = 0; e < channels; ++e)
        if (bad[e] != 0)
          sum_directly(
              static_cast<const float*>(b.a) + channel * y.c,
              static_cast<const float*>(b.b) + (group * q.source_channels + c + e) * q.source.c, jd,
              to + e * q.weight_source);
    }
  }

  // One plane of taps; a sum that has become NaN stays one.
  PYCONV_NOINLINE void sum_directly(const float* dy, const float* x, i64 jd, float* to) const {
    const AxisMap &H = q.axis[1], &W = q.axis[2];
    for (i64 tap = 0; tap < R * R; ++tap) {
      float sum = 0;
      const i64 jh = tap / R, jw = tap % R;
      for (i64 i = 0; i < q.n * q.axis[0].count * H.count && sum == sum; ++i) {
        const i64 o = i % H.count, z = i / H.count % q.axis[0].count,
                  n = i / H.count / q.axis[0].count;
        const i64 d = border_index(q.axis[0].source(z, jd), q.axis[0].source_size, q.border);
        const i64 h = border_index(H.source(o, jh), H.source_size, q.border);
        if (d < 0 || h < 0) continue;
        const float* from = x + n * q.source.n + d * q.source.axis[0] + h * q.source.axis[1];
        const float* with = dy + n * y.n + z * y.axis[0] + o * y.axis[1];
        float row = 0;
        for (i64 e = 0; e < W.count; ++e) {
          const i64 w = border_index(W.source(e, jw), W.source_size, q.border);
          if (w >= 0) row += with[e * y.axis[2]] * from[w * q.source.axis[2]];
        }
        sum += row;
      }
      to[(H.weight_first + jh * H.weight_step) * R + W.weight_first + jw * W.weight_step] = sum;
    }
  }

  void run(const Buffers& b) const {
    float* left = reinterpret_cast<float*>(b.shared);
    float* right = left + alpha * alpha * left_step();
    float* sums = right + alpha * alpha * right_step();
    const i64 vectors = padded / width;
    for (i64 task = 0; task < q.groups * ceil_div(q.result_channels, rows); ++task) {
      const i64 group = task % q.groups, k0 = task / q.groups * rows;
      const Side all = row_side<float>(min_of(rows, q.result_channels - k0));
      const float* x = static_cast<const float*>(b.b) + group * q.source_channels * q.source.c;
      const float* dy = static_cast<const float*>(b.a) + group * q.result_channels * y.c;
      const i64 row_vectors = ceil_div(all.size, width), row_tasks = ceil_div(all.size, task_rows);
      for (i64 tile0 = 0; tile0 == 0 || tile0 < tiles; tile0 += block) {
        const i64 count = min_of(block, tiles - tile0), runs = ceil_div(count, task_tiles);
        parallel_for(runs * (deep * vectors + row_vectors), b.threads, [&](i64 piece, int thread) {
          const i64 first = piece % runs * task_tiles, some = min_of(task_tiles, count - first);
          const i64 vector = piece / runs;
          float* scratch = reinterpret_cast<float*>(b.scratch + thread * b.scratch_bytes);
          if (vector < deep * vectors)
            transform_x(x, tile0, first, some, vector / vectors, vector % vectors * width, right,
                        scratch);
          else
            transform_dy(dy, tile0, first, some, k0, (vector - deep * vectors) * width, all.size,
                         left, scratch);
        });
        parallel_for(alpha * alpha * row_tasks, b.threads, [&](i64 part, int) {
          const i64 xi = part / row_tasks;
          multiply(all, part % row_tasks * task_rows, count, left + xi * left_step(),
                   right + xi * right_step(), sums + xi * sums_step(), tile0 > 0);
        });
      }
      parallel_for(all.size, b.threads,
                   [&](i64 k, int) { transform_back(all, group, k0, k, sums, b); });
    }
  }
};

}  // namespace pyconv::PYCONV_TARGET

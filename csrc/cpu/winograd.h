// Winograd convolution F(4x4, 3x3) and F(2x2, 5x5), both on tiles of 6x6, stride 1, float32:
//
//   Y = A^T [ (G g G^T) . (B^T d B) ] A,   points 0, +-5/8, +-3/2, infinity
//
// 4 and 2.8 times fewer products than the direct sum. The tiles of a block are transformed into
// V[36][C][tile]; then, 32 result channels at a time, 36 small GEMMs with the transformed weights
// U[36][C][k] leave sums that are transformed back at once. Either a task does all of this for its
// own block, or the threads share one larger V and each takes other channels, which reads U once.
// The register tile is flushed every 32 channels, so the error does not grow with C; a tile whose
// result is not finite is summed directly, so NaN and Inf reach their receptive fields only.
// Lavin and Gray, "Fast algorithms for convolutional neural networks", 2016; the points, and why:
// Barabasz et al., "Error analysis and improving the accuracy of Winograd convolution", 2020.
#pragma once
#include "winograd_filter.h"
#include "winograd_tiles.h"

namespace pyconv::PYCONV_TARGET {

constexpr i64 winograd_tiles = 48;         // of a task's own block: one full column tile on AVX-512
constexpr i64 winograd_sums_tiles = 288;   // of a task where V is shared: sums of 1.3 MB in an L2
constexpr i64 winograd_shared = 12 << 20;  // bytes of a shared V
constexpr i64 winograd_slab = 64;  // channels whose weights are transformed between products

// How a pass over one phase is cut into tasks. A reduction row is a (source channel, tap of D)
// pair.
struct WinogradBlocks {
  i64 high, wide, tiles;  // tiles of a plane, of all planes
  i64 depth;              // source channels times taps of D
  bool shared;            // all threads work on one block of tiles
  i64 block, part;        // tiles of V, and of the sums of a task
  bool unpacked;          // a plain call reads each weight once: no need to keep U

  WinogradBlocks(const Correlation& q, int m)
      : high(ceil_div(q.axis[1].count, m)),
        wide(ceil_div(q.axis[2].count, m)),
        tiles(q.n * q.axis[0].count * high * wide),
        depth(q.source_channels * q.axis[0].taps) {
    // Threads share a block where V leaves the L2 caches by far, and where there are few blocks.
    // Own ones to 512 channels rather than to 128: 256 to 64 channels at 15x15 384 to 646 GFLOP/s,
    // 192 to 64 at 28x28 427 to 666, 256 to 256 at 56x56 659 to 742, 512 to 256 at 28x28 560 to
    // 593.
    shared = depth > 512 || q.groups * tiles < 4 * winograd_tiles;
    block = part = winograd_tiles;
    if (shared) {
      const i64 fit = winograd_shared / (alpha * alpha * depth * i64(sizeof(float)));
      block = max_of(winograd_tiles, fit / winograd_tiles * winograd_tiles);
      block = min_of(block, max_of<i64>(1, ceil_div(tiles, winograd_tiles)) * winograd_tiles);
      part = min_of(block, winograd_sums_tiles);
      // Enough tasks for several threads: 96 to 32 channels, one image of 28x28, were one task.
      const i64 row_blocks = ceil_div(q.result_channels, winograd_rows);
      while (part > winograd_tiles && row_blocks * ceil_div(min_of(block, tiles), part) < 2)
        part = round_up(part / 2, winograd_tiles);
    }
    unpacked = shared && tiles <= part;
  }
  i64 v_step(i64 stored) const { return depth * stored + winograd_pad; }
  i64 v_elements() const { return alpha * alpha * v_step(block); }
  i64 sums_elements() const { return alpha * alpha * (winograd_rows * part + winograd_pad); }
};

// One result summed directly, where a tile overflowed or holds NaN or Inf.
PYCONV_NOINLINE float winograd_exact(const Correlation& q, const float* source, const float* w,
                                     const Pixel& at) {
  float sum = 0;
  for (i64 c = 0; c < q.source_channels; ++c)
    for (i64 t = 0; t < q.taps(); ++t) {
      const i64 j[3] = {t / q.axis[2].taps / q.axis[1].taps, t / q.axis[2].taps % q.axis[1].taps,
                        t % q.axis[2].taps};
      const float* from = source + at.n * q.source.n + c * q.source.c;
      for (int a = 0; a < 3 && from; ++a) {
        const i64 i =
            border_index(q.axis[a].source(at.o[a], j[a]), q.axis[a].source_size, q.border);
        from = i < 0 ? nullptr : from + i * q.source.axis[a];
      }
      if (from) sum += w[c * q.weight_source + q.weight_tap(j[0], j[1], j[2])] * *from;
    }
  return sum;
}

// One phase of a pass with its arrays.
template <int R>
struct WinogradPhase {
  static constexpr int M = alpha + 1 - R, width = lanes<float>;
  static constexpr i64 image_row = M * M * width;  // results of a vector of tiles, one channel

  const ConvProblem& p;
  const Correlation& q;
  const WinogradBlocks blocks;
  const float *source, *u, *w;  // u: nullptr where the weights are transformed on the way
  const Buffers& b;

  static i64 scratch_elements(const Correlation& q) {
    const WinogradBlocks blocks(q, M);
    const i64 u_slab = alpha * alpha * (winograd_rows * winograd_slab + winograd_pad);
    const i64 multiply =
        blocks.sums_elements() + max_of(blocks.unpacked ? u_slab : 0, winograd_rows * image_row);
    const i64 input = SourceTiles<R>::scratch_elements;
    return (blocks.shared ? 0 : blocks.v_elements()) + max_of(multiply, input);
  }

  // V of reduction rows [k0, k1) for the vector of tiles from `tile` of the block on.
  void transform_source(i64 group, i64 block0, const Side& columns, i64 tile, i64 c0, i64 c1,
                        float* v, float* scratch) const {
    const i64 panel = tile / columns.width, stored = columns.stored(panel);
    const int count = int(min_of<i64>(width, columns.size - tile));
    const float* from = source + group * q.source_channels * q.source.c;
    const i64 deep = q.axis[0].taps;
    for (i64 jd = 0; jd < deep; ++jd) {
      SourceTiles<R> tiles(q, blocks.high, blocks.wide, block0 + tile, count, jd, scratch);
      for (i64 c = c0; c < c1; c += tiles.copy_channels)
        tiles.transform(from, c, min_of(c1 - c, tiles.copy_channels),
                        blocks.v_step(columns.total()), [&](i64 channel) {
                          const i64 k = channel * deep + jd, inside = k % winograd_flush;
                          const i64 steps = min_of(winograd_flush, blocks.depth - k + inside);
                          return v + (k - inside) * columns.total() +
                                 panel * columns.width * steps + inside * stored +
                                 tile % columns.width;
                        });
    }
  }

  // The sums of result channels [row0, row0 + rows.size) over the tiles [tile0, tile0 +
  // columns.size) of V, and their results.
  void multiply(i64 group, i64 block0, const Side& stored, i64 tile0, i64 row0, const float* v,
                float* scratch) const {
    const i64 depth = blocks.depth;
    const Side rows = row_side<float>(min_of(winograd_rows, q.result_channels - row0));
    const Side columns = column_side<float>(min_of(blocks.part, stored.size - tile0));
    const float* filters = w + group * q.weight_group;
    const i64 v_step = blocks.v_step(stored.total());
    const i64 sums_step =
        rows.panels() * columns.panels() * tile_rows * tile_columns<float> + winograd_pad;
    float *sums = scratch, *slab = sums + blocks.sums_elements();
    const i64 slab_depth = u ? depth : winograd_slab;
    for (i64 k0 = 0; k0 < depth; k0 += slab_depth) {
      const i64 k1 = min_of(depth, k0 + slab_depth), u_step = rows.size * (k1 - k0) + winograd_pad;
      const float* left = slab;
      if (u)
        left = u + winograd_u_offset(q, group, row0);
      else
        transform_filters<R>(q, filters, row0, rows.size, k0, k1, slab, u_step);
      for (i64 xi = 0; xi < alpha * alpha; ++xi)
        for (i64 k = k0; k < k1; k += winograd_flush) {
          const i64 steps = min_of(winograd_flush, k1 - k);
          const float* weights = left + xi * u_step + (k - k0) * rows.size;
          const float* right = v + xi * v_step + k * stored.total() + tile0 * steps;
          if (u)  // the next ones, on their way from an outer cache
            for (i64 i = 0; i < rows.size * steps; i += 16)
              __builtin_prefetch(weights + rows.size * steps + i);
          multiply_block<float>(rows, columns, steps, {weights, steps, 0}, {right, steps, 0},
                                sums + xi * sums_step, k > 0);
        }
    }
    for (i64 t = 0; t < columns.size; t += width)
      transform_back(group, block0 + tile0 + t, rows, columns, t, row0, sums, sums_step, slab);
  }

  // The results of one vector of tiles.
  void transform_back(i64 group, i64 tile, const Side& rows, const Side& columns, i64 t, i64 row0,
                      const float* sums, i64 sums_step, float* image) const {
    const int count = int(min_of<i64>(width, columns.size - t));
    const i64 panel = t / columns.width, stored = columns.stored(panel);
    TileVector<M> tiles(q, blocks.high, blocks.wide, tile, count);
    i64 offset[width], high[width], low[width] = {}, wide[width];
    for (int s = 0; s < tiles.segment_count; ++s) {
      const Segment& segment = tiles.segments[s];
      offset[s] = result_offset(q, segment.at);
      high[s] = min_of<i64>(M, q.axis[1].count - segment.at.o[1]);
      wide[s] = min_of<i64>(M * segment.count, q.axis[2].count - segment.at.o[2]);
    }
    for (int e = 0; e < M; ++e) tiles.add(e * width, 0, false, low, wide);

    const Epilogue<float> end = epilogue<float>(p, q, b, group);
    const bool planes = q.result.axis[2] == 1;
    for (i64 row = 0; row < rows.size; ++row) {
      const i64 channel = row0 + row;
      const float* from =
          sums + (panel * rows.panels() + row / tile_rows) * tile_rows * tile_columns<float> +
          row % tile_rows * stored + t % columns.width;
      float* results = image + (planes ? 0 : row * image_row);
      Vec<float> half[M][alpha], bad{};
      for (int j = 0; j < alpha; ++j) {
        Vec<float> m[alpha], y[M];
        for (int i = 0; i < alpha; ++i) m[i] = load(from + (i * alpha + j) * sums_step);
        transform_output<M, float>(m, y);
        for (int i = 0; i < M; ++i) half[i][j] = y[i];
      }
      for (int i = 0; i < M; ++i) {
        Vec<float> y[M];
        transform_output<M, float>(half[i], y);
        for (int j = 0; j < M; ++j) bad += y[j] * 0.0f;  // NaN for NaN and Inf
        to_columns<M>(y);
        for (int e = 0; e < M; ++e) store(results + (i * M + e) * width, y[e]);
      }
      if (sum_lanes<float>(bad) != 0) sum_directly(group, tiles, bad, channel, results);
      const Vec<float> bias = splat(end.bias ? end.bias[channel] : 0.0f);
      for (int e = 0; e < M && planes; ++e)
        for (int n = tiles.first[e]; n < tiles.first[e + 1]; ++n) {
          const Piece& piece = tiles.pieces[n];
          i64 at = offset[piece.segment] + channel * q.result.c + piece.shift;
          for (i64 i = 0; i < high[piece.segment]; ++i, at += q.result.axis[1]) {
            const Vec<float> beside = end.residual
                                          ? load_lanes(end.residual + at, piece.mask, Vec<float>{})
                                          : Vec<float>{};
            store_lanes(end.out + at, end.finish(load(results + (i * M + e) * width), bias, beside),
                        piece.mask);
          }
        }
    }
    for (int s = 0; s < tiles.segment_count && !planes; ++s)
      for (i64 i = 0; i < high[s]; ++i)
        store_channels(end, row0, rows.size, offset[s] + i * q.result.axis[1], wide[s],
                       image + i * M * width + M * tiles.segments[s].lane);
  }

  // Channels [row0, row0 + rows) of neighbouring pixels (NHWC), whose planes are image_row apart.
  void store_channels(const Epilogue<float>& end, i64 row0, i64 rows, i64 at, i64 pixels,
                      const float* image) const {
    const bool bare = !end.bias && !end.residual && end.activation == Activation::none;
    const i64 step = q.result.axis[2];
    float turned[winograd_rows * M * width];
    for (i64 r = 0; r < rows; r += width)
      transpose_rows(image + r * image_row, image_row, int(min_of<i64>(width, rows - r)), pixels,
                     (bare ? end.out + at + row0 : turned) + r, bare ? step : winograd_rows);
    for (i64 e = 0; e < pixels && !bare; ++e)
      end.store_channels(turned + e * winograd_rows, row0, at + e * step + row0, rows);
  }

  // The results of the tiles whose lane of `bad` is not 0.
  PYCONV_NOINLINE void sum_directly(i64 group, const TileVector<M>& tiles, const Vec<float>& bad,
                                    i64 channel, float* results) const {
    const float* from = source + group * q.source_channels * q.source.c;
    const float* filter = w + group * q.weight_group + channel * q.weight_result;
    for (int s = 0; s < tiles.segment_count; ++s) {
      const Segment& segment = tiles.segments[s];
      for (i64 x = 0; x < M * segment.count; ++x)
        for (i64 i = 0; i < M && bad[segment.lane + x / M] != 0; ++i) {
          Pixel at = segment.at;
          at.o[1] += i;
          at.o[2] += x;
          if (at.o[1] < q.axis[1].count && at.o[2] < q.axis[2].count)
            results[i * M * width + M * segment.lane + x] = winograd_exact(q, from, filter, at);
        }
    }
  }

  void run() const {
    const i64 row_blocks = ceil_div(q.result_channels, winograd_rows);
    for (i64 group = 0; group < (blocks.shared ? q.groups : 0); ++group)
      for (i64 block0 = 0; block0 < blocks.tiles; block0 += blocks.block) {
        const Side columns = column_side<float>(min_of(blocks.block, blocks.tiles - block0));
        float* v = reinterpret_cast<float*>(b.shared);
        const i64 vectors = ceil_div(columns.size, width);
        const i64 some = 2 * SourceTiles<R>::copy_channels;  // channels of a task
        parallel_for(vectors * ceil_div(q.source_channels, some), b.threads,
                     [&](i64 task, int thread) {
                       const i64 c0 = task / vectors * some;
                       transform_source(group, block0, columns, task % vectors * width, c0,
                                        min_of(q.source_channels, c0 + some), v, scratch(thread));
                     });
        const i64 parts = ceil_div(columns.size, blocks.part);
        parallel_for(row_blocks * parts, b.threads, [&](i64 task, int thread) {
          multiply(group, block0, columns, task % parts * blocks.part, task / parts * winograd_rows,
                   v, scratch(thread));
        });
      }
    if (blocks.shared) return;
    const i64 count = ceil_div(blocks.tiles, blocks.block);
    parallel_for(q.groups * count, b.threads, [&](i64 task, int thread) {
      const i64 group = task / count, block0 = task % count * blocks.block;
      const Side columns = column_side<float>(min_of(blocks.block, blocks.tiles - block0));
      float* v = scratch(thread);
      for (i64 tile = 0; tile < columns.size; tile += width)
        transform_source(group, block0, columns, tile, 0, q.source_channels, v,
                         v + blocks.v_elements());
      for (i64 row = 0; row < q.result_channels; row += winograd_rows)
        multiply(group, block0, columns, 0, row, v, v + blocks.v_elements());
    });
  }

  float* scratch(int thread) const {
    return reinterpret_cast<float*>(b.scratch + thread * b.scratch_bytes);
  }
};

}  // namespace pyconv::PYCONV_TARGET

// The weight gradient by GEMM, and the algorithm as a table sees it; see gemm.h.
//
//   dW[k, (c, tap)] = sum over pixels of dy[k, pixel] column[(c, tap), pixel]
//
// Columns are read in place (channel_weight.h) but for 1x1 filters in NCHW, where that would turn
// the channels of both sides into lanes: here the smaller side is turned, the other one read along
// its pixels. So few channels of k that lanes would be idle go by pixels, as in direct_weight.h.
#pragma once
#include "channel_weight.h"
#include "direct_weight.h"
#include "gemm.h"

namespace pyconv::PYCONV_TARGET {

// Who computes a weight gradient.
enum class WeightBy { channels, pixels, panels };

template <class T>
PYCONV_INLINE WeightBy weight_by(const Correlation& q) {
  if (q.layout == Layout::nchw && q.taps() == 1) return WeightBy::panels;
  const bool busy = q.result_channels >= 8 || q.taps() == 1;
  return busy && ChannelWeight<T>::fits(q) ? WeightBy::channels : WeightBy::pixels;
}

// dy as columns: row k is channel k.
PYCONV_INLINE Correlation gradient_columns(Correlation q) {
  for (AxisMap& axis : q.axis) axis = {axis.count, axis.count, 0, 1, 1, 0, 1, 1, 0, 1};
  q.source = q.result;
  q.source_channels = q.result_channels;
  q.border = Border::zeros;
  return q;
}

// Tasks are (group, rows, vectors, part of the pixels). The number of parts is fixed by the
// problem, and their sums are added in order.
template <class T>
struct WeightBlocks {
  Correlation columns, gradient;
  bool lanes_along_results;
  Side rows, vectors;  // of one task
  i64 row_blocks, vector_blocks, parts, part_pixels;
  i64 line_pitch, vector_pitch;

  explicit WeightBlocks(const Correlation& q)
      : columns(without_rows(q)), gradient(without_rows(gradient_columns(q))) {
    const i64 k = q.result_channels, depth = q.source_channels;
    lanes_along_results = k < depth;
    const i64 high = lanes_along_results ? depth : k, wide = lanes_along_results ? k : depth;
    row_blocks = ceil_div(high, 32 * tile_rows);
    rows = row_side<T>(round_up(ceil_div(high, row_blocks), tile_rows));
    vector_blocks = ceil_div(wide, 4 * tile_columns<T>);
    vectors = even_side<T>(round_up(ceil_div(wide, vector_blocks), lanes<T>));
    vector_blocks = ceil_div(wide, vectors.size);
    row_blocks = ceil_div(high, rows.size);
    const i64 tasks = q.groups * row_blocks * vector_blocks;
    const i64 filter_bytes = q.groups * k * depth * i64(sizeof(T));
    parts = max_of<i64>(1, min_of(16 / tasks, ceil_div(q.pixels(), 8 * depth_block<T>)));
    parts = max_of<i64>(1, min_of(parts, (8 << 20) / filter_bytes));
    part_pixels = round_up(ceil_div(max_of<i64>(1, q.pixels()), parts), depth_block<T>);
    parts = ceil_div(max_of<i64>(1, q.pixels()), part_pixels);
    line_pitch = depth_block<T> + lanes<T>;
    vector_pitch = vectors.panels() * vectors.width + lanes<T>;
  }

  i64 row_elements() const { return rows.size * line_pitch; }
  i64 vector_elements() const { return (depth_block<T> + lanes<T>)*vector_pitch; }
  i64 scratch_elements() const {
    return round_up(row_elements(), 16) + round_up(vector_elements(), 16) +
           sums_elements<T>(rows, vectors) + lanes<T> * line_pitch;
  }
};

template <class T>
void panels_bwd_weight(const ConvProblem& p, const Buffers& b) {
  const Correlation q = correlation(p, Pass::fwd);
  const WeightBlocks<T> blocks(q);
  const bool along_results = blocks.lanes_along_results;
  const i64 depth = q.source_channels, filters = p.k * depth;
  const T *dy = static_cast<const T*>(b.a), *x = static_cast<const T*>(b.b);
  T* dw = static_cast<T*>(b.out);
  T* partial = blocks.parts > 1 ? reinterpret_cast<T*>(b.shared) : dw;
  const i64 high = along_results ? depth : q.result_channels;
  const i64 wide = along_results ? q.result_channels : depth;

  const i64 tasks = q.groups * blocks.row_blocks * blocks.vector_blocks * blocks.parts;
  parallel_for(tasks, b.threads, [&](i64 task, int thread) {
    const i64 part = task % blocks.parts;
    const i64 vector0 = task / blocks.parts % blocks.vector_blocks * blocks.vectors.size;
    const i64 row0 =
        task / blocks.parts / blocks.vector_blocks % blocks.row_blocks * blocks.rows.size;
    const i64 group = task / blocks.parts / blocks.vector_blocks / blocks.row_blocks;
    Side rows = blocks.rows, vectors = blocks.vectors;
    rows.size = min_of(rows.size, high - row0);
    vectors.size = min_of(vectors.size, wide - vector0);
    T* left = reinterpret_cast<T*>(b.scratch + thread * b.scratch_bytes);
    T* right = left + round_up(blocks.row_elements(), 16);
    T* sums = right + round_up(blocks.vector_elements(), 16);
    T* lines = sums + sums_elements<T>(blocks.rows, blocks.vectors);
    const ColumnBlock<T> of_gradient{
        dy + group * q.result_channels * q.result.c, dy + q.n * q.result.n, 0, 0, 0, 0, nullptr, 0};
    const ColumnBlock<T> of_columns{
        x + group * q.source_channels * q.source.c, x + q.n * q.source.n, 0, 0, 0, 0, nullptr, 0};

    const i64 first = part * blocks.part_pixels;
    const i64 last = min_of(q.pixels(), first + blocks.part_pixels);
    for (i64 pixel0 = first; pixel0 < last; pixel0 += depth_block<T>) {
      const i64 steps = min_of(depth_block<T>, last - pixel0);
      auto gather = [&](bool gradient, i64 k0, i64 k1, T* to) {
        ColumnBlock<T> block = gradient ? of_gradient : of_columns;
        block.k0 = k0, block.k1 = k1, block.pixel0 = pixel0, block.pixels = steps;
        block.to = to, block.pitch = blocks.line_pitch;
        gather_columns(gradient ? blocks.gradient : blocks.columns, block);
      };
      gather(!along_results, row0, row0 + rows.size, left);
      for (i64 v = 0; v < vectors.size; v += lanes<T>) {
        const i64 some = min_of<i64>(lanes<T>, vectors.size - v);
        gather(along_results, vector0 + v, vector0 + v + some, lines);
        transpose_rows(lines, blocks.line_pitch, int(some), steps, right + v, blocks.vector_pitch,
                       lanes<T>);
      }
      for (i64 j = 0; j < vectors.panels(); ++j)
        for (i64 i = 0; i < rows.panels(); ++i) {
          const i64 count = rows.valid(i), stored = vectors.stored(j);
          const T* from[tile_rows];
          for (i64 r = 0; r < tile_rows; ++r)
            from[r] = left + (i * tile_rows + min_of(r, count - 1)) * blocks.line_pitch;
          T* tile = sums + (j * rows.panels() + i) * tile_rows * tile_columns<T>;
          multiply<T>(int(count), int(stored / lanes<T>), steps, {from, 0, 1, 0, 1},
                      {right + j * vectors.width, blocks.vector_pitch},
                      {pixel0 > first ? tile : nullptr, tile, stored});
        }
    }
    if (first >= last)  // an empty batch
      for (i64 i = 0; i < sums_elements<T>(rows, vectors); ++i) sums[i] = T(0);

    T* to = partial + part * filters + group * q.result_channels * depth +
            (along_results ? row0 + vector0 * depth : row0 * depth + vector0);
    const i64 down = along_results ? 1 : depth, across = along_results ? depth : 1;
    for (i64 j = 0; j < vectors.panels(); ++j)
      for (i64 i = 0; i < rows.panels(); ++i) {
        const T* tile = sums + (j * rows.panels() + i) * tile_rows * tile_columns<T>;
        for (i64 r = 0; r < rows.valid(i); ++r)
          for (i64 e = 0; e < vectors.valid(j); ++e)
            to[(i * tile_rows + r) * down + (j * vectors.width + e) * across] =
                tile[r * vectors.stored(j) + e];
      }
  });
  if (blocks.parts > 1) add_parts(partial, blocks.parts, filters, dw, b.threads);
}

template <class T>
void gemm_bwd_weight(const ConvProblem& p, const Buffers& b) {
  const Correlation q = correlation(p, Pass::fwd);
  switch (weight_by<T>(q)) {
    case WeightBy::channels:
      return ChannelWeight<T>(q, static_cast<const T*>(b.a), static_cast<const T*>(b.b)).run(b);
    case WeightBy::pixels: return direct_bwd_weight<T>(p, b);
    case WeightBy::panels: return panels_bwd_weight<T>(p, b);
  }
}

struct WeightBytes {
  std::size_t scratch, shared;
};

template <class T>
WeightBytes gemm_weight_bytes(const ConvProblem& p) {
  const Correlation q = correlation(p, Pass::fwd);
  const auto partial = [&](i64 parts) {
    return parts > 1 ? std::size_t(parts * p.k * q.depth()) * sizeof(T) : 0;
  };
  switch (weight_by<T>(q)) {
    case WeightBy::channels: {
      const ChannelWeight<T> w(q, nullptr, nullptr);
      return {std::size_t(w.scratch_elements()) * sizeof(T), partial(w.parts)};
    }
    case WeightBy::pixels: {
      const DirectWeightBlocks<T> blocks(q);
      return {blocks.scratch_bytes(), partial(blocks.parts)};
    }
    default: {
      const WeightBlocks<T> blocks(q);
      return {std::size_t(blocks.scratch_elements()) * sizeof(T), partial(blocks.parts)};
    }
  }
}

template <class T>
std::size_t gemm_scratch_bytes(const ConvProblem& p, Pass pass) {
  if (pass == Pass::bwd_weight) return gemm_weight_bytes<T>(p).scratch;
  const PackedWeights<T> weights(p, correlation(p, pass));
  i64 most = 0;
  each_tapped_phase(p, pass, [&](const Correlation& q, i64 taps_before) {
    most = max_of(most, GemmPhase<T>(p, q, taps_before, {}).scratch_elements());
  });
  if (packs_by_panel<T>(p, pass)) most += weights.side.width * weights.depth;
  return std::size_t(most) * sizeof(T);
}

template <class T>
void gemm(const ConvProblem& p, Pass pass, const Buffers& b) {
  if (pass == Pass::bwd_weight) return gemm_bwd_weight<T>(p, b);
  finish_untapped<T>(p, pass, b);
  const T* packed = static_cast<const T*>(b.packed);
  packed ? gemm_by_phase<T>(p, pass, b) : gemm_by_panel<T>(p, pass, b);
  if (pass == Pass::bwd_data)
    add_border_gradients(p, static_cast<const T*>(b.a),
                         packed ? packed + packed_elements<T>(p, pass) : static_cast<const T*>(b.b),
                         static_cast<T*>(b.out), b.threads);
}

template <class T>
std::size_t gemm_shared_bytes(const ConvProblem& p, Pass pass) {
  return pass == Pass::bwd_weight ? gemm_weight_bytes<T>(p).shared : 0;
}

}  // namespace pyconv::PYCONV_TARGET

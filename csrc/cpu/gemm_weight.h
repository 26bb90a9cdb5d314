// The weight gradient by GEMM, and the algorithm as a table sees it; see gemm.h.
//
//   dW[k, (c, tap)] = sum over pixels of dy[k, pixel] column[(c, tap), pixel]
#pragma once
#include "gemm.h"

namespace pyconv::PYCONV_TARGET {

// Up to a vector of rows, `apart` elements from each other, turned into columns: element i of row r
// goes to to[i * to_step + r]. A square of lanes is transposed by log2(lanes) perfect shuffles,
// which is several times faster than moving elements one by one.
template <class T>
PYCONV_NOINLINE void transpose_rows(const T* from, i64 apart, int rows, i64 size, T* to,
                                    i64 to_step) {
  constexpr int width = lanes<T>;
  for (i64 i = 0; i < size; i += width) {
    const int count = int(min_of<i64>(width, size - i));
    Vec<T> square[width], next[width];
    for (int r = 0; r < width; ++r)
      square[r] = r < rows ? load_first(from + r * apart + i, count) : Vec<T>{};
#pragma GCC unroll 4
    for (int half = width / 2; half > 0; half /= 2) {
#pragma GCC unroll 16
      for (int r = 0; r < width / 2; ++r) {
        next[2 * r] = interleaved<T>(square[r], square[r + width / 2], 0);
        next[2 * r + 1] = interleaved<T>(square[r], square[r + width / 2], 1);
      }
#pragma GCC unroll 16
      for (int r = 0; r < width; ++r) square[r] = next[r];
    }
    for (int e = 0; e < count; ++e) store_first(to + (i + e) * to_step, square[e], rows);
  }
}

// Weight gradient: tasks are (group, rows of k, columns of (c, tap), part of the pixels). The
// number of parts is fixed by the problem, and their sums are added in order.
template <class T>
struct WeightBlocks {
  Side rows, columns;
  i64 row_blocks, column_blocks, parts, part_pixels;

  WeightBlocks(const ConvProblem& p, const Correlation& q) {
    rows = row_side<T>(min_of<i64>(16 * tile_rows, q.result_channels));
    columns = column_side<T>(min_of(4 * tile_columns<T>, q.depth()));
    row_blocks = ceil_div(q.result_channels, rows.size);
    column_blocks = ceil_div(q.depth(), columns.size);
    const i64 tasks = q.groups * row_blocks * column_blocks;
    const i64 filter_bytes = p.k * q.depth() * i64(sizeof(T));
    parts = max_of<i64>(1, min_of(16 / tasks, ceil_div(q.pixels(), 8 * depth_block<T>)));
    parts = max_of<i64>(1, min_of(parts, (8 << 20) / filter_bytes));
    part_pixels = round_up(ceil_div(max_of<i64>(1, q.pixels()), parts), depth_block<T>);
    parts = ceil_div(max_of<i64>(1, q.pixels()), part_pixels);
  }
};

template <class T>
void gemm_bwd_weight(const ConvProblem& p, const Buffers& b) {
  const Correlation q = correlation(p, Pass::fwd);
  const WeightBlocks<T> blocks(p, q);
  const bool channels_last = p.layout == Layout::nhwc;
  const i64 filters = p.k * q.depth(), taps = q.taps();
  const T *dy = static_cast<const T*>(b.a), *x = static_cast<const T*>(b.b);
  T* dw = static_cast<T*>(b.out);
  T* partial = blocks.parts > 1 ? reinterpret_cast<T*>(b.shared) : dw;
  const Strides y = dense_strides(p.layout, p.k, p.out);

  const i64 tasks = q.groups * blocks.row_blocks * blocks.column_blocks * blocks.parts;
  parallel_for(tasks, b.threads, [&](i64 task, int thread) {
    const i64 part = task % blocks.parts;
    const i64 column0 = task / blocks.parts % blocks.column_blocks * blocks.columns.size;
    const i64 row0 =
        task / blocks.parts / blocks.column_blocks % blocks.row_blocks * blocks.rows.size;
    const i64 group = task / blocks.parts / blocks.column_blocks / blocks.row_blocks;
    Side rows = blocks.rows, columns = blocks.columns;
    rows.size = min_of(rows.size, q.result_channels - row0);
    columns.size = min_of(columns.size, q.depth() - column0);
    T* left = reinterpret_cast<T*>(b.scratch + thread * b.scratch_bytes);
    T* right = left + round_up(blocks.rows.total(), 16) * depth_block<T>;
    T* sums = right + blocks.columns.total() * depth_block<T>;
    T* lines = sums + sums_elements<T>(blocks.rows, blocks.columns);
    const T* gradient = dy + (group * q.result_channels + row0) * y.c;
    const T* source = x + group * q.source_channels * q.source.c;

    const i64 first = part * blocks.part_pixels;
    const i64 last = min_of(q.pixels(), first + blocks.part_pixels);
    bool add = false;
    for (i64 pixel0 = first; pixel0 < last; pixel0 += depth_block<T>) {
      const i64 steps = min_of(depth_block<T>, last - pixel0);
      for (i64 panel = 0; panel < rows.panels(); ++panel) {
        const i64 count = rows.valid(panel);
        T* to = left + panel * rows.width * steps;
        for (i64 done = 0; done < steps;) {  // dy is dense: one run an image
          const i64 image = (pixel0 + done) / q.image_pixels();
          const i64 inside = (pixel0 + done) % q.image_pixels();
          const i64 run = min_of(steps - done, q.image_pixels() - inside);
          const T* from = gradient + image * y.n + panel * rows.width * y.c + inside * y.axis[2];
          if (channels_last)
            for (i64 i = 0; i < run; ++i)
              for (i64 r = 0; r < count; ++r) to[(done + i) * count + r] = from[r + i * y.axis[2]];
          else
            for (i64 r = 0; r < count; r += lanes<T>)
              transpose_rows(from + r * y.c, y.c, int(min_of<i64>(lanes<T>, count - r)), run,
                             to + done * count + r, count);
          done += run;
        }
      }
      for (i64 panel = 0; panel < columns.panels(); ++panel) {
        const i64 valid = columns.valid(panel), stored = columns.stored(panel);
        const i64 k0 = column0 + panel * columns.width;
        T* to = right + panel * columns.width * steps;
        if (channels_last)
          gather_columns_nhwc(q, source, k0, k0 + valid, pixel0, steps, to, 1, stored);
        else
          for (i64 k = 0; k < valid; k += lanes<T>) {
            const i64 some = min_of<i64>(lanes<T>, valid - k);
            gather_columns(q, source, k0 + k, k0 + k + some, pixel0, steps, lines, steps);
            transpose_rows(lines, steps, int(some), steps, to + k, stored);
          }
        for (i64 i = 0; i < steps && valid < stored; ++i)
          for (i64 k = valid; k < stored; ++k) to[i * stored + k] = T(0);
      }
      multiply_block<T>(rows, columns, steps, {left, steps, 0}, {right, steps, 0}, sums, add);
      add = true;
    }
    if (!add)  // an empty batch
      for (i64 i = 0; i < sums_elements<T>(rows, columns); ++i) sums[i] = T(0);

    T* to = partial + part * filters + (group * q.result_channels + row0) * q.depth();
    for (i64 j = 0; j < columns.panels(); ++j)
      for (i64 i = 0; i < rows.panels(); ++i) {
        const T* tile = sums + (j * rows.panels() + i) * tile_rows * tile_columns<T>;
        for (i64 column = 0; column < columns.valid(j); ++column) {
          const i64 k = column0 + j * columns.width + column;
          const i64 tap = channels_last ? k / q.source_channels : k % taps;
          const i64 c = channels_last ? k % q.source_channels : k / taps;
          const i64 jw = tap % q.axis[2].taps, rest = tap / q.axis[2].taps;
          const i64 at =
              c * q.weight_source + q.weight_tap(rest / q.axis[1].taps, rest % q.axis[1].taps, jw);
          for (i64 r = 0; r < rows.valid(i); ++r)
            to[(i * rows.width + r) * q.depth() + at] = tile[r * columns.stored(j) + column];
        }
      }
  });
  if (blocks.parts > 1) add_parts(partial, blocks.parts, filters, dw, b.threads);
}

template <class T>
std::size_t gemm_scratch_bytes(const ConvProblem& p, Pass pass) {
  i64 most = 0;
  if (pass == Pass::bwd_weight) {
    const WeightBlocks<T> blocks(p, correlation(p, Pass::fwd));
    most = (round_up(blocks.rows.total(), 16) + blocks.columns.total()) * depth_block<T> +
           sums_elements<T>(blocks.rows, blocks.columns) + lanes<T> * depth_block<T>;
  } else {
    for (i64 phase = 0; phase < phase_count(p, pass); ++phase) {
      const GemmBlocks<T> blocks(correlation(p, pass, phase));
      const i64 elements = round_up(blocks.pixels.total(), 16) * depth_block<T> +
                           sums_elements<T>(blocks.pixels, blocks.channels);
      most = max_of(most, elements);
    }
  }
  return std::size_t(most) * sizeof(T);
}

template <class T>
void gemm(const ConvProblem& p, Pass pass, const Buffers& b) {
  if (pass == Pass::bwd_weight) return gemm_bwd_weight<T>(p, b);
  const T* packed = static_cast<const T*>(b.packed);
  for_each_phase<T>(p, pass, b, [&](const Correlation& q) {
    gemm_phase(p, q, packed, b);
    packed += q.groups * packed_group_elements<T>(q);
  });
  if (pass == Pass::bwd_data)
    add_border_gradients(p, static_cast<const T*>(b.a), packed, static_cast<T*>(b.out), b.threads);
}

template <class T>
std::size_t gemm_shared_bytes(const ConvProblem& p, Pass pass) {
  if (pass != Pass::bwd_weight) return 0;
  const Correlation q = correlation(p, Pass::fwd);
  const WeightBlocks<T> blocks(p, q);
  return blocks.parts > 1 ? std::size_t(blocks.parts * p.k * q.depth()) * sizeof(T) : 0;
}

}  // namespace pyconv::PYCONV_TARGET

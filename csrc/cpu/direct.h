// Direct convolution: no packing and no scratch, for problems with few channels in a group.
//
//   forward, input gradient   a tile of ROWS result channels x 2 vectors of pixels of one row stays
//                             in registers over all source channels and taps
//   weight gradient           ROWS channels of k x up to 4 taps of a filter row, vectors of partial
//                             sums along the pixels; the lanes are added at the end
//
// Parallel over images, channel blocks and rows (forward), or over the filter (weight gradient).
#pragma once
#include "border.h"
#include "epilogue.h"
#include "im2col.h"

namespace pyconv::PYCONV_TARGET {

// `count` <= `width` pixels of a source row, for results from `o` on and tap position `first` (see
// AxisMap): straight from memory where all are inside and neighbours, else gathered. The lanes from
// `count` on are zero.
template <class T>
PYCONV_NOINLINE void gather_pixels(const T* row, i64 apart, i64 size, i64 first, i64 step,
                                   int count, Border border, T* to) {
  gather_row<T, true>(row, apart, size, first, step, count, border, to, 1);
}

template <class T, int WIDTH>
PYCONV_INLINE void load_pixels(const T* row, i64 apart, i64 size, i64 first, i64 step, int count,
                               Border border, Vec<T> (&to)[WIDTH]) {
  if (step == 1 && apart == 1 && count == WIDTH * lanes<T> && first >= 0 && first + count <= size) {
    for (int v = 0; v < WIDTH; ++v) to[v] = load(row + first + v * lanes<T>);
    return;
  }
  T gathered[WIDTH * lanes<T>] = {};
  gather_pixels(row, apart, size, first, step, count, border, gathered);
  for (int v = 0; v < WIDTH; ++v) to[v] = load(gathered + v * lanes<T>);
}

constexpr int direct_vectors = 2;
constexpr int direct_rows = 4;

// One row of results for ROWS channels. `w` is the first channel's filter of the group.
template <class T, int ROWS>
void direct_row(const Correlation& q, const T* source, const T* w, i64 z, i64 y, i64 channel,
                i64 offset, const Epilogue<T>& end) {
  constexpr int width = direct_vectors * lanes<T>;
  const AxisMap &D = q.axis[0], &H = q.axis[1], &W = q.axis[2];
  for (i64 o = 0; o < W.count; o += width) {
    const int count = int(min_of<i64>(width, W.count - o));
    Vec<T> sums[ROWS][direct_vectors] = {};
    for (i64 c = 0; c < q.source_channels; ++c)
      for (i64 jd = 0; jd < D.taps; ++jd) {
        const i64 d = border_index(D.source(z, jd), D.source_size, q.border);
        if (d < 0) continue;
        for (i64 jh = 0; jh < H.taps; ++jh) {
          const i64 h = border_index(H.source(y, jh), H.source_size, q.border);
          if (h < 0) continue;
          const T* row = source + c * q.source.c + d * q.source.axis[0] + h * q.source.axis[1];
          for (i64 jw = 0; jw < W.taps; ++jw) {
            Vec<T> pixels[direct_vectors];
            load_pixels<T>(row, q.source.axis[2], W.source_size, W.source(o, jw), W.step, count,
                           q.border, pixels);
            const T* weight = w + c * q.weight_source + q.weight_tap(jd, jh, jw);
#pragma GCC unroll 4
            for (int r = 0; r < ROWS; ++r) {
              const Vec<T> left = splat(weight[r * q.weight_result]);
#pragma GCC unroll 2
              for (int v = 0; v < direct_vectors; ++v) sums[r][v] += left * pixels[v];
            }
          }
        }
      }
    const i64 step = W.result_step * q.result.axis[2];
    for (int r = 0; r < ROWS; ++r) {
      T line[width];
      for (int v = 0; v < direct_vectors; ++v) store(line + v * lanes<T>, sums[r][v]);
      end.store_pixels(line, channel + r, offset + (channel + r) * q.result.c + o * step, step,
                       count);
    }
  }
}

template <class T>
void direct_phase(const ConvProblem& p, const Correlation& q, const Buffers& b) {
  const i64 blocks = ceil_div(q.result_channels, direct_rows);
  const i64 lines = q.axis[0].count * q.axis[1].count;
  const i64 block_lines = min_of<i64>(lines, 8);
  const i64 line_blocks = ceil_div(lines, block_lines);
  parallel_for(q.n * q.groups * blocks * line_blocks, b.threads, [&](i64 task, int) {
    const i64 line0 = task % line_blocks * block_lines;
    const i64 channel = task / line_blocks % blocks * direct_rows;
    const i64 group = task / line_blocks / blocks % q.groups;
    const i64 n = task / line_blocks / blocks / q.groups;
    const T* source =
        static_cast<const T*>(b.a) + n * q.source.n + group * q.source_channels * q.source.c;
    const T* w = static_cast<const T*>(b.b) + group * q.weight_group + channel * q.weight_result;
    const Epilogue<T> end = epilogue<T>(p, q, b, group);
    for (i64 line = line0; line < min_of(lines, line0 + block_lines); ++line) {
      const i64 z = line / q.axis[1].count, y = line % q.axis[1].count;
      const i64 offset = result_offset(q, {n, {z, y, 0}});
      switch (q.result_channels - channel) {
        case 1: direct_row<T, 1>(q, source, w, z, y, channel, offset, end); break;
        case 2: direct_row<T, 2>(q, source, w, z, y, channel, offset, end); break;
        case 3: direct_row<T, 3>(q, source, w, z, y, channel, offset, end); break;
        default: direct_row<T, direct_rows>(q, source, w, z, y, channel, offset, end);
      }
    }
  });
}

// dw of ROWS channels of k, one source channel, one filter row, TAPS taps of it from jw0 on.
template <class T, int ROWS, int TAPS>
void direct_filter_row(const Correlation& q, const Strides& y, const T* dy, const T* source, i64 jd,
                       i64 jh, i64 jw0, T* to, i64 to_row, i64 to_tap) {
  const AxisMap &D = q.axis[0], &H = q.axis[1], &W = q.axis[2];
  Vec<T> sums[ROWS][TAPS] = {};
  for (i64 n = 0; n < q.n; ++n) {
    Vec<T> image[ROWS][TAPS] = {};  // flushed every image: bounds the rounding error of long sums
    for (i64 z = 0; z < D.count; ++z) {
      const i64 d = border_index(D.source(z, jd), D.source_size, q.border);
      for (i64 line = 0; d >= 0 && line < H.count; ++line) {
        const i64 h = border_index(H.source(line, jh), H.source_size, q.border);
        if (h < 0) continue;
        const T* row = source + n * q.source.n + d * q.source.axis[0] + h * q.source.axis[1];
        const T* gradient = dy + n * y.n + z * y.axis[0] + line * y.axis[1];
        for (i64 o = 0; o < W.count; o += lanes<T>) {
          const int count = int(min_of<i64>(lanes<T>, W.count - o));
          Vec<T> pixels[TAPS][1];
#pragma GCC unroll 4
          for (int t = 0; t < TAPS; ++t)
            load_pixels<T>(row, q.source.axis[2], W.source_size, W.source(o, jw0 + t), W.step,
                           count, q.border, pixels[t]);
#pragma GCC unroll 4
          for (int r = 0; r < ROWS; ++r) {
            Vec<T> left[1];
            load_pixels<T>(gradient + r * y.c, y.axis[2], W.count, o, 1, count, Border::zeros,
                           left);
#pragma GCC unroll 4
            for (int t = 0; t < TAPS; ++t) image[r][t] += left[0] * pixels[t][0];
          }
        }
      }
    }
    for (int r = 0; r < ROWS; ++r)
      for (int t = 0; t < TAPS; ++t) sums[r][t] += image[r][t];
  }
  for (int r = 0; r < ROWS; ++r)
    for (int t = 0; t < TAPS; ++t) to[r * to_row + t * to_tap] = sum_lanes<T>(sums[r][t]);
}

template <class T, int ROWS>
void direct_filter(const Correlation& q, const Strides& y, const T* dy, const T* source, T* to) {
  const i64 row = q.weight_result, tap = q.axis[2].weight_step * q.weight_axis[2];
  for (i64 jd = 0; jd < q.axis[0].taps; ++jd)
    for (i64 jh = 0; jh < q.axis[1].taps; ++jh)
      for (i64 jw = 0; jw < q.axis[2].taps; jw += 4) {
        T* at = to + q.weight_tap(jd, jh, jw);
        switch (q.axis[2].taps - jw) {
          case 1: direct_filter_row<T, ROWS, 1>(q, y, dy, source, jd, jh, jw, at, row, tap); break;
          case 2: direct_filter_row<T, ROWS, 2>(q, y, dy, source, jd, jh, jw, at, row, tap); break;
          case 3: direct_filter_row<T, ROWS, 3>(q, y, dy, source, jd, jh, jw, at, row, tap); break;
          default: direct_filter_row<T, ROWS, 4>(q, y, dy, source, jd, jh, jw, at, row, tap);
        }
      }
}

template <class T>
void direct_bwd_weight(const ConvProblem& p, const Buffers& b) {
  const Correlation q = correlation(p, Pass::fwd);
  const Strides y = dense_strides(p.layout, p.k, p.out);
  const i64 blocks = ceil_div(q.result_channels, direct_rows);
  parallel_for(q.groups * blocks * q.source_channels, b.threads, [&](i64 task, int) {
    const i64 c = task % q.source_channels;
    const i64 row = task / q.source_channels % blocks * direct_rows;
    const i64 group = task / q.source_channels / blocks;
    const T* dy = static_cast<const T*>(b.a) + (group * q.result_channels + row) * y.c;
    const T* x = static_cast<const T*>(b.b) + (group * q.source_channels + c) * q.source.c;
    T* to = static_cast<T*>(b.out) + group * q.weight_group + row * q.weight_result +
            c * q.weight_source;
    switch (q.result_channels - row) {
      case 1: direct_filter<T, 1>(q, y, dy, x, to); break;
      case 2: direct_filter<T, 2>(q, y, dy, x, to); break;
      case 3: direct_filter<T, 3>(q, y, dy, x, to); break;
      default: direct_filter<T, direct_rows>(q, y, dy, x, to);
    }
  });
}

template <class T>
void direct(const ConvProblem& p, Pass pass, const Buffers& b) {
  if (pass == Pass::bwd_weight) return direct_bwd_weight<T>(p, b);
  for_each_phase<T>(p, pass, b, [&](const Correlation& q) {
    if (q.image_pixels() > 0) direct_phase<T>(p, q, b);
  });
  if (pass == Pass::bwd_data)
    add_border_gradients(p, static_cast<const T*>(b.a), static_cast<const T*>(b.b),
                         static_cast<T*>(b.out), b.threads);
}

}  // namespace pyconv::PYCONV_TARGET

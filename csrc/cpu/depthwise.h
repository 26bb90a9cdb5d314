// Depthwise convolution of NHWC images: one channel in and out of a group, lanes along channels.
//
//   forward, input gradient   y[o, c] = sum over taps of w[tap, c] x[i(o, tap), c]
//   weight gradient           dw[tap, c] = sum over pixels of dy[o, c] x[i(o, tap), c]
//
// Register tiles: depthwise_tile.h. Parallel over blocks of lines and of channels. A task of the
// first two goes along its lines, two by two, and does all phases of them; one of a weight gradient
// goes down the lines of one column of tiles, over a part of all lines; parts are added in order.
#pragma once
#include "depthwise_tile.h"
#include "reduce.h"

namespace pyconv::PYCONV_TARGET {

// All channels of all taps are held at a time, at most 8 MB of them.
PYCONV_INLINE bool depthwise_fits(const ConvProblem& p) {
  return p.layout == Layout::nhwc && p.c_per_group() == 1 && p.k_per_group() == 1 && p.groups > 1 &&
         p.taps() <= 1024 && p.groups <= (1 << 20) / p.taps();
}

// How the lines of all images and the channels are cut.
template <class T>
struct DepthwiseBlocks {
  i64 channels, channel_blocks, lines, line_blocks;  // of a block; blocks of an image's H
  i64 planes, tasks;
  i64 all_lines, parts, part_lines;  // of the weight gradient
  i64 table_bytes;                   // of rows and columns

  DepthwiseBlocks(const ConvProblem& p, Pass pass) : planes(0), table_bytes(0) {
    i64 tile = 1, line = 1, all = 0;  // pixels: of the source for a tile, of a line; lines
    for (i64 phase = 0; phase < phase_count(p, pass); ++phase) {
      const Correlation q = correlation(p, pass, phase);
      const AxisMap &D = q.axis[0], &H = q.axis[1], &W = q.axis[2];
      const i64 rows = D.taps * H.taps;
      tile = max_of(tile, rows * ((depthwise_pixels - 1) * W.step + W.taps));
      line = max_of(line, max_of(W.count * W.result_step * H.result_step, W.source_size * H.step));
      planes = max_of(planes, D.count);
      all = max_of(all, H.count);
      const i64 bytes = rows * depthwise_lines * i64(sizeof(DepthwiseRow<T>)) +
                        depthwise_pixels * (W.taps + 2) * i64(sizeof(i64));
      table_bytes = max_of(table_bytes, round_up(bytes, 64));
    }
    // A weight gradient goes down a column of tiles: 32 KB of source rows and 16 KB of sums stay in
    // an L1 cache. The others go along the lines, and 256 KB stay in an L2 cache: whole pixels one
    // after another are what the hardware fetches ahead. (7x7, 96 channels at 56x56: 1.13 ms, in
    // blocks of 48 channels 1.48.)
    const bool gradient = pass == Pass::bwd_weight;
    i64 most = (gradient ? 32 << 10 : 256 << 10) / i64(sizeof(T)) / tile;
    if (gradient) most = min_of(most, (16 << 10) / i64(sizeof(T)) / p.taps());
    most = max_of<i64>(4 * lanes<T>, most / lanes<T> * lanes<T>);
    channel_blocks = ceil_div(p.c, most);
    channels = round_up(ceil_div(p.c, channel_blocks), lanes<T>);
    channel_blocks = ceil_div(p.c, channels);

    // The phases of a block of 1 MB write between each other's pixels in an L2 cache.
    const i64 some = max_of<i64>(1, p.n * planes * channel_blocks);
    lines = all / max_of<i64>(1, ceil_div(i64(16), some));
    lines = min_of(lines, (1 << 20) / i64(sizeof(T)) / channels / line);
    lines = max_of<i64>(depthwise_lines, round_up(lines, depthwise_lines));
    line_blocks = ceil_div(all, lines);
    tasks = p.n * planes * line_blocks * channel_blocks;

    all_lines = p.n * planes * all;
    const i64 filter = p.c * p.taps() * i64(sizeof(T));
    parts = max_of<i64>(1, min_of<i64>(16 / channel_blocks, (8 << 20) / filter));
    part_lines = max_of<i64>(1, ceil_div(all_lines, parts));
    parts = max_of<i64>(1, ceil_div(all_lines, part_lines));
  }
};

// The rows that lines h and, with 2 of them, h + 1 of plane z meet, in the order of either's taps;
// `taps` of tap row (jd, jh) begin at tap(jd, jh).
template <class T, class TapRow>
PYCONV_INLINE i64 depthwise_rows(const Correlation& q, const T* image, i64 z, i64 h, int lines,
                                 DepthwiseRow<T>* rows, TapRow&& tap) {
  const AxisMap &D = q.axis[0], &H = q.axis[1];
  // Tap j of the next line meets the row of tap j + apart of this one.
  i64 apart = H.step % H.tap_step == 0 ? H.step / H.tap_step : H.taps;
  apart = lines == 1 ? 0 : max_of(-H.taps, min_of(H.taps, apart));
  i64 count = 0;
  for (i64 jd = 0; jd < D.taps; ++jd) {
    const i64 d = border_index(D.source(z, jd), D.source_size, q.border);
    for (i64 e = min_of<i64>(0, apart); d >= 0 && e < H.taps + max_of<i64>(0, apart); ++e) {
      const bool first = e >= 0 && e < H.taps;
      const i64 at = first ? H.source(h, e) : H.source(h + 1, e - apart);
      const i64 row = border_index(at, H.source_size, q.border);
      if (row < 0) continue;
      DepthwiseRow<T>& to = rows[count++];
      to = {image + d * q.source.axis[0] + row * q.source.axis[1], {first ? tap(jd, e) : nullptr}};
      if constexpr (depthwise_lines == 2) {
        const bool second = lines == 2 && e >= apart && e < apart + H.taps;
        to.taps[1] = second ? tap(jd, e - apart) : nullptr;
      }
    }
  }
  return count;
}

// Line h's last row of the source, as far as it lies inside: pages away, where no hardware looks.
template <class T>
PYCONV_INLINE void depthwise_ahead(const Correlation& q, const T* image, i64 z, i64 h, i64 o,
                                   DepthwiseTile<T>& a) {
  const AxisMap &D = q.axis[0], &H = q.axis[1], &W = q.axis[2];
  const i64 d = D.source(z, D.taps - 1), row = H.source(h, H.tap_step > 0 ? H.taps - 1 : 0);
  const i64 first = max_of<i64>(0, W.source(o, W.tap_step > 0 ? 0 : W.taps - 1));
  a.ahead_count = 0;
  if (d < 0 || d >= D.source_size || row < 0 || row >= H.source_size) return;
  a.ahead = image + d * q.source.axis[0] + row * q.source.axis[1] + first * q.source.axis[2];
  a.ahead_step = q.source.axis[2];
  a.ahead_count = int(max_of<i64>(0, min_of(depthwise_pixels * W.step, W.source_size - first)));
}

// Weights as [tap, channel], for all phases.
template <class T>
void depthwise_pack(const ConvProblem& p, const Buffers& b) {
  const i64 taps = p.taps();
  for (i64 c = 0; c < p.c; c += lanes<T>)
    transpose_rows(static_cast<const T*>(b.b) + c * taps, taps, int(min_of<i64>(lanes<T>, p.c - c)),
                   taps, reinterpret_cast<T*>(b.shared) + c, p.c);
}

// Lines [h0, h1) of plane z of image n and channels from `channel` on, of one phase.
template <class T>
PYCONV_NOINLINE void depthwise_block(const ConvProblem& p, const Correlation& q, const Buffers& b,
                                     i64 n, i64 z, i64 h0, i64 h1, i64 channel, i64 last,
                                     char* scratch) {
  const AxisMap &D = q.axis[0], &W = q.axis[2];
  const DepthwiseAxis axis(q);
  T* weights = reinterpret_cast<T*>(b.shared);
  auto* rows = reinterpret_cast<DepthwiseRow<T>*>(scratch);
  i64* columns = reinterpret_cast<i64*>(rows + D.taps * q.axis[1].taps * depthwise_lines);
  const Epilogue<T> end = epilogue<T>(p, q, b, 0);
  const DepthwiseForward<T> kernel{end};
  const T* image = static_cast<const T*>(b.a) + n * q.source.n;
  const i64 step = W.result_step * q.result.axis[2];
  DepthwiseTile<T> a{
      rows, 0, columns, 0, W.taps, axis.next_tap() * W.weight_step * q.groups, channel,
      last, 0, 0,       0, step,   q.axis[1].result_step * q.result.axis[1]};
  a.ahead_step = step;
  i64 listed = -1;  // the tile inside whose columns are in the table
  for (i64 h = h0; h < h1; h += depthwise_lines) {
    a.lines = int(min_of<i64>(depthwise_lines, h1 - h));
    a.row_count = depthwise_rows(q, image, z, h, a.lines, rows, [&](i64 jd, i64 jh) {
      return weights + q.weight_tap(jd, jh, axis.first_tap()) * q.groups;
    });
    for (i64 o = 0; o < W.count; o += depthwise_pixels) {
      a.pixels = int(min_of<i64>(depthwise_pixels, W.count - o));
      const bool inside = a.pixels == depthwise_pixels && axis.inside(o);
      if (!inside || listed < 0) {
        axis.list(o, a.pixels, q.border, false, columns);
        listed = inside ? o : -1;
      }
      a.shift = inside ? (o - listed) * W.step * q.source.axis[2] : 0;
      a.at = result_offset(q, {n, {z, h, o}});
      a.ahead_count = int(min_of<i64>(depthwise_pixels, W.count - o - a.pixels));
      a.ahead = end.out + a.at + a.pixels * step;
      depthwise_tile(kernel, a, axis.step);
    }
  }
}

// A task does its block of all phases of an input gradient: they read the same rows, and write
// between each other's pixels.
template <class T>
void depthwise(const ConvProblem& p, Pass pass, const Buffers& b) {
  depthwise_pack<T>(p, b);
  finish_untapped<T>(p, pass, b);
  const DepthwiseBlocks<T> blocks(p, pass);
  parallel_for(blocks.tasks, b.threads, [&](i64 task, int thread) {
    const i64 channel = task % blocks.channel_blocks * blocks.channels;
    task /= blocks.channel_blocks;
    const i64 h0 = task % blocks.line_blocks * blocks.lines;
    const i64 z = task / blocks.line_blocks % blocks.planes;
    const i64 n = task / blocks.line_blocks / blocks.planes;
    for (i64 phase = 0; phase < phase_count(p, pass); ++phase) {
      const Correlation q = correlation(p, pass, phase);
      if (z >= q.axis[0].count) continue;
      depthwise_block<T>(p, q, b, n, z, h0, min_of(q.axis[1].count, h0 + blocks.lines), channel,
                         min_of(p.c, channel + blocks.channels),
                         b.scratch + std::size_t(thread) * b.scratch_bytes);
    }
  });
}

template <class T>
void depthwise_bwd_weight(const ConvProblem& p, const Correlation& q, const Buffers& b) {
  const AxisMap &D = q.axis[0], &H = q.axis[1], &W = q.axis[2];
  const Strides y = dense_strides(p.layout, p.k, p.out);
  const DepthwiseBlocks<T> blocks(p, Pass::bwd_weight);
  const DepthwiseAxis axis(q);
  const i64 taps = q.taps(), filters = q.groups * taps;
  T* dw = static_cast<T*>(b.out);
  T* partial = blocks.parts > 1 ? reinterpret_cast<T*>(b.shared) : dw;
  parallel_for(blocks.parts * blocks.channel_blocks, b.threads, [&](i64 task, int thread) {
    const i64 part = task / blocks.channel_blocks;
    const i64 channel = task % blocks.channel_blocks * blocks.channels;
    char* scratch = b.scratch + thread * b.scratch_bytes;
    auto* rows = reinterpret_cast<DepthwiseRow<T>*>(scratch);
    i64* columns = reinterpret_cast<i64*>(rows + D.taps * H.taps);
    T* sums = reinterpret_cast<T*>(scratch + blocks.table_bytes);  // [tap, channel]
    for (i64 i = 0; i < taps * blocks.channels; ++i) sums[i] = T(0);

    const DepthwiseWeight<T> kernel{static_cast<const T*>(b.a)};
    const i64 last = min_of(blocks.all_lines, (part + 1) * blocks.part_lines);
    for (i64 o = 0; o < W.count; o += depthwise_pixels) {
      const int pixels = int(min_of<i64>(depthwise_pixels, W.count - o));
      const bool general = axis.step == 0 || pixels < depthwise_pixels;
      DepthwiseTile<T> a{rows,     0,
                         columns,  0,
                         W.taps,   axis.next_tap() * W.weight_step * blocks.channels,
                         channel,  min_of(q.groups, channel + blocks.channels),
                         pixels,   1,
                         0,        y.axis[2],
                         y.axis[1]};
      axis.list(o, pixels, q.border, general, columns);
      for (i64 line = part * blocks.part_lines; line < last; ++line) {
        const i64 h = line % H.count, z = line / H.count % D.count, n = line / H.count / D.count;
        a.row_count = depthwise_rows(
            q, static_cast<const T*>(b.b) + n * q.source.n, z, h, 1, rows, [&](i64 jd, i64 jh) {
              return sums + q.weight_tap(jd, jh, axis.first_tap()) * blocks.channels;
            });
        a.at = n * y.n + z * y.axis[0] + h * y.axis[1] + o * y.axis[2];
        depthwise_ahead(q, static_cast<const T*>(b.b) + n * q.source.n, z, h + 2, o, a);
        depthwise_tile(kernel, a, general ? 0 : axis.step);
      }
    }
    T* to = partial + part * filters + channel * taps;
    for (i64 t = 0; t < taps; t += lanes<T>)
      transpose_rows(sums + t * blocks.channels, blocks.channels,
                     int(min_of<i64>(lanes<T>, taps - t)),
                     min_of(blocks.channels, q.groups - channel), to + t, taps);
  });
  if (blocks.parts > 1) add_parts(partial, blocks.parts, filters, dw, b.threads);
}

template <class T>
std::size_t depthwise_scratch_bytes(const ConvProblem& p, Pass pass) {
  const DepthwiseBlocks<T> blocks(p, pass);
  const i64 sums = pass == Pass::bwd_weight ? p.taps() * blocks.channels : 0;
  return std::size_t(blocks.table_bytes) + std::size_t(sums) * sizeof(T);
}

// Of packed weights, or of the parts of a weight gradient.
template <class T>
std::size_t depthwise_shared_bytes(const ConvProblem& p, Pass pass) {
  const DepthwiseBlocks<T> blocks(p, pass);
  const i64 copies = pass != Pass::bwd_weight ? 1 : blocks.parts > 1 ? blocks.parts : 0;
  return std::size_t(copies * p.c * p.taps()) * sizeof(T);
}

}  // namespace pyconv::PYCONV_TARGET

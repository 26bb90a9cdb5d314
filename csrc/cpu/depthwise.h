// Depthwise convolution of NHWC images: one channel in and out of a group, lanes along channels.
//
//   forward, input gradient   y[o, c] = sum over taps of w[tap, c] x[i(o, tap), c]; a tile of 7
//                             pixels stays in registers over all taps
//   weight gradient           dw[tap, c] = sum over pixels of dy[o, c] x[i(o, tap), c]; the taps of
//                             a row of the filter stay in registers over a tile of 7 pixels
//
// A pixel of the source is loaded once for all the taps of a row that meet it. A table says where a
// tile's columns lie, so that borders, steps and phases need neither copies nor code of their own;
// a column outside is skipped. Parallel over blocks of lines and of channels; a task goes down the
// lines of one column of tiles, whose rows stay in an L1 cache. (Weight gradient: over parts of the
// lines, whose sums are added in order.)
#pragma once
#include "direct_tile.h"
#include "epilogue.h"
#include "reduce.h"

namespace pyconv::PYCONV_TARGET {

// All channels of all taps are held at a time, at most 8 MB of them.
PYCONV_INLINE bool depthwise_fits(const ConvProblem& p) {
  return p.layout == Layout::nhwc && p.c_per_group() == 1 && p.k_per_group() == 1 && p.groups > 1 &&
         p.taps() <= 1024 && p.groups <= (1 << 20) / p.taps();
}

constexpr int depthwise_pixels = 7;  // maps of 224-pixel networks are 7 times a power of two wide

// The columns of a tile of 7 results: where each lies in a row, or -1. With STEP from result to
// result and neighbouring taps, result i meets tap j in column i * STEP + j; in general (STEP 0)
// column [j, i] is its own.
template <int TAPS, int STEP>
constexpr int depthwise_columns = (depthwise_pixels - 1) * STEP + TAPS;

struct DepthwiseAxis {
  const AxisMap& W;
  i64 pixel;
  int step;  // 1, 2 or, in general, 0

  PYCONV_INLINE explicit DepthwiseAxis(const Correlation& q)
      : W(q.axis[2]), pixel(q.source.axis[2]), step(0) {
    if ((W.tap_step == 1 || W.tap_step == -1) && W.step <= 2) step = int(W.step);
    const i64 t = W.taps;
    if (!(t == 3 || t == 5 || t == 7 || (step == 1 && (t == 2 || t == 4)))) step = 0;
  }
  // Taps in ascending order of their columns: the first, and where the next one lies.
  PYCONV_INLINE i64 first_tap() const { return step && W.tap_step < 0 ? W.taps - 1 : 0; }
  PYCONV_INLINE i64 next_tap() const { return step && W.tap_step < 0 ? -1 : 1; }

  PYCONV_INLINE void list(i64 o, int pixels, Border border, bool general, i64* columns) const {
    const auto at = [&](i64 i, i64 j) PYCONV_ALWAYS {
      if (i >= pixels) return i64(-1);
      const i64 from = border_index(W.source(o + i, j), W.source_size, border);
      return from < 0 ? i64(-1) : from * pixel;
    };
    if (general || !step) {
      for (i64 j = 0; j < W.taps; ++j)
        for (i64 i = 0; i < depthwise_pixels; ++i)
          columns[j * depthwise_pixels + i] = at(i, first_tap() + j * next_tap());
      return;
    }
    for (i64 e = 0; e < (depthwise_pixels - 1) * step + W.taps; ++e) {
      const i64 i = min_of<i64>(e / step, pixels - 1);  // any result that meets it
      const i64 j = e - i * step;
      columns[e] = j < W.taps ? at(i, first_tap() + j * next_tap()) : -1;
    }
  }
};

// A row of source pixels and the weights, or sums, of the row of the filter that reads it.
template <class T>
struct DepthwiseRow {
  const T* source;
  T* taps;  // [tap, channel]
};

template <class T>
struct DepthwiseTile {
  const DepthwiseRow<T>* rows;
  i64 row_count;
  const i64* columns;
  i64 taps, tap_step;  // of W; in [tap, channel]
  i64 channel, last;   // of the task
  int pixels;
  i64 at, step;              // results: the first one's offset and to the next one
  const T* ahead = nullptr;  // what the tile two lines on reads first
  i64 ahead_step = 0;        // its pixels
  int ahead_count = 0;

  // A line of the next tiles lies pages away, where no hardware looks.
  PYCONV_INLINE void fetch(i64 c) const {
    for (int i = 0; i < ahead_count; ++i) __builtin_prefetch(ahead + i * ahead_step + c);
  }
};

template <class T>
struct DepthwiseForward {
  const Epilogue<T>& end;

  template <int TAPS, int STEP, bool WHOLE>
  PYCONV_NOINLINE void run(const DepthwiseTile<T>& a, i64 c, i64 last, int count) const {
    for (; c < last; c += lanes<T>) {
      Vec<T> sums[depthwise_pixels];
      unrolled<depthwise_pixels>([&](auto i) PYCONV_ALWAYS { sums[i] = Vec<T>{}; });
      a.fetch(c);
      for (i64 r = 0; r < a.row_count; ++r) {
        const T *x = a.rows[r].source + c, *w = a.rows[r].taps + c;
        for (i64 j0 = 0; j0 < (STEP ? 1 : a.taps); ++j0, w += a.tap_step) {
          const i64* columns = a.columns + j0 * depthwise_pixels;
          Vec<T> weight[TAPS];
          unrolled<TAPS>([&](auto j) PYCONV_ALWAYS {
            weight[j] = once<T>(load_part<T, WHOLE>(w + j * a.tap_step, count));
          });
          unrolled<depthwise_columns<TAPS, STEP ? STEP : 1>>([&](auto e) PYCONV_ALWAYS {
            const i64 from = columns[e];
            if (from < 0) return;
            const Vec<T> pixel = once<T>(load_part<T, WHOLE>(x + from, count));
            unrolled<TAPS>([&](auto j) PYCONV_ALWAYS {
              constexpr int step = STEP ? STEP : 1, apart = decltype(e){} - decltype(j){};
              if constexpr (apart >= 0 && apart % step == 0 && apart / step < depthwise_pixels)
                sums[apart / step] += weight[j] * pixel;
            });
          });
        }
      }
      const Vec<T> added = end.bias ? load_part<T, WHOLE>(end.bias + c, count) : Vec<T>{};
      unrolled<depthwise_pixels>([&](auto i) PYCONV_ALWAYS {
        if (i >= a.pixels) return;
        const i64 to = a.at + i * a.step + c;
        const Vec<T> beside =
            end.residual ? load_part<T, WHOLE>(end.residual + to, count) : Vec<T>{};
        const Vec<T> result = end.finish(sums[i], added, beside);
        store_part<T, WHOLE>(end.out + to, result, count);
      });
    }
  }
};

template <class T>
struct DepthwiseWeight {
  const T* dy;

  // A tile's sums are added up apart: it bounds the rounding error of long sums.
  template <int TAPS, int STEP, bool WHOLE>
  PYCONV_NOINLINE void run(const DepthwiseTile<T>& a, i64 c0, i64 last, int count) const {
    for (i64 r = 0; r < a.row_count; ++r)
      for (i64 c = c0; c < last; c += lanes<T>) {
        const T *x = a.rows[r].source + c, *gradient = dy + a.at + c;
        T* to = a.rows[r].taps + c - a.channel;
        if (r == 0) a.fetch(c);
        if constexpr (STEP == 0) {
          for (i64 j = 0; j < a.taps; ++j, to += a.tap_step) {
            Vec<T> sum{};
            for (int i = 0; i < a.pixels; ++i) {
              const i64 from = a.columns[j * depthwise_pixels + i];
              if (from >= 0)
                sum += load_part<T, WHOLE>(gradient + i * a.step, count) *
                       load_part<T, WHOLE>(x + from, count);
            }
            store(to, load(to) + sum);
          }
        } else {
          Vec<T> sums[TAPS], pixels[depthwise_pixels];
          unrolled<TAPS>([&](auto j) PYCONV_ALWAYS { sums[j] = Vec<T>{}; });
          unrolled<depthwise_pixels>([&](auto i) PYCONV_ALWAYS {
            pixels[i] = once<T>(load_part<T, WHOLE>(gradient + i * a.step, count));
          });
          unrolled<depthwise_columns<TAPS, STEP>>([&](auto e) PYCONV_ALWAYS {
            const i64 from = a.columns[e];
            if (from < 0) return;
            const Vec<T> pixel = once<T>(load_part<T, WHOLE>(x + from, count));
            unrolled<TAPS>([&](auto j) PYCONV_ALWAYS {
              constexpr int apart = decltype(e){} - decltype(j){};
              if constexpr (apart >= 0 && apart % STEP == 0 && apart / STEP < depthwise_pixels)
                sums[j] += pixels[apart / STEP] * pixel;
            });
          });
          unrolled<TAPS>([&](auto j) PYCONV_ALWAYS {
            store(to + j * a.tap_step, load(to + j * a.tap_step) + sums[j]);
          });
        }
      }
  }
};

template <class T, int TAPS, int STEP, class Kernel>
PYCONV_INLINE void depthwise_channels(const Kernel& kernel, const DepthwiseTile<T>& a) {
  const i64 whole = a.channel + (a.last - a.channel) / lanes<T> * lanes<T>;
  if (a.channel < whole) kernel.template run<TAPS, STEP, true>(a, a.channel, whole, lanes<T>);
  if (whole < a.last) kernel.template run<TAPS, STEP, false>(a, whole, a.last, int(a.last - whole));
}

template <class T, class Kernel>
PYCONV_NOINLINE void depthwise_tile(const Kernel& kernel, const DepthwiseTile<T>& a, int step) {
  if (step == 1) switch (a.taps) {
      case 2: return depthwise_channels<T, 2, 1>(kernel, a);
      case 3: return depthwise_channels<T, 3, 1>(kernel, a);
      case 4: return depthwise_channels<T, 4, 1>(kernel, a);
      case 5: return depthwise_channels<T, 5, 1>(kernel, a);
      case 7: return depthwise_channels<T, 7, 1>(kernel, a);
    }
  if (step == 2) switch (a.taps) {
      case 3: return depthwise_channels<T, 3, 2>(kernel, a);
      case 5: return depthwise_channels<T, 5, 2>(kernel, a);
      case 7: return depthwise_channels<T, 7, 2>(kernel, a);
    }
  depthwise_channels<T, 1, 0>(kernel, a);
}

// How the lines of all images and the channels are cut.
template <class T>
struct DepthwiseBlocks {
  i64 channels, channel_blocks, lines, line_blocks;  // of a block; blocks of an image's H
  i64 all_lines, parts, part_lines;                  // of the weight gradient

  DepthwiseBlocks(const Correlation& q, Pass pass) {
    const AxisMap &D = q.axis[0], &H = q.axis[1], &W = q.axis[2];
    // 32 KB of source rows, and of sums 16 KB: both stay in an L1 cache.
    const i64 columns = (depthwise_pixels - 1) * W.step + W.taps;
    i64 most = (32 << 10) / i64(sizeof(T)) / (D.taps * H.taps * columns);
    if (pass == Pass::bwd_weight) most = min_of(most, (16 << 10) / i64(sizeof(T)) / q.taps());
    most = max_of<i64>(4 * lanes<T>, most / lanes<T> * lanes<T>);
    channel_blocks = ceil_div(q.groups, most);
    channels = round_up(ceil_div(q.groups, channel_blocks), lanes<T>);
    channel_blocks = ceil_div(q.groups, channels);

    const i64 planes = max_of<i64>(1, q.n * D.count * channel_blocks);
    lines = max_of<i64>(1, H.count / max_of<i64>(1, ceil_div(i64(16), planes)));
    line_blocks = ceil_div(H.count, lines);

    all_lines = q.n * D.count * H.count;
    const i64 filter = q.groups * q.taps() * i64(sizeof(T));
    parts = max_of<i64>(1, min_of<i64>(16 / channel_blocks, (8 << 20) / filter));
    part_lines = max_of<i64>(1, ceil_div(all_lines, parts));
    parts = max_of<i64>(1, ceil_div(all_lines, part_lines));
  }

  // Of scratch: rows, columns; sums of the weight gradient.
  static i64 table_bytes(const Correlation& q) {
    return round_up(q.axis[0].taps * q.axis[1].taps * i64(sizeof(DepthwiseRow<T>)) +
                        depthwise_pixels * (q.axis[2].taps + 2) * i64(sizeof(i64)),
                    64);
  }
};

// The rows that line h of plane z of image n meets; `taps` of tap row (jd, jh) begin at
// tap(jd, jh).
template <class T, class TapRow>
PYCONV_INLINE i64 depthwise_rows(const Correlation& q, const T* image, i64 z, i64 h,
                                 DepthwiseRow<T>* rows, TapRow&& tap) {
  const AxisMap &D = q.axis[0], &H = q.axis[1];
  i64 count = 0;
  for (i64 jd = 0; jd < D.taps; ++jd) {
    const i64 d = border_index(D.source(z, jd), D.source_size, q.border);
    for (i64 jh = 0; d >= 0 && jh < H.taps; ++jh) {
      const i64 row = border_index(H.source(h, jh), H.source_size, q.border);
      if (row >= 0)
        rows[count++] = {image + d * q.source.axis[0] + row * q.source.axis[1], tap(jd, jh)};
    }
  }
  return count;
}

// Line h's last row of the source, as far as it lies inside.
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

template <class T>
void depthwise_phase(const ConvProblem& p, Pass pass, const Correlation& q, const Buffers& b) {
  const AxisMap &D = q.axis[0], &W = q.axis[2];
  const DepthwiseBlocks<T> blocks(q, pass);
  const DepthwiseAxis axis(q);
  T* weights = reinterpret_cast<T*>(b.shared);
  const i64 tasks = q.n * D.count * blocks.line_blocks * blocks.channel_blocks;
  parallel_for(tasks, b.threads, [&](i64 task, int thread) {
    const i64 channel = task % blocks.channel_blocks * blocks.channels;
    task /= blocks.channel_blocks;
    const i64 h0 = task % blocks.line_blocks * blocks.lines;
    const i64 z = task / blocks.line_blocks % D.count, n = task / blocks.line_blocks / D.count;
    auto* rows = reinterpret_cast<DepthwiseRow<T>*>(b.scratch + thread * b.scratch_bytes);
    i64* columns = reinterpret_cast<i64*>(rows + D.taps * q.axis[1].taps);
    const Epilogue<T> end = epilogue<T>(p, q, b, 0);
    const DepthwiseForward<T> kernel{end};
    const T* image = static_cast<const T*>(b.a) + n * q.source.n;
    for (i64 o = 0; o < W.count; o += depthwise_pixels) {
      DepthwiseTile<T> a{rows,
                         0,
                         columns,
                         W.taps,
                         axis.next_tap() * W.weight_step * q.groups,
                         channel,
                         min_of(q.groups, channel + blocks.channels),
                         int(min_of<i64>(depthwise_pixels, W.count - o)),
                         0,
                         W.result_step * q.result.axis[2]};
      axis.list(o, a.pixels, q.border, false, columns);
      for (i64 h = h0; h < min_of(q.axis[1].count, h0 + blocks.lines); ++h) {
        a.row_count = depthwise_rows(q, image, z, h, rows, [&](i64 jd, i64 jh) {
          return weights + q.weight_tap(jd, jh, axis.first_tap()) * q.groups;
        });
        a.at = result_offset(q, {n, {z, h, o}});
        depthwise_ahead(q, image, z, h + 2, o, a);
        depthwise_tile(kernel, a, axis.step);
      }
    }
  });
}

template <class T>
void depthwise_bwd_weight(const ConvProblem& p, const Correlation& q, const Buffers& b) {
  const AxisMap &D = q.axis[0], &H = q.axis[1], &W = q.axis[2];
  const Strides y = dense_strides(p.layout, p.k, p.out);
  const DepthwiseBlocks<T> blocks(q, Pass::bwd_weight);
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
    T* sums = reinterpret_cast<T*>(scratch + blocks.table_bytes(q));  // [tap, channel]
    for (i64 i = 0; i < taps * blocks.channels; ++i) sums[i] = T(0);

    const DepthwiseWeight<T> kernel{static_cast<const T*>(b.a)};
    const i64 last = min_of(blocks.all_lines, (part + 1) * blocks.part_lines);
    for (i64 o = 0; o < W.count; o += depthwise_pixels) {
      const int pixels = int(min_of<i64>(depthwise_pixels, W.count - o));
      const bool general = axis.step == 0 || pixels < depthwise_pixels;
      DepthwiseTile<T> a{rows,
                         0,
                         columns,
                         W.taps,
                         axis.next_tap() * W.weight_step * blocks.channels,
                         channel,
                         min_of(q.groups, channel + blocks.channels),
                         pixels,
                         0,
                         y.axis[2]};
      axis.list(o, pixels, q.border, general, columns);
      for (i64 line = part * blocks.part_lines; line < last; ++line) {
        const i64 h = line % H.count, z = line / H.count % D.count, n = line / H.count / D.count;
        a.row_count = depthwise_rows(
            q, static_cast<const T*>(b.b) + n * q.source.n, z, h, rows, [&](i64 jd, i64 jh) {
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
std::size_t depthwise_scratch_bytes(const Correlation& q, Pass pass) {
  const DepthwiseBlocks<T> blocks(q, pass);
  const i64 sums = pass == Pass::bwd_weight ? q.taps() * blocks.channels : 0;
  return std::size_t(blocks.table_bytes(q)) + std::size_t(sums) * sizeof(T);
}

// Of the parts of a weight gradient.
template <class T>
std::size_t depthwise_sums_bytes(const Correlation& q) {
  const DepthwiseBlocks<T> blocks(q, Pass::bwd_weight);
  return std::size_t(blocks.parts > 1 ? blocks.parts * q.groups * q.taps() : 0) * sizeof(T);
}

}  // namespace pyconv::PYCONV_TARGET

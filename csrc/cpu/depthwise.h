// Depthwise convolution of NHWC images: one channel in and out of a group, lanes along channels.
//
//   forward, input gradient   y[o, c] = sum over taps of w[tap, c] x[i(o, tap), c]; a tile of up to
//                             8 pixels of one vector of channels stays in registers over all taps
//   weight gradient           dw[tap, c] = sum over pixels of dy[o, c] x[i(o, tap), c]; 8 taps
//                             of one vector of channels stay in registers over a line of pixels
//
// Every load is a whole vector at its own place, so edges need no copies: tiles wholly inside take
// the fast path, the others look up each pixel. Parallel over lines (forward, input gradient) or
// parts of the lines and blocks of channels (weight gradient, partial sums added in order).
#pragma once
#include "direct_tile.h"
#include "epilogue.h"
#include "reduce.h"

namespace pyconv::PYCONV_TARGET {

// All channels of all taps are held at a time, at most 8 MB of them.
PYCONV_INLINE bool depthwise_fits(const Correlation& q) {
  return q.layout == Layout::nhwc && q.source_channels == 1 && q.result_channels == 1 &&
         q.groups > 1 && q.taps() <= 1024 && q.groups <= (1 << 20) / q.taps();
}

constexpr int depthwise_pixels = 8, depthwise_edge = 4;  // pixels of a tile inside, and else

// A vector of channels, the last one perhaps in part.
template <class T, bool WHOLE>
PYCONV_INLINE Vec<T> load_some(const T* p, int count) {
  return WHOLE ? load(p) : load_first(p, count);
}

// A line of source pixels that some taps of a row of the filter read, with those taps' weights.
template <class T>
struct DepthwiseRow {
  const T *source, *weights;  // of channel 0: the line's first pixel; [tap of W, channel]
};

template <class T>
struct DepthwiseLine {
  const Correlation& q;
  const DepthwiseRow<T>* rows;
  int row_count;
  i64* columns;  // of an edge tile, [tap of W, pixel]: where in the line, or -1
  const T *bias, *residual;
  T* out;
  Activation activation;

  // PIXELS results from o on. INSIDE: no tap of them leaves the line.
  template <int PIXELS, bool WHOLE, bool INSIDE>
  PYCONV_NOINLINE void tile(i64 o, i64 at, i64 c, int count) const {
    const AxisMap& W = q.axis[2];
    const i64 pixel = q.source.axis[2];
    Vec<T> sums[PIXELS];
    unrolled<PIXELS>([&](auto i) PYCONV_ALWAYS { sums[i] = Vec<T>{}; });
    for (int r = 0; r < row_count; ++r) {
      const T* w = rows[r].weights + c;
      const T* x = rows[r].source + c + (INSIDE ? W.source(o, 0) * pixel : 0);
      for (i64 jw = 0; jw < W.taps; ++jw, w += q.groups) {
        const Vec<T> weight = load_some<T, WHOLE>(w, count);
        if constexpr (INSIDE) {
          const T* from = x + jw * W.tap_step * pixel;
          unrolled<PIXELS>([&](auto i) PYCONV_ALWAYS {
            sums[i] += weight * load_some<T, WHOLE>(from + i * W.step * pixel, count);
          });
        } else {
          unrolled<PIXELS>([&](auto i) PYCONV_ALWAYS {
            const i64 from = columns[jw * PIXELS + i];
            if (from >= 0) sums[i] += weight * load_some<T, WHOLE>(x + from, count);
          });
        }
      }
    }
    const i64 step = W.result_step * q.result.axis[2];
    const Vec<T> added = bias ? load_some<T, WHOLE>(bias + c, count) : Vec<T>{};
    const Epilogue<T> end{bias, residual, out, activation};
    unrolled<PIXELS>([&](auto i) PYCONV_ALWAYS {
      const i64 to = at + i * step + c;
      const Vec<T> beside = residual ? load_some<T, WHOLE>(residual + to, count) : Vec<T>{};
      const Vec<T> result = end.finish(sums[i], added, beside);
      if constexpr (WHOLE)
        store(out + to, result);
      else
        store_first(out + to, result, count);
    });
  }

  template <int PIXELS, bool INSIDE>
  PYCONV_INLINE void channels(i64 o, i64 at) const {
    const AxisMap& W = q.axis[2];
    for (i64 jw = 0; !INSIDE && jw < W.taps; ++jw)
      for (i64 i = 0; i < PIXELS; ++i) {
        const i64 from = border_index(W.source(o + i, jw), W.source_size, q.border);
        columns[jw * PIXELS + i] = from < 0 ? -1 : from * q.source.axis[2];
      }
    at += o * W.result_step * q.result.axis[2];
    i64 c = 0;
    for (; c + lanes<T> <= q.groups; c += lanes<T>) tile<PIXELS, true, INSIDE>(o, at, c, lanes<T>);
    if (c < q.groups) tile<PIXELS, false, INSIDE>(o, at, c, int(q.groups - c));
  }

  // `inside`, `outside`: the results that need no look at the border are [inside, outside).
  void run(i64 at, i64 inside, i64 outside) const {
    const i64 end = q.axis[2].count;
    for (i64 o = 0; o < end;) {
      const i64 left = o >= inside ? outside - o : 0;
      if (left >= depthwise_pixels) {
        channels<depthwise_pixels, true>(o, at);
        o += depthwise_pixels;
      } else if (left >= depthwise_edge) {
        channels<depthwise_edge, true>(o, at);
        o += depthwise_edge;
      } else if (end - o >= depthwise_edge) {
        channels<depthwise_edge, false>(o, at);
        o += depthwise_edge;
      } else {
        channels<1, false>(o, at);
        ++o;
      }
    }
  }
};

// Results whose taps [tap0, tap0 + taps) all lie inside: the first, and the first beyond.
PYCONV_INLINE void inside_range(const AxisMap& W, i64 tap0, i64 taps, i64& first, i64& last) {
  const i64 a = W.source(0, tap0), b = W.source(0, tap0 + taps - 1);
  const i64 low = min_of(a, b), high = max_of(a, b);
  first = low < 0 ? ceil_div(-low, W.step) : 0;
  last = high < W.source_size ? min_of(W.count, (W.source_size - 1 - high) / W.step + 1) : 0;
}

// Weights as [tap of the phase, channel].
template <class T>
void depthwise_phase(const ConvProblem& p, const Correlation& q, const Buffers& b) {
  const AxisMap &D = q.axis[0], &H = q.axis[1], &W = q.axis[2];
  T* weights = reinterpret_cast<T*>(b.shared);
  const T* w = static_cast<const T*>(b.b);
  for (i64 jd = 0, tap = 0; jd < D.taps; ++jd)
    for (i64 jh = 0; jh < H.taps; ++jh)
      for (i64 jw = 0; jw < W.taps; ++jw, ++tap)
        for (i64 c = 0; c < q.groups; ++c)
          weights[tap * q.groups + c] = w[c * q.weight_group + q.weight_tap(jd, jh, jw)];
  i64 inside, outside;
  inside_range(W, 0, W.taps, inside, outside);
  parallel_for(q.n * D.count * H.count, b.threads, [&](i64 task, int thread) {
    const i64 y = task % H.count, z = task / H.count % D.count, n = task / H.count / D.count;
    auto* rows = reinterpret_cast<DepthwiseRow<T>*>(b.scratch + thread * b.scratch_bytes);
    i64* columns = reinterpret_cast<i64*>(rows + D.taps * H.taps);
    int count = 0;
    for (i64 jd = 0; jd < D.taps; ++jd) {
      const i64 d = border_index(D.source(z, jd), D.source_size, q.border);
      for (i64 jh = 0; d >= 0 && jh < H.taps; ++jh) {
        const i64 h = border_index(H.source(y, jh), H.source_size, q.border);
        if (h < 0) continue;
        rows[count++] = {static_cast<const T*>(b.a) + n * q.source.n + d * q.source.axis[0] +
                             h * q.source.axis[1],
                         weights + (jd * H.taps + jh) * W.taps * q.groups};
      }
    }
    const Epilogue<T> end = epilogue<T>(p, q, b, 0);
    const DepthwiseLine<T> line{q,        rows,         count,   columns,
                                end.bias, end.residual, end.out, end.activation};
    line.run(result_offset(q, {n, {z, y, 0}}), inside, outside);
  });
}

// Taps of one chunk of the weight gradient: offsets of their source pixels in an image.
template <class T, int TAPS, bool WHOLE>
PYCONV_NOINLINE void depthwise_line_gradient(const T* dy, const T* const* x, i64 pixels,
                                             i64 dy_step, i64 x_step, int count, T* sums,
                                             i64 sums_step) {
  Vec<T> tile[TAPS];
  const T* from[TAPS];
  unrolled<TAPS>([&](auto t) PYCONV_ALWAYS {
    tile[t] = load(sums + t * sums_step);
    from[t] = x[t];
  });
  for (i64 o = 0; o < pixels; ++o) {
    const Vec<T> gradient = load_some<T, WHOLE>(dy + o * dy_step, count);
    unrolled<TAPS>([&](auto t) PYCONV_ALWAYS {
      tile[t] += gradient * load_some<T, WHOLE>(from[t] + o * x_step, count);
    });
  }
  unrolled<TAPS>([&](auto t) PYCONV_ALWAYS { store(sums + t * sums_step, tile[t]); });
}

template <class T, int TAPS>
PYCONV_INLINE void depthwise_taps(int taps, const T* dy, const T* const* x, i64 pixels, i64 dy_step,
                                  i64 x_step, int count, T* sums, i64 sums_step) {
  if constexpr (TAPS > 1)
    if (taps < TAPS)
      return depthwise_taps<T, TAPS - 1>(taps, dy, x, pixels, dy_step, x_step, count, sums,
                                         sums_step);
  if (count == lanes<T>)
    depthwise_line_gradient<T, TAPS, true>(dy, x, pixels, dy_step, x_step, count, sums, sums_step);
  else
    depthwise_line_gradient<T, TAPS, false>(dy, x, pixels, dy_step, x_step, count, sums, sums_step);
}

constexpr int depthwise_chunk = 8;  // taps in registers

struct DepthwiseWeightBlocks {
  i64 lines, parts, part_lines, stored;  // of all images; channels rounded up

  DepthwiseWeightBlocks(const Correlation& q, i64 vector, i64 element) {
    lines = q.n * q.axis[0].count * q.axis[1].count;
    stored = round_up(q.groups, vector);
    const i64 most = max_of<i64>(1, min_of<i64>(16, (8 << 20) / (q.groups * q.taps() * element)));
    part_lines = max_of<i64>(1, ceil_div(lines, most));
    parts = max_of<i64>(1, ceil_div(lines, part_lines));
  }
};

template <class T>
void depthwise_bwd_weight(const ConvProblem& p, const Correlation& q, const Buffers& b) {
  const AxisMap &D = q.axis[0], &H = q.axis[1], &W = q.axis[2];
  const Strides y = dense_strides(p.layout, p.k, p.out);
  const DepthwiseWeightBlocks blocks(q, lanes<T>, sizeof(T));
  const i64 taps = q.taps(), filters = q.groups * taps, pixel = q.source.axis[2];
  T* dw = static_cast<T*>(b.out);
  T* partial = blocks.parts > 1 ? reinterpret_cast<T*>(b.shared) : dw;
  parallel_for(blocks.parts, b.threads, [&](i64 part, int thread) {
    T* sums = reinterpret_cast<T*>(b.scratch + thread * b.scratch_bytes);  // [tap, channel]
    T* line_sums = sums + taps * blocks.stored;
    for (i64 i = 0; i < taps * blocks.stored; ++i) sums[i] = T(0);
    const i64 last = min_of(blocks.lines, (part + 1) * blocks.part_lines);
    for (i64 line = part * blocks.part_lines; line < last; ++line) {
      const i64 h0 = line % H.count, z = line / H.count % D.count, n = line / H.count / D.count;
      const T* dy = static_cast<const T*>(b.a) + n * y.n + z * y.axis[0] + h0 * y.axis[1];
      const T* image = static_cast<const T*>(b.b) + n * q.source.n;
      for (i64 row = 0; row < D.taps * H.taps; ++row) {
        const i64 jd = row / H.taps, jh = row % H.taps;
        const i64 d = border_index(D.source(z, jd), D.source_size, q.border);
        const i64 h = border_index(H.source(h0, jh), H.source_size, q.border);
        if (d < 0 || h < 0) continue;
        const T* source = image + d * q.source.axis[0] + h * q.source.axis[1];
        for (i64 jw = 0; jw < W.taps;) {
          const i64 left = W.taps - jw;
          const int some = int(ceil_div(left, ceil_div(left, i64(depthwise_chunk))));
          i64 inside, outside;
          inside_range(W, jw, some, inside, outside);
          for (i64 c = 0; c < q.groups; c += lanes<T>) {
            const int count = int(min_of<i64>(lanes<T>, q.groups - c));
            const T* x[depthwise_chunk];
            // One line at a time into `line_sums`: bounds the rounding error of long sums.
            for (int t = 0; t < some; ++t) {
              store(line_sums + t * lanes<T>, Vec<T>{});
              x[t] = source + W.source(inside, jw + t) * pixel + c;
            }
            if (inside < outside)
              depthwise_taps<T, depthwise_chunk>(some, dy + inside * y.axis[2] + c, x,
                                                 outside - inside, y.axis[2], W.step * pixel, count,
                                                 line_sums, lanes<T>);
            for (int t = 0; t < some; ++t) {
              Vec<T> sum = load(line_sums + t * lanes<T>);
              for (i64 o = 0; o < W.count; ++o) {
                if (o == inside && inside < outside) o = outside;
                if (o >= W.count) break;
                const i64 from = border_index(W.source(o, jw + t), W.source_size, q.border);
                if (from >= 0)
                  sum += load_first(dy + o * y.axis[2] + c, count) *
                         load_first(source + from * pixel + c, count);
              }
              T* to = sums + (row * W.taps + jw + t) * blocks.stored + c;
              store(to, load(to) + sum);
            }
          }
          jw += some;
        }
      }
    }
    T* to = partial + part * filters;
    for (i64 jd = 0, tap = 0; jd < D.taps; ++jd)
      for (i64 jh = 0; jh < H.taps; ++jh)
        for (i64 jw = 0; jw < W.taps; ++jw, ++tap)
          for (i64 c = 0; c < q.groups; ++c)
            to[c * q.weight_group + q.weight_tap(jd, jh, jw)] = sums[tap * blocks.stored + c];
  });
  if (blocks.parts > 1) add_parts(partial, blocks.parts, filters, dw, b.threads);
}

template <class T>
std::size_t depthwise_scratch_bytes(const Correlation& q, Pass pass) {
  if (pass != Pass::bwd_weight)
    return std::size_t(q.axis[0].taps * q.axis[1].taps) * sizeof(DepthwiseRow<T>) +
           std::size_t(depthwise_edge * q.axis[2].taps) * sizeof(i64);
  const DepthwiseWeightBlocks blocks(q, lanes<T>, sizeof(T));
  return std::size_t(q.taps() * blocks.stored + depthwise_chunk * lanes<T>) * sizeof(T);
}

template <class T>
std::size_t depthwise_shared_bytes(const Correlation& q, Pass pass) {
  const DepthwiseWeightBlocks blocks(q, lanes<T>, sizeof(T));
  const i64 copies = pass != Pass::bwd_weight ? 1 : blocks.parts > 1 ? blocks.parts : 0;
  return std::size_t(copies * q.groups * q.taps()) * sizeof(T);
}

}  // namespace pyconv::PYCONV_TARGET

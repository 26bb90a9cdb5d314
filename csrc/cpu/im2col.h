// im2col in tiles: any rectangle of the column matrix, gathered straight from the source. The
// matrix itself is never built (but by the public im2col, which is asked for just that).
//
//   column[k, pixel] = source[c, i(pixel, tap)],  k = (c, tap) for NCHW, (tap, c) for NHWC,
//   so that the innermost index of k or pixel runs along memory.
#pragma once
#include "../correlation.h"
#include "../kernels.h"
#include "parallel.h"

namespace pyconv::PYCONV_TARGET {

// A result pixel: image and position within its phase.
struct Pixel {
  i64 n, o[3];
};

PYCONV_INLINE Pixel pixel_at(const Correlation& q, i64 index) {
  Pixel at;
  at.o[2] = index % q.axis[2].count;
  index /= q.axis[2].count;
  at.o[1] = index % q.axis[1].count;
  index /= q.axis[1].count;
  at.o[0] = index % q.axis[0].count;
  at.n = index / q.axis[0].count;
  return at;
}

PYCONV_INLINE i64 result_offset(const Correlation& q, const Pixel& at) {
  i64 offset = at.n * q.result.n;
  for (int a = 0; a < 3; ++a)
    offset += (q.axis[a].result_first + at.o[a] * q.axis[a].result_step) * q.result.axis[a];
  return offset;
}

// A map that a 1x1 filter reads at stride 1 has no rows: all of an image is one run.
PYCONV_INLINE Correlation without_rows(Correlation q) {
  for (const AxisMap& axis : q.axis)
    if (axis.taps != 1 || axis.step != 1 || axis.first != 0 || axis.result_step != 1 ||
        axis.count != axis.source_size)
      return q;
  q.axis[2].count = q.axis[2].source_size = q.image_pixels();
  for (int a = 0; a < 2; ++a) q.axis[a].count = q.axis[a].source_size = 1;
  return q;
}

// `count` positions first, first + step, ... of a row of `size` pixels; [low, high) of them lie
// inside it.
struct RowRun {
  i64 first, step, count, low, high;

  PYCONV_INLINE RowRun(i64 size, i64 from, i64 apart, i64 length)
      : first(from), step(apart), count(length), low(0), high(length) {
    if (first < 0) low = min_of<i64>(count, step == 1 ? -first : (-first - 1) / step + 1);
    if (first + (count - 1) * step >= size) {
      const i64 fit = size - first;  // positions first .. size - 1
      high = fit <= 0 ? 0 : step == 1 ? fit : (fit - 1) / step + 1;
      high = max_of(low, min_of(high, count));
    }
  }
};

// The elements of a run, `apart` of them from pixel to pixel. Outside the row the border rules.
template <class T>
PYCONV_INLINE void gather_row(const T* row, i64 apart, i64 size, const RowRun& run, Border border,
                              T* to) {
  auto outside = [&](i64 i) {
    const i64 from = border_index(run.first + i * run.step, size, border);
    to[i] = from < 0 ? T(0) : row[from * apart];
  };
  for (i64 i = 0; i < run.low; ++i) outside(i);
  if (run.low < run.high) {  // else `first` and `step` may lie further out than a pointer reaches
    const T* inside = row + (run.first + run.low * run.step) * apart;
    const i64 stride = run.high - run.low > 1 ? run.step * apart : 1;
    if (stride == 1)
      for (i64 i = run.low; i < run.high; ++i) to[i] = inside[i - run.low];
    else
      for (i64 i = run.low; i < run.high; ++i) to[i] = inside[(i - run.low) * stride];
  }
  for (i64 i = run.high; i < run.count; ++i) outside(i);
}

template <class T>
PYCONV_INLINE void gather_row(const T* row, i64 apart, i64 size, i64 first, i64 step, i64 count,
                              Border border, T* to) {
  gather_row(row, apart, size, RowRun(size, first, step, count), border, to);
}

// Whole vectors: up to a vector more than `count` is written; nothing from `end` on is read.
template <class T>
PYCONV_INLINE void copy_run(const T* from, i64 step, i64 count, const T* end, T* to) {
  i64 i = 0;
  if (step == 1) {
    const i64 safe = min_of(count, end - from - lanes<T> + 1);
    for (; i < safe; i += lanes<T>) store(to + i, load(from + i));
  } else if (step == 2) {
    const i64 room = end - from - 2 * lanes<T>;
    const i64 safe = room < 0 ? 0 : min_of(count, room / 2 + 1);
    for (; i < safe; i += lanes<T>)
      store(to + i, every_other<T>(load(from + 2 * i), load(from + 2 * i + lanes<T>), 0));
  }
  for (; i < count; ++i) to[i] = from[i * step];
}

template <class T>
PYCONV_INLINE void zero_run(i64 count, T* to) {
  for (i64 i = 0; i < count; i += lanes<T>) store(to + i, Vec<T>{});
}

// A rectangle of the column matrix of one group: rows [k0, k1), columns [pixel0, pixel0 + pixels).
// `source` is the group's first channel; nothing from `end` on is read. What runs along memory
// there runs along memory here: element (k, pixel) goes to to[(k - k0) * pitch + pixel - pixel0]
// from NCHW, to to[(pixel - pixel0) * pitch + k - k0] from NHWC, and a vector behind each row is
// zero.
template <class T>
struct ColumnBlock {
  const T *source, *end;
  i64 k0, k1, pixel0, pixels;
  T* to;
  i64 pitch;
};

template <class T>
void gather_columns_nchw(const Correlation& q, const ColumnBlock<T>& block) {
  const AxisMap &D = q.axis[0], &H = q.axis[1], &W = q.axis[2];
  const i64 taps = q.taps();
  for (i64 done = 0; done < block.pixels;) {
    const Pixel at = pixel_at(q, block.pixel0 + done);
    const i64 length = min_of(W.count - at.o[2], block.pixels - done);
    for (i64 tap = 0; tap < min_of(taps, block.k1); ++tap) {
      const i64 jw = tap % W.taps, jh = tap / W.taps % H.taps, jd = tap / W.taps / H.taps;
      const i64 d = border_index(D.source(at.o[0], jd), D.source_size, q.border);
      const i64 h = border_index(H.source(at.o[1], jh), H.source_size, q.border);
      const bool outside = d < 0 || h < 0;
      const RowRun run(W.source_size, W.source(at.o[2], jw), W.step, length);
      const bool zeros = q.border == Border::zeros || (run.low == 0 && run.high == length);
      const bool some = run.low < run.high;
      const i64 inside = some ? run.first + run.low * run.step : 0;
      const i64 step = run.high - run.low > 1 ? run.step : 1;
      // The channels whose row of this tap is asked for.
      const i64 c0 = block.k0 <= tap ? 0 : ceil_div(block.k0 - tap, taps);
      const i64 c1 = (block.k1 - 1 - tap) / taps + 1;
      T* to = block.to + (c0 * taps + tap - block.k0) * block.pitch + done;
      const T* row = block.source + at.n * q.source.n + c0 * q.source.c;
      if (!outside) row += d * q.source.axis[0] + h * q.source.axis[1];
      for (i64 c = c0; c < c1; ++c, to += taps * block.pitch, row += q.source.c) {
        if (outside || !some) {
          zero_run(length, to);
        } else {
          if (run.low) zero_run(run.low, to);
          copy_run(row + inside, step, run.high - run.low, block.end, to + run.low);
          if (run.high < length) zero_run(length - run.high, to + run.high);
        }
        if (!outside && !zeros) gather_row(row, 1, W.source_size, run, q.border, to);
      }
    }
    done += length;
  }
  for (i64 k = 0; k < block.k1 - block.k0; ++k)
    store(block.to + k * block.pitch + block.pixels, Vec<T>{});
}

template <class T>
void gather_columns_nhwc(const Correlation& q, const ColumnBlock<T>& block) {
  const AxisMap &D = q.axis[0], &H = q.axis[1], &W = q.axis[2];
  const i64 channels = q.source_channels, width = W.taps * channels;
  // Neighbouring taps of a row that are neighbours in memory are one run.
  const bool together =
      W.tap_step == 1 && q.source.axis[2] == channels && q.border == Border::zeros;
  for (i64 done = 0; done < block.pixels;) {
    const Pixel at = pixel_at(q, block.pixel0 + done);
    const i64 length = min_of(W.count - at.o[2], block.pixels - done);
    for (i64 line = block.k0 / width; line * width < block.k1; ++line) {
      const i64 d = border_index(D.source(at.o[0], line / H.taps), D.source_size, q.border);
      const i64 h = border_index(H.source(at.o[1], line % H.taps), H.source_size, q.border);
      const bool outside = d < 0 || h < 0;
      const T* row = block.source + at.n * q.source.n;
      if (!outside) row += d * q.source.axis[0] + h * q.source.axis[1];
      const i64 first = max_of<i64>(0, block.k0 - line * width);
      const i64 last = min_of(width, block.k1 - line * width);
      T* to = block.to + done * block.pitch + line * width - block.k0;
      for (i64 i = 0; i < length; ++i, to += block.pitch) {
        if (outside) {
          zero_run(last - first, to + first);
        } else if (together) {
          const i64 start = W.source(at.o[2] + i, 0) * channels;  // of tap 0, maybe outside
          const i64 low = max_of(first, min_of(last, -start));
          const i64 high = max_of(low, min_of(last, W.source_size * channels - start));
          if (first < low) zero_run(low - first, to + first);
          if (low < high) copy_run(row + (start + low), 1, high - low, block.end, to + low);
          if (high < last) zero_run(last - high, to + high);
        } else {
          for (i64 jw = first / channels; jw * channels < last; ++jw) {
            const i64 low = max_of(first, jw * channels), high = min_of(last, (jw + 1) * channels);
            const i64 w = border_index(W.source(at.o[2] + i, jw), W.source_size, q.border);
            if (w < 0)
              zero_run(high - low, to + low);
            else
              copy_run(row + (w * q.source.axis[2] + low - jw * channels), 1, high - low, block.end,
                       to + low);
          }
        }
      }
    }
    done += length;
  }
  for (i64 i = 0; i < block.pixels; ++i)
    store(block.to + i * block.pitch + block.k1 - block.k0, Vec<T>{});
}

template <class T>
PYCONV_NOINLINE void gather_columns(const Correlation& q, const ColumnBlock<T>& block) {
  if (q.layout == Layout::nhwc)
    gather_columns_nhwc(q, block);
  else
    gather_columns_nchw(q, block);
}

// Elements of all images of the source: where it ends.
PYCONV_INLINE i64 source_elements(const Correlation& q) {
  return q.n * q.source.n;
}

// The public im2col: the whole matrix of every image, columns (N, C R S, P Q).
template <class T>
void im2col(const ConvProblem& p, const Buffers& buffers) {
  const Correlation q = correlation(p, Pass::fwd);
  const T* x = static_cast<const T*>(buffers.a);
  T* columns = static_cast<T*>(buffers.out);
  const AxisMap &D = q.axis[0], &H = q.axis[1], &W = q.axis[2];
  parallel_for(p.n * p.c, buffers.threads, [&](i64 plane, int) {
    const T* image = x + plane / p.c * q.source.n + plane % p.c * q.source.c;
    T* to = columns + plane * q.taps() * q.image_pixels();
    for (i64 jd = 0; jd < D.taps; ++jd)
      for (i64 jh = 0; jh < H.taps; ++jh)
        for (i64 jw = 0; jw < W.taps; ++jw)
          for (i64 z = 0; z < D.count; ++z)
            for (i64 y = 0; y < H.count; ++y, to += W.count) {
              const i64 d = border_index(D.source(z, jd), D.source_size, q.border);
              const i64 h = border_index(H.source(y, jh), H.source_size, q.border);
              if (d < 0 || h < 0)
                for (i64 i = 0; i < W.count; ++i) to[i] = T(0);
              else
                gather_row(image + d * q.source.axis[0] + h * q.source.axis[1], 1, W.source_size,
                           W.source(0, jw), W.step, W.count, q.border, to);
            }
  });
}

// Its adjoint: every column element is added to the pixel it came from, in the order of the taps.
template <class T>
void col2im(const ConvProblem& p, const Buffers& buffers) {
  const Correlation q = correlation(p, Pass::fwd);
  const T* columns = static_cast<const T*>(buffers.a);
  T* x = static_cast<T*>(buffers.out);
  const AxisMap &D = q.axis[0], &H = q.axis[1], &W = q.axis[2];
  parallel_for(p.n * p.c, buffers.threads, [&](i64 plane, int) {
    const i64 n = plane / p.c, c = plane % p.c;
    T* image = x + n * q.source.n + c * q.source.c;
    for (i64 i = 0; i < p.in_pixels(); ++i) image[i] = T(0);
    const T* from = columns + plane * q.taps() * q.image_pixels();
    for (i64 jd = 0; jd < D.taps; ++jd)
      for (i64 jh = 0; jh < H.taps; ++jh)
        for (i64 jw = 0; jw < W.taps; ++jw)
          for (i64 z = 0; z < D.count; ++z)
            for (i64 y = 0; y < H.count; ++y, from += W.count) {
              const i64 d = border_index(D.source(z, jd), D.source_size, p.border);
              const i64 h = border_index(H.source(y, jh), H.source_size, p.border);
              if (d < 0 || h < 0) continue;
              T* row = image + d * q.source.axis[0] + h * q.source.axis[1];
              for (i64 o = 0; o < W.count; ++o) {
                const i64 w = border_index(W.source(o, jw), W.source_size, p.border);
                if (w >= 0) row[w] += from[o];
              }
            }
  });
}

}  // namespace pyconv::PYCONV_TARGET

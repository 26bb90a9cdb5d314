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

// `count` source elements at positions first, first + step, ... of a row of `size` pixels, `apart`
// elements from pixel to pixel. Outside the row the border rules.
template <class T>
PYCONV_INLINE void gather_row(const T* row, i64 apart, i64 size, i64 first, i64 step, i64 count,
                              Border border, T* to) {
  i64 low = 0, high = count;  // [low, high): inside the row
  if (first < 0) low = min_of<i64>(count, step == 1 ? -first : (-first - 1) / step + 1);
  const i64 last = first + (count - 1) * step;
  if (last >= size) {
    const i64 fit = size - first;  // positions first .. size - 1
    high = fit <= 0 ? 0 : step == 1 ? fit : (fit - 1) / step + 1;
    high = max_of(low, min_of(high, count));
  }
  auto outside = [&](i64 i) {
    const i64 from = border_index(first + i * step, size, border);
    to[i] = from < 0 ? T(0) : row[from * apart];
  };
  for (i64 i = 0; i < low; ++i) outside(i);
  if (low < high) {  // else `first` and `step` may lie further out than a pointer reaches
    const T* inside = row + (first + low * step) * apart;
    const i64 stride = high - low > 1 ? step * apart : 1;
    if (stride == 1)
      for (i64 i = low; i < high; ++i) to[i] = inside[i - low];
    else
      for (i64 i = low; i < high; ++i) to[i] = inside[(i - low) * stride];
  }
  for (i64 i = high; i < count; ++i) outside(i);
}

// Rows [k0, k1) and columns [pixel0, pixel0 + pixels) of the column matrix of one group, whose
// channels begin at `source`. Element (k, pixel) goes to to[(k - k0) * k_step + pixel - pixel0].
template <class T>
void gather_columns_nchw(const Correlation& q, const T* source, i64 k0, i64 k1, i64 pixel0,
                         i64 pixels, T* to, i64 k_step) {
  const AxisMap &D = q.axis[0], &H = q.axis[1], &W = q.axis[2];
  for (i64 done = 0; done < pixels;) {
    const Pixel at = pixel_at(q, pixel0 + done);
    const i64 length = min_of(W.count - at.o[2], pixels - done);
    i64 tap = k0 % q.taps(), c = k0 / q.taps();
    i64 jw = tap % W.taps, jh = tap / W.taps % H.taps, jd = tap / W.taps / H.taps;
    const T* row = nullptr;
    bool stale = true;
    for (i64 k = k0; k < k1; ++k) {
      if (stale) {
        const i64 d = border_index(D.source(at.o[0], jd), D.source_size, q.border);
        const i64 h = border_index(H.source(at.o[1], jh), H.source_size, q.border);
        row = d < 0 || h < 0 ? nullptr
                             : source + at.n * q.source.n + c * q.source.c + d * q.source.axis[0] +
                                   h * q.source.axis[1];
        stale = false;
      }
      T* out = to + (k - k0) * k_step + done;
      if (row) {
        gather_row(row, 1, W.source_size, W.source(at.o[2], jw), W.step, length, q.border, out);
      } else {
        for (i64 i = 0; i < length; ++i) out[i] = T(0);
      }
      if (++jw == W.taps) {
        jw = 0;
        stale = true;
        if (++jh == H.taps) {
          jh = 0;
          if (++jd == D.taps) {
            jd = 0;
            ++c;
          }
        }
      }
    }
    done += length;
  }
}

// The same from NHWC, to to[(k - k0) * k_step + (pixel - pixel0) * pixel_step].
template <class T>
void gather_columns_nhwc(const Correlation& q, const T* source, i64 k0, i64 k1, i64 pixel0,
                         i64 pixels, T* to, i64 k_step, i64 pixel_step) {
  const i64 channels = q.source_channels;
  for (i64 i = 0; i < pixels; ++i) {
    const Pixel at = pixel_at(q, pixel0 + i);
    for (i64 k = k0; k < k1;) {
      const i64 tap = k / channels, c = k % channels;
      const i64 count = min_of(channels - c, k1 - k);
      const i64 j[3] = {tap / q.axis[2].taps / q.axis[1].taps,
                        tap / q.axis[2].taps % q.axis[1].taps, tap % q.axis[2].taps};
      const T* from = source + at.n * q.source.n + c;
      for (int a = 0; a < 3 && from; ++a) {
        const i64 s =
            border_index(q.axis[a].source(at.o[a], j[a]), q.axis[a].source_size, q.border);
        from = s < 0 ? nullptr : from + s * q.source.axis[a];
      }
      T* out = to + (k - k0) * k_step + i * pixel_step;
      if (k_step == 1) {
        for (i64 e = 0; e < count; ++e) out[e] = from ? from[e] : T(0);
      } else {
        for (i64 e = 0; e < count; ++e) out[e * k_step] = from ? from[e] : T(0);
      }
      k += count;
    }
  }
}

template <class T>
PYCONV_INLINE void gather_columns(const Correlation& q, const T* source, i64 k0, i64 k1, i64 pixel0,
                                  i64 pixels, T* to, i64 k_step) {
  if (q.layout == Layout::nhwc)
    gather_columns_nhwc(q, source, k0, k1, pixel0, pixels, to, k_step, 1);
  else
    gather_columns_nchw(q, source, k0, k1, pixel0, pixels, to, k_step);
}

// The public im2col: the whole matrix of every image, columns (N, C R S, P Q).
template <class T>
void im2col(const ConvProblem& p, const Buffers& buffers) {
  const Correlation q = correlation(p, Pass::fwd);
  const T* x = static_cast<const T*>(buffers.a);
  T* columns = static_cast<T*>(buffers.out);
  const i64 pixels = q.image_pixels(), depth = q.taps();
  parallel_for(p.n * p.c, buffers.threads, [&](i64 plane, int) {
    const i64 n = plane / p.c, c = plane % p.c;
    gather_columns(q, x + c * q.source.c, 0, depth, n * pixels, pixels,
                   columns + plane * depth * pixels, pixels);
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

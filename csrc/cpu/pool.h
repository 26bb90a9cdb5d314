// Pooling forward: a window's positions per axis, an operation over its taps.
//
//   max   y = max x, indices of the maxima        avg  y = sum(w x) / sum(w), w = 1 if not given
//   lp    y = (sum |x|^p)^(1/p)
//
// Bands of outputs run in parallel. Lanes are channels (NHWC) or neighbouring outputs of a row
// (NCHW), several vectors at once; there the rows are first copied with their padding, pixels apart
// by their phase in the stride, so that every tap of a vector is one load and no window hangs over
// an edge. Where one window is long, lanes are its taps. No result depends on threads, batch or
// place in the image.
#pragma once
#include <utility>

#include "pool_backward.h"
#include "pool_op.h"
#include "pool_scatter.h"
#include "pool_switch.h"

namespace pyconv::PYCONV_TARGET {

// Vectors of results at once, so that the loops over taps cost little; 4 where ArgMax's 3 registers
// a vector fit.
constexpr int pool_vectors = vector_registers / 8;

template <class V, bool Whole, class T>
PYCONV_INLINE V load_lanes(const T* p, int count) {
  V v{};
  if constexpr (Whole)
    __builtin_memcpy(&v, p, sizeof v);
  else if constexpr (sizeof v == PYCONV_VECTOR_BYTES)
    v = load_first(p, count);
  else
    __builtin_memcpy(&v, p, std::size_t(count) * sizeof(T));
  return v;
}

// sizeof...(J) vectors of results of windows with the same taps, `count` lanes of the last one; x
// is at the first tap. Whole: all lanes may be read.
template <class Op, bool Whole, class T, int... J>
PYCONV_INLINE void reduce(const Frame<T>& f, const Taps (&t)[3], i64 output, const T* x, T* y,
                          typename Op::Place* at, int count, std::integer_sequence<int, J...>) {
  const PoolProblem& p = f.p;
  const i64 first = (t[0].first * p.in[1] + t[1].first) * p.in[2] + t[2].first;
  const i64 first_tap = (t[0].skipped * p.window[1] + t[1].skipped) * p.window[2] + t[2].skipped;
  const Window window{t, first, first_tap, t[2].first, output};
  Op op[] = {Op(f, window, J)...};
  for (i64 z = 0; z < t[0].count; ++z)
    for (i64 h = 0; h < t[1].count; ++h) {
      i64 pixel = first + (z * p.dilation[0] * p.in[1] + h * p.dilation[1]) * p.in[2];
      i64 number = ((t[0].skipped + z) * p.window[1] + t[1].skipped + h) * p.window[2];
      number += t[2].skipped;
      const T* from = x + z * f.plane + h * f.row;
      i64 turned = 0;
      for (i64 w = 0; w < t[2].count; ++w) {
        (op[J].tap(load_lanes<typename Op::V, Whole>(from + turned + J * Op::width, count), pixel,
                   number),
         ...);
        pixel += p.dilation[2];
        number += 1;
        from += f.step;
        turned += f.turn;
        if (turned >= f.run) {
          turned -= f.run;
          ++from;
        }
      }
      (op[J].end_row(), ...);
    }
  constexpr int last = int(sizeof...(J)) - 1;
  auto put = [&](int j, int lanes_of) __attribute__((always_inline)) {
    const auto v = op[j].result(at ? at + j * Op::width : nullptr, lanes_of);
    if (lanes_of == Op::width)
      __builtin_memcpy(y + j * Op::width, &v, sizeof v);
    else if constexpr (sizeof v == PYCONV_VECTOR_BYTES)
      store_first(y + j * Op::width, v, lanes_of);
    else
      __builtin_memcpy(y + j * Op::width, &v, std::size_t(lanes_of) * sizeof(T));
  };
  (put(J, J == last ? count : Op::width), ...);
}

template <int Vectors>
using Several = std::make_integer_sequence<int, Vectors>;

// One result; lanes are neighbouring taps.
template <class Op, class T>
void long_window(const Frame<T>& f, const Taps (&t)[3], const T* x, T* y, typename Op::Place* at) {
  const PoolProblem& p = f.p;
  const i64 first = (t[0].first * p.in[1] + t[1].first) * p.in[2] + t[2].first;
  Op op(f, Window{t, first, 0, t[2].first, 0}, 0);
  for (i64 z = 0; z < t[0].count; ++z)
    for (i64 h = 0; h < t[1].count; ++h) {
      const i64 row = first + (z * p.dilation[0] * p.in[1] + h * p.dilation[1]) * p.in[2];
      const T* from = x + row;
      i64 w = 0;
      typename Op::V v{};
      for (; w + Op::width <= t[2].count; w += Op::width) {
        __builtin_memcpy(&v, from + w, sizeof v);
        op.tap(v, row + w, 0);
      }
      if (w < t[2].count) {
        v = typename Op::V{} + Op::filler(from[w]);
        __builtin_memcpy(&v, from + w, std::size_t(t[2].count - w) * sizeof(T));
        op.tap(v, row + w, 0);
      }
      op.end_row();
    }
  op.fold();
  const auto v = op.result(at, 1);
  y[0] = v[0];
}

// A row of outputs in NHWC.
template <class Op, class T>
void output_row_nhwc(const Frame<T>& f, Taps (&t)[3], const T* x, T* y, typename Op::Place* at) {
  const PoolProblem& p = f.p;
  const i64 channels = p.c;
  constexpr i64 wide = pool_vectors * Op::width;
  for (i64 o = 0; o < p.out[2]; ++o) {
    t[2] = taps_of(p, 2, o);
    const T* const from =
        x + ((t[0].first * p.in[1] + t[1].first) * p.in[2] + t[2].first) * channels;
    for (i64 c = 0; c < channels;) {
      const i64 to = o * channels + c;
      auto* const at_c = at ? at + to : nullptr;
      if (channels - c >= wide) {
        reduce<Op, true>(f, t, o, from + c, y + to, at_c, Op::width, Several<pool_vectors>());
        c += wide;
      } else if (channels - c >= Op::width) {
        reduce<Op, true>(f, t, o, from + c, y + to, at_c, Op::width, Several<1>());
        c += Op::width;
      } else {
        const int count = int(channels - c);
        reduce<Op, false>(f, t, o, from + c, y + to, at_c, count, Several<1>());
        c = channels;
      }
    }
  }
}

// Rows of outputs in NCHW
// ---------------------------------------------------------------------------

// How a call's rows are copied.
struct PoolBand {
  static constexpr i64 bytes = 32768;  // of a thread's stack: with what is read, within L1 and L2
  i64 phases, pitch;                   // elements of a phase of a row
  i64 columns;                         // outputs of a row at a time
  i64 rows;                            // input rows; 0 where not even one vector's window fits

  template <class T>
  static PYCONV_INLINE PoolBand of(const PoolProblem& p, int width) {
    const i64 capacity = bytes / i64(sizeof(T)), reach = (p.window[2] - 1) * p.dilation[2];
    const i64 high = (p.window[1] - 1) * p.dilation[1] + 1, deep = p.window[0];
    PoolBand b{p.stride[2], 0, 0, 0};
    if (double(high) * double(deep) * double(b.phases) > double(capacity) || reach > capacity)
      return b;
    const i64 room = capacity / (high * deep * b.phases) - reach / b.phases - 1;
    b.columns = min_of(round_up(p.out[2], width), room / width * width);
    if (b.columns < width) return PoolBand{};
    b.pitch = b.columns + reach / b.phases + 1;
    b.rows = capacity / (b.pitch * b.phases) / deep;
    return b;
  }
};

// A row's columns [first, ...) into all of its phases; `padding` where they are not the input's.
template <class T>
PYCONV_INLINE void copy_row(const T* row, i64 width, i64 first, const PoolBand& b, T padding,
                            T* to) {
  const i64 size = b.phases * b.pitch;
  for (i64 i = 0; i < size; ++i) to[i] = padding;
  const i64 begin = max_of<i64>(first, 0), end = min_of(width, first + size);
  if (b.phases == 1) {
    if (end > begin)
      __builtin_memcpy(to + begin - first, row + begin, std::size_t(end - begin) * sizeof(T));
    return;
  }
  i64 i = begin;
  if (b.phases == 2) {
    T* const own = to + (begin - first) % 2 * b.pitch + (begin - first) / 2;
    T* const other = to + (begin - first + 1) % 2 * b.pitch + (begin - first + 1) / 2;
    for (i64 j = 0; i + 2 * lanes<T> <= end; i += 2 * lanes<T>, j += lanes<T>) {
      const Vec<T> low = load(row + i), high = load(row + i + lanes<T>);
      store(own + j, every_other<T>(low, high, 0));
      store(other + j, every_other<T>(low, high, 1));
    }
    if (const i64 left = end - i; left > 0) {  // of rows below two vectors all
      const i64 j = (i - begin) / 2;
      const Vec<T> low = load_first(row + i, int(min_of<i64>(left, lanes<T>)));
      const Vec<T> high =
          left > lanes<T> ? load_first(row + i + lanes<T>, int(left - lanes<T>)) : Vec<T>{};
      store_first(own + j, every_other<T>(low, high, 0), int((left + 1) / 2));
      store_first(other + j, every_other<T>(low, high, 1), int(left / 2));
    }
    return;
  }
  i64 phase = (i - first) % b.phases, at = (i - first) / b.phases;
  for (; i < end; ++i) {
    to[phase * b.pitch + at] = row[i];
    if (++phase == b.phases) {
      phase = 0;
      ++at;
    }
  }
}

// Outputs [begin, end) of rows (z, *) of one channel.
template <class Op, class T>
void output_band(Frame<T> f, const PoolBand& b, i64 z, i64 begin, i64 end, const T* x, T* y,
                 typename Op::Place* at) {
  const PoolProblem& p = f.p;
  alignas(64) T band[PoolBand::bytes / sizeof(T)];
  alignas(64) T divisors[Op::divides ? PoolBand::bytes / sizeof(T) / 2 : 1];
  const i64 row = b.phases * b.pitch;
  Taps t[3] = {taps_of(p, 0, z), {}, {}};
  for (i64 o = 0; o < p.out[2]; o += b.columns) {
    const i64 columns = min_of(b.columns, p.out[2] - o), start = o * p.stride[2] - p.pad[2];
    if constexpr (Op::divides)
      if (f.columns) {
        f.columns = divisors;
        for (i64 i = 0; i < b.columns; ++i)
          divisors[i] = i < columns ? T(counted(p, taps_of(p, 2, o + i))) : T(1);
      }
    i64 top = 0, done = 0;  // the band's rows begin at `top` and end before `done`
    for (i64 h = begin; h < end; ++h) {
      t[1] = taps_of(p, 1, h);
      const i64 last = t[1].first + (t[1].count - 1) * p.dilation[1];
      if (h == begin || last - top >= b.rows) {
        top = done = max_of<i64>(0, h * p.stride[1] - p.pad[1]);  // dilated, the first tap may lie
                                                                  // before that of the row above
      }
      for (; done <= last; ++done)
        for (i64 k = 0; k < t[0].count; ++k)
          copy_row(x + ((t[0].first + k * p.dilation[0]) * p.in[1] + done) * p.in[2], p.in[2],
                   start, b, Op::padding, band + (k * b.rows + done - top) * row);
      const T* const from = band + (t[1].first - top) * row;
      for (i64 i = 0; i < columns;) {
        t[2] = {start + i * p.stride[2], p.window[2], 0, p.window[2]};
        const i64 to = h * p.out[2] + o + i;
        auto* const at_o = at ? at + to : nullptr;
        if (columns - i >= pool_vectors * Op::width) {
          reduce<Op, true>(f, t, i, from + i, y + to, at_o, Op::width, Several<pool_vectors>());
          i += pool_vectors * Op::width;
        } else {
          const int count = int(min_of<i64>(Op::width, columns - i));
          reduce<Op, true>(f, t, i, from + i, y + to, at_o, count, Several<1>());
          i += Op::width;
        }
      }
    }
  }
}

template <class Op, class One, class T>
void forward(const PoolProblem& p, const Buffers& b) {
  const bool nhwc = p.layout == Layout::nhwc;
  const i64 channels = nhwc ? p.c : 1;
  const i64 row = p.in[2] * channels;
  Frame<T> f{p,
             p.weighted ? static_cast<const T*>(b.b) : nullptr,
             nullptr,
             p.dilation[0] * p.in[1] * row,
             p.dilation[1] * row,
             p.dilation[2] * channels,
             0,
             1,
             nhwc ? 0 : 1};
  using Place = typename Op::Place;
  const bool along_window = sizeof(Place) > 1 && !nhwc && !p.weighted && p.dilation[2] == 1 &&
                            p.window[2] >= 8 &&
                            (p.adaptive || p.stride[2] > 2 || p.out[2] < Op::width);
  PoolBand band{};
  if (!nhwc && !along_window && !p.adaptive) band = PoolBand::of<T>(p, Op::width);
  const bool equal = !Op::divides || divides_equally(p, 2);
  if (p.weighted && !equal) band.rows = 0;
  if (band.rows) {
    const i64 size = band.phases * band.pitch, reach = p.dilation[2];
    f.plane = band.rows * size;
    f.row = p.dilation[1] * size;
    f.step = reach / band.phases;
    f.turn = reach % band.phases * band.pitch;
    f.run = size;
    f.lane_pixels = p.stride[2];
    if (!equal) f.columns = static_cast<const T*>(b.a);
  }
  const i64 work = max_of(p.in_pixels(), p.out_pixels()) / (p.out[0] * p.out[1]) * channels;
  parallel_rows(
      nhwc ? p.n : p.n * p.c, p.out, work, b.threads, [&](i64 image, i64 z, i64 begin, i64 end) {
        const T* const x = static_cast<const T*>(b.a) + image * p.in_pixels() * channels;
        const i64 to = (image * p.out[0] + z) * p.out[1] * p.out[2] * channels;
        T* const y = static_cast<T*>(b.out) + to;
        Place* const at = b.aux ? static_cast<Place*>(b.aux) + to : nullptr;
        if (band.rows) return output_band<Op>(f, band, z, begin, end, x, y, at);
        Taps t[3] = {taps_of(p, 0, z), {}, {}};
        for (i64 h = begin; h < end; ++h) {
          t[1] = taps_of(p, 1, h);
          const i64 first = h * p.out[2] * channels;
          if (nhwc) {
            output_row_nhwc<Op>(f, t, x, y + first, at ? at + first : nullptr);
            continue;
          }
          for (i64 o = 0; o < p.out[2]; ++o) {
            t[2] = taps_of(p, 2, o);
            auto* const at_o = at ? at + first + o : nullptr;
            if (along_window)
              long_window<Op>(f, t, x, y + first + o, at_o);
            else
              reduce<One, true>(f, t, o,
                                x + (t[0].first * p.in[1] + t[1].first) * p.in[2] + t[2].first,
                                y + first + o, at_o, 1, Several<1>());
          }
        }
      });
}

template <class T>
void pool(const PoolProblem& asked, Pass pass, const Buffers& b) {
  if (asked.n == 0) return;
  if (asked.kind == PoolKind::unpool)
    return scatter<T, false>(asked, asked.in_pixels(), asked.out_pixels(), b);
  if (asked.kind == PoolKind::max && pass != Pass::fwd)
    return scatter<T, true>(asked, asked.out_pixels(), asked.in_pixels(), b);
  using I32 = std::int32_t;
  constexpr int width = lanes<T>;
  if (asked.kind == PoolKind::switches) {
    if (pass != Pass::fwd) return switch_backward<T>(asked, b);
    using Byte = std::uint8_t;
    if constexpr (sizeof(T) == sizeof(I32))
      return forward<ArgMax<T, I32, width, Byte>, ArgMax<T, I32, 1, Byte>, T>(asked, b);
    return forward<ArgMax<T, i64, lanes<double>, Byte>, ArgMax<T, i64, 1, Byte>, T>(asked, b);
  }
  const PoolProblem p = simplified(asked);
  if (pass != Pass::fwd) return backward<T>(p, b);
  switch (p.kind) {
    case PoolKind::avg:
      return p.weighted ? forward<Average<T, true, width>, Average<T, true, 1>, T>(p, b)
                        : forward<Average<T, false, width>, Average<T, false, 1>, T>(p, b);
    case PoolKind::lp: return forward<Lp<T, width>, Lp<T, 1>, T>(p, b);
    default: break;
  }
  if (!b.aux) return forward<Max<T, width>, Max<T, 1>, T>(p, b);
  if constexpr (sizeof(T) == sizeof(I32))
    if (p.in_pixels() <= INT32_MAX)
      return forward<ArgMax<T, I32, width>, ArgMax<T, I32, 1>, T>(p, b);
  forward<ArgMax<T, i64, lanes<double>>, ArgMax<T, i64, 1>, T>(p, b);
}

}  // namespace pyconv::PYCONV_TARGET

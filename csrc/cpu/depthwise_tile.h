// The register tiles of depthwise convolution (depthwise.h), lanes along channels: 7 pixels of one
// or two lines, whose sums stay in registers over all taps; of a weight gradient, the taps of a row
// of the filter, over 7 pixels. A pixel of the source is loaded once for all the taps of a row, or
// of two rows, that meet it. A table says where the columns of a tile lie, so that borders, steps
// and phases need neither copies nor code of their own; a column outside is skipped.
#pragma once
#include "direct_tile.h"
#include "epilogue.h"

namespace pyconv::PYCONV_TARGET {

constexpr int depthwise_pixels = 7;  // maps of 224-pixel networks are 7 times a power of two wide
// Two lines' 14 sums, 14 weights of 7 taps and a pixel fill 32 registers; 7 sums alone would wait
// for each other: two FMAs a cycle take 8.
constexpr int depthwise_lines = vector_registers == 32 ? 2 : 1;

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
  // Whether all columns of a whole tile lie inside.
  PYCONV_INLINE bool inside(i64 o) const {
    const i64 a = W.source(o, 0), b = W.source(o, W.taps - 1);
    return min_of(a, b) >= 0 && max_of(a, b) + (depthwise_pixels - 1) * W.step < W.source_size;
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

// A row of source pixels and, for each line of the tile, the weights, or sums, of the row of the
// filter that meets it, or nullptr.
template <class T>
struct DepthwiseRow {
  const T* source;
  T* taps[depthwise_lines];  // [tap, channel]
};

template <class T>
struct DepthwiseTile {
  const DepthwiseRow<T>* rows;
  i64 row_count;
  const i64* columns;
  i64 shift;           // from there to the columns of this tile
  i64 taps, tap_step;  // of W; in [tap, channel]
  i64 channel, last;   // of the task
  int pixels, lines;
  i64 at, step, line_step;   // results: the first one's offset, to the next one and the next line
  const T* ahead = nullptr;  // what a tile soon after reads or writes first, in as many lines
  i64 ahead_step = 0;        // its pixels
  int ahead_count = 0;

  PYCONV_INLINE void fetch(i64 c) const {
    const T* from = ahead + c;
    for (int l = 0; l < lines; ++l, from += line_step)
      for (int i = 0; i < ahead_count; ++i) __builtin_prefetch(from + i * ahead_step);
  }
};

template <class T>
struct DepthwiseForward {
  const Epilogue<T>& end;

  template <int TAPS, int STEP, bool WHOLE>
  PYCONV_NOINLINE void run(const DepthwiseTile<T>& a, i64 c, i64 last, int count) const {
    for (; c < last; c += lanes<T>) {
      Vec<T> sums[depthwise_lines][depthwise_pixels];
      unrolled<depthwise_lines>([&](auto l) PYCONV_ALWAYS {
        unrolled<depthwise_pixels>([&](auto i) PYCONV_ALWAYS { sums[l][i] = Vec<T>{}; });
      });
      a.fetch(c);
      // The taps of a row of the source, of LINES lines from `first` on.
      const auto add = [&](const DepthwiseRow<T>& row, auto first, auto line_count) PYCONV_ALWAYS {
        constexpr int LINES = decltype(line_count){};
        const T* x = row.source + a.shift + c;
        for (i64 j0 = 0; j0 < (STEP ? 1 : a.taps); ++j0) {
          const i64* columns = a.columns + j0 * depthwise_pixels;
          Vec<T> weight[LINES][TAPS];
          unrolled<LINES>([&](auto l) PYCONV_ALWAYS {
            const T* w = row.taps[first + l] + j0 * a.tap_step + c;
            unrolled<TAPS>([&](auto j) PYCONV_ALWAYS {
              weight[l][j] = once<T>(load_part<T, WHOLE>(w + j * a.tap_step, count));
            });
          });
          unrolled<depthwise_columns<TAPS, STEP ? STEP : 1>>([&](auto e) PYCONV_ALWAYS {
            const i64 from = columns[e];
            if (from < 0) return;
            const Vec<T> pixel = once<T>(load_part<T, WHOLE>(x + from, count));
            unrolled<LINES>([&](auto l) PYCONV_ALWAYS {
              unrolled<TAPS>([&](auto j) PYCONV_ALWAYS {
                constexpr int step = STEP ? STEP : 1, apart = decltype(e){} - decltype(j){};
                if constexpr (apart >= 0 && apart % step == 0 && apart / step < depthwise_pixels)
                  sums[first + l][apart / step] += weight[l][j] * pixel;
              });
            });
          });
        }
      };
      for (i64 r = 0; r < a.row_count; ++r) {
        const DepthwiseRow<T>& row = a.rows[r];
        if constexpr (depthwise_lines == 2) {
          if (row.taps[0] && row.taps[1])
            add(row, Constant<0>{}, Constant<2>{});
          else if (row.taps[0])
            add(row, Constant<0>{}, Constant<1>{});
          else
            add(row, Constant<1>{}, Constant<1>{});
        } else {
          add(row, Constant<0>{}, Constant<1>{});
        }
      }
      if (end.plain()) {
        unrolled<depthwise_lines>([&](auto l) PYCONV_ALWAYS {
          if (l >= a.lines) return;
          T* to = end.out + a.at + l * a.line_step + c;
          unrolled<depthwise_pixels>([&](auto i) PYCONV_ALWAYS {
            if (i < a.pixels) store_part<T, WHOLE>(to + i * a.step, sums[l][i], count);
          });
        });
        continue;
      }
      T kept[depthwise_lines * depthwise_pixels * lanes<T>];
      unrolled<depthwise_lines>([&](auto l) PYCONV_ALWAYS {
        unrolled<depthwise_pixels>([&](auto i) PYCONV_ALWAYS {
          store(kept + (l * depthwise_pixels + i) * lanes<T>, sums[l][i]);
        });
      });
      for (int l = 0; l < a.lines; ++l)
        end.store_channels(kept + l * depthwise_pixels * lanes<T>, lanes<T>, c,
                           a.at + l * a.line_step + c, a.step, WHOLE ? lanes<T> : count, a.pixels);
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
        const T *x = a.rows[r].source + a.shift + c, *gradient = dy + a.at + c;
        T* to = a.rows[r].taps[0] + c - a.channel;
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

}  // namespace pyconv::PYCONV_TARGET

// The register tiles of direct_channels.h: pixels x vectors of result channels.
//
// 28 sums, of 28 pixels x 1 vector or 14 x 2, stay in registers over all channels and taps of a
// band: a weight is loaded once for all of them, a pixel is the broadcast operand of its FMAs.
#pragma once
#include "band.h"
#include "direct_tile.h"

namespace pyconv::PYCONV_TARGET {

// Of 32 registers 28 hold sums, 2 weights, 1 a pixel; of 16, 12.
constexpr int channel_sums = vector_registers == 32 ? 28 : 12;
// A tile is up to 4 runs of up to 8 neighbouring pixels, of one line or several: maps of
// 224-pixel networks are 7 times a power of two wide.
constexpr int channel_runs = 4, channel_run = 8;
constexpr i64 most_channel_taps = 1024;
constexpr int channel_runs_of(int pixels, int vectors) {
  const int runs = channel_sums / (pixels * vectors);
  return runs < channel_runs ? runs : channel_runs;
}

template <class T>
struct ChannelSum {
  const i64* taps;  // offsets in a channel of the band
  i64 count, channels, band_channel;
};

template <class T>
struct PixelRuns {
  const T* from[channel_runs];
  T* to[channel_runs];
  i64 step;  // from result to result
};

// w: [c, tap, k]
template <class T, int RUNS, int PIXELS, int VECTORS>
PYCONV_NOINLINE void sum_pixels(const ChannelSum<T>& a, const PixelRuns<T>& tile, const T* w) {
  Vec<T> sums[RUNS][PIXELS][VECTORS];
  const T* from[RUNS];
  unrolled<RUNS>([&](auto r) PYCONV_ALWAYS {
    from[r] = tile.from[r];
    unrolled<PIXELS>([&](auto i) PYCONV_ALWAYS {
      unrolled<VECTORS>([&](auto v) PYCONV_ALWAYS { sums[r][i][v] = Vec<T>{}; });
    });
  });
  for (i64 c = 0; c < a.channels; ++c) {
    const i64* const last = a.taps + a.count;
    const i64 next = c + 1 < a.channels ? a.band_channel : 0;
    for (const i64* tap = a.taps; tap != last; ++tap) {
      Vec<T> weight[VECTORS];
      unrolled<VECTORS>([&](auto v) PYCONV_ALWAYS { weight[v] = load_once(w + v * lanes<T>); });
      unrolled<RUNS>([&](auto r) PYCONV_ALWAYS {
        const T* x = from[r] + *tap;
        // The next channel, from an L2 cache: 142 GFLOP/s a core instead of 134 for 128 channels.
        if constexpr (VECTORS > 1) __builtin_prefetch(x + next);
        unrolled<PIXELS>([&](auto i) PYCONV_ALWAYS {
          const Vec<T> pixel = VECTORS == 1 ? splat(x[i]) : once<T>(splat(x[i]));
          unrolled<VECTORS>([&](auto v) PYCONV_ALWAYS { sums[r][i][v] += pixel * weight[v]; });
        });
      });
      w += VECTORS * lanes<T>;
    }
    unrolled<RUNS>([&](auto r) PYCONV_ALWAYS { from[r] += a.band_channel; });
  }
  unrolled<RUNS>([&](auto r) PYCONV_ALWAYS {
    unrolled<PIXELS>([&](auto i) PYCONV_ALWAYS {
      unrolled<VECTORS>([&](auto v) PYCONV_ALWAYS {
        store(tile.to[r] + i * tile.step + v * lanes<T>, sums[r][i][v]);
      });
    });
  });
}

template <class T>
using SumPixels = void (*)(const ChannelSum<T>&, const PixelRuns<T>&, const T* w);

template <class T, int VECTORS>
PYCONV_INLINE SumPixels<T> sum_pixels_of(i64 runs, i64 pixels) {
  SumPixels<T> found = nullptr;
  unrolled<channel_run>([&](auto i) PYCONV_ALWAYS {
    unrolled<channel_runs_of(i + 1, VECTORS)>([&](auto r) PYCONV_ALWAYS {
      if (runs == r + 1 && pixels == i + 1) found = sum_pixels<T, r + 1, i + 1, VECTORS>;
    });
  });
  return found;
}

// Columns as `runs` runs of `pixels` and a narrower one.
struct ColumnRuns {
  i64 pixels, runs, rest;

  // The cheapest: FMAs and loads go two a cycle, an FMA takes 4.
  ColumnRuns(i64 columns, int vectors) : pixels(1), runs(columns), rest(0) {
    double least = 1e30;
    for (int width = 1; width <= channel_run && channel_runs_of(width, vectors); ++width) {
      const i64 narrow = columns % width;
      const double cost = double(columns / width) * run_cost(width, vectors) +
                          (narrow ? run_cost(int(narrow), vectors) : 0);
      if (cost > least) continue;
      least = cost;
      pixels = width;
      runs = columns / width;
      rest = narrow;
    }
  }

 private:
  static double run_cost(int pixels, int vectors) {
    const int runs = channel_runs_of(pixels, vectors), together = runs * pixels;
    const double loads = double(together + vectors + 1);
    return (1 + max_of(4.0, max_of(double(together * vectors), loads) / 2)) / runs;
  }
};

}  // namespace pyconv::PYCONV_TARGET

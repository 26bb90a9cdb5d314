// The register tile of the weight gradients whose lanes are channels: an outer product of a run of
// neighbouring values of x, each broadcast from memory, and vectors of dy, summed over pixels (or,
// in Winograd's, over tiles).
#pragma once
#include "direct_tile.h"

namespace pyconv::PYCONV_TARGET {

// With 32 registers 6 rows x 4 vectors, 9 x 3, 14 x 2 (the rest hold operands): at most 0.58 loads
// for each FMA, of which a core issues two a cycle. One vector alone reads its rows as operands.
constexpr int channel_vectors = vector_registers == 32 ? 4 : 3;
constexpr int channel_rows(int vectors) {
  return vectors == 1 ? vector_registers / 4 * 3 : (vector_registers - 1 - vectors) / vectors;
}

// How one of the two operands lies: elements from pixel to pixel, line to line, image to image.
struct Walk {
  i64 pixel, line, image;
};

// What comes next in memory, asked for a little with every pixel. (1x1 at 56x56, 64 to 256
// channels, one core: 94 GFLOP/s without, 88 with as much asked for at once after every tile, 132
// with this.)
struct Stream {
  std::size_t at;
  std::size_t step;  // bytes
};

struct PixelBox {
  Walk x, dy;
  i64 images, lines, pixels;
  bool add;
  Stream ahead[2];
};

// sums[rows[r] + .] += sum over a box of x[r] * dy[.]
template <class T, int ROWS, int VECTORS>
PYCONV_NOINLINE void sum_channels(PixelBox& box, const T* x, const T* dy, const i64* rows,
                                  T* sums) {
  Vec<T> tile[ROWS][VECTORS];
  unrolled<ROWS>([&](auto r) PYCONV_ALWAYS {
    unrolled<VECTORS>([&](auto v) PYCONV_ALWAYS { tile[r][v] = Vec<T>{}; });
  });
  Stream first = box.ahead[0], second = box.ahead[1];
  for (i64 image = 0; image < box.images; ++image)
    for (i64 line = 0; line < box.lines; ++line) {
      const T* left = x + image * box.x.image + line * box.x.line;
      const T* right = dy + image * box.dy.image + line * box.dy.line;
      for (i64 i = box.pixels; i > 0; --i, left += box.x.pixel, right += box.dy.pixel) {
        __builtin_prefetch(reinterpret_cast<const void*>(first.at), 0, 2);
        __builtin_prefetch(reinterpret_cast<const void*>(second.at), 0, 2);
        first.at += first.step;
        second.at += second.step;
        Vec<T> k[VECTORS];
        unrolled<VECTORS>([&](auto v) PYCONV_ALWAYS { k[v] = load_once(right + v * lanes<T>); });
        unrolled<ROWS>([&](auto r) PYCONV_ALWAYS {
          const Vec<T> c = VECTORS > 1 ? once<T>(splat(left[r])) : splat(left[r]);
          unrolled<VECTORS>([&](auto v) PYCONV_ALWAYS { tile[r][v] += c * k[v]; });
        });
      }
    }
  box.ahead[0].at = first.at;
  box.ahead[1].at = second.at;
  if (box.add)
    unrolled<ROWS>([&](auto r) PYCONV_ALWAYS {
      unrolled<VECTORS>([&](auto v)
                            PYCONV_ALWAYS { tile[r][v] += load(sums + rows[r] + v * lanes<T>); });
    });
  unrolled<ROWS>([&](auto r) PYCONV_ALWAYS {
    unrolled<VECTORS>([&](auto v)
                          PYCONV_ALWAYS { store(sums + rows[r] + v * lanes<T>, tile[r][v]); });
  });
}

template <class T>
using SumChannels = void (*)(PixelBox&, const T*, const T*, const i64*, T*);

template <class T, int VECTORS>
PYCONV_INLINE SumChannels<T> sum_channels_of(int rows) {
  SumChannels<T> found = nullptr;
  unrolled<channel_rows(VECTORS)>([&](auto r) PYCONV_ALWAYS {
    if (rows == r + 1) found = sum_channels<T, r + 1, VECTORS>;
  });
  return found;
}

template <class T>
PYCONV_NOINLINE SumChannels<T> sum_channels_of(int rows, int vectors) {
  SumChannels<T> found = nullptr;
  unrolled<channel_vectors>([&](auto v) PYCONV_ALWAYS {
    if (vectors == v + 1) found = sum_channels_of<T, v + 1>(rows);
  });
  return found;
}

}  // namespace pyconv::PYCONV_TARGET

// Rows turned into columns by squares of lanes: log2(lanes) perfect shuffles, which is several
// times faster than moving elements one by one.
#pragma once
#include "vec.h"

namespace pyconv::PYCONV_TARGET {

template <class T>
PYCONV_INLINE void transpose_square(Vec<T> (&square)[lanes<T>]) {
  constexpr int width = lanes<T>;
  Vec<T> next[width];
#pragma GCC unroll 4
  for (int half = width / 2; half > 0; half /= 2) {
#pragma GCC unroll 16
    for (int r = 0; r < width / 2; ++r) {
      next[2 * r] = interleaved<T>(square[r], square[r + width / 2], 0);
      next[2 * r + 1] = interleaved<T>(square[r], square[r + width / 2], 1);
    }
#pragma GCC unroll 16
    for (int r = 0; r < width; ++r) square[r] = next[r];
  }
}

// Up to a vector of rows, `apart` elements from each other: element i of row r goes to
// to[i * to_step + r], and nothing else is touched.
template <class T>
PYCONV_NOINLINE void transpose_rows(const T* from, i64 apart, int rows, i64 size, T* to,
                                    i64 to_step) {
  constexpr int width = lanes<T>;
  for (i64 i = 0; i < size; i += width) {
    const int count = int(min_of<i64>(width, size - i));
    Vec<T> square[width];
    for (int r = 0; r < width; ++r)
      square[r] = r < rows ? load_first(from + r * apart + i, count) : Vec<T>{};
    transpose_square<T>(square);
    for (int e = 0; e < count; ++e) store_first(to + (i + e) * to_step, square[e], rows);
  }
}

// The same with whole vectors: reads up to a vector beyond each row's `size`, and writes columns of
// a vector each, a multiple of a vector of them.
template <class T>
PYCONV_NOINLINE void transpose_padded(const T* from, i64 apart, int rows, i64 size, T* to,
                                      i64 to_step) {
  constexpr int width = lanes<T>;
  for (i64 i = 0; i < size; i += width) {
    Vec<T> square[width];
    for (int r = 0; r < width; ++r) square[r] = r < rows ? load(from + r * apart + i) : Vec<T>{};
    transpose_square<T>(square);
    for (int e = 0; e < width; ++e) store(to + (i + e) * to_step, square[e]);
  }
}

}  // namespace pyconv::PYCONV_TARGET

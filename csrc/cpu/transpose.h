// Rows turned into columns by squares of lanes: log2(lanes) perfect shuffles, which is several
// times faster than moving elements one by one.
#pragma once
#include "vec.h"

namespace pyconv::PYCONV_TARGET {

// Up to a vector of rows, `apart` elements from each other: element i of row r goes to
// to[i * to_step + r], zeros to the rows from `rows` up to `stored`. Nothing else is touched.
template <class T>
PYCONV_NOINLINE void transpose_rows(const T* from, i64 apart, int rows, i64 size, T* to,
                                    i64 to_step, int stored) {
  constexpr int width = lanes<T>;
  for (i64 i = 0; i < size; i += width) {
    const int count = int(min_of<i64>(width, size - i));
    Vec<T> square[width], next[width];
    for (int r = 0; r < width; ++r) {
      square[r] = Vec<T>{};
      if (r < rows && count == width) square[r] = load(from + r * apart + i);
      if (r < rows && count < width) square[r] = load_first(from + r * apart + i, count);
    }
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
    if (stored == width)
      for (int e = 0; e < count; ++e) store(to + (i + e) * to_step, square[e]);
    else
      for (int e = 0; e < count; ++e) store_first(to + (i + e) * to_step, square[e], stored);
  }
}

template <class T>
PYCONV_INLINE void transpose_rows(const T* from, i64 apart, int rows, i64 size, T* to,
                                  i64 to_step) {
  transpose_rows(from, apart, rows, size, to, to_step, rows);
}

}  // namespace pyconv::PYCONV_TARGET

// The product of an FFT convolution, out[row][col] = sum over depth of conj(left) right, in every
// unit of the transforms; and how it is cut into tasks and chunks. See fft_conv.h.
#pragma once
#include "../fft_tile.h"
#include "fft.h"

namespace pyconv::PYCONV_TARGET {

// Products of units: 4 x 3 sums of two vectors leave 8 of 32 registers for operands, 2 x 2 of 16.
constexpr int unit_rows = vector_registers == 32 ? 4 : 2;
constexpr int unit_columns = vector_registers == 32 ? 3 : 2;
constexpr i64 fft_flush = 32;
constexpr i64 fft_scratch = 14 << 20;  // bytes of a task at most
constexpr i64 fft_cached = 1 << 18;    // of its columns, where the weights are no larger
constexpr i64 fft_weights = 1 << 30;   // transformed, at most

template <class T, int ROWS, int COLUMNS>
PYCONV_NOINLINE void multiply_units(i64 depth, const T* left, i64 left_step, const T* right,
                                    i64 right_step, T* out, i64 out_row, bool add) {
  do {
    Complex<T> sum[ROWS][COLUMNS];
    unrolled<ROWS>([&](auto r) PYCONV_ALWAYS {
      unrolled<COLUMNS>([&](auto c) PYCONV_ALWAYS { sum[r][c] = Complex<T>{Vec<T>{}, Vec<T>{}}; });
    });
    const i64 steps = min_of(depth, fft_flush);
    for (i64 d = 0; d < steps; ++d) {
      Complex<T> b[COLUMNS];
      unrolled<COLUMNS>([&](auto c) PYCONV_ALWAYS {
        b[c] =
            Complex<T>{load_once(right + c * unit<T>), load_once(right + c * unit<T> + lanes<T>)};
      });
      unrolled<ROWS>([&](auto r) PYCONV_ALWAYS {
        const Complex<T> a{load_once(left + r * unit<T>), load_once(left + r * unit<T> + lanes<T>)};
        unrolled<COLUMNS>([&](auto c) PYCONV_ALWAYS {
          sum[r][c].re += a.re * b[c].re;
          sum[r][c].im += a.re * b[c].im;
          sum[r][c].re += a.im * b[c].im;
          sum[r][c].im -= a.im * b[c].re;
        });
      });
      left += left_step;
      right += right_step;
    }
    unrolled<ROWS>([&](auto r) PYCONV_ALWAYS {
      unrolled<COLUMNS>([&](auto c) PYCONV_ALWAYS {
        T* to = out + r * out_row + c * unit<T>;
        store_unit(to, add ? load_unit(to) + sum[r][c] : sum[r][c]);
      });
    });
    add = true;
    depth -= steps;
  } while (depth > 0);
}

// Transforms of [depth][size] planes: unit f of plane (d, i) lies at f * apart + d * step + i
// units.
template <class T>
struct Spectra {
  T* data;
  i64 apart, step;

  PYCONV_INLINE T* at(i64 d, i64 i) const { return data + d * step + i * unit<T>; }
};

template <class T, int ROWS, int COLUMNS>
PYCONV_INLINE void multiply_tiles(i64 rows, i64 columns, i64 depth, const Spectra<T>& left,
                                  const Spectra<T>& right, const Spectra<T>& out, i64 f, bool add) {
  if constexpr (COLUMNS > 1)
    if (columns < COLUMNS)
      return multiply_tiles<T, ROWS, COLUMNS - 1>(rows, columns, depth, left, right, out, f, add);
  if constexpr (ROWS > 1)
    if (rows < ROWS)
      return multiply_tiles<T, ROWS - 1, COLUMNS>(rows, columns, depth, left, right, out, f, add);
  multiply_units<T, ROWS, COLUMNS>(depth, left.data + f * left.apart, left.step,
                                   right.data + f * right.apart, right.step,
                                   out.data + f * out.apart, out.step, add);
}

// Tiles of nearly equal size over one unit of all rows and columns.
template <class T>
PYCONV_INLINE void multiply_spectra(i64 rows, i64 columns, i64 depth, const Spectra<T>& left,
                                    const Spectra<T>& right, const Spectra<T>& out, i64 f,
                                    bool add) {
  const i64 wide = ceil_div(columns, ceil_div(columns, i64(unit_columns)));
  const i64 high = ceil_div(rows, ceil_div(rows, i64(unit_rows)));
  for (i64 c = 0; c < columns; c += wide)
    for (i64 r = 0; r < rows; r += high)
      multiply_tiles<T, unit_rows, unit_columns>(min_of(high, rows - r), min_of(wide, columns - c),
                                                 depth, {left.at(0, r), left.apart, left.step},
                                                 {right.at(0, c), right.apart, right.step},
                                                 {out.at(r, c), out.apart, out.step}, f, add);
}

// How the product of one phase is cut. Nothing that shows in a result depends on the batch.
template <class T>
struct FftBlocks {
  FftTile tile;
  bool weight_gradient;
  i64 units = 0, rows = 0, columns = 0, depth = 0;
  i64 row_block = 1, column_block = 1;  // of a task
  i64 row_chunk = 1, depth_chunk = 1;   // of the results and transforms it holds at a time

  FftBlocks(const Correlation& q, bool gradient) : tile(fft_tile(q)), weight_gradient(gradient) {
    if (tile.points() == 0) return;
    units = tile.points() / lanes<T>;
    const i64 channels = q.source_channels * fft_outer_taps(q, tile);
    const i64 tiles = q.n * tile.image_tiles();
    rows = q.result_channels;
    columns = gradient ? channels : tiles;
    depth = gradient ? tiles : channels;
    const i64 plane = 2 * tile.points() * i64(sizeof(T)), planes = fft_scratch / plane;
    if (gradient) {
      // Squares of results, as large as a third of the scratch: fewest transforms for a product.
      i64 side = 16;
      while (3 * side * side > planes) --side;
      row_block = even_part(rows, side);
      column_block = even_part(columns, side);
      while (tasks(q) < 4 && row_block * column_block > 1)
        halve(row_block > column_block ? row_block : column_block);
      row_chunk = row_block;
      const i64 held = row_block + column_block;
      const i64 room = held > 4 ? planes - row_block * column_block : 4 * fft_cached / plane;
      depth_chunk = max_of<i64>(1, min_of(depth, room / held));
      return;
    }
    // A block of columns as large as the weights is read as often as they are.
    const i64 wanted = max_of(fft_cached / plane / depth, min_of<i64>(rows, 32));
    const i64 most = max_of(planes / 2 / depth, planes / 2 / fft_flush);
    column_block = even_part(columns, max_of<i64>(1, min_of(min_of<i64>(wanted, 32), most)));
    while (tasks(q) < 4 && column_block > 4) halve(column_block);
    row_block = rows;
    while (tasks(q) < 4 && row_block > 4) halve(row_block);
    const i64 room = planes / 2 / column_block;
    depth_chunk = depth <= room ? depth : room / fft_flush * fft_flush;
    row_chunk = min_of(row_block, max_of<i64>(4, 4 * fft_cached / plane / column_block));
  }

  i64 row_blocks() const { return ceil_div(rows, row_block); }
  i64 column_blocks() const { return ceil_div(columns, column_block); }
  i64 tasks(const Correlation& q) const { return q.groups * row_blocks() * column_blocks(); }

  // From unit to unit of so many planes: not a multiple of a large power of two.
  static i64 apart(i64 planes) { return (planes | 1) * unit<T>; }
  i64 right_elements() const { return units * apart(depth_chunk * column_block); }
  i64 left_elements() const { return weight_gradient ? units * apart(depth_chunk * row_chunk) : 0; }
  std::size_t scratch_bytes() const {
    const i64 out = units * apart(row_chunk * column_block);
    return std::size_t(right_elements() + left_elements() + out) * sizeof(T);
  }
  // Of the packed weights: twiddles of a line, then every group's transforms.
  i64 twiddle_elements() const { return tile.line ? 2 * tile.points() : 0; }
  i64 group_elements() const { return units * apart(rows * depth); }

 private:
  static void halve(i64& size) { size = (size + 1) / 2; }
  static i64 even_part(i64 size, i64 most) {
    return max_of<i64>(1, ceil_div(size, max_of<i64>(1, ceil_div(size, most))));
  }
};

}  // namespace pyconv::PYCONV_TARGET

// The micro-kernel that every product runs on, and how the two sides of a product are cut into
// panels for it. Sums stay in registers over the whole depth of a call; the left side is read by
// broadcasts from wherever its rows lie, the right side by whole vectors.
#pragma once
#include "vec.h"

namespace pyconv::PYCONV_TARGET {

// Tiles of the micro-kernel: 8 x 3 vectors leave room for 3 of the right side and 1 of the left in
// 32 registers, 6 x 2 likewise in 16.
constexpr int tile_rows = vector_registers == 32 ? 8 : 6;
constexpr int tile_vectors = vector_registers == 32 ? 3 : 2;
template <class T>
constexpr i64 tile_columns = tile_vectors * lanes<T>;

// Rows of the left side: step k of segment s of row r is rows[s * apart + r][first + k * step].
template <class T>
struct Left {
  const T* const* rows;
  i64 apart, segments;
  i64 first, step;
};

// Step k of the right side is a row of vectors at data + k * step, the segments one after the
// other.
template <class T>
struct Right {
  const T* data;
  i64 step;
};

// Where a tile goes: row r to to + r * step, with a packed tile `before` added if there is one.
template <class T>
struct Target {
  const T* before;
  T* to;
  i64 step;
};

template <class T, int ROWS, int VECTORS>
PYCONV_NOINLINE void multiply_tile(i64 depth, const Left<T>& a, const Right<T>& b,
                                   const Target<T>& c) {
  Vec<T> tile[ROWS][VECTORS] = {};
  const T* from = b.data;
  for (i64 s = 0; s < a.segments; ++s) {
    const T* row[ROWS];
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) row[r] = a.rows[s * a.apart + r] + a.first;
    i64 at = 0;
    for (i64 k = 0; k < depth; ++k) {
      Vec<T> right[VECTORS];
#pragma GCC unroll 8
      for (int v = 0; v < VECTORS; ++v) right[v] = load(from + v * lanes<T>);
#pragma GCC unroll 8
      for (int r = 0; r < ROWS; ++r) {
        const Vec<T> left = splat(row[r][at]);
#pragma GCC unroll 8
        for (int v = 0; v < VECTORS; ++v) tile[r][v] += left * right[v];
      }
      at += a.step;
      from += b.step;
    }
  }
  if (c.before) {
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
      for (int v = 0; v < VECTORS; ++v)
        tile[r][v] = load(c.before + (r * VECTORS + v) * lanes<T>) + tile[r][v];
  }
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < VECTORS; ++v) store(c.to + r * c.step + v * lanes<T>, tile[r][v]);
}

template <class T, int VECTORS>
PYCONV_INLINE void multiply_rows(int rows, i64 depth, const Left<T>& a, const Right<T>& b,
                                 const Target<T>& c) {
  static_assert(tile_rows <= 8);
  switch (rows) {
    case 1: return multiply_tile<T, 1, VECTORS>(depth, a, b, c);
    case 2: return multiply_tile<T, 2, VECTORS>(depth, a, b, c);
    case 3: return multiply_tile<T, 3, VECTORS>(depth, a, b, c);
    case 4: return multiply_tile<T, 4, VECTORS>(depth, a, b, c);
    case 5: return multiply_tile<T, 5, VECTORS>(depth, a, b, c);
    case 6: return multiply_tile<T, 6, VECTORS>(depth, a, b, c);
    case 7: return multiply_tile<T, 7, VECTORS>(depth, a, b, c);
    default: return multiply_tile<T, tile_rows, VECTORS>(depth, a, b, c);
  }
}

template <class T>
PYCONV_INLINE void multiply(int rows, int vectors, i64 depth, const Left<T>& a, const Right<T>& b,
                            const Target<T>& c) {
  if (vectors == tile_vectors)
    multiply_rows<T, tile_vectors>(rows, depth, a, b, c);
  else if (vectors == 2)
    multiply_rows<T, 2>(rows, depth, a, b, c);
  else
    multiply_rows<T, 1>(rows, depth, a, b, c);
}

// A side of the product is cut into panels, `width` elements for each step of the depth: full ones,
// then one narrower. Panel i of a packed side of depth d begins at i * width * d.
struct Side {
  i64 size;   // rows or columns
  i64 width;  // of a full panel
  i64 round;  // the last panel is a multiple of this wide

  PYCONV_INLINE i64 panels() const { return ceil_div(size, width); }
  PYCONV_INLINE i64 valid(i64 panel) const { return min_of(width, size - panel * width); }
  PYCONV_INLINE i64 stored(i64 panel) const { return round_up(valid(panel), round); }
  PYCONV_INLINE i64 total() const {  // elements of all panels, for each step of the depth
    return (panels() - 1) * width + stored(panels() - 1);
  }
};

template <class T>
PYCONV_INLINE Side row_side(i64 size) {
  return {size, tile_rows, 1};
}

template <class T>
PYCONV_INLINE Side column_side(i64 size) {
  return {size, tile_columns<T>, lanes<T>};
}

// A packed side and the block of its depth to use: `depth` steps are stored, those from `first` on
// are taken.
template <class T>
struct Panels {
  const T* data;
  i64 depth, first;

  PYCONV_INLINE const T* at(const Side& side, i64 panel) const {
    return data + panel * side.width * depth + first * side.stored(panel);
  }
};

// The rows of a packed panel.
template <class T>
struct PanelRows {
  const T* rows[tile_rows];
  i64 width;

  PYCONV_INLINE PanelRows(const T* panel, i64 stored) : width(stored) {
#pragma GCC unroll 8
    for (int r = 0; r < tile_rows; ++r) rows[r] = panel + min_of<i64>(r, stored - 1);
  }
  PYCONV_INLINE Left<T> left() const { return {rows, 0, 1, 0, width}; }
};

// All tiles of rows x columns for one block of the depth; tile (row panel i, column panel j) of the
// sums begins at (j * rows.panels() + i) * full tile.
template <class T>
void multiply_block(const Side& rows, const Side& columns, i64 depth, const Panels<T>& a,
                    const Panels<T>& b, T* sums, bool add) {
  constexpr i64 tile = tile_rows * tile_columns<T>;
  for (i64 j = 0; j < columns.panels(); ++j) {
    const i64 stored = columns.stored(j);
    for (i64 i = 0; i < rows.panels(); ++i) {
      const PanelRows<T> left(a.at(rows, i), rows.valid(i));
      T* to = sums + (j * rows.panels() + i) * tile;
      multiply<T>(int(rows.valid(i)), int(stored / lanes<T>), depth, left.left(),
                  {b.at(columns, j), stored}, {add ? to : nullptr, to, stored});
    }
  }
}

template <class T>
PYCONV_INLINE i64 sums_elements(const Side& rows, const Side& columns) {
  return rows.panels() * columns.panels() * tile_rows * tile_columns<T>;
}

}  // namespace pyconv::PYCONV_TARGET

// The micro-kernel that every product runs on, and how the two sides of a product are cut into
// panels for it. Sums stay in registers over the whole depth of a call; the left side is read by
// broadcasts from wherever its rows lie, the right side by whole vectors.
#pragma once
#include "pointwise.h"

namespace pyconv::PYCONV_TARGET {

// Tiles of the micro-kernel: 8 x 3 vectors leave room for 3 of the right side and 1 of the left in
// 32 registers, 6 x 2 likewise in 16.
constexpr int tile_rows = vector_registers == 32 ? 8 : 6;
constexpr int tile_vectors = vector_registers == 32 ? 3 : 2;
template <class T>
constexpr i64 tile_columns = tile_vectors * lanes<T>;
// Where the vectors are given, as many rows as leave room for them: 12 x 2 and less, 8 x 3, 6 x 4.
// (4, as most numbers of channels are 4 times a power of two: with 8 x 3 a last panel of one vector
// would be bound by its loads.)
constexpr int widest_tile = vector_registers == 32 ? 4 : tile_vectors;
constexpr int rows_beside(i64 vectors) {
  return tile_sums / (vectors < 2 ? 2 : int(vectors));
}
constexpr int most_tile_rows = tile_sums / 2;

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

// Where a tile goes: row r to to + r * step, or to + places[r], with a packed tile `before` added
// if there is one; its last vector has `last` lanes. Then what follows a sum: a bias of each row or
// of each column, a residual that lies as the results do, relu or relu6.
template <class T>
struct Target {
  const T* before;
  T* to;
  i64 step;
  const i64* places = nullptr;
  int last = lanes<T>;
  const T *row_bias = nullptr, *column_bias = nullptr, *residual = nullptr;
  Activation activation = Activation::none;

  PYCONV_INLINE i64 at(int r) const { return places ? places[r] : r * step; }
};

template <class T, int ROWS, int VECTORS>
PYCONV_NOINLINE void multiply_tile(i64 depth, const Left<T>& a, const Right<T>& b,
                                   const Target<T>& c) {
  Vec<T> tile[ROWS][VECTORS];
  const auto each = [&](auto&& body) PYCONV_ALWAYS {
    unrolled<ROWS>([&](auto r) PYCONV_ALWAYS {
      unrolled<VECTORS>([&](auto v) PYCONV_ALWAYS { body(r, v, tile[r][v]); });
    });
  };
  each([](int, int, Vec<T>& sum) PYCONV_ALWAYS { sum = Vec<T>{}; });
  const T* from = b.data;
  for (i64 s = 0; s < a.segments; ++s) {
    const T* row[ROWS];
    unrolled<ROWS>([&](auto r) PYCONV_ALWAYS { row[r] = a.rows[s * a.apart + r] + a.first; });
    i64 at = 0;
    for (i64 k = 0; k < depth; ++k) {
      Vec<T> right[VECTORS];
      unrolled<VECTORS>([&](auto v) PYCONV_ALWAYS { right[v] = load(from + v * lanes<T>); });
      unrolled<ROWS>([&](auto r) PYCONV_ALWAYS {
        const Vec<T> left = splat(row[r][at]);
        unrolled<VECTORS>([&](auto v) PYCONV_ALWAYS { tile[r][v] += left * right[v]; });
      });
      at += a.step;
      from += b.step;
    }
  }
  if (c.before)
    each([&](int r, int v, Vec<T>& sum)
             PYCONV_ALWAYS { sum = load(c.before + (r * VECTORS + v) * lanes<T>) + sum; });
  const bool whole = c.last == lanes<T>;
  const auto part = [&](const T* p, int v) PYCONV_ALWAYS {
    return v + 1 < VECTORS || whole ? load(p + v * lanes<T>) : load_first(p + v * lanes<T>, c.last);
  };
  if (c.row_bias) each([&](int r, int, Vec<T>& sum) PYCONV_ALWAYS { sum += splat(c.row_bias[r]); });
  if (c.column_bias)
    each([&](int, int v, Vec<T>& sum) PYCONV_ALWAYS { sum += part(c.column_bias, v); });
  if (c.residual)
    each([&](int r, int v, Vec<T>& sum) PYCONV_ALWAYS { sum += part(c.residual + c.at(r), v); });
  const auto rectify = [&](auto kind) PYCONV_ALWAYS {
    constexpr Activation activation = Activation(int(kind));
    if (c.activation == activation)
      each([](int, int, Vec<T>& sum) PYCONV_ALWAYS { sum = activate<T>(activation, sum); });
  };
  rectify(Constant<int(Activation::relu)>{});
  rectify(Constant<int(Activation::relu6)>{});
  each([&](int r, int v, Vec<T>& sum) PYCONV_ALWAYS {
    T* to = c.to + c.at(r) + v * lanes<T>;
    if (v + 1 < VECTORS || whole)
      store(to, sum);
    else
      store_first(to, sum, c.last);
  });
}

template <class T, int ROWS, int VECTORS>
PYCONV_INLINE void multiply_rows(int rows, i64 depth, const Left<T>& a, const Right<T>& b,
                                 const Target<T>& c) {
  if constexpr (ROWS > 1)
    if (rows < ROWS) return multiply_rows<T, ROWS - 1, VECTORS>(rows, depth, a, b, c);
  multiply_tile<T, ROWS, VECTORS>(depth, a, b, c);
}

// Up to rows_beside(vectors) rows.
template <class T, int VECTORS = widest_tile>
PYCONV_INLINE void multiply(int rows, int vectors, i64 depth, const Left<T>& a, const Right<T>& b,
                            const Target<T>& c) {
  if constexpr (VECTORS > 1)
    if (vectors < VECTORS) return multiply<T, VECTORS - 1>(rows, vectors, depth, a, b, c);
  multiply_rows<T, rows_beside(VECTORS), VECTORS>(rows, depth, a, b, c);
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

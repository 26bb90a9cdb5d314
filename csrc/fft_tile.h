// The tiles of an FFT convolution and what they cost: planning and kernels choose by it.
//
// A tile is a matrix of 2 n1 x n2 source positions, transformed as n1 x n2 complex numbers
// (cpu/fft.h). Over the last two axes it is a piece of a plane; over the last alone (1-D, or a
// filter of few lines) its rows follow each other along a line. Axes that are not transformed are
// summed over as further source channels.
#pragma once
#include "correlation.h"

namespace pyconv {

constexpr i64 fft_points = 4096;  // of a tile at most: with its copy 32 KB of floats, an L1 cache

struct FftTile {
  i64 n1, n2;      // 0: no tile holds the filter
  bool line;       // W alone is transformed
  i64 size[3];     // source positions of a tile
  i64 results[3];  // and results of it
  i64 tiles[3];    // of an image

  PYCONV_HD i64 points() const { return n1 * n2; }
  PYCONV_HD i64 image_tiles() const { return tiles[0] * tiles[1] * tiles[2]; }
};

PYCONV_HD inline i64 tap_apart(const AxisMap& axis) {
  return axis.tap_step < 0 ? -axis.tap_step : axis.tap_step;
}

// Taps that are summed as channels are.
PYCONV_HD inline i64 fft_outer_taps(const Correlation& q, const FftTile& tile) {
  return q.axis[0].taps * (tile.line ? q.axis[1].taps : 1);
}

// ns for a complex point on one Sapphire Rapids core: a transform with what it reads or writes
// (tiles of 31x31 depthwise 1.2, 13x13 1.4), a product (0.11 to 0.2 as the weights come from cache
// or memory), the transform of a weight.
constexpr double fft_transform_cost = 1.35, fft_product_cost = 0.13, fft_weight_cost = 2.5;

// ns of one core for `images` images of one group, transforming the weights included.
PYCONV_HD inline double fft_cost(const Correlation& q, const FftTile& tile, double images) {
  const double depth = double(q.source_channels) * double(fft_outer_taps(q, tile));
  const double rows = double(q.result_channels), tiles = images * double(tile.image_tiles());
  return double(tile.points()) *
         (tiles * (fft_transform_cost * (depth + rows) + fft_product_cost * depth * rows) +
          fft_weight_cost * depth * rows);
}

PYCONV_HD inline FftTile fft_tile(const Correlation& q) {
  FftTile best{};
  double least = 0;
  for (int line = 0; line < 2; ++line)
    for (i64 n1 = 16; n1 <= 64; n1 *= 2)
      for (i64 n2 = 16; n2 <= 64 && 2 * n1 * n2 <= fft_points; n2 *= 2) {
        FftTile tile{n1, n2, line == 1, {1, line ? 1 : 2 * n1, line ? 2 * n1 * n2 : n2}, {}, {}};
        bool fits = true;
        for (int a = 0; a < 3; ++a) {
          const AxisMap& axis = q.axis[a];
          const bool outer = a < 1 + line;
          const i64 room = outer ? 0 : (tile.size[a] - 1) / tap_apart(axis) - (axis.taps - 1);
          fits = fits && room >= 0;
          const i64 free = outer ? 0 : tile.size[a] - 1 - tap_apart(axis) * (axis.taps - 1);
          tile.results[a] = fits ? free / axis.step + 1 : 1;
          tile.tiles[a] = axis.count / tile.results[a] + (axis.count % tile.results[a] > 0);
        }
        if (!fits) continue;
        const double cost = fft_cost(q, tile, 8);
        if (best.n1 == 0 || cost < least) best = tile, least = cost;
      }
  return best;
}

}  // namespace pyconv

// Winograd's tiles: where a vector of them lies, and the transform of its source. See winograd.h.
//
// Lanes are tiles, dense over the rows and images: a vector falls into segments, each a run of
// neighbouring tiles of one row of tiles. Columns are transformed first, on vectors of neighbouring
// pixels; then M of those at a time are turned into phases, vectors of tiles, for the rows. The
// geometry of a vector is worked out once and serves every channel. Zeros around an image come from
// masks and a line of zeros; other borders and NHWC go through a copy as planes.
#pragma once
#include "gemm_weight.h"
#include "winograd_transform.h"

namespace pyconv::PYCONV_TARGET {

// Source position of the smallest tap of result 0: the taps run downwards in an input gradient.
PYCONV_INLINE i64 first_source(const AxisMap& axis) {
  return axis.first + (axis.tap_step < 0 ? (axis.taps - 1) * axis.tap_step : 0);
}

// Neighbouring tiles of a row of tiles within one vector of lanes.
struct Segment {
  Pixel at;  // first result of the first tile
  int lane, count;
};

// Where a vector of columns finds some of its lanes: `shift` elements into a row of a segment.
struct Piece {
  int segment, shift;
  unsigned mask;
};

constexpr int max_pieces = 4 * lanes<float> + 8;

// How up to `lanes` tiles of edge M lie in rows of pixels.
template <int M>
struct TileVector {
  int count = 0, segment_count = 0;
  Segment segments[lanes<float>];
  int vectors = 0;  // of columns; vector v has the pieces [first[v], first[v + 1])
  int first[4 * alpha];
  Piece pieces[max_pieces];

  // Tiles [tile, tile + count) of all images, `high` x `wide` of them in a plane.
  PYCONV_INLINE TileVector(const Correlation& q, i64 high, i64 wide, i64 tile, int tiles)
      : count(tiles) {
    for (int lane = 0; lane < tiles;) {
      const i64 row = (tile + lane) / wide, column = (tile + lane) % wide;
      const int run = int(min_of<i64>(tiles - lane, wide - column));
      const i64 plane = row / high;
      segments[segment_count++] = {
          {plane / q.axis[0].count, {plane % q.axis[0].count, row % high * M, column * M}},
          lane,
          run};
      lane += run;
    }
  }

  // Adds the vector of columns from column `from` of every tile's place on: lanes of its own tiles,
  // or of all that follows (`beyond`), where column x of segment s lies in [low[s], high[s]).
  PYCONV_INLINE void add(int place, int from, bool beyond, const i64* low, const i64* high) {
    constexpr int width = lanes<float>;
    int n = vectors ? first[vectors] : 0;
    first[vectors] = n;
    for (int s = 0; s < segment_count; ++s) {
      const int start = M * segments[s].lane,
                end = beyond ? 1 << 20 : start + M * segments[s].count;
      unsigned mask = 0;
      for (int j = 0; j < width; ++j) {
        const int at = place + j;
        const i64 x = at - start + from;
        if (at >= start && at < end && x >= low[s] && x < high[s]) mask |= 1u << j;
      }
      if (mask) pieces[n++] = {s, place - start + from, mask};
    }
    if (n == first[vectors]) pieces[n++] = {0, 0, 0};
    first[++vectors] = n;
  }
};

constexpr i64 tile_margin = 4 * lanes<float> + 2 * lanes<float>;  // a line of zeros

// The source side of a vector of tiles.
template <int R>
struct SourceTiles {
  static constexpr int M = alpha + 1 - R, width = lanes<float>;
  // Copied planes: at most 36 pixels for each tile.
  static constexpr i64 copy_plane = alpha * alpha * width, copy_channels = width;
  static constexpr int parts = (alpha + M - 1) / M;
  static constexpr i64 line_elements = alpha * (parts * M > M + 1 ? parts * M : M + 1) * width;
  static constexpr i64 scratch_elements =
      copy_plane * copy_channels + line_elements + 2 * tile_margin;

  const Correlation& q;
  TileVector<M> tiles;
  bool copied, whole;
  i64 offset[width][alpha];  // of a segment's rows from a channel's first element; -1: zeros
  i64 columns[width];        // of a segment's rows that results read
  float *zeros, *line, *copy;

  PYCONV_INLINE SourceTiles(const Correlation& correlation, i64 high, i64 wide, i64 tile, int count,
                            i64 jd, float* scratch)
      : q(correlation),
        tiles(correlation, high, wide, tile, count),
        copied(q.layout == Layout::nhwc || q.border != Border::zeros),
        whole(tiles.segment_count == 1),
        zeros(scratch + tile_margin),
        line(scratch + 2 * tile_margin),
        copy(line + line_elements) {
    const AxisMap &D = q.axis[0], &H = q.axis[1], &W = q.axis[2];
    for (i64 i = 0; i < 2 * tile_margin; ++i) scratch[i] = 0;
    i64 low[width], end[width];
    for (int s = 0; s < tiles.segment_count; ++s) {
      const Segment& segment = tiles.segments[s];
      const i64 top = segment.at.o[1] + first_source(H), left = segment.at.o[2] + first_source(W);
      const i64 d = border_index(D.source(segment.at.o[0], jd), D.source_size, q.border);
      // Positions beyond these are read by no result, and no border rule reaches them.
      const i64 last_row = first_source(H) + H.count - 1 + R - 1;
      const i64 last_column = first_source(W) + W.count - 1 + R - 1;
      columns[s] = min_of<i64>(M * segment.count + R - 1, last_column - left + 1);
      low[s] = copied ? 0 : max_of<i64>(0, -left);
      end[s] = copied ? columns[s] : min_of(columns[s], W.source_size - left);
      for (int i = 0; i < alpha; ++i) {
        const i64 h =
            d < 0 || top + i > last_row ? -1 : border_index(top + i, H.source_size, q.border);
        offset[s][i] = h < 0 ? outside
                             : segment.at.n * q.source.n + d * q.source.axis[0] +
                                   h * q.source.axis[1] + left * q.source.axis[2];
      }
    }
    if (whole)
      for (int e = 0; e <= M; ++e) tiles.add(e * width, 0, true, low, end);
    else
      for (int b = 0; b < parts; ++b)
        for (int e = 0; e < M; ++e) tiles.add(e * width, b * M, false, low, end);
  }

  static constexpr i64 outside = -(i64(1) << 62);

  // `channels` planes of the segments' rows, from channel c on.
  PYCONV_INLINE void copy_planes(const float* source, i64 c, i64 channels) {
    const AxisMap& W = q.axis[2];
    const i64 apart = q.source.axis[2];
    float* to = copy;
    for (int s = 0; s < tiles.segment_count; ++s) {
      const i64 left = tiles.segments[s].at.o[2] + first_source(W);
      const i64 low = min_of(columns[s], max_of<i64>(0, -left));
      const i64 end = apart == 1 ? low : max_of(low, min_of(columns[s], W.source_size - left));
      for (int i = 0; i < alpha; ++i, to += columns[s]) {
        if (offset[s][i] == outside) {
          for (i64 k = 0; k < channels; ++k)
            for (i64 x = 0; x < columns[s]; ++x) to[k * copy_plane + x] = 0;
          continue;
        }
        const float* row = source + c * q.source.c + offset[s][i] - left * apart;
        for (i64 x = low; x < end; x += width)  // pixels of many channels: 16 x 16 at a time
          transpose_rows(row + (left + x) * apart, apart, int(min_of<i64>(width, end - x)),
                         channels, to + x, copy_plane);
        for (i64 k = 0; k < channels; ++k) {
          const float* from = row + k * q.source.c;
          gather_row(from, apart, W.source_size, left, 1, low, q.border, to + k * copy_plane);
          if (end < columns[s])
            gather_row(from, apart, W.source_size, left + end, 1, columns[s] - end, q.border,
                       to + k * copy_plane + end);
        }
      }
    }
  }

  // Channels [c, c + channels), at most copy_channels of them: part xi of V of channel k goes to
  // place(k) + xi * xi_step.
  template <class Place>
  PYCONV_INLINE void transform(const float* source, i64 c, i64 channels, i64 xi_step,
                               Place&& place) {
    if (copied) copy_planes(source, c, channels);
    const i64 plane = copied ? copy_plane : q.source.c;
    const float* base = copied ? copy : source + c * plane;
    for (i64 k = 0; k < channels; ++k) {
      const float* rows[width][alpha];
      const float* at = base + k * plane;
      for (int s = 0; s < tiles.segment_count; ++s)
        for (int i = 0; i < alpha; ++i) {
          rows[s][i] = offset[s][i] == outside ? zeros : copied ? at : at + offset[s][i];
          if (copied) at += columns[s];
        }
      // Two channels ahead: about 300 cycles, an L3 cache's latency.
      const std::size_t ahead =
          copied || c + k + 2 >= q.source_channels ? 0 : std::size_t(plane) * 2 * sizeof(float);
      transform_channel(rows, ahead, place(c + k), xi_step);
    }
  }

  PYCONV_INLINE void transform_channel(const float* const (&rows)[width][alpha], std::size_t ahead,
                                       float* v, i64 xi_step) {
    const int vectors = tiles.vectors;
    for (int e = 0; e < vectors; ++e) {
      Vec<float> d[alpha];
      int n = tiles.first[e];
      const Piece& piece = tiles.pieces[n];
      for (int i = 0; i < alpha; ++i) {
        const float* from = rows[piece.segment][i] + piece.shift;
        d[i] = load_lanes(from, piece.mask, Vec<float>{});
        if (ahead) __builtin_prefetch(reinterpret_cast<const void*>(std::size_t(from) + ahead));
      }
      for (++n; n < tiles.first[e + 1]; ++n) {
        const Piece& more = tiles.pieces[n];
        for (int i = 0; i < alpha; ++i)
          d[i] = load_lanes(rows[more.segment][i] + more.shift, more.mask, d[i]);
      }
      transform_input<float>(d);
      for (int i = 0; i < alpha; ++i) store(line + (i * vectors + e) * width, d[i]);
    }
    for (int i = 0; i < alpha; ++i) {
      const float* from = line + i * vectors * width;
      Vec<float> d[alpha + 2];
      load_phases<M>(from, d);
      if (whole)
        for (int j = M; j < alpha; ++j) d[j] = shifted<float>(d[j - M], from[M * width + j - M]);
      else
        for (int b = 1; b < parts; ++b) load_phases<M>(from + b * M * width, d + b * M);
      Vec<float>(&tile)[alpha] = reinterpret_cast<Vec<float>(&)[alpha]>(d);
      transform_input<float>(tile);
      for (int j = 0; j < alpha; ++j) store(v + (i * alpha + j) * xi_step, d[j]);
    }
  }
};

}  // namespace pyconv::PYCONV_TARGET

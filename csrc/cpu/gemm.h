// im2col + blocked GEMM for all three passes: C[m, n] = sum over depth of A[m, .] B[., n].
//
//   forward, input gradient   A = weights, B = columns (NCHW: lanes run along pixels)
//                             A = columns, B = weights (NHWC: lanes run along channels)
//   weight gradient           A = dy, B = columns, the depth runs over the pixels of all images
//
// Parallel over groups x blocks of m x blocks of n; a task packs its tile of columns (never more
// than pixel_block x depth_block) and holds its sums in scratch. The register tile is flushed into
// them every depth_block products, which bounds the rounding error of long sums, and every element
// is summed in the same order wherever it lies: results depend on neither batch nor threads.
// Loops and packing as in Goto and van de Geijn, "Anatomy of high-performance matrix
// multiplication", 2008.
#pragma once
#include "border.h"
#include "epilogue.h"
#include "im2col.h"
#include "reduce.h"

namespace pyconv::PYCONV_TARGET {

// Tiles of the micro-kernel: 8 x 3 vectors leave room for 3 of B and 1 of A in 32 registers, 6 x 2
// likewise in 16. depth_block: a B tile of 8 * 48 floats * 160 is 30 KB, an L1 cache.
constexpr int tile_rows = vector_registers == 32 ? 8 : 6;
constexpr int tile_vectors = vector_registers == 32 ? 3 : 2;
template <class T>
constexpr i64 tile_columns = tile_vectors * lanes<T>;
template <class T>
constexpr i64 depth_block = 30 * 1024 / (tile_columns<T> * i64(sizeof(T))) / 16 * 16;
constexpr i64 column_block = 4;  // tiles of columns in a task
constexpr i64 row_block = 32;    // tiles of rows in a task

// sums[ROWS, VECTORS] (+)= a[depth, ROWS]^T b[depth, VECTORS].
template <class T, int ROWS, int VECTORS>
void multiply_tile(i64 depth, const T* a, const T* b, T* sums, bool add) {
  Vec<T> tile[ROWS][VECTORS] = {};
  for (i64 k = 0; k < depth; ++k) {
    Vec<T> right[VECTORS];
#pragma GCC unroll 8
    for (int v = 0; v < VECTORS; ++v) right[v] = load(b + v * lanes<T>);
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) {
      const Vec<T> left = splat(a[r]);
#pragma GCC unroll 8
      for (int v = 0; v < VECTORS; ++v) tile[r][v] += left * right[v];
    }
    a += ROWS;
    b += VECTORS * lanes<T>;
  }
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < VECTORS; ++v) {
      T* to = sums + (r * VECTORS + v) * lanes<T>;
      store(to, add ? load(to) + tile[r][v] : tile[r][v]);
    }
}

template <class T, int VECTORS>
PYCONV_INLINE void multiply_rows(int rows, i64 depth, const T* a, const T* b, T* sums, bool add) {
  static_assert(tile_rows <= 8);
  switch (rows) {
    case 1: return multiply_tile<T, 1, VECTORS>(depth, a, b, sums, add);
    case 2: return multiply_tile<T, 2, VECTORS>(depth, a, b, sums, add);
    case 3: return multiply_tile<T, 3, VECTORS>(depth, a, b, sums, add);
    case 4: return multiply_tile<T, 4, VECTORS>(depth, a, b, sums, add);
    case 5: return multiply_tile<T, 5, VECTORS>(depth, a, b, sums, add);
    case 6: return multiply_tile<T, 6, VECTORS>(depth, a, b, sums, add);
    case 7: return multiply_tile<T, 7, VECTORS>(depth, a, b, sums, add);
    default: return multiply_tile<T, tile_rows, VECTORS>(depth, a, b, sums, add);
  }
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

// All tiles of rows x columns for one block of the depth; tile (row panel i, column panel j) of the
// sums begins at (j * rows.panels() + i) * full tile.
template <class T>
void multiply_block(const Side& rows, const Side& columns, i64 depth, const Panels<T>& a,
                    const Panels<T>& b, T* sums, bool add) {
  constexpr i64 tile = tile_rows * tile_columns<T>;
  for (i64 j = 0; j < columns.panels(); ++j) {
    const int vectors = int(columns.stored(j) / lanes<T>);
    for (i64 i = 0; i < rows.panels(); ++i) {
      const int count = int(rows.valid(i));
      const T *left = a.at(rows, i), *right = b.at(columns, j);
      T* to = sums + (j * rows.panels() + i) * tile;
      if (vectors == tile_vectors)
        multiply_rows<T, tile_vectors>(count, depth, left, right, to, add);
      else if (vectors == 2)
        multiply_rows<T, 2>(count, depth, left, right, to, add);
      else
        multiply_rows<T, 1>(count, depth, left, right, to, add);
    }
  }
}

template <class T>
PYCONV_INLINE i64 sums_elements(const Side& rows, const Side& columns) {
  return rows.panels() * columns.panels() * tile_rows * tile_columns<T>;
}

// How a pass over one phase is cut into tasks; the same on every machine and for every batch.
template <class T>
struct GemmBlocks {
  bool channels_last;
  Side pixels, channels;  // of one task; the last ones may be smaller
  i64 pixel_blocks, channel_blocks;

  explicit GemmBlocks(const Correlation& q) : channels_last(q.layout == Layout::nhwc) {
    const i64 pixel_width = channels_last ? tile_rows : tile_columns<T>;
    const i64 channel_width = channels_last ? tile_columns<T> : tile_rows;
    i64 pixel_size = (channels_last ? row_block : column_block) * pixel_width;
    i64 channel_size = (channels_last ? 2 * column_block : row_block) * channel_width;
    channel_size = min_of(channel_size, round_up(q.result_channels, channel_width));
    // Small maps: smaller blocks of channels until there is work for several threads.
    const i64 image_blocks = ceil_div(q.image_pixels(), pixel_size) * q.groups;
    while (image_blocks * ceil_div(q.result_channels, channel_size) < 8 &&
           channel_size >= 4 * channel_width)
      channel_size = round_up(channel_size / 2, channel_width);
    pixels = channels_last ? row_side<T>(pixel_size) : column_side<T>(pixel_size);
    channels = channels_last ? column_side<T>(channel_size) : row_side<T>(channel_size);
    pixel_blocks = ceil_div(q.pixels(), pixel_size);
    channel_blocks = ceil_div(q.result_channels, channel_size);
  }
};

template <class T>
i64 packed_group_elements(const Correlation& q) {
  const Side channels =
      q.layout == Layout::nhwc ? column_side<T>(q.result_channels) : row_side<T>(q.result_channels);
  return channels.total() * q.depth();
}

// The border's gradients read w as it is: a copy of it then ends the packed weights.
PYCONV_INLINE i64 copied_weights(const ConvProblem& p, Pass pass) {
  const bool copied = pass == Pass::bwd_data && p.border != Border::zeros;
  return copied ? p.k * p.c_per_group() * p.taps() : 0;
}

template <class T>
std::size_t gemm_packed_bytes(const ConvProblem& p, Pass pass) {
  if (pass == Pass::bwd_weight) return 0;
  i64 elements = copied_weights(p, pass);
  for (i64 phase = 0; phase < phase_count(p, pass); ++phase)
    elements += p.groups * packed_group_elements<T>(correlation(p, pass, phase));
  return std::size_t(elements) * sizeof(T);
}

// Weights as panels [panel][depth][width], every group of every phase after the other.
template <class T>
void gemm_pack(const ConvProblem& p, Pass pass, const void* weights, void* packed, int threads) {
  const T* w = static_cast<const T*>(weights);
  T* to = static_cast<T*>(packed);
  for (i64 phase = 0; phase < phase_count(p, pass); ++phase) {
    const Correlation q = correlation(p, pass, phase);
    const bool channels_last = p.layout == Layout::nhwc;
    const Side side =
        channels_last ? column_side<T>(q.result_channels) : row_side<T>(q.result_channels);
    const i64 depth = q.depth(), taps = q.taps(), group_elements = packed_group_elements<T>(q);
    parallel_for(q.groups * side.panels(), threads, [&](i64 task, int) {
      const i64 group = task / side.panels(), panel = task % side.panels();
      const i64 valid = side.valid(panel), stored = side.stored(panel);
      const T* from = w + group * q.weight_group + panel * side.width * q.weight_result;
      T* out = to + group * group_elements + panel * side.width * depth;
      for (i64 tap = 0; tap < taps; ++tap) {
        const i64 jw = tap % q.axis[2].taps, rest = tap / q.axis[2].taps;
        const T* at = from + q.weight_tap(rest / q.axis[1].taps, rest % q.axis[1].taps, jw);
        for (i64 c = 0; c < q.source_channels; ++c) {
          const i64 k = channels_last ? tap * q.source_channels + c : c * taps + tap;
          T* row = out + k * stored;
          for (i64 i = 0; i < valid; ++i) row[i] = at[c * q.weight_source + i * q.weight_result];
          for (i64 i = valid; i < stored; ++i) row[i] = T(0);
        }
      }
    });
    to += q.groups * group_elements;
  }
  __builtin_memcpy(to, w, std::size_t(copied_weights(p, pass)) * sizeof(T));
}

// One phase of a forward pass or an input gradient.
template <class T>
void gemm_phase(const ConvProblem& p, const Correlation& q, const T* packed, const Buffers& b) {
  const GemmBlocks<T> blocks(q);
  const i64 depth = q.depth(), group_elements = packed_group_elements<T>(q);
  const T* source = static_cast<const T*>(b.a);
  parallel_for(
      q.groups * blocks.pixel_blocks * blocks.channel_blocks, b.threads, [&](i64 task, int thread) {
        const i64 channel0 = task % blocks.channel_blocks * blocks.channels.size;
        const i64 pixel0 = task / blocks.channel_blocks % blocks.pixel_blocks * blocks.pixels.size;
        const i64 group = task / blocks.channel_blocks / blocks.pixel_blocks;
        Side pixels = blocks.pixels, channels = blocks.channels;
        pixels.size = min_of(pixels.size, q.pixels() - pixel0);
        channels.size = min_of(channels.size, q.result_channels - channel0);
        const bool channels_last = blocks.channels_last;
        const Side &rows = channels_last ? pixels : channels,
                   &columns = channels_last ? channels : pixels;

        T* tile_of_columns = reinterpret_cast<T*>(b.scratch + thread * b.scratch_bytes);
        T* sums = tile_of_columns + round_up(blocks.pixels.total(), 16) * depth_block<T>;
        const T* weights = packed + group * group_elements + channel0 * depth;
        const T* from = source + group * q.source_channels * q.source.c;
        for (i64 k0 = 0; k0 < depth; k0 += depth_block<T>) {
          const i64 steps = min_of(depth_block<T>, depth - k0);
          for (i64 panel = 0; panel < pixels.panels(); ++panel) {
            const i64 valid = pixels.valid(panel), stored = pixels.stored(panel);
            T* to = tile_of_columns + panel * pixels.width * steps;
            gather_columns(q, from, k0, k0 + steps, pixel0 + panel * pixels.width, valid, to,
                           stored);
            for (i64 k = 0; k < steps && valid < stored; ++k)
              for (i64 i = valid; i < stored; ++i) to[k * stored + i] = T(0);
          }
          const Panels<T> left{weights, depth, k0}, right{tile_of_columns, steps, 0};
          multiply_block(rows, columns, steps, channels_last ? right : left,
                         channels_last ? left : right, sums, k0 > 0);
        }

        const Epilogue<T> end = epilogue<T>(p, q, b, group);
        const i64 pixel_step = q.axis[2].result_step * q.result.axis[2];
        for (i64 j = 0; j < columns.panels(); ++j)
          for (i64 i = 0; i < rows.panels(); ++i) {
            const T* tile = sums + (j * rows.panels() + i) * tile_rows * tile_columns<T>;
            const i64 stored = columns.stored(j);
            const i64 first = pixel0 + (channels_last ? i : j) * pixels.width;
            const i64 channel = channel0 + (channels_last ? j : i) * channels.width;
            for (i64 done = 0; done < pixels.valid(channels_last ? i : j);) {
              const Pixel at = pixel_at(q, first + done);
              const i64 offset = result_offset(q, at);
              if (channels_last) {
                end.store_channels(tile + done * stored, channel, offset + channel,
                                   columns.valid(j));
                ++done;
                continue;
              }
              const i64 run = min_of(pixels.valid(j) - done, q.axis[2].count - at.o[2]);
              for (i64 r = 0; r < rows.valid(i); ++r)
                end.store_pixels(tile + r * stored + done, channel + r,
                                 offset + (channel + r) * q.result.c, pixel_step, run);
              done += run;
            }
          }
      });
}

}  // namespace pyconv::PYCONV_TARGET

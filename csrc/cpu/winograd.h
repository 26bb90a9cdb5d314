// Winograd convolution F(4x4, 3x3) and F(2x2, 5x5), both on tiles of 6x6, stride 1, float32:
//
//   Y = A^T [ (G g G^T) . (B^T d B) ] A,   points 0, +-5/8, +-3/2, infinity
//
// 4 and 2.8 times fewer products than the direct sum. A task takes up to 48 tiles of a few result
// channels: it transforms the tiles of every source channel into V[36][C][tile], multiplies them
// with the transformed weights U[36][C][k] as 36 small GEMMs, and transforms the sums back. Lanes
// are tiles. The register tile is flushed every 32 channels, so the error does not grow with C; a
// tile whose result is not finite is summed directly, so NaN and Inf reach their receptive fields
// and nothing else.
// Lavin and Gray, "Fast algorithms for convolutional neural networks", 2016; the points, and why:
// Barabasz et al., "Error analysis and improving the accuracy of Winograd convolution", 2020.
#pragma once
#include "gemm.h"
#include "winograd_transform.h"

namespace pyconv::PYCONV_TARGET {

constexpr i64 winograd_tiles = 48;  // of a task: one full column tile on AVX-512
constexpr i64 winograd_panels = 4;  // row panels that are multiplied, then transformed back
constexpr i64 winograd_flush = 32;  // channels summed in registers
constexpr i64 winograd_pad = 16;    // keeps the 36 parts of V out of the same cache sets
template <int M>  // of a transformed row: a vector of tiles and the columns the last one reaches
                  // into
constexpr int winograd_pitch =
    M * lanes<float> + (alpha + 2 * lanes<float> - 1) / lanes<float> * lanes<float>;

// The correlation as tiles of M x M results; a reduction row is a (source channel, tap of D) pair.
struct WinogradTiles {
  i64 high, wide;      // tiles of an image
  i64 depth;           // source channels times taps of D
  i64 tiles, blocks;   // of all images
  i64 channel_splits;  // tasks that share a block of tiles

  WinogradTiles(const Correlation& q, int m)
      : high(ceil_div(q.axis[1].count, m)),
        wide(ceil_div(q.axis[2].count, m)),
        depth(q.source_channels * q.axis[0].taps),
        tiles(q.n * q.axis[0].count * high * wide),
        blocks(ceil_div(tiles, winograd_tiles)) {
    const i64 panels = ceil_div(q.result_channels, tile_rows);
    const i64 image_blocks = ceil_div(q.axis[0].count * high * wide, winograd_tiles);
    channel_splits = q.groups * image_blocks < 4 ? min_of<i64>(2, panels) : 1;
  }

  // First result position of a tile.
  PYCONV_INLINE Pixel at(const Correlation& q, i64 tile, int m) const {
    Pixel pixel;
    pixel.o[2] = tile % wide * m;
    tile /= wide;
    pixel.o[1] = tile % high * m;
    tile /= high;
    pixel.o[0] = tile % q.axis[0].count;
    pixel.n = tile / q.axis[0].count;
    return pixel;
  }
};

// Source position of the smallest tap of result 0: the taps run downwards in an input gradient.
template <int R>
PYCONV_INLINE i64 first_source(const AxisMap& axis) {
  return axis.first + (axis.tap_step < 0 ? (R - 1) * axis.tap_step : 0);
}

template <int R>
PYCONV_INLINE i64 winograd_tap(const AxisMap& axis, int i) {
  return axis.tap_step < 0 ? R - 1 - i : i;
}

// Neighbouring tiles of a row of tiles within one vector of lanes.
struct Segment {
  Pixel at;
  i64 tile;  // of the task's block
  int count;
};

// The six source rows of a segment: pointers into the source plane (nullptr: outside it), or copies
// with the border applied.
template <int R>
PYCONV_INLINE void winograd_rows(const Correlation& q, const float* plane, const Segment& segment,
                                 float* copies, const float* (&rows)[alpha]) {
  constexpr int M = alpha + 1 - R, pitch = winograd_pitch<M>;
  const AxisMap &H = q.axis[1], &W = q.axis[2];
  const i64 top = segment.at.o[1] + first_source<R>(H), left = segment.at.o[2] + first_source<R>(W);
  const bool inside = q.source.axis[2] == 1 && left >= 0 && left + pitch <= W.source_size;
  // Positions beyond these are read by no result, and no border rule reaches them.
  const i64 last_row = first_source<R>(H) + H.count - 1 + R - 1;
  const i64 last_column = first_source<R>(W) + W.count - 1 + R - 1;
  const i64 used = min_of<i64>(M * segment.count + R - 1, last_column - left + 1);
  for (int i = 0; i < alpha; ++i) {
    const i64 h =
        !plane || top + i > last_row ? -1 : border_index(top + i, H.source_size, q.border);
    float* copy = copies + i * pitch;
    rows[i] = copy;
    if (h >= 0 && inside) {
      rows[i] = plane + h * q.source.axis[1] + left;
      continue;
    }
    if (h >= 0)
      gather_row(plane + h * q.source.axis[1], q.source.axis[2], W.source_size, left, 1, used,
                 q.border, copy);
    for (i64 e = h < 0 ? 0 : used; e < M * segment.count + alpha; ++e) copy[e] = 0;
  }
}

// The 36 values of V for one vector of tiles of one source channel. Several segments (small maps)
// are laid side by side: part b of a line holds their columns from M b on.
template <int R>
PYCONV_INLINE void winograd_input(const Correlation& q, const float* const* planes,
                                  const Segment* segments, int segment_count, float* line, float* v,
                                  i64 xi_stride, int count) {
  constexpr int M = alpha + 1 - R, width = lanes<float>, pitch = winograd_pitch<M>;
  constexpr int parts = (alpha + M - 1) / M, all = alpha * pitch;
  float *copies = line + parts * all, *laid = copies + all;
  const float* rows[alpha];
  const bool whole = segment_count == 1;
  if (whole) {
    winograd_rows<R>(q, planes[0], segments[0], copies, rows);
  } else {
    for (int s = 0; s < segment_count; ++s) {
      winograd_rows<R>(q, planes[s], segments[s], copies, rows);
      const i64 lane = (segments[s].tile - segments[0].tile) * M;
      for (int b = 0; b < parts; ++b)
        for (int i = 0; i < alpha; ++i)
          for (int e = 0; e < M * segments[s].count; e += width)
            store(laid + b * all + i * pitch + lane + e, load(rows[i] + b * M + e));
    }
  }
  for (int b = 0; b < (whole ? 1 : parts); ++b) {
    for (int i = 0; i < alpha && !whole; ++i) rows[i] = laid + b * all + i * pitch;
    for (int e = 0; e < (whole ? pitch : M * width); e += width) {
      Vec<float> d[alpha];
      for (int i = 0; i < alpha; ++i) d[i] = load(rows[i] + e);
      transform_input<float>(d);
      for (int i = 0; i < alpha; ++i) store(line + b * all + i * pitch + e, d[i]);
    }
  }
  for (int i = 0; i < alpha; ++i) {
    const float* at[3];
    for (int b = 0; b < parts; ++b) at[b] = line + i * pitch + b * (whole ? M : all);
    Vec<float> d[alpha];
    load_phases<M>(at, d);
    transform_input<float>(d);
    for (int j = 0; j < alpha; ++j) store_first(v + (i * alpha + j) * xi_stride, d[j], count);
  }
}

// One result summed directly, where a tile overflowed or holds NaN or Inf.
PYCONV_NOINLINE float winograd_exact(const Correlation& q, const float* source, const float* w,
                                     const Pixel& at) {
  float sum = 0;
  for (i64 c = 0; c < q.source_channels; ++c)
    for (i64 t = 0; t < q.taps(); ++t) {
      const i64 j[3] = {t / q.axis[2].taps / q.axis[1].taps, t / q.axis[2].taps % q.axis[1].taps,
                        t % q.axis[2].taps};
      const float* from = source + at.n * q.source.n + c * q.source.c;
      for (int a = 0; a < 3 && from; ++a) {
        const i64 i =
            border_index(q.axis[a].source(at.o[a], j[a]), q.axis[a].source_size, q.border);
        from = i < 0 ? nullptr : from + i * q.source.axis[a];
      }
      if (from) sum += w[c * q.weight_source + q.weight_tap(j[0], j[1], j[2])] * *from;
    }
  return sum;
}

// From one of the 36 parts of U to the next: not a multiple of a large power of two.
PYCONV_INLINE i64 winograd_u_stride(const Correlation& q) {
  return q.result_channels * q.source_channels * q.axis[0].taps + winograd_pad;
}

PYCONV_INLINE i64 winograd_group_elements(const Correlation& q) {
  return alpha * alpha * winograd_u_stride(q);
}

// The transformed weights of every phase (of the D axis), then a copy of w for winograd_exact.
template <int R>
std::size_t winograd_packed_bytes(const ConvProblem& p, Pass pass) {
  i64 elements = p.k * p.c_per_group() * p.taps();
  for (i64 phase = 0; phase < phase_count(p, pass); ++phase)
    elements += p.groups * winograd_group_elements(correlation(p, pass, phase));
  return std::size_t(elements) * sizeof(float);
}

template <int R>
void winograd_pack(const ConvProblem& p, Pass pass, const void* weights, void* packed,
                   int threads) {
  const float* w = static_cast<const float*>(weights);
  float* u = static_cast<float*>(packed);
  for (i64 phase = 0; phase < phase_count(p, pass); ++phase) {
    const Correlation q = correlation(p, pass, phase);
    const Side side = row_side<float>(q.result_channels);
    const i64 depth = q.source_channels * q.axis[0].taps;
    parallel_for(p.groups * side.panels(), threads, [&](i64 task, int) {
      const i64 group = task / side.panels(), panel = task % side.panels();
      const int rows = int(side.valid(panel));
      const float* from = w + group * q.weight_group + panel * side.width * q.weight_result;
      float* out = u + group * winograd_group_elements(q) + panel * side.width * depth;
      for (i64 k = 0; k < depth; ++k) {
        const i64 c = k / q.axis[0].taps, jd = k % q.axis[0].taps;
        for (int row = 0; row < rows; row += lanes<float>) {
          const int count = min_of(rows - row, lanes<float>);
          Vec<float> half[alpha][R], column[R], line[alpha];
          for (int j = 0; j < R; ++j) {
            for (int i = 0; i < R; ++i) {
              const float* at =
                  from + c * q.weight_source + row * q.weight_result +
                  q.weight_tap(jd, winograd_tap<R>(q.axis[1], i), winograd_tap<R>(q.axis[2], j));
              float values[lanes<float>] = {};
              for (int r = 0; r < count; ++r) values[r] = at[r * q.weight_result];
              column[i] = load(values);
            }
            transform_filter<R, float>(column, line);
            for (int i = 0; i < alpha; ++i) half[i][j] = line[i];
          }
          for (int i = 0; i < alpha; ++i) {
            transform_filter<R, float>(half[i], line);
            float* to = out + i * alpha * winograd_u_stride(q) + k * rows + row;
            for (int j = 0; j < alpha; ++j)
              store_first(to + j * winograd_u_stride(q), line[j], count);
          }
        }
      }
    });
    u += p.groups * winograd_group_elements(q);
  }
  __builtin_memcpy(u, w, std::size_t(p.k * p.c_per_group() * p.taps()) * sizeof(float));
}

template <int R>
std::size_t winograd_scratch_bytes(const ConvProblem& p, Pass pass) {
  constexpr int M = alpha + 1 - R;
  const Correlation q = correlation(p, pass);
  const i64 depth = q.source_channels * p.filter[0];
  const i64 sums = winograd_panels * tile_rows;
  return std::size_t(alpha * alpha * winograd_tiles * (depth + sums) +
                     7 * alpha * winograd_pitch<M> + alpha * alpha * winograd_pad) *
         sizeof(float);
}

template <int R>
const char* winograd_refuse(const ConvProblem& p, Pass pass) {
  if (pass == Pass::bwd_weight) return "it has no weight gradient";
  for (int a = 1; a < 3; ++a) {
    if (p.filter[a] != R) return "the filter is neither 3x3 nor 5x5";
    if (p.stride[a] != 1 || p.dilation[a] != 1) return "stride and dilation must be 1";
  }
  if (winograd_scratch_bytes<R>(p, pass) > 16 << 20) return "it would need over 16 MB a thread";
  return nullptr;
}

template <int R>
void winograd_phase(const ConvProblem& p, const Correlation& q, const float* u, const float* w,
                    const Buffers& b) {
  constexpr int M = alpha + 1 - R, width = lanes<float>;
  const WinogradTiles tiling(q, M);
  const i64 panels = ceil_div(q.result_channels, tile_rows);
  const i64 split_panels = ceil_div(panels, tiling.channel_splits);
  const i64 u_stride = winograd_u_stride(q);
  parallel_for(
      q.groups * tiling.blocks * tiling.channel_splits, b.threads, [&](i64 task, int thread) {
        const i64 first_panel = task % tiling.channel_splits * split_panels;
        const i64 tile0 = task / tiling.channel_splits % tiling.blocks * winograd_tiles;
        const i64 group = task / tiling.channel_splits / tiling.blocks;
        const Side columns = column_side<float>(min_of(winograd_tiles, tiling.tiles - tile0));
        const i64 stored = columns.total();
        float* v = reinterpret_cast<float*>(b.scratch + thread * b.scratch_bytes);
        const i64 v_stride = tiling.depth * stored + winograd_pad;
        float* sums = v + alpha * alpha * v_stride;
        float* line = sums + alpha * alpha * winograd_tiles * winograd_panels * tile_rows;
        const float* source =
            static_cast<const float*>(b.a) + group * q.source_channels * q.source.c;

        Segment segments[winograd_tiles];
        int segment_count = 0;
        for (i64 t = 0; t < columns.size;) {
          const Pixel at = tiling.at(q, tile0 + t, M);
          const i64 row_rest = tiling.wide - at.o[2] / M, lane_rest = width - t % width;
          const int count = int(min_of(min_of(row_rest, lane_rest), columns.size - t));
          segments[segment_count++] = {at, t, count};
          t += count;
        }
        if (stored > columns.size)
          for (i64 xi = 0; xi < alpha * alpha; ++xi)
            for (i64 k = 0; k < tiling.depth; ++k)
              for (i64 t = columns.size; t < stored; ++t) {
                const i64 panel = t / columns.width;
                v[xi * v_stride + panel * columns.width * tiling.depth + k * columns.stored(panel) +
                  t % columns.width] = 0;
              }
        for (i64 k = 0; k < tiling.depth; ++k) {
          const i64 c = k / q.axis[0].taps, jd = k % q.axis[0].taps;
          for (int s = 0; s < segment_count;) {
            const i64 tile = segments[s].tile, panel = tile / columns.width;
            const float* planes[lanes<float>];
            int some = 0, count = 0;  // segments and tiles of this vector
            for (; s + some < segment_count && segments[s + some].tile < tile + width; ++some) {
              const Pixel& at = segments[s + some].at;
              const i64 d =
                  border_index(q.axis[0].source(at.o[0], jd), q.axis[0].source_size, q.border);
              planes[some] =
                  d < 0 ? nullptr
                        : source + at.n * q.source.n + c * q.source.c + d * q.source.axis[0];
              count += segments[s + some].count;
            }
            winograd_input<R>(q, planes, segments + s, some, line,
                              v + panel * columns.width * tiling.depth + k * columns.stored(panel) +
                                  tile % columns.width,
                              v_stride, count);
            s += some;
          }
        }

        const Epilogue<float> end = epilogue<float>(p, q, b, group);
        const i64 step = q.axis[2].result_step * q.result.axis[2];
        const i64 last_panel = min_of(panels, first_panel + split_panels);
        for (i64 panel0 = first_panel; panel0 < last_panel; panel0 += winograd_panels) {
          const i64 some = min_of(winograd_panels, last_panel - panel0);
          const Side rows =
              row_side<float>(min_of(some * tile_rows, q.result_channels - panel0 * tile_rows));
          const i64 sums_stride = sums_elements<float>(rows, columns);
          for (i64 xi = 0; xi < alpha * alpha; ++xi)
            for (i64 k = 0; k < tiling.depth; k += winograd_flush)
              multiply_block<float>(rows, columns, min_of(winograd_flush, tiling.depth - k),
                                    {u + group * alpha * alpha * u_stride + xi * u_stride +
                                         panel0 * tile_rows * tiling.depth,
                                     tiling.depth, k},
                                    {v + xi * v_stride, tiling.depth, k}, sums + xi * sums_stride,
                                    k > 0);
          for (i64 row = 0; row < rows.size; ++row) {
            const i64 channel = panel0 * tile_rows + row;
            const float* filter = w + group * q.weight_group + channel * q.weight_result;
            int s = 0;
            for (i64 t0 = 0; t0 < columns.size; t0 += width) {
              const i64 panel = t0 / columns.width, stored_panel = columns.stored(panel);
              const float* from =
                  sums +
                  (panel * rows.panels() + row / tile_rows) * tile_rows * tile_columns<float> +
                  row % tile_rows * stored_panel + t0 % columns.width;
              Vec<float> half[M][alpha], bad{};
              for (int j = 0; j < alpha; ++j) {
                Vec<float> m[alpha], y[M];
                for (int i = 0; i < alpha; ++i) m[i] = load(from + (i * alpha + j) * sums_stride);
                transform_output<M, float>(m, y);
                for (int i = 0; i < M; ++i) half[i][j] = y[i];
              }
              float image[M][M * width];
              for (int i = 0; i < M; ++i) {
                Vec<float> y[M];
                transform_output<M, float>(half[i], y);
                for (int j = 0; j < M; ++j) bad += y[j] - y[j];  // 0, or NaN for NaN and Inf
                store_phases<M>(y, image[i]);
              }
              const bool finite = sum_lanes<float>(bad) == 0;
              for (; s < segment_count && segments[s].tile < t0 + width; ++s) {
                const Segment& segment = segments[s];
                const i64 high = min_of<i64>(M, q.axis[1].count - segment.at.o[1]);
                const i64 wide = min_of<i64>(M * segment.count, q.axis[2].count - segment.at.o[2]);
                for (i64 i = 0; i < high; ++i) {
                  Pixel at = segment.at;
                  at.o[1] += i;
                  float* results = image[i] + (segment.tile - t0) * M;
                  const i64 offset = result_offset(q, at) + channel * q.result.c;
                  for (i64 e = 0; !finite && e < wide; ++e)
                    if (bad[(segment.tile - t0) + e / M] != 0) {
                      Pixel one = at;
                      one.o[2] += e;
                      results[e] = winograd_exact(q, source, filter, one);
                    }
                  end.store_pixels(results, channel, offset, step, wide);
                }
              }
            }
          }
        }
      });
}

template <int R>
void winograd_run(const ConvProblem& p, Pass pass, const Buffers& b) {
  const float* u = static_cast<const float*>(b.packed);
  const float* w =
      u + winograd_packed_bytes<R>(p, pass) / sizeof(float) - p.k * p.c_per_group() * p.taps();
  for_each_phase<float>(p, pass, b, [&](const Correlation& q) {
    winograd_phase<R>(p, q, u, w, b);
    u += p.groups * winograd_group_elements(q);
  });
  if (pass == Pass::bwd_data)
    add_border_gradients(p, static_cast<const float*>(b.a), w, static_cast<float*>(b.out),
                         b.threads);
}

// The kernel as a table sees it: the filter decides between the two tilings.
PYCONV_INLINE bool five(const ConvProblem& p) {
  return p.filter[2] == 5;
}

struct Winograd {
  static const char* refuse(const ConvProblem& p, Pass pass) {
    return five(p) ? winograd_refuse<5>(p, pass) : winograd_refuse<3>(p, pass);
  }
  static std::size_t packed_bytes(const ConvProblem& p, Pass pass) {
    return five(p) ? winograd_packed_bytes<5>(p, pass) : winograd_packed_bytes<3>(p, pass);
  }
  static void pack(const ConvProblem& p, Pass pass, const void* w, void* packed, int threads) {
    five(p) ? winograd_pack<5>(p, pass, w, packed, threads)
            : winograd_pack<3>(p, pass, w, packed, threads);
  }
  static std::size_t scratch_bytes(const ConvProblem& p, Pass pass) {
    return five(p) ? winograd_scratch_bytes<5>(p, pass) : winograd_scratch_bytes<3>(p, pass);
  }
  static void run(const ConvProblem& p, Pass pass, const Buffers& b) {
    five(p) ? winograd_run<5>(p, pass, b) : winograd_run<3>(p, pass, b);
  }
};

}  // namespace pyconv::PYCONV_TARGET

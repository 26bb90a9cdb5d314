// Winograd's transformed weights U = G g G^T, packed in the order of their use. See winograd.h.
#pragma once
#include "gemm.h"
#include "transpose.h"
#include "winograd_transform.h"

namespace pyconv::PYCONV_TARGET {

constexpr i64 winograd_flush = 32;            // channels summed in registers
constexpr i64 winograd_rows = 4 * tile_rows;  // result channels multiplied, then transformed back

PYCONV_INLINE i64 winograd_tap(const AxisMap& axis, i64 i) {
  return axis.tap_step < 0 ? axis.taps - 1 - i : i;
}

constexpr i64 winograd_pad = 16;  // keeps the 36 parts of U, V and sums out of the same cache sets

// Rows of panels that one vector of lanes holds.
constexpr int filter_panels = lanes<float> / tile_rows > 1 ? lanes<float> / tile_rows : 1;
constexpr int filter_rows = lanes<float> < tile_rows ? lanes<float> : filter_panels * tile_rows;

// Where U of result channels from row0 on, a multiple of winograd_rows, begins: blocks of
// winograd_rows channels, each as 36 parts.
PYCONV_INLINE i64 winograd_u_offset(const Correlation& q, i64 group, i64 row0) {
  const i64 depth = q.source_channels * q.axis[0].taps;
  const i64 before = group * ceil_div(q.result_channels, winograd_rows) + row0 / winograd_rows;
  return alpha * alpha * (depth * (group * q.result_channels + row0) + before * winograd_pad);
}

// Rows [row, row + some) of step k of packed panels of that depth, for all 36 parts.
PYCONV_INLINE void store_rows(const float (&parts)[alpha * alpha][lanes<float>], i64 row, int some,
                              const Side& rows, i64 depth, i64 k, float* to, i64 xi_step) {
  for (int done = 0; done < some;) {
    const i64 panel = (row + done) / tile_rows, inside = (row + done) % tile_rows;
    const i64 valid = rows.valid(panel);
    const int fit = int(min_of<i64>(some - done, valid - inside));
    float* at = to + panel * tile_rows * depth + k * valid + inside;
    if (fit == tile_rows)
      for (int xi = 0; xi < alpha * alpha; ++xi)
        __builtin_memcpy(at + xi * xi_step, parts[xi] + done, tile_rows * sizeof(float));
    else
      for (int xi = 0; xi < alpha * alpha; ++xi)
        for (int r = 0; r < fit; ++r) at[xi * xi_step + r] = parts[xi][done + r];
    done += fit;
  }
}

// Result channels [row0, row0 + rows) and reduction rows (source channel, tap of D) [k0, k1), where
// k0 is a multiple of winograd_flush: U as 36 parts `xi_step` apart, each [flush][panel][k][row].
// `w` is the group's first weight.
template <int R>
PYCONV_NOINLINE void transform_filters(const Correlation& q, const float* w, i64 row0, i64 rows,
                                       i64 k0, i64 k1, float* u, i64 xi_step) {
  constexpr i64 count = R * R, some_k = 16;  // whose taps are turned into lanes at a time
  const i64 deep = q.axis[0].taps;
  const AxisMap &H = q.axis[1], &W = q.axis[2];
  i64 order[R][R];  // where a tap stands among the R * R
  for (i64 i = 0; i < R; ++i)
    for (i64 j = 0; j < R; ++j)
      order[i][j] = (H.weight_first + winograd_tap(H, i) * H.weight_step) * q.weight_axis[1] +
                    (W.weight_first + winograd_tap(W, j) * W.weight_step) * q.weight_axis[2];
  const bool adjacent = deep == 1 && q.weight_source == count;  // a forward pass
  for (i64 flush = k0; flush < k1; flush += winograd_flush) {
    const i64 end = min_of(k1, flush + winograd_flush), steps = end - flush;
    float* block = u + (flush - k0) * rows;
    for (i64 row = 0; row < rows;) {
      const i64 panel_rest = filter_panels > 1 ? filter_rows : tile_rows - row % tile_rows;
      const int some = int(min_of(min_of<i64>(filter_rows, panel_rest), rows - row));
      const float* from = w + (row0 + row) * q.weight_result;
      float taps[some_k][count][lanes<float>];
      for (i64 k = flush; k < end; ++k) {
        const i64 turned = (k - flush) % some_k;
        if (turned == 0 || !adjacent) {
          const AxisMap& D = q.axis[0];
          const i64 plane = (D.weight_first + k % deep * D.weight_step) * q.weight_axis[0];
          transpose_rows(from + k / deep * q.weight_source + plane, q.weight_result, some,
                         adjacent ? count * min_of(some_k, end - k) : count, taps[turned][0],
                         lanes<float>);
        }
        float parts[alpha * alpha][lanes<float>];
        Vec<float> half[alpha][R], column[R], line[alpha];
        for (int j = 0; j < R; ++j) {
          for (int i = 0; i < R; ++i) column[i] = load(taps[turned][order[i][j]]);
          transform_filter<R, float>(column, line);
          for (int i = 0; i < alpha; ++i) half[i][j] = line[i];
        }
        for (int i = 0; i < alpha; ++i) {
          transform_filter<R, float>(half[i], line);
          for (int j = 0; j < alpha; ++j) store(parts[i * alpha + j], line[j]);
        }
        store_rows(parts, row, some, row_side<float>(rows), steps, k - flush, block, xi_step);
      }
      row += some;
    }
  }
}

}  // namespace pyconv::PYCONV_TARGET

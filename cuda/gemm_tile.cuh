// The tile of gemm.cu on tensor cores, for float: TF32 products (10 bits behind the point), summed
// in float32. PRODUCTS = 3: each number is the sum of two of TF32, and the product of the two small
// parts is left out (Ootomo and Yokota, IJHPCA 2022), which leaves float32's accuracy.
//
// A block computes 128 x 128 results in steps of 16, a warp 64 x 32 of them in fragments of 16 x 8.
// The next tile is copied into shared memory, two stages there, while the present one is
// multiplied. Rows of 20 floats there: the 32 words of a fragment lie in 32 banks. What a tensor
// core sums is rounded toward zero, so every 32 steps the sums move to registers that round to
// nearest.
#pragma once
#include "gemm.cuh"
#include "mma.cuh"
#include "pointwise.cuh"

namespace pyconv::cuda {

constexpr int mma_size = 128, mma_steps = 16, mma_pitch = mma_steps + 4;

// Quads: 4 steps lie side by side in the source and are copied at once.
template <int PRODUCTS, bool Weights, bool Quads>
__global__ void __launch_bounds__(block_threads, 1)
    mma_tile(const __grid_constant__ ConvProblem p, const __grid_constant__ Correlation phase_0,
             Pass pass, const Grid grid, const float* left, const float* right,
             const Epilogue<float> end) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  alignas(16) __shared__ float left_tile[2][mma_size][mma_pitch],
      right_tile[2][mma_size][mma_pitch];
  __shared__ Place step_place[2][mma_steps];
  __shared__ i64 column_other[mma_size];
  __shared__ Correlation q;

  i64 id = blockIdx.x % grid.phase_blocks;
  block_phase(p, pass, phase_0, blockIdx.x / grid.phase_blocks, q);
  const i64 row0 = take(id, grid.row_tiles) * mma_size;
  const i64 column0 = take(id, grid.column_tiles) * mma_size;
  const i64 group = take(id, q.groups), split = id;
  const i64 column_count = Weights ? q.depth() : q.pixels(), rows = q.result_channels;
  if (column0 >= column_count) return;  // a phase smaller than the first
  const i64 first_step = split * grid.split_steps;
  const i64 step_count =
      min_of(Weights ? q.pixels() : q.depth(), first_step + grid.split_steps) - first_step;
  const i64 row_stride = Weights ? q.result.c : q.weight_result;
  left += group * (Weights ? rows * q.result.c : q.weight_group);
  const Source<float> source = source_of(q, right + group * q.source_channels * q.source.c);
  const int t = int(threadIdx.x);

  // A thread copies half the steps of a column, and of a row.
  const int column = t % mma_size, column_step = t / mma_size * (mma_steps / 2);
  const bool rows_first = Weights && q.layout == Layout::nhwc;  // side by side in dy
  const int row = rows_first ? column : t / 2;
  const int row_step = rows_first ? column_step : t % 2 * (mma_steps / 2);
  const bool column_inside = column0 + column < column_count, row_inside = row0 + row < rows;
  Place place{};
  if (column_inside)
    place = Weights ? filter_place(q, column0 + column) : pixel_place(q, column0 + column);
  if (t < mma_size) column_other[t] = place.other;
  const float* const my_row = left + (row0 + row) * row_stride;
  auto place_steps = [&](i64 tile) {
    const i64 step = tile * mma_steps + t;
    if (t < mma_steps && step < step_count)
      step_place[tile % 2][t] =
          Weights ? pixel_place(q, first_step + step) : filter_place(q, first_step + step);
  };
  auto copy = [&](i64 tile) {
    const Place* places = step_place[tile % 2];
    const i64 steps_left = step_count - tile * mma_steps;
    constexpr int side = Quads ? 4 : 1;
    for (int i = 0; i < mma_steps / 2; i += side) {
      const int s = column_step + i;
      const i64 at = column_inside && s < steps_left ? source.offset(place, places[s]) : -1;
      copy_async<4 * side>(&right_tile[tile % 2][column][s], at < 0 ? right : source.from + at,
                           at >= 0);
    }
    for (int i = 0; i < mma_steps / 2; ++i) {
      const int s = row_step + i;
      const bool inside = row_inside && s < steps_left;
      copy_async<4>(&left_tile[tile % 2][row][s], inside ? my_row + places[s].other : left, inside);
    }
    copies_commit();
  };

  const int lane = t % 32, g = lane / 4, u = lane % 4;
  const int warp_row = t / 32 / 4 * 64, warp_column = t / 32 % 4 * 32;
  float sums[4][4][4] = {}, totals[4][4][4] = {};
  auto settle = [&] {
#pragma unroll
    for (int m = 0; m < 4; ++m)
#pragma unroll
      for (int n = 0; n < 4; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) totals[m][n][i] += sums[m][n][i], sums[m][n][i] = 0;
  };
  auto multiply = [&](i64 tile) {
    const auto& from_left = left_tile[tile % 2];
    const auto& from_right = right_tile[tile % 2];
#pragma unroll
    for (int k = u; k < mma_steps; k += 8) {
      unsigned a[4][4], b[4][2], a_rest[4][4], b_rest[4][2];
      auto split_up = [](float x, unsigned& big, unsigned& rest) {
        big = to_tf32(x);
        if constexpr (PRODUCTS == 3) rest = to_tf32(x - of_bits(big));
      };
#pragma unroll
      for (int m = 0; m < 4; ++m)
#pragma unroll
        for (int i = 0; i < 4; ++i)
          split_up(from_left[warp_row + m * 16 + g + i % 2 * 8][k + i / 2 * 4], a[m][i],
                   a_rest[m][i]);
#pragma unroll
      for (int n = 0; n < 4; ++n)
#pragma unroll
        for (int i = 0; i < 2; ++i)
          split_up(from_right[warp_column + n * 8 + g][k + i * 4], b[n][i], b_rest[n][i]);
#pragma unroll
      for (int m = 0; m < 4; ++m)
#pragma unroll
        for (int n = 0; n < 4; ++n) {
          if constexpr (PRODUCTS == 3) {
            mma_tf32(sums[m][n], a_rest[m], b[n]);
            mma_tf32(sums[m][n], a[m], b_rest[n]);
          }
          mma_tf32(sums[m][n], a[m], b[n]);
        }
    }
  };

  const i64 tiles = step_count <= 0 ? 0 : ceil_div(step_count, mma_steps);
  place_steps(0);
  place_steps(1);
  __syncthreads();
  if (tiles) copy(0);
  for (i64 tile = 0; tile < tiles; ++tile) {
    if (tile + 1 < tiles) {
      copy(tile + 1);
      copies_wait<1>();
    } else {
      copies_wait<0>();
    }
    __syncthreads();
    place_steps(tile + 2);
    multiply(tile);
    if (PRODUCTS == 3 && tile % 2) settle();
    __syncthreads();
  }
  settle();

#pragma unroll
  for (int n = 0; n < 4; ++n)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int my_column = warp_column + n * 8 + 2 * u + i % 2;
      if (column0 + my_column >= column_count) continue;
      const i64 at = column_other[my_column];
#pragma unroll
      for (int m = 0; m < 4; ++m) {
        const i64 my_row = row0 + warp_row + m * 16 + g + i / 2 * 8,
                  channel = group * rows + my_row;
        if (my_row >= rows) continue;
        if constexpr (Weights)
          end.out[split * grid.filters + channel * q.weight_result + at] = totals[m][n][i];
        else
          end.store(totals[m][n][i], channel, at + channel * q.result.c);
      }
    }
#endif
}

}  // namespace pyconv::cuda

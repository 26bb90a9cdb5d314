// Convolution as a GEMM whose right matrix is never built: tiles of it are gathered into shared
// memory (implicit GEMM), and multiplied on the FMA units.
//
//   sum over steps s of  left(row, s) * source(column, s)
//   forward, input gradient   row result channel, column result pixel, step (source channel, tap)
//   weight gradient           row k of dy, column (c, tap), step pixel; split over pixels, and the
//                             parts summed in order
//
// A filter place and a pixel place each know half of where a source element lies; so one kernel
// serves all three passes with the halves exchanged. A block computes ROWS x COLUMNS results of one
// group and phase, a thread 4 rows x several times 4 columns of it, in steps of 8; the next tile is
// fetched into registers while the present one is multiplied.
#include "gemm_tile.cuh"
#include "kernels.cuh"
#include "pointwise.cuh"

namespace pyconv::cuda {
namespace {

constexpr int gemm_rows = 64, gemm_steps = 8, gemm_threads = 256;
template <class T>
constexpr int gemm_columns = sizeof(T) == 4 ? 128 : 64;  // 32 or 16 sums a thread

template <class T>
struct alignas(16) Quad {
  T v[4];
};

// Weights: the weight gradient. StepsFirst: neighbouring threads fetch neighbouring steps of the
// right matrix, else columns; whichever lie side by side in memory.
template <class T, bool Weights, bool StepsFirst>
__global__ void __launch_bounds__(gemm_threads, 1)
    gemm_tile(const __grid_constant__ ConvProblem p, const __grid_constant__ Correlation phase_0,
              Pass pass, const Grid grid, const T* left, const T* right, const Epilogue<T> end) {
  constexpr int columns = gemm_columns<T>, groups_of_4 = columns / 64;
  constexpr int left_loads = gemm_rows * gemm_steps / gemm_threads;
  constexpr int right_loads = columns * gemm_steps / gemm_threads;
  // A quad more than a row keeps the transposed stores of StepsFirst off each other's banks.
  __shared__ Quad<T> left_tile[gemm_steps][gemm_rows / 4 + 1];
  __shared__ Quad<T> right_tile[gemm_steps][columns / 4 + 1];
  __shared__ Place column_place[columns], step_place[2][gemm_steps];
  __shared__ Correlation q;

  i64 id = blockIdx.x % grid.phase_blocks;
  block_phase(p, pass, phase_0, blockIdx.x / grid.phase_blocks, q);
  const i64 row0 = take(id, grid.row_tiles) * gemm_rows;
  const i64 column0 = take(id, grid.column_tiles) * columns;
  const i64 group = take(id, q.groups), split = id;
  const i64 column_count = Weights ? q.depth() : q.pixels();
  if (column0 >= column_count) return;  // a phase smaller than the first
  const i64 first_step = split * grid.split_steps;
  const i64 step_count =
      min_of(Weights ? q.pixels() : q.depth(), first_step + grid.split_steps) - first_step;
  const i64 row_stride = Weights ? q.result.c : q.weight_result;
  left += group * (Weights ? q.result_channels * q.result.c : q.weight_group);
  const Source<T> source = source_of(q, right + group * q.source_channels * q.source.c);
  const i64 rows = q.result_channels;
  const int t = int(threadIdx.x);

  if (t < columns && column0 + t < column_count)
    column_place[t] = Weights ? filter_place(q, column0 + t) : pixel_place(q, column0 + t);
  auto place_steps = [&](i64 tile) {
    const i64 step = tile * gemm_steps + t;
    if (t < gemm_steps && step < step_count)
      step_place[tile % 2][t] =
          Weights ? pixel_place(q, first_step + step) : filter_place(q, first_step + step);
  };
  T left_part[left_loads], right_part[right_loads];
  auto fetch = [&](i64 tile) {
    const Place* places = step_place[tile % 2];
    const int step = t % gemm_steps;
    for (int i = 0; i < left_loads; ++i) {
      const i64 row = row0 + t / gemm_steps + i * (gemm_threads / gemm_steps);
      const bool inside = row < rows && tile * gemm_steps + step < step_count;
      left_part[i] = inside ? left[row * row_stride + places[step].other] : T(0);
    }
    for (int i = 0; i < right_loads; ++i) {
      const int s = StepsFirst ? step : t / columns + i * (gemm_threads / columns);
      const int column =
          StepsFirst ? t / gemm_steps + i * (gemm_threads / gemm_steps) : t % columns;
      const bool inside = column0 + column < column_count && tile * gemm_steps + s < step_count;
      right_part[i] = inside ? source.load(column_place[column], places[s]) : T(0);
    }
  };
  auto keep = [&] {
    const int step = t % gemm_steps;
    for (int i = 0; i < left_loads; ++i) {
      const int row = t / gemm_steps + i * (gemm_threads / gemm_steps);
      left_tile[step][row / 4].v[row % 4] = left_part[i];
    }
    for (int i = 0; i < right_loads; ++i) {
      const int s = StepsFirst ? step : t / columns + i * (gemm_threads / columns);
      const int column =
          StepsFirst ? t / gemm_steps + i * (gemm_threads / gemm_steps) : t % columns;
      right_tile[s][column / 4].v[column % 4] = right_part[i];
    }
  };

  const int my_rows = t / 16, my_columns = t % 16;  // in quads
  T sums[4][groups_of_4][4] = {};
  const i64 tiles = step_count <= 0 ? 0 : ceil_div(step_count, gemm_steps);
  place_steps(0);
  place_steps(1);
  __syncthreads();
  if (tiles) fetch(0);
  for (i64 tile = 0; tile < tiles; ++tile) {
    keep();
    __syncthreads();
    if (tile + 1 < tiles) fetch(tile + 1);
    place_steps(tile + 2);
#pragma unroll
    for (int s = 0; s < gemm_steps; ++s) {
      const Quad<T> a = left_tile[s][my_rows];
#pragma unroll
      for (int g = 0; g < groups_of_4; ++g) {
        const Quad<T> b = right_tile[s][my_columns + g * 16];
#pragma unroll
        for (int r = 0; r < 4; ++r)
#pragma unroll
          for (int c = 0; c < 4; ++c) sums[r][g][c] += a.v[r] * b.v[c];
      }
    }
    __syncthreads();
  }

#pragma unroll
  for (int g = 0; g < groups_of_4; ++g)
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      const int column = (my_columns + g * 16) * 4 + c;
      if (column0 + column >= column_count) continue;
      const i64 at = column_place[column].other;
#pragma unroll
      for (int r = 0; r < 4; ++r) {
        const i64 row = row0 + my_rows * 4 + r, channel = group * rows + row;
        if (row >= rows) continue;
        if constexpr (Weights)
          end.out[split * grid.filters + channel * q.weight_result + at] = sums[r][g][c];
        else
          end.store(sums[r][g][c], channel, at + channel * q.result.c);
      }
    }
}

// Into how many parts the pixels of a weight gradient are split: enough blocks for the largest
// devices, at least 256 pixels a part. Only the problem decides, so that every device gives the
// same bits. Forward never splits, so that an image's result does not depend on its batch.
template <class T>
i64 weight_splits(const ConvProblem& p) {
  const i64 tiles = p.groups * ceil_div(p.k_per_group(), gemm_rows) *
                    ceil_div(p.c_per_group() * p.taps(), gemm_columns<T>);
  return min_of(ceil_div(512, tiles), p.n * p.out_pixels() / 256 + 1);
}

// Whether the current device has what mma.cuh asks for.
bool has_tensor_cores() {
  int device = 0, major = 0;
  require(cudaGetDevice(&device), "gemm");
  require(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "gemm");
  return major >= 8;
}

template <class T>
using Tile = void (*)(const ConvProblem, const Correlation, Pass, const Grid, const T*, const T*,
                      const Epilogue<T>);

template <int PRODUCTS, bool Weights>
Tile<float> mma_tile_for(const Correlation& q, const float* right) {
  const bool quads = !Weights && q.layout == Layout::nhwc && q.source_channels % 4 == 0 &&
                     reinterpret_cast<std::uintptr_t>(right) % 16 == 0;
  return quads ? mma_tile<PRODUCTS, Weights, !Weights> : mma_tile<PRODUCTS, Weights, false>;
}

template <class T, bool Weights>
void gemm_pass(const ConvProblem& p, Pass pass, const Buffers& b, i64 splits, T* out) {
  const Correlation q = correlation(p, Weights ? Pass::fwd : pass);
  const T* left = static_cast<const T*>(Weights ? b.a : b.b);
  const T* right = static_cast<const T*>(Weights ? b.b : b.a);
  const bool steps_first = Weights == (p.layout == Layout::nchw);
  Tile<T> tile = steps_first ? gemm_tile<T, Weights, true> : gemm_tile<T, Weights, false>;
  i64 tile_rows = gemm_rows, tile_columns = gemm_columns<T>;
  if constexpr (sizeof(T) == 4)
    if (p.precision >= Precision::tf32 && has_tensor_cores()) {
      tile = p.precision == Precision::tf32 ? mma_tile_for<1, Weights>(q, right)
                                            : mma_tile_for<3, Weights>(q, right);
      tile_rows = tile_columns = mma_size;
    }
  const i64 steps = Weights ? q.pixels() : q.depth();
  const i64 split_steps = splits == 1 ? steps : ceil_div(steps, splits);
  const i64 row_tiles = ceil_div(q.result_channels, tile_rows);
  const i64 column_tiles = ceil_div(Weights ? q.depth() : most_pixels(p, pass, q), tile_columns);
  Grid grid{row_tiles * column_tiles * q.groups * splits, row_tiles, column_tiles, split_steps,
            q.groups * q.weight_group};
  if (!Weights) grid.split_steps = q.source_channels * p.taps();  // of any phase
  const i64 phases = Weights ? 1 : phase_count(p, pass);
  Epilogue<T> end = epilogue<T>(p, b);
  end.out = out;
  launch("gemm", tile, grid.phase_blocks * phases, gemm_threads, b.stream, p, q, pass, grid, left,
         right, end);
}

}  // namespace

template <class T>
std::size_t gemm_shared_bytes(const ConvProblem& p, Pass pass) {
  const i64 splits = pass == Pass::bwd_weight ? weight_splits<T>(p) : 1;
  return splits > 1 ? std::size_t(splits * p.k * p.c_per_group() * p.taps()) * sizeof(T) : 0;
}

template <class T>
void gemm(const ConvProblem& p, Pass pass, const Buffers& b) {
  T* const out = static_cast<T*>(b.out);
  if (pass == Pass::bwd_weight) {
    const i64 splits = weight_splits<T>(p);
    T* const parts = splits > 1 ? reinterpret_cast<T*>(b.shared) : out;
    gemm_pass<T, true>(p, pass, b, splits, parts);
    if (splits > 1) sum_partials(parts, splits, p.k * p.c_per_group() * p.taps(), out, b.stream);
    return;
  }
  store_empty_sums<T>(p, pass, b);
  gemm_pass<T, false>(p, pass, b, 1, out);
  if (pass == Pass::bwd_data) add_border_gradients<T>(p, b);
}

template void gemm<float>(const ConvProblem&, Pass, const Buffers&);
template void gemm<double>(const ConvProblem&, Pass, const Buffers&);
template std::size_t gemm_shared_bytes<float>(const ConvProblem&, Pass);
template std::size_t gemm_shared_bytes<double>(const ConvProblem&, Pass);

}  // namespace pyconv::cuda

// Depthwise convolution: a 3x3, 5x5 or 7x7 filter for each channel.
//
//   forward, input gradient at stride 1   a thread has 4 x 4 results of a channel in registers, and
//                       the filter; it goes down the rows of x once, each a window of columns in
//                       registers that slides over the filter's taps. 49 products of a 7x7 filter
//                       cost 6 loads.
//   weight gradient     a thread has all taps of a channel in registers and runs over strips of 4
//                       results; threads of a channel meet by shuffles (NCHW) or in shared memory
//                       (NHWC), and the parts that blocks sum are added in order.
//
// Neighbouring threads take neighbouring strips (NCHW) or channels (NHWC). Other shapes are
// direct.cu's.
#include "direct.cuh"
#include "kernels.cuh"
#include "pointwise.cuh"

namespace pyconv::cuda {
namespace {

constexpr int strip = 4, warp = 32;

template <int F, int S>
struct Shape {
  static constexpr int filter = F, stride = S, reach = (strip - 1) * S + F;
};

template <class T, class Go>
void with_shape(const ConvProblem& p, Go&& go) {
  switch (10 * p.filter[2] + p.stride[2]) {
    case 31: return go(Shape<3, 1>{});
    case 32: return go(Shape<3, 2>{});
    case 51: return go(Shape<5, 1>{});
    case 52: return go(Shape<5, 2>{});
  }
  if constexpr (sizeof(T) == 4) {
    if (p.stride[2] == 1) return go(Shape<7, 1>{});
    return go(Shape<7, 2>{});
  }
}

// Taps in the order of the source's positions, which an input gradient reads backwards.
Correlation ascending(Correlation q) {
  for (AxisMap& axis : q.axis) {
    if (axis.tap_step > 0) continue;
    axis.first += axis.tap_step * (axis.taps - 1);
    axis.weight_first += axis.weight_step * (axis.taps - 1);
    axis.weight_step = -axis.weight_step;
    axis.tap_step = -axis.tap_step;
  }
  return q;
}

// `count` elements of a row of a plane from column `first` on, zeros outside.
template <class T, int COUNT>
__device__ inline void load_row(const Correlation& q, const T* plane, i64 row, i64 first,
                                T (&to)[COUNT]) {
  const AxisMap &H = q.axis[1], &W = q.axis[2];
  const bool inside = row >= 0 && row < H.source_size;
  const T* const from = plane + row * q.source.axis[1] + first * q.source.axis[2];
#pragma unroll
  for (int i = 0; i < COUNT; ++i)
    to[i] =
        inside && first + i >= 0 && first + i < W.source_size ? from[i * q.source.axis[2]] : T(0);
}

template <class T, class Shape>
__global__ void __launch_bounds__(block_threads)
    depthwise_correlate(const __grid_constant__ Correlation q, const T* x, const T* w,
                        const Epilogue<T> end) {
  const AxisMap &H = q.axis[1], &W = q.axis[2];
  const i64 column_strips = ceil_div(W.count, strip), row_strips = ceil_div(H.count, strip);
  i64 id = thread_index();
  if (id >= q.n * q.groups * row_strips * column_strips) return;
  i64 c = 0;
  if (q.layout == Layout::nhwc) c = take(id, q.groups);
  const i64 o = take(id, column_strips) * strip, p = take(id, row_strips) * strip;
  if (q.layout == Layout::nchw) c = take(id, q.groups);
  x += id * q.source.n + c * q.source.c;
  w += c * q.weight_group;
  constexpr int F = Shape::filter, S = Shape::stride;
  T weight[F][F], sums[strip][strip] = {};
#pragma unroll
  for (int r = 0; r < F; ++r)
#pragma unroll
    for (int s = 0; s < F; ++s) weight[r][s] = w[q.weight_tap(0, r, s)];
  const i64 row0 = H.first + p * S, column0 = W.first + o * S;
#pragma unroll
  for (int i = 0; i < Shape::reach; ++i) {
    T row[Shape::reach];
    load_row(q, x, row0 + i, column0, row);
#pragma unroll
    for (int t = 0; t < strip; ++t) {
      const int r = i - t * S;
      if (r < 0 || r >= F) continue;
#pragma unroll
      for (int u = 0; u < strip; ++u)
#pragma unroll
        for (int s = 0; s < F; ++s) sums[t][u] += weight[r][s] * row[u * S + s];
    }
  }
  const i64 at = id * q.result.n + c * q.result.c;
#pragma unroll
  for (int t = 0; t < strip; ++t)
#pragma unroll
    for (int u = 0; u < strip; ++u)
      if (p + t < H.count && o + u < W.count)
        end.store(sums[t][u], c, at + (p + t) * q.result.axis[1] + (o + u) * q.result.axis[2]);
}

template <class T, class Shape>
__global__ void __launch_bounds__(block_threads)
    depthwise_weights(const __grid_constant__ Correlation q, i64 split_strips, i64 filters,
                      const T* dy, const T* x, T* out) {
  constexpr int F = Shape::filter, S = Shape::stride, warps = block_threads / warp;
  __shared__ T shared[F][warps][warp];
  const AxisMap &H = q.axis[1], &W = q.axis[2];
  const bool planes = q.layout == Layout::nchw;
  const int t = int(threadIdx.x), lane = t % warp, row = t / warp;
  i64 id = blockIdx.x;
  const i64 channel =
      planes ? take(id, q.groups) : take(id, ceil_div(q.groups, warp)) * warp + lane;
  const i64 column_strips = ceil_div(W.count, strip);
  const i64 last = min_of(q.n * H.count * column_strips, (id + 1) * split_strips);
  T sums[F][F] = {};
  if (channel < q.groups)
    for (i64 i = id * split_strips + (planes ? t : row); i < last;
         i += planes ? block_threads : warps) {
      i64 n = i;
      const i64 o = take(n, column_strips) * strip, p = take(n, H.count);
      const T* const from = dy + n * q.result.n + channel * q.result.c + p * q.result.axis[1];
      T slope[strip];
#pragma unroll
      for (int u = 0; u < strip; ++u)
        slope[u] = o + u < W.count ? from[(o + u) * q.result.axis[2]] : T(0);
      const T* const plane = x + n * q.source.n + channel * q.source.c;
#pragma unroll
      for (int r = 0; r < F; ++r) {
        T line[Shape::reach];
        load_row(q, plane, H.first + p * S + r, W.first + o * S, line);
#pragma unroll
        for (int u = 0; u < strip; ++u)
#pragma unroll
          for (int s = 0; s < F; ++s) sums[r][s] += slope[u] * line[u * S + s];
      }
    }
  out += id * filters;
#pragma unroll
  for (int r = 0; r < F; ++r) {
#pragma unroll
    for (int s = 0; s < F; ++s) {
      T sum = sums[r][s];
      for (int other = warp / 2; planes && other > 0; other /= 2)
        sum += __shfl_sync(0xffffffffu, sum, lane ^ other);
      shared[s][row][lane] = sum;
    }
    __syncthreads();
    const int s = planes ? t : t / warp, from = planes ? 0 : lane;
    if (s < F && channel < q.groups) {
      T sum = shared[s][0][from];
      for (int i = 1; i < warps; ++i) sum += shared[s][i][from];
      out[channel * q.weight_group + q.weight_tap(0, r, s)] = sum;
    }
    __syncthreads();
  }
}

i64 channel_tiles(const ConvProblem& p) {
  return p.layout == Layout::nchw ? p.c : ceil_div(p.c, warp);
}

// Enough blocks for the largest devices, at least 8 strips a thread. Only the problem decides, so
// that every device gives the same bits.
i64 weight_splits(const ConvProblem& p) {
  const i64 strips = p.n * p.out[1] * ceil_div(p.out[2], strip);
  const i64 threads = p.layout == Layout::nchw ? block_threads : block_threads / warp;
  return min_of(ceil_div(1024, channel_tiles(p)), strips / (8 * threads) + 1);
}

}  // namespace

bool depthwise_fits(const ConvProblem& p, Pass pass) {
  if (p.c != p.groups || p.k != p.groups || p.border != Border::zeros) return false;
  if (p.in[0] != 1 || p.out[0] != 1 || p.filter[0] != 1 || p.pad[0] != 0) return false;
  const bool square = p.filter[1] == p.filter[2] && p.stride[1] == p.stride[2];
  if (!square || p.dilation[1] != 1 || p.dilation[2] != 1) return false;
  // 49 doubles and their sums are more than a thread's 255 registers.
  const bool held =
      p.filter[2] == 3 || p.filter[2] == 5 || (p.filter[2] == 7 && p.dtype == DType::f32);
  return held && p.stride[2] <= (pass == Pass::bwd_data ? 1 : 2);
}

template <class T>
std::size_t depthwise_shared_bytes(const ConvProblem& p, Pass pass) {
  const i64 splits = pass == Pass::bwd_weight ? weight_splits(p) : 1;
  return splits > 1 ? std::size_t(splits * p.k * p.taps()) * sizeof(T) : 0;
}

template <class T>
void depthwise(const ConvProblem& p, Pass pass, const Buffers& b) {
  const T *first = static_cast<const T*>(b.a), *second = static_cast<const T*>(b.b);
  if (pass == Pass::bwd_weight) {
    const i64 splits = weight_splits(p), filters = p.k * p.taps();
    T* const dw = static_cast<T*>(b.out);
    T* const parts = splits > 1 ? reinterpret_cast<T*>(b.shared) : dw;
    const i64 strips = p.n * p.out[1] * ceil_div(p.out[2], strip);
    with_shape<T>(p, [&](auto shape) {
      launch("depthwise_bwd_weight", depthwise_weights<T, decltype(shape)>,
             channel_tiles(p) * splits, block_threads, b.stream, correlation(p, Pass::fwd),
             ceil_div(strips, splits), filters, first, second, parts);
    });
    if (splits > 1) sum_partials(parts, splits, filters, dw, b.stream);
    return;
  }
  const Correlation q = ascending(correlation(p, pass));
  const i64 tiles = ceil_div(q.axis[1].count, strip) * ceil_div(q.axis[2].count, strip);
  with_shape<T>(p, [&](auto shape) {
    launch_each("depthwise", depthwise_correlate<T, decltype(shape)>, q.n * q.groups * tiles,
                b.stream, q, first, second, epilogue<T>(p, b));
  });
}

template void depthwise<float>(const ConvProblem&, Pass, const Buffers&);
template void depthwise<double>(const ConvProblem&, Pass, const Buffers&);
template std::size_t depthwise_shared_bytes<float>(const ConvProblem&, Pass);
template std::size_t depthwise_shared_bytes<double>(const ConvProblem&, Pass);

}  // namespace pyconv::cuda

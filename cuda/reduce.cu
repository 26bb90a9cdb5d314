// db[k] = sum of dy over images and pixels; and the sum of split reductions.
//
// NCHW: a block a channel, its threads side by side along the pixels. NHWC: a block 32 channels,
// side by side, and 8 pixels at a time. Partial sums meet in one order, so the bits do not change
// from run to run.
#include "kernels.cuh"
#include "reduce.cuh"

namespace pyconv::cuda {
namespace {

template <class T>
__global__ void __launch_bounds__(block_threads)
    bwd_bias_planes(i64 images, i64 channels, i64 pixels, const T* dy, T* db) {
  const i64 k = blockIdx.x;
  T sum[1] = {};
  for (i64 n = 0; n < images; ++n) {
    const T* plane = dy + (n * channels + k) * pixels;
    T part = 0;
    for (i64 i = threadIdx.x; i < pixels; i += blockDim.x) part += plane[i];
    sum[0] += part;
  }
  block_sum(sum);
  if (threadIdx.x == 0) db[k] = sum[0];
}

constexpr int bias_channels = 32, bias_rows = block_threads / bias_channels;

template <class T>
__global__ void __launch_bounds__(block_threads)
    bwd_bias_channels(i64 channels, i64 pixels, const T* dy, T* db) {
  __shared__ T shared[bias_rows][bias_channels];
  const int lane = int(threadIdx.x) % bias_channels, row = int(threadIdx.x) / bias_channels;
  const i64 k = i64(blockIdx.x) * bias_channels + lane;
  T sum = 0;
  if (k < channels)
    for (i64 i = row; i < pixels; i += bias_rows) sum += dy[i * channels + k];
  shared[row][lane] = sum;
  __syncthreads();
  if (row || k >= channels) return;
  for (int r = 1; r < bias_rows; ++r) sum += shared[r][lane];
  db[k] = sum;
}

template <class T>
__global__ void sum_each(const T* partials, i64 count, i64 size, T* out) {
  const i64 i = thread_index();
  if (i >= size) return;
  T sum = partials[i];
  for (i64 part = 1; part < count; ++part) sum += partials[part * size + i];
  out[i] = sum;
}

}  // namespace

template <class T>
void bwd_bias(const ConvProblem& p, const Buffers& b) {
  const T* dy = static_cast<const T*>(b.a);
  T* db = static_cast<T*>(b.out);
  if (p.layout == Layout::nchw)
    launch("bwd_bias", bwd_bias_planes<T>, p.k, threads_for(p.out_pixels()), b.stream, p.n, p.k,
           p.out_pixels(), dy, db);
  else
    launch("bwd_bias", bwd_bias_channels<T>, ceil_div(p.k, bias_channels), block_threads, b.stream,
           p.k, p.n * p.out_pixels(), dy, db);
}

template <class T>
void sum_partials(const T* partials, i64 count, i64 size, T* out, void* stream) {
  launch_each("sum_partials", sum_each<T>, size, stream, partials, count, size, out);
}

template void bwd_bias<float>(const ConvProblem&, const Buffers&);
template void bwd_bias<double>(const ConvProblem&, const Buffers&);
template void sum_partials<float>(const float*, i64, i64, float*, void*);
template void sum_partials<double>(const double*, i64, i64, double*, void*);

}  // namespace pyconv::cuda

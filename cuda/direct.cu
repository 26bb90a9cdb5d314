// Direct convolution, for problems with few channels in a group.
//
//   forward, input gradient   a thread a pixel and 4 result channels, in registers over all source
//                             channels and taps; neighbouring threads take neighbours in memory.
//                             All phases of an input gradient run in one launch.
//   weight gradient           a block one k, one c and up to 4 taps of a filter row; threads stride
//                             over the pixels, and meet in a tree. Where that makes too few blocks
//                             the pixels are split, and the parts summed in order.
#include "direct.cuh"
#include "kernels.cuh"
#include "pointwise.cuh"
#include "reduce.cuh"

namespace pyconv::cuda {
namespace {

constexpr int direct_rows = 4, direct_taps = 4;

template <class T>
__global__ void __launch_bounds__(block_threads)
    direct_correlate(const __grid_constant__ ConvProblem p,
                     const __grid_constant__ Correlation first_phase, Pass pass, i64 phase_blocks,
                     const T* source, const T* w, const Epilogue<T> end) {
  __shared__ Correlation q;
  block_phase(p, pass, first_phase, blockIdx.x / phase_blocks, q);
  const i64 row_blocks = ceil_div(q.result_channels, direct_rows);
  const i64 units = q.groups * row_blocks, pixels = q.pixels();
  i64 id = blockIdx.x % phase_blocks * block_threads + threadIdx.x;
  if (id >= units * pixels) return;
  i64 unit, pixel;
  if (q.layout == Layout::nchw) {
    pixel = take(id, pixels);
    unit = id;
  } else {
    unit = take(id, units);
    pixel = id;
  }
  i64 o[3];
  for (int a = 2; a >= 0; --a) o[a] = take(pixel, q.axis[a].count);
  const i64 n = pixel, group = unit / row_blocks, channel = unit % row_blocks * direct_rows;
  const i64 rows = min_of<i64>(direct_rows, q.result_channels - channel);
  T sums[direct_rows];
  correlate_at(q, source + n * q.source.n + group * q.source_channels * q.source.c,
               w + group * q.weight_group + channel * q.weight_result, o, rows, sums);
  const i64 first = group * q.result_channels + channel;
  i64 at = n * q.result.n + first * q.result.c;
  for (int a = 0; a < 3; ++a)
    at += (q.axis[a].result_first + o[a] * q.axis[a].result_step) * q.result.axis[a];
#pragma unroll
  for (int r = 0; r < direct_rows; ++r)
    if (r < rows) end.store(sums[r], first + r, at + r * q.result.c);
}

template <class T>
__global__ void empty_sums(const __grid_constant__ ConvProblem p, const Epilogue<T> end) {
  const i64 id = thread_index();
  if (id < p.n * p.c * p.in_pixels()) end.store(T(0), element_of(id, p.layout, p.c, p.in).c, id);
}

template <class T>
__global__ void __launch_bounds__(block_threads)
    direct_weights(const __grid_constant__ Correlation q, i64 split_pixels, i64 filters,
                   const T* dy, const T* x, T* out) {
  const AxisMap &D = q.axis[0], &H = q.axis[1], &W = q.axis[2];
  i64 id = blockIdx.x;
  const i64 jw0 = take(id, ceil_div(W.taps, direct_taps)) * direct_taps;
  const i64 jh = take(id, H.taps), jd = take(id, D.taps);
  const i64 c = take(id, q.source_channels), k = take(id, q.result_channels);
  const i64 group = take(id, q.groups), split = id;
  dy += (group * q.result_channels + k) * q.result.c;
  x += (group * q.source_channels + c) * q.source.c;
  T sums[direct_taps] = {};
  const i64 last = min_of(q.pixels(), (split + 1) * split_pixels);
  for (i64 i = split * split_pixels + threadIdx.x; i < last; i += blockDim.x) {
    i64 n = i, o[3];
    for (int a = 2; a >= 0; --a) o[a] = take(n, q.axis[a].count);
    const i64 d = border_index(D.source(o[0], jd), D.source_size, q.border);
    const i64 h = border_index(H.source(o[1], jh), H.source_size, q.border);
    if (d < 0 || h < 0) continue;
    const T left = dy[n * q.result.n + o[0] * q.result.axis[0] + o[1] * q.result.axis[1] +
                      o[2] * q.result.axis[2]];
    const T* row = x + n * q.source.n + d * q.source.axis[0] + h * q.source.axis[1];
#pragma unroll
    for (int t = 0; t < direct_taps; ++t) {
      const i64 at =
          jw0 + t < W.taps ? border_index(W.source(o[2], jw0 + t), W.source_size, q.border) : -1;
      if (at >= 0) sums[t] += left * row[at * q.source.axis[2]];
    }
  }
  out += split * filters + group * q.weight_group + k * q.weight_result + c * q.weight_source;
  block_sum(sums);
  if (threadIdx.x) return;
#pragma unroll
  for (int t = 0; t < direct_taps; ++t)
    if (jw0 + t < W.taps) out[q.weight_tap(jd, jh, jw0 + t)] = sums[t];
}

i64 weight_blocks(const ConvProblem& p) {
  return p.k * p.c_per_group() * p.filter[0] * p.filter[1] * ceil_div(p.filter[2], direct_taps);
}

// Into how many parts the pixels are split: enough blocks for the largest devices, enough pixels
// for a block. Only the problem decides, so that every device gives the same bits.
i64 weight_splits(const ConvProblem& p) {
  const i64 wanted = ceil_div(1024, weight_blocks(p));
  return min_of(wanted, p.n * p.out_pixels() / (16 * block_threads) + 1);
}

template <class T>
void direct_bwd_weight(const ConvProblem& p, const Buffers& b) {
  const Correlation q = correlation(p, Pass::fwd);
  const i64 splits = weight_splits(p), filters = q.groups * q.weight_group;
  T* const dw = static_cast<T*>(b.out);
  T* const parts = splits > 1 ? reinterpret_cast<T*>(b.shared) : dw;
  const i64 split_pixels = ceil_div(q.pixels(), splits);
  launch("direct_bwd_weight", direct_weights<T>, weight_blocks(p) * splits,
         threads_for(split_pixels), b.stream, q, split_pixels, filters, static_cast<const T*>(b.a),
         static_cast<const T*>(b.b), parts);
  if (splits > 1) sum_partials(parts, splits, filters, dw, b.stream);
}

}  // namespace

template <class T>
void store_empty_sums(const ConvProblem& p, Pass pass, const Buffers& b) {
  if (!has_untapped_results(p, pass)) return;
  launch_each("empty_sums", empty_sums<T>, p.n * p.c * p.in_pixels(), b.stream, p,
              epilogue<T>(p, b));
}

template <class T>
std::size_t direct_shared_bytes(const ConvProblem& p, Pass pass) {
  if (depthwise_fits(p, pass)) return depthwise_shared_bytes<T>(p, pass);
  const i64 splits = pass == Pass::bwd_weight ? weight_splits(p) : 1;
  return splits > 1 ? std::size_t(splits * p.k * p.c_per_group() * p.taps()) * sizeof(T) : 0;
}

template <class T>
void direct(const ConvProblem& p, Pass pass, const Buffers& b) {
  if (depthwise_fits(p, pass)) return depthwise<T>(p, pass, b);
  if (pass == Pass::bwd_weight) return direct_bwd_weight<T>(p, b);
  store_empty_sums<T>(p, pass, b);
  const Correlation q = correlation(p, pass);
  const i64 units = q.groups * ceil_div(q.result_channels, direct_rows);
  const i64 blocks = ceil_div(most_pixels(p, pass, q) * units, block_threads);
  launch("direct", direct_correlate<T>, blocks * phase_count(p, pass), block_threads, b.stream, p,
         q, pass, blocks, static_cast<const T*>(b.a), static_cast<const T*>(b.b),
         epilogue<T>(p, b));
  if (pass == Pass::bwd_data) add_border_gradients<T>(p, b);
}

template void store_empty_sums<float>(const ConvProblem&, Pass, const Buffers&);
template void store_empty_sums<double>(const ConvProblem&, Pass, const Buffers&);
template void direct<float>(const ConvProblem&, Pass, const Buffers&);
template void direct<double>(const ConvProblem&, Pass, const Buffers&);
template std::size_t direct_shared_bytes<float>(const ConvProblem&, Pass);
template std::size_t direct_shared_bytes<double>(const ConvProblem&, Pass);

}  // namespace pyconv::cuda

// Pooling forward and backward; definitions in csrc/cpu/pool.h, windows in csrc/window.h.
//
//   forward           a thread an output; neighbouring threads take neighbours in memory
//   backward avg, lp  a thread an input, which collects from the outputs that cover it, in order
//   by index (backward of max, unpooling)  a warp a plane: 32 sources at a time, in order; lanes
//                     with the same index meet in one of them. No atomics, so the bits do not
//                     change from run to run. Indices outside the plane are ignored.
#include <type_traits>

#include "../csrc/window.h"
#include "kernels.cuh"
#include "launch.cuh"

namespace pyconv::cuda {
namespace {

// The larger, NaN if either is.
template <class T>
__device__ inline T larger(T best, T x) {
  return x > best || x != x ? x : best;
}

// In double: float powers would overflow and lose digits.
template <class T>
__device__ inline T power_of(T x, double p) {
  return T(pow(double(x), p));
}

// The maximum and the pixel of the first NaN, else of the first maximum.
template <class T>
struct Max {
  T best = -T(INFINITY);
  i64 where;

  __device__ Max(const PoolProblem&, const Taps (&)[3], const T*, i64 first) : where(first) {}
  __device__ void tap(T x, i64 pixel, i64) {
    if (x <= best || best != best) return;
    best = x;
    where = pixel;
  }
  __device__ void end_row() {}
  __device__ T result() const { return best; }
};

// Sums by rows of the window first: shorter chains of additions err less.
template <class T>
struct Average {
  T total = 0, row = 0, divisor;
  const T* weights;

  __device__ Average(const PoolProblem& p, const Taps (&t)[3], const T* w, i64)
      : divisor(divisor_of(p, t, w)), weights(w) {}
  __device__ void tap(T x, i64, i64 number) { row += weights ? x * weights[number] : x; }
  __device__ void end_row() {
    total += row;
    row = 0;
  }
  __device__ T result() const { return total / divisor; }
};

template <class T>
struct Lp {
  T total = 0, row = 0;
  double p;

  __device__ Lp(const PoolProblem& problem, const Taps (&)[3], const T*, i64)
      : p(problem.norm_type) {}
  __device__ void tap(T x, i64, i64) {
    if (p == 2)
      row += x * x;
    else if (p == 1)
      row += fabs(x);
    else if (p == INFINITY)
      row = larger(row, T(fabs(x)));
    else
      row += power_of(T(fabs(x)), p);
  }
  __device__ void end_row() {
    total = p == INFINITY ? larger(total, row) : total + row;
    row = 0;
  }
  __device__ T result() const {
    if (p == 1 || p == INFINITY) return total;
    return p == 2 ? T(sqrt(total)) : power_of(total, 1 / p);
  }
};

template <class T, class Op>
__global__ void __launch_bounds__(block_threads)
    pool_fwd(const __grid_constant__ PoolProblem p, const T* x, const T* weights, T* y,
             i64* indices) {
  const i64 id = thread_index();
  if (id >= p.n * p.c * p.out_pixels()) return;
  const Element e = element_of(id, p.layout, p.c, p.out);
  const Taps t[3] = {taps_of(p, 0, e.at[0]), taps_of(p, 1, e.at[1]), taps_of(p, 2, e.at[2])};
  const Strides in = dense_strides(p.layout, p.c, p.in);
  const i64 step[3] = {p.adaptive ? 1 : p.dilation[0], p.adaptive ? 1 : p.dilation[1],
                       p.adaptive ? 1 : p.dilation[2]};
  x += e.n * in.n + e.c * in.c;
  Op op(p, t, weights, (t[0].first * p.in[1] + t[1].first) * p.in[2] + t[2].first);
  for (i64 d = 0; d < t[0].count; ++d)
    for (i64 h = 0; h < t[1].count; ++h) {
      const i64 line = (t[0].first + d * step[0]) * p.in[1] + t[1].first + h * step[1];
      const i64 number =
          ((t[0].skipped + d) * p.window[1] + t[1].skipped + h) * p.window[2] + t[2].skipped;
      for (i64 w = 0; w < t[2].count; ++w) {
        const i64 pixel = line * p.in[2] + t[2].first + w * step[2];
        op.tap(x[pixel * in.axis[2]], pixel, number + w);
      }
      op.end_row();
    }
  y[id] = op.result();
  if constexpr (std::is_same_v<Op, Max<T>>)
    if (indices) indices[id] = op.where;
}

// dy / dx of the p-norm: sign(x) (|x| / y)^(p - 1), 0 at x = 0 and at y = 0.
template <class T>
__device__ inline T norm_slope(T x, T y, double p) {
  if (x == 0 || y == 0) return 0;
  const T ratio = T(fabs(x)) / y;
  T part = ratio;
  if (p == 1)
    part = 1;
  else if (p == INFINITY)
    part = T(fabs(x)) == y ? T(1) : T(0);
  else if (p != 2)
    part = power_of(ratio, p - 1);
  return x > 0 ? part : -part;
}

//   avg  dx_i = sum_o dy_o w_(o, i) / sum(w)      lp  dx_i = sum_o dy_o norm_slope(x_i, y_o)
template <class T, bool LP>
__global__ void __launch_bounds__(block_threads, 1)
    pool_bwd(const __grid_constant__ PoolProblem p, const T* dy, const T* b, const T* y, T* dx) {
  const i64 id = thread_index();
  if (id >= p.n * p.c * p.in_pixels()) return;
  const T* weights = p.weighted ? b : nullptr;
  const Element e = element_of(id, p.layout, p.c, p.in);
  const Strides out = dense_strides(p.layout, p.c, p.out);
  const i64 base = e.n * out.n + e.c * out.c;
  const Range over[3] = {covering(p, 0, e.at[0]), covering(p, 1, e.at[1]), covering(p, 2, e.at[2])};
  Taps t[3];
  T sum = 0;
  for (i64 z = over[0].begin; z < over[0].end; ++z) {
    const i64 tap_d = tap_at(p, 0, z, e.at[0]);
    if (tap_d < 0) continue;
    t[0] = taps_of(p, 0, z);
    for (i64 h = over[1].begin; h < over[1].end; ++h) {
      const i64 tap_h = tap_at(p, 1, h, e.at[1]);
      if (tap_h < 0) continue;
      t[1] = taps_of(p, 1, h);
      for (i64 w = over[2].begin; w < over[2].end; ++w) {
        const i64 tap_w = tap_at(p, 2, w, e.at[2]);
        if (tap_w < 0) continue;
        t[2] = taps_of(p, 2, w);
        const i64 at = base + z * out.axis[0] + h * out.axis[1] + w * out.axis[2];
        T part = dy[at];
        if constexpr (LP)
          part *= norm_slope(b[id], y[at], p.norm_type);
        else
          part /= divisor_of(p, t, weights);
        if (weights) part *= weights[(tap_d * p.window[1] + tap_h) * p.window[2] + tap_w];
        sum += part;
      }
    }
  }
  dx[id] = sum;
}

constexpr int warp = 32;

// Zeros, and to[index] = from (the last of equal indices), or the sum of them (Add).
template <class T, bool Add>
__global__ void __launch_bounds__(block_threads)
    by_index(i64 planes, i64 channels, i64 apart, i64 from_size, i64 to_size, const T* from,
             const i64* indices, T* to) {
  const i64 plane = thread_index() / warp;
  if (plane >= planes) return;
  const int lane = int(threadIdx.x) % warp;
  const i64 n = plane / channels, c = plane % channels, c_step = apart == 1 ? 1 : 0;
  // NCHW: channels are planes apart; NHWC: elements are `apart` = channels apart.
  const i64 from0 = n * channels * from_size + (c_step ? c * from_size : c);
  const i64 to0 = n * channels * to_size + (c_step ? c * to_size : c);
  for (i64 i = lane; i < to_size; i += warp) to[to0 + i * apart] = 0;
  __syncwarp();
  for (i64 first = 0; first < from_size; first += warp) {
    const i64 i = first + lane;
    const i64 index = i < from_size ? indices[from0 + i * apart] : -1;
    const T value = i < from_size ? from[from0 + i * apart] : T(0);
    T sum = 0;
    int writer = lane;
    for (int other = 0; other < warp; ++other) {
      const bool same = __shfl_sync(0xffffffffu, index, other) == index;
      const T part = __shfl_sync(0xffffffffu, value, other);
      if (!same) continue;
      writer = other;  // the last
      sum = Add ? sum + part : part;
    }
    if (writer == lane && index >= 0 && index < to_size) {
      T& cell = to[to0 + index * apart];
      cell = Add ? cell + sum : sum;
    }
    __syncwarp();
  }
}

template <class T, bool Add>
void scatter(const PoolProblem& p, i64 from_size, i64 to_size, const Buffers& b) {
  const i64 planes = p.n * p.c;
  launch_each("pool_by_index", by_index<T, Add>, planes * warp, b.stream, planes, p.c,
              p.layout == Layout::nchw ? i64(1) : p.c, from_size, to_size,
              static_cast<const T*>(b.a), static_cast<const i64*>(b.b), static_cast<T*>(b.out));
}

template <class T, class Op>
void forward(const PoolProblem& p, const Buffers& b, const void* weights, void* indices) {
  launch_each("pool", pool_fwd<T, Op>, p.n * p.c * p.out_pixels(), b.stream, p,
              static_cast<const T*>(b.a), static_cast<const T*>(weights), static_cast<T*>(b.out),
              static_cast<i64*>(indices));
}

}  // namespace

template <class T>
void pool(const PoolProblem& p, Pass pass, const Buffers& b) {
  if (p.kind == PoolKind::unpool) return scatter<T, false>(p, p.in_pixels(), p.out_pixels(), b);
  if (pass != Pass::fwd) {
    if (p.kind == PoolKind::max) return scatter<T, true>(p, p.out_pixels(), p.in_pixels(), b);
    const auto kernel = p.kind == PoolKind::lp ? pool_bwd<T, true> : pool_bwd<T, false>;
    return launch_each("pool_backward", kernel, p.n * p.c * p.in_pixels(), b.stream, p,
                       static_cast<const T*>(b.a), static_cast<const T*>(b.b),
                       static_cast<const T*>(b.aux), static_cast<T*>(b.out));
  }
  switch (p.kind) {
    case PoolKind::avg: return forward<T, Average<T>>(p, b, p.weighted ? b.b : nullptr, nullptr);
    case PoolKind::lp: return forward<T, Lp<T>>(p, b, nullptr, nullptr);
    default: return forward<T, Max<T>>(p, b, nullptr, b.aux);
  }
}

template void pool<float>(const PoolProblem&, Pass, const Buffers&);
template void pool<double>(const PoolProblem&, Pass, const Buffers&);

}  // namespace pyconv::cuda

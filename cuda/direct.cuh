// The phase a block works on, and one result pixel by the sum of csrc/correlation.h, for a few
// neighbouring result channels.
#pragma once
#include "launch.cuh"

namespace pyconv::cuda {

// Pixels of the largest phase, for which a launch must have room: phase 0 may have one less an
// axis.
inline i64 most_pixels(const ConvProblem& p, Pass pass, const Correlation& phase_0) {
  i64 pixels = p.n;
  if (pass != Pass::bwd_data) return phase_0.pixels();
  for (int a = 0; a < 3; ++a) pixels *= (p.in[a] - 1) / p.stride[a] + 1;
  return pixels;
}

// The block's phase in shared memory, made from phase 0 by a thread an axis.
__device__ inline void block_phase(const ConvProblem& p, Pass pass, const Correlation& phase_0,
                                   i64 phase, Correlation& q) {
  if (threadIdx.x == 0) q = phase_0;
  __syncthreads();
  if (phase > 0 && threadIdx.x < 3) {
    const int a = int(threadIdx.x);
    for (int inner = 2; inner > a; --inner) phase /= phase_count(p, pass, inner);
    q.axis[a] = backward_axis(p, a, phase % phase_count(p, pass, a));
  }
  __syncthreads();
}

// sums[r] = the sum over source channels and taps at result `o` of q, which may lie outside the
// result; `source` and `w` are those of the group and of the first of `rows` channels. What is read
// beyond them repeats the last one.
template <class T, int ROWS>
__device__ inline void correlate_at(const Correlation& q, const T* source, const T* w,
                                    const i64 (&o)[3], i64 rows, T (&sums)[ROWS]) {
  const AxisMap &D = q.axis[0], &H = q.axis[1], &W = q.axis[2];
  i64 row[ROWS];
  for (int r = 0; r < ROWS; ++r) {
    row[r] = min_of<i64>(r, rows - 1) * q.weight_result;
    sums[r] = 0;
  }
  for (i64 jd = 0; jd < D.taps; ++jd) {
    const i64 d = border_index(D.source(o[0], jd), D.source_size, q.border);
    if (d < 0) continue;
    for (i64 jh = 0; jh < H.taps; ++jh) {
      const i64 h = border_index(H.source(o[1], jh), H.source_size, q.border);
      if (h < 0) continue;
      for (i64 jw = 0; jw < W.taps; ++jw) {
        const i64 at = border_index(W.source(o[2], jw), W.source_size, q.border);
        if (at < 0) continue;
        const T* from =
            source + d * q.source.axis[0] + h * q.source.axis[1] + at * q.source.axis[2];
        const T* weight = w + q.weight_tap(jd, jh, jw);
#pragma unroll 2
        for (i64 c = 0; c < q.source_channels; ++c) {
          const T x = from[c * q.source.c];
#pragma unroll
          for (int r = 0; r < ROWS; ++r) sums[r] += weight[c * q.weight_source + row[r]] * x;
        }
      }
    }
  }
}

}  // namespace pyconv::cuda

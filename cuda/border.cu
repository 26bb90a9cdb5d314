// The input gradient of the padding modes: a padded position that repeats a pixel passes its
// gradient on to that pixel. A thread a pixel collects from the positions that read it, in one
// order; most have none. A position outside the image falls into a phase of correlation.h like any
// other, with a result index outside the result.
#include "border.cuh"
#include "direct.cuh"
#include "kernels.cuh"

namespace pyconv::cuda {
namespace {

// Of the phase that a padded position falls into; -1: no tap reads it.
__device__ inline i64 first_tap(const ConvProblem& p, int a, i64 position) {
  for (i64 t0 = 0; t0 < phase_count(p, Pass::bwd_data, a); ++t0)
    if ((t0 * p.dilation[a] - p.pad[a] - position) % p.stride[a] == 0) return t0;
  return -1;
}

template <class T>
__global__ void __launch_bounds__(block_threads)
    border_gradients(const __grid_constant__ ConvProblem p, const __grid_constant__ Correlation q,
                     const T* dy, const T* w, T* dx) {
  const i64 id = thread_index();
  if (id >= p.n * p.c * p.in_pixels()) return;
  const Element e = element_of(id, p.layout, p.c, p.in);
  const Readers readers[3] = {readers_of(p, 0, e.at[0]), readers_of(p, 1, e.at[1]),
                              readers_of(p, 2, e.at[2])};
  const i64 count = readers[0].count() * readers[1].count() * readers[2].count();
  if (count == 1) return;
  const i64 group = e.c / q.result_channels, channel = e.c % q.result_channels;
  dy += e.n * q.source.n + group * q.source_channels * q.source.c;
  w += group * q.weight_group + channel * q.weight_result;
  Correlation at = q;
  T total = dx[id];
  for (i64 i = 1; i < count; ++i) {
    i64 rest = i, o[3];
    bool tapped = true;
    for (int a = 2; a >= 0; --a) {
      const i64 position = readers[a].at(take(rest, readers[a].count()));
      const i64 t0 = first_tap(p, a, position);
      tapped = tapped && t0 >= 0;
      at.axis[a] = backward_axis(p, a, t0);
      o[a] = (position - at.axis[a].result_first) / p.stride[a];
    }
    if (!tapped) continue;
    T sum[1];
    correlate_at(at, dy, w, o, 1, sum);
    total += sum[0];
  }
  dx[id] = total;
}

}  // namespace

template <class T>
void add_border_gradients(const ConvProblem& p, const Buffers& b) {
  if (p.border == Border::zeros) return;
  launch_each("border_gradients", border_gradients<T>, p.n * p.c * p.in_pixels(), b.stream, p,
              correlation(p, Pass::bwd_data), static_cast<const T*>(b.a),
              static_cast<const T*>(b.b), static_cast<T*>(b.out));
}

template void add_border_gradients<float>(const ConvProblem&, const Buffers&);
template void add_border_gradients<double>(const ConvProblem&, const Buffers&);

}  // namespace pyconv::cuda

// im2col and its adjoint, an element a thread.
//
//   columns[n, (c, tap), pixel] = x[n, c, i(pixel, tap)]
//   col2im gathers: each pixel adds up, in one order, the column elements that were read from it
#include "border.cuh"
#include "kernels.cuh"

namespace pyconv::cuda {
namespace {

template <class T>
__global__ void __launch_bounds__(block_threads)
    columns_of(const __grid_constant__ Correlation q, i64 size, i64 channels, const T* x,
               T* columns) {
  const i64 id = thread_index();
  if (id >= size) return;
  i64 rest = id, o[3], j[3];
  for (int a = 2; a >= 0; --a) o[a] = take(rest, q.axis[a].count);
  for (int a = 2; a >= 0; --a) j[a] = take(rest, q.axis[a].taps);
  const i64 c = take(rest, channels), n = rest;
  i64 from = n * q.source.n + c * q.source.c;
  bool inside = true;
  for (int a = 0; a < 3; ++a) {
    const i64 i = border_index(q.axis[a].source(o[a], j[a]), q.axis[a].source_size, q.border);
    inside = inside && i >= 0;
    from += i * q.source.axis[a];
  }
  columns[id] = inside ? x[from] : T(0);
}

template <class T>
__global__ void __launch_bounds__(block_threads)
    image_of(const __grid_constant__ ConvProblem p, const T* columns, T* x) {
  const i64 id = thread_index();
  if (id >= p.n * p.c * p.in_pixels()) return;
  const Element e = element_of(id, p.layout, p.c, p.in);
  const Readers readers[3] = {readers_of(p, 0, e.at[0]), readers_of(p, 1, e.at[1]),
                              readers_of(p, 2, e.at[2])};
  const i64 count = readers[0].count() * readers[1].count() * readers[2].count();
  const i64 taps = p.taps(), pixels = p.out_pixels();
  columns += (e.n * p.c + e.c) * taps * pixels;
  T sum = 0;
  for (i64 i = 0; i < count; ++i) {
    i64 rest = i, position[3];
    for (int a = 2; a >= 0; --a) position[a] = readers[a].at(take(rest, readers[a].count()));
    for (i64 t = 0; t < taps; ++t) {
      i64 tap = t, from = 0, step = 1;
      bool read = true;
      for (int a = 2; a >= 0; --a) {
        const i64 start = position[a] + p.pad[a] - take(tap, p.filter[a]) * p.dilation[a];
        const i64 o = start / p.stride[a];
        read = read && start >= 0 && start % p.stride[a] == 0 && o < p.out[a];
        from += o * step;
        step *= p.out[a];
      }
      if (read) sum += columns[t * pixels + from];
    }
  }
  x[id] = sum;
}

}  // namespace

template <class T>
void im2col(const ConvProblem& p, const Buffers& b) {
  const i64 size = p.n * p.c * p.taps() * p.out_pixels();
  launch_each("im2col", columns_of<T>, size, b.stream, correlation(p, Pass::fwd), size, p.c,
              static_cast<const T*>(b.a), static_cast<T*>(b.out));
}

template <class T>
void col2im(const ConvProblem& p, const Buffers& b) {
  launch_each("col2im", image_of<T>, p.n * p.c * p.in_pixels(), b.stream, p,
              static_cast<const T*>(b.a), static_cast<T*>(b.out));
}

template void im2col<float>(const ConvProblem&, const Buffers&);
template void im2col<double>(const ConvProblem&, const Buffers&);
template void col2im<float>(const ConvProblem&, const Buffers&);
template void col2im<double>(const ConvProblem&, const Buffers&);

}  // namespace pyconv::cuda

// The input gradient of the padding modes: a padded position that repeats a pixel passes its
// gradient on to that pixel. The main kernel has summed what each pixel receives in its own place;
// this adds what the positions outside the image receive, a thin rim, plane by plane in one order.
#pragma once
#include "../correlation.h"
#include "../kernels.h"
#include "parallel.h"

namespace pyconv::PYCONV_TARGET {

// The gradient at padded position `at` (outside the image, so its own phase rules hold):
// sum over taps and k of w dy.
template <class T>
T gradient_at(const ConvProblem& p, const T* dy, const Strides& y, const T* w, const i64 (&at)[3]) {
  T sum = 0;
  for (i64 t = 0; t < p.taps(); ++t) {
    const i64 tap[3] = {t / p.filter[2] / p.filter[1], t / p.filter[2] % p.filter[1],
                        t % p.filter[2]};
    const T* from = dy;
    for (int a = 0; a < 3 && from; ++a) {
      const i64 start = at[a] + p.pad[a] - tap[a] * p.dilation[a];
      const i64 o = start / p.stride[a];
      from = start < 0 || start % p.stride[a] || o >= p.out[a] ? nullptr : from + o * y.axis[a];
    }
    if (!from) continue;
    const T* weight = w + (p.flip ? p.taps() - 1 - t : t);
    for (i64 k = 0; k < p.k_per_group(); ++k)
      sum += weight[k * p.c_per_group() * p.taps()] * from[k * y.c];
  }
  return sum;
}

template <class T>
void add_border_gradients(const ConvProblem& p, const T* dy, const T* w, T* dx, int threads) {
  if (p.border == Border::zeros) return;
  const Strides x = dense_strides(p.layout, p.c, p.in), y = dense_strides(p.layout, p.k, p.out);
  parallel_for(p.n * p.c, threads, [&](i64 plane, int) {
    const i64 n = plane / p.c, c = plane % p.c, group = c / p.c_per_group();
    const T* gradient = dy + n * y.n + group * p.k_per_group() * y.c;
    const T* weights =
        w + (group * p.k_per_group() * p.c_per_group() + c % p.c_per_group()) * p.taps();
    T* image = dx + n * x.n + c * x.c;
    i64 at[3];
    for (at[0] = -p.pad[0]; at[0] < p.in[0] + p.pad_after[0]; ++at[0])
      for (at[1] = -p.pad[1]; at[1] < p.in[1] + p.pad_after[1]; ++at[1])
        for (at[2] = -p.pad[2]; at[2] < p.in[2] + p.pad_after[2]; ++at[2]) {
          const bool row_inside = at[0] >= 0 && at[0] < p.in[0] && at[1] >= 0 && at[1] < p.in[1];
          if (row_inside && at[2] == 0) at[2] = p.in[2];  // over the image
          if (at[2] >= p.in[2] + p.pad_after[2]) break;
          T* to = image;
          for (int a = 0; a < 3; ++a) to += border_index(at[a], p.in[a], p.border) * x.axis[a];
          *to += gradient_at(p, gradient, y, weights, at);
        }
  });
}

}  // namespace pyconv::PYCONV_TARGET

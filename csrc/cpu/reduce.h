// Sums over what tasks have summed apart, in one order.
//
// db[k] = sum of dy over images and pixels, in one order: vectors of partial sums flushed every
// block of pixels, which bounds the rounding error of long sums.
#pragma once
#include "../correlation.h"
#include "../kernels.h"
#include "parallel.h"

namespace pyconv::PYCONV_TARGET {

// to[i] = sum over parts of partial[part, i].
template <class T>
void add_parts(const T* partial, i64 parts, i64 size, T* to, int threads) {
  parallel_for(ceil_div(size, 4096), threads, [&](i64 block, int) {
    for (i64 i = block * 4096; i < min_of(size, (block + 1) * 4096); ++i) {
      T sum = partial[i];
      for (i64 part = 1; part < parts; ++part) sum += partial[part * size + i];
      to[i] = sum;
    }
  });
}

template <class T>
void bwd_bias(const ConvProblem& p, const Buffers& b) {
  const T* dy = static_cast<const T*>(b.a);
  T* db = static_cast<T*>(b.out);
  const i64 pixels = p.out_pixels();
  constexpr i64 block = 64 * lanes<T>;
  if (p.layout == Layout::nchw) {
    parallel_for(p.k, b.threads, [&](i64 k, int) {
      T sum = 0;
      for (i64 n = 0; n < p.n; ++n) {
        const T* plane = dy + (n * p.k + k) * pixels;
        for (i64 first = 0; first < pixels; first += block) {
          const i64 last = min_of(pixels, first + block);
          Vec<T> part{};
          i64 i = first;
          for (; i + lanes<T> <= last; i += lanes<T>) part += load(plane + i);
          if (i < last) part += load_first(plane + i, int(last - i));
          sum += sum_lanes<T>(part);
        }
      }
      db[k] = sum;
    });
    return;
  }
  parallel_for(ceil_div(p.k, lanes<T>), b.threads, [&](i64 task, int) {
    const i64 k = task * lanes<T>;
    const int count = int(min_of<i64>(lanes<T>, p.k - k));
    Vec<T> sum{};
    for (i64 first = 0; first < p.n * pixels; first += 64) {
      Vec<T> part{};
      for (i64 i = first; i < min_of(p.n * pixels, first + 64); ++i)
        part += load_first(dy + i * p.k + k, count);
      sum += part;
    }
    store_first(db + k, sum, count);
  });
}

}  // namespace pyconv::PYCONV_TARGET

// Optimizer steps, dropout and activations: one pass over memory each.
#pragma once
#include "batch_norm.h"
#include "norm.h"

namespace pyconv::PYCONV_TARGET {

// body(offset, count, whole) for every vector of `size` elements, in blocks handed to threads.
template <class T, class Body>
PYCONV_INLINE void each_vector(i64 size, int threads, Body&& body) {
  constexpr i64 block = 16384;  // 64 KB of floats: long against starting a task
  parallel_for(ceil_div(size, block), threads, [&](i64 task, int) {
    const i64 end = min_of(size, (task + 1) * block);
    i64 i = task * block;
    for (; i + lanes<T> <= end; i += lanes<T>)
      body(i, lanes<T>, typename ChannelRuns<T>::template Whole<true>{});
    if (i < end) body(i, int(end - i), typename ChannelRuns<T>::template Whole<false>{});
  });
}

// g = grad + decay w; v = momentum v + g; w -= lr v, or with nesterov lr (g + momentum v).
// numbers: lr, momentum, decay, nesterov.
template <class T>
void sgd(const LayerProblem& p, void* const* buffers, int threads) {
  T *w = static_cast<T*>(buffers[0]), *velocity = static_cast<T*>(buffers[2]);
  const T* grad = static_cast<const T*>(buffers[1]);
  const T lr = T(p.numbers[0]), momentum = T(p.numbers[1]), decay = T(p.numbers[2]);
  const bool nesterov = p.numbers[3] != 0;
  each_vector<T>(p.elements(), threads, [&](i64 at, int count, auto whole) {
    constexpr bool all = decltype(whole)::value;
    const Vec<T> value = load_part<T, all>(w + at, count);
    const Vec<T> g = load_part<T, all>(grad + at, count) + decay * value;
    Vec<T> step = g;
    if (velocity) {
      const Vec<T> v = momentum * load_part<T, all>(velocity + at, count) + g;
      store_part<T, all>(velocity + at, v, count);
      step = nesterov ? g + momentum * v : v;
    }
    store_part<T, all>(w + at, value - lr * step, count);
  });
}

// numbers: lr / (1 - beta1^t), beta1, beta2, 1 / (1 - beta2^t), eps, decay of the gradient, factor
// of the weights.
template <class T>
void adam(const LayerProblem& p, void* const* buffers, int threads) {
  T* w = static_cast<T*>(buffers[0]);
  const T* grad = static_cast<const T*>(buffers[1]);
  T *mean = static_cast<T*>(buffers[2]), *square = static_cast<T*>(buffers[3]);
  T number[7];
  for (int i = 0; i < 7; ++i) number[i] = T(p.numbers[i]);
  const T rest1 = T(1 - p.numbers[1]), rest2 = T(1 - p.numbers[2]);
  each_vector<T>(p.elements(), threads, [&](i64 at, int count, auto whole) {
    constexpr bool all = decltype(whole)::value;
    const Vec<T> value = load_part<T, all>(w + at, count) * number[6];
    const Vec<T> g = load_part<T, all>(grad + at, count) + number[5] * value;
    const Vec<T> m = number[1] * load_part<T, all>(mean + at, count) + rest1 * g;
    const Vec<T> v = number[2] * load_part<T, all>(square + at, count) + rest2 * (g * g);
    store_part<T, all>(mean + at, m, count);
    store_part<T, all>(square + at, v, count);
    Vec<T> width = v * number[3];
    for (int i = 0; i < lanes<T>; ++i) width[i] = root(width[i]);
    store_part<T, all>(w + at, value - number[0] * m / (width + number[4]), count);
  });
}

// Each element is kept with probability 1 - p and divided by it, else 0; numbers: p. Whether it is
// kept follows from seed and position alone, so the gradient is the same map and needs no mask.
// The hash is Wellons' lowbias32 (2018), keyed anew every 2^20 elements.
template <class T>
void dropout(const LayerProblem& p, void* const* buffers, int threads) {
  typedef unsigned Words __attribute__((vector_size(PYCONV_VECTOR_BYTES)));
  constexpr int words = PYCONV_VECTOR_BYTES / 4;
  const T* x = static_cast<const T*>(buffers[0]);
  T* y = static_cast<T*>(buffers[1]);
  const double drop = p.numbers[0];
  const T scale = T(1 / (1 - drop));
  const unsigned least = unsigned(drop * 16777216.0);
  const i64 size = p.elements();
  constexpr i64 block = 16384;
  parallel_for(ceil_div(size, block), threads, [&](i64 task, int) {
    const i64 end = min_of(size, (task + 1) * block);
    for (i64 at = task * block; at < end; at += words) {
      std::uint64_t key = p.seed + std::uint64_t(at >> 20) * 0x9e3779b97f4a7c15u;
      key = (key ^ (key >> 31)) * 0x7fb5d329728ea185u;
      key = (key ^ (key >> 27)) * 0x81dadef4bc2dd44du;
      const unsigned low = unsigned(key), high = unsigned(key >> 32);
      Words hash;
      for (int i = 0; i < words; ++i) hash[i] = unsigned(i);
      hash = (hash + unsigned(at)) ^ low;
      hash = (hash ^ (hash >> 16)) * 0x7feb352du;
      hash = (hash ^ (hash >> 15)) * 0x846ca68bu;
      hash = (hash ^ (hash >> 16)) + high;
      hash = (hash ^ (hash >> 16)) * 0x7feb352du;
      hash = (hash ^ (hash >> 15)) * 0x846ca68bu;
      const Words number = (hash ^ (hash >> 16)) >> 8;
      for (int part = 0; part < words; part += lanes<T>) {
        const i64 from = at + part;
        const int count = int(min_of<i64>(lanes<T>, end - from));
        if (count <= 0) break;
        Vec<T> factor;
        if constexpr (lanes<T> == words)
          factor = number >= least ? splat(scale) : Vec<T>{};
        else
          for (int i = 0; i < lanes<T>; ++i) factor[i] = number[part + i] >= least ? scale : T(0);
        const Vec<T> value = count == lanes<T> ? load(x + from) : load_first(x + from, count);
        const Vec<T> kept = value * factor;
        if (count == lanes<T>)
          store(y + from, kept);
        else
          store_first(y + from, kept, count);
      }
    }
  });
}

template <class T>
void activation(const LayerProblem& p, void* const* buffers, int threads) {
  const T* x = static_cast<const T*>(buffers[0]);
  T* y = static_cast<T*>(buffers[1]);
  each_vector<T>(p.elements(), threads, [&](i64 at, int count, auto whole) {
    constexpr bool all = decltype(whole)::value;
    store_part<T, all>(y + at, activate<T>(p.activation, load_part<T, all>(x + at, count)), count);
  });
}

template <class T>
void layer(const LayerProblem& p, void* const* buffers, int threads, void*) {
  switch (p.kind) {
    case LayerKind::batch_norm:
      return p.backward ? batch_norm_backward<T>(p, buffers, threads)
                        : batch_norm<T>(p, buffers, threads);
    case LayerKind::local_response_norm:
      return p.backward ? local_response_norm_backward<T>(p, buffers, threads)
                        : local_response_norm<T>(p, buffers, threads);
    case LayerKind::dropout: return dropout<T>(p, buffers, threads);
    case LayerKind::activation: return activation<T>(p, buffers, threads);
    case LayerKind::sgd: return sgd<T>(p, buffers, threads);
    case LayerKind::adam: return adam<T>(p, buffers, threads);
  }
}

}  // namespace pyconv::PYCONV_TARGET

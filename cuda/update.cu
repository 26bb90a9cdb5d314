// Optimizer steps, dropout and activations, an element a thread; formulas as in csrc/cpu/update.h.
#include "kernels.cuh"
#include "pointwise.cuh"

namespace pyconv::cuda {
namespace {

template <class T>
struct Sgd {
  T lr, momentum, decay;
  bool nesterov;
};

template <class T>
__global__ void sgd_each(i64 size, const Sgd<T> o, T* w, const T* grad, T* velocity) {
  const i64 i = thread_index();
  if (i >= size) return;
  const T value = w[i], g = grad[i] + o.decay * value;
  T step = g;
  if (velocity) {
    const T v = o.momentum * velocity[i] + g;
    velocity[i] = v;
    step = o.nesterov ? g + o.momentum * v : v;
  }
  w[i] = value - o.lr * step;
}

// lr and the second moment's factor hold the corrections of the bias; `keep` is the weights' decay.
template <class T>
struct Adam {
  T lr, beta1, beta2, correction, eps, decay, keep, rest1, rest2;
};

template <class T>
__global__ void adam_each(i64 size, const Adam<T> o, T* w, const T* grad, T* mean, T* square) {
  const i64 i = thread_index();
  if (i >= size) return;
  const T value = w[i] * o.keep, g = grad[i] + o.decay * value;
  const T m = o.beta1 * mean[i] + o.rest1 * g, v = o.beta2 * square[i] + o.rest2 * (g * g);
  mean[i] = m;
  square[i] = v;
  w[i] = value - o.lr * m / (sqrt(v * o.correction) + o.eps);
}

// 24 random bits for an element, by seed and position alone: the CPU's, so the same are dropped.
__device__ inline unsigned dropout_bits(std::uint64_t seed, i64 at) {
  std::uint64_t key = seed + std::uint64_t(at >> 20) * 0x9e3779b97f4a7c15u;
  key = (key ^ (key >> 31)) * 0x7fb5d329728ea185u;
  key = (key ^ (key >> 27)) * 0x81dadef4bc2dd44du;
  unsigned hash = unsigned(at) ^ unsigned(key);
  for (int round = 0; round < 2; ++round) {
    hash = (hash ^ (hash >> 16)) * 0x7feb352du;
    hash = (hash ^ (hash >> 15)) * 0x846ca68bu;
    hash ^= hash >> 16;
    if (round == 0) hash += unsigned(key >> 32);
  }
  return hash >> 8;
}

template <class T>
__global__ void dropout_each(i64 size, std::uint64_t seed, unsigned least, T scale, const T* x,
                             T* y) {
  const i64 i = thread_index();
  if (i < size) y[i] = x[i] * (dropout_bits(seed, i) >= least ? scale : T(0));
}

template <class T>
__global__ void activate_each(i64 size, Activation activation, const T* x, T* y) {
  const i64 i = thread_index();
  if (i < size) y[i] = activate(activation, x[i]);
}

}  // namespace

template <class T>
void layer(const LayerProblem& p, void* const* buffers, int, void* stream) {
  const auto at = [&](int i) { return static_cast<T*>(buffers[i]); };
  const auto number = [&](int i) { return T(p.numbers[i]); };
  const i64 size = p.elements();
  switch (p.kind) {
    case LayerKind::batch_norm:
      return p.backward ? batch_norm_backward<T>(p, buffers, stream)
                        : batch_norm<T>(p, buffers, stream);
    case LayerKind::local_response_norm: return local_response_norm<T>(p, buffers, stream);
    case LayerKind::dropout:
      return launch_each("dropout", dropout_each<T>, size, stream, size, p.seed,
                         unsigned(p.numbers[0] * 16777216.0), T(1 / (1 - p.numbers[0])), at(0),
                         at(1));
    case LayerKind::activation:
      return launch_each("activation", activate_each<T>, size, stream, size, p.activation, at(0),
                         at(1));
    case LayerKind::sgd:
      return launch_each("sgd", sgd_each<T>, size, stream, size,
                         Sgd<T>{number(0), number(1), number(2), p.numbers[3] != 0}, at(0), at(1),
                         at(2));
    case LayerKind::adam:
      return launch_each("adam", adam_each<T>, size, stream, size,
                         Adam<T>{number(0), number(1), number(2), number(3), number(4), number(5),
                                 number(6), T(1 - p.numbers[1]), T(1 - p.numbers[2])},
                         at(0), at(1), at(2), at(3));
  }
}

template void layer<float>(const LayerProblem&, void* const*, int, void*);
template void layer<double>(const LayerProblem&, void* const*, int, void*);

}  // namespace pyconv::cuda

// dx = dy activation'(y), an element a thread.
#include "kernels.cuh"
#include "pointwise.cuh"

namespace pyconv::cuda {
namespace {

template <class T>
__global__ void chain_each(Activation activation, i64 size, const T* dy, const T* y, T* dx) {
  const i64 i = thread_index();
  if (i < size) dx[i] = chain(activation, dy[i], y[i]);
}

}  // namespace

template <class T>
void activation_backward(Activation activation, i64 size, const void* dy, const void* y, void* dx,
                         int, void* stream) {
  launch_each("activation_backward", chain_each<T>, size, stream, activation, size,
              static_cast<const T*>(dy), static_cast<const T*>(y), static_cast<T*>(dx));
}

template void activation_backward<float>(Activation, i64, const void*, const void*, void*, int,
                                         void*);
template void activation_backward<double>(Activation, i64, const void*, const void*, void*, int,
                                          void*);

}  // namespace pyconv::cuda

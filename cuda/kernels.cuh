// What the files of this directory give to the table, for float and double. All of it enqueues on
// Buffers::stream and returns: no allocation, no synchronisation.
#pragma once
#include "../csrc/kernels.h"

namespace pyconv::cuda {

template <class T>
void direct(const ConvProblem&, Pass, const Buffers&);
template <class T>
std::size_t direct_shared_bytes(const ConvProblem&, Pass);

// The shapes of `direct` that depthwise.cu serves: one square filter of 3, 5 or 7 a channel.
bool depthwise_fits(const ConvProblem&, Pass);
template <class T>
void depthwise(const ConvProblem&, Pass, const Buffers&);
template <class T>
std::size_t depthwise_shared_bytes(const ConvProblem&, Pass);

template <class T>
void gemm(const ConvProblem&, Pass, const Buffers&);
template <class T>
std::size_t gemm_shared_bytes(const ConvProblem&, Pass);

// Before an input gradient whose results are not all in a phase: those get the epilogue of an empty
// sum.
template <class T>
void store_empty_sums(const ConvProblem&, Pass, const Buffers&);
// After the input gradient of a convolution with a padding mode.
template <class T>
void add_border_gradients(const ConvProblem&, const Buffers&);

template <class T>
void im2col(const ConvProblem&, const Buffers&);
template <class T>
void col2im(const ConvProblem&, const Buffers&);
template <class T>
void bwd_bias(const ConvProblem&, const Buffers&);

// out[i] = partials[0][i] + partials[1][i] + ..., in this order.
template <class T>
void sum_partials(const T* partials, i64 count, i64 size, T* out, void* stream);

template <class T>
void pool(const PoolProblem&, Pass, const Buffers&);

template <class T>
void activation_backward(Activation, i64 size, const void* dy, const void* y, void* dx, int threads,
                         void* stream);

template <class T>
void batch_norm(const LayerProblem&, void* const* buffers, void* stream);
template <class T>
void batch_norm_backward(const LayerProblem&, void* const* buffers, void* stream);
template <class T>
void local_response_norm(const LayerProblem&, void* const* buffers, void* stream);  // both passes
template <class T>
void layer(const LayerProblem&, void* const* buffers, int threads, void* stream);

}  // namespace pyconv::cuda

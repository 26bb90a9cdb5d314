// Batch norm and local response normalisation, both passes; formulas as in csrc/cpu/norm.h.
//
// Batch norm: a block takes one channel (NCHW: threads along its pixels) or 32 (NHWC: threads along
// channels), and part of their images. A part has a mean, and sums about it that lose nothing to a
// large mean; parts are merged in order (Chan, Golub and LeVeque, 1979), then a thread an element
// writes the result. Until then the result's memory holds the parts. Nothing is added atomically,
// and the parts depend on the problem alone: the same bits on every run and device.
#include "kernels.cuh"
#include "pointwise.cuh"

namespace pyconv::cuda {
namespace {

// Element (channel, o, i) lies at channel * channel_step + o * outer_step + i. Threads lie side by
// side on `lanes` channels or on `width` of the inner elements.
struct Runs {
  i64 channels, outers, inners, outer_step, channel_step;
  int lanes, width;
  i64 outer_part, inner_part, outer_parts, inner_parts;

  explicit Runs(const LayerProblem& p) {
    const bool planes = p.layout == Layout::nchw;
    channels = p.c;
    outers = planes ? p.n : p.n * p.pixels;
    inners = planes ? p.pixels : 1;
    outer_step = planes ? p.c * p.pixels : p.c;
    channel_step = planes ? p.pixels : 1;
    lanes = planes ? 1 : 32;
    width = 1;
    while (planes && width < block_threads && width < inners) width *= 2;
    // 1024 blocks fill the largest devices; a thread adds up 16 elements or more.
    const i64 elements = p.n * p.pixels;
    const i64 most = min_of(ceil_div(1024, tiles()), elements * lanes / (16 * block_threads) + 1);
    const i64 wanted = min_of(most, elements / 3 + 1);  // three numbers a part fit the result
    outer_parts = min_of(wanted, outers > 0 ? outers : 1);
    outer_part = ceil_div(outers, outer_parts);
    inner_parts = min_of(wanted / outer_parts, ceil_div(inners, 4 * block_threads));
    if (inner_parts < 1) inner_parts = 1;
    inner_part = ceil_div(inners, inner_parts);
    if (3 * parts() > elements)
      outer_parts = inner_parts = 1, outer_part = outers, inner_part = inners;
  }

  PYCONV_HD i64 tiles() const { return (channels + lanes - 1) / lanes; }
  PYCONV_HD i64 parts() const { return outer_parts * inner_parts; }
};

// A thread's share of its block's part.
struct Share {
  i64 channel, part;
  i64 first_outer, last_outer, first_inner, last_inner;
  int outer_every, inner_every;
  bool leads;  // the one thread of the channel that writes what all have summed
  double count;

  __device__ Share(const Runs& r) {
    const int t = int(threadIdx.x), side = r.lanes * r.width;
    channel = blockIdx.x % r.tiles() * r.lanes + t % r.lanes;
    part = blockIdx.x / r.tiles();
    const i64 o = part % r.outer_parts * r.outer_part, i = part / r.outer_parts * r.inner_part;
    last_outer = min_of(r.outers, o + r.outer_part);
    last_inner = min_of(r.inners, i + r.inner_part);
    count = o < last_outer && i < last_inner ? double(last_outer - o) * double(last_inner - i) : 0;
    first_outer = o + t / side;
    first_inner = i + t % side / r.lanes;
    outer_every = int(blockDim.x) / side;
    inner_every = r.width;
    leads = t < r.lanes && channel < r.channels;
    if (channel >= r.channels) last_outer = 0;
  }

  template <class Body>
  __device__ void each(const Runs& r, Body&& body) const {
    for (i64 o = first_outer; o < last_outer; o += outer_every)
      for (i64 i = first_inner; i < last_inner; i += inner_every)
        body(channel * r.channel_step + o * r.outer_step + i);
  }
};

// The sum over all threads of this one's channel, for each of them.
__device__ inline double channel_sum(double value, int lanes) {
  __shared__ double shared[block_threads];
  const int t = int(threadIdx.x);
  __syncthreads();
  shared[t] = value;
  for (int half = int(blockDim.x) / 2; half >= lanes; half /= 2) {
    __syncthreads();
    if (t < half) shared[t] += shared[t + half];
  }
  __syncthreads();
  return shared[t % lanes];
}

template <class T>
struct Statistics {
  T *saved, *mean, *variance;  // mean and 1 / std of the batch; running
  i64 channels;
  double eps, momentum;

  __device__ void set(i64 c, double centre, double squares, double count) const {
    const double spread = squares / count;
    saved[c] = T(centre);
    saved[channels + c] = T(1 / sqrt(spread + eps));
    mean[c] = T((1 - momentum) * double(mean[c]) + momentum * double(saved[c]));
    variance[c] =
        T((1 - momentum) * double(variance[c]) + momentum * spread * (count / (count - 1)));
  }
};

// parts[kind][part][channel]: centre, sum of x - centre, sum of its squares.
template <class T>
__global__ void __launch_bounds__(block_threads)
    batch_parts(const __grid_constant__ Runs r, const T* x, T* parts, const Statistics<T> to) {
  const Share share(r);
  T sum = 0;
  share.each(r, [&](i64 at) { sum += x[at]; });
  const T centre = T(channel_sum(double(sum), r.lanes) / share.count);
  T first = 0, second = 0;
  share.each(r, [&](i64 at) {
    const T apart = x[at] - centre;
    first += apart;
    second += apart * apart;
  });
  const double rest = channel_sum(double(first), r.lanes);
  const double squares = channel_sum(double(second), r.lanes);
  if (!share.leads) return;
  if (r.parts() == 1) {
    const double mean = double(centre) + rest / share.count;
    return to.set(share.channel, mean, squares - rest * rest / share.count, share.count);
  }
  const i64 apart = r.parts() * r.channels, at = share.part * r.channels + share.channel;
  parts[at] = centre;
  parts[at + apart] = T(rest);
  parts[at + 2 * apart] = T(squares);
}

__device__ inline double part_count(const Runs& r, i64 part) {
  const i64 o = part % r.outer_parts * r.outer_part, i = part / r.outer_parts * r.inner_part;
  const i64 outers = min_of(r.outers, o + r.outer_part) - o;
  const i64 inners = min_of(r.inners, i + r.inner_part) - i;
  return outers > 0 && inners > 0 ? double(outers) * double(inners) : 0;
}

template <class T>
__global__ void __launch_bounds__(block_threads)
    batch_merge(const __grid_constant__ Runs r, const T* parts, const Statistics<T> to) {
  const i64 c = thread_index(), apart = r.parts() * r.channels;
  if (c >= r.channels) return;
  double count = 0, mean = 0, squares = 0;
  for (i64 part = 0; part < r.parts(); ++part) {
    const double some = part_count(r, part);
    if (some == 0) continue;
    const i64 at = part * r.channels + c;
    const double rest = double(parts[at + apart]), centre = double(parts[at]) + rest / some;
    const double step = centre - mean, all = count + some;
    squares +=
        double(parts[at + 2 * apart]) - rest * rest / some + step * step * (count / all) * some;
    mean += step * (some / all);
    count = all;
  }
  to.set(c, mean, squares, count);
}

template <class T>
__global__ void running_scales(const Statistics<T> s) {
  const i64 c = thread_index();
  if (c >= s.channels) return;
  s.saved[c] = s.mean[c];
  s.saved[s.channels + c] = T(1 / sqrt(double(s.variance[c]) + s.eps));
}

// Which channel an element of (N, C, pixels) or (N, pixels, C) belongs to.
struct ChannelOf {
  i64 channels, pixels;  // 1 pixel for NHWC: its channels change with every element

  explicit ChannelOf(const LayerProblem& p)
      : channels(p.c), pixels(p.layout == Layout::nchw ? p.pixels : 1) {}
  __device__ i64 operator()(i64 id) const {
    take(id, pixels);
    return take(id, channels);
  }
};

template <class T>
__global__ void __launch_bounds__(block_threads)
    batch_apply(ChannelOf channel_of, i64 size, Activation activation, const T* x, const T* w,
                const T* b, const T* residual, const T* saved, T* y) {
  const i64 id = thread_index();
  if (id >= size) return;
  const i64 c = channel_of(id);
  T value = (x[id] - saved[c]) * (saved[channel_of.channels + c] * w[c]) + b[c];
  if (residual) value += residual[id];
  y[id] = activate(activation, value);
}

template <class T>
struct Slopes {
  const T* saved;
  T *dw, *db;
  i64 channels;

  __device__ void set(i64 c, double sum, double along) const {
    db[c] = T(sum);
    dw[c] = T(along * double(saved[channels + c]));
  }
};

// parts[kind][part][channel]: sum of dy, sum of dy (x - mean).
template <class T>
__global__ void __launch_bounds__(block_threads)
    batch_slopes(const __grid_constant__ Runs r, const T* dy, const T* x, T* parts,
                 const Slopes<T> to) {
  const Share share(r);
  const T centre = share.channel < r.channels ? to.saved[share.channel] : T(0);
  T first = 0, second = 0;
  share.each(r, [&](i64 at) {
    first += dy[at];
    second += dy[at] * (x[at] - centre);
  });
  const double sum = channel_sum(double(first), r.lanes);
  const double along = channel_sum(double(second), r.lanes);
  if (!share.leads) return;
  if (r.parts() == 1) return to.set(share.channel, sum, along);
  const i64 at = share.part * r.channels + share.channel;
  parts[at] = T(sum);
  parts[at + r.parts() * r.channels] = T(along);
}

template <class T>
__global__ void __launch_bounds__(block_threads)
    batch_merge_slopes(const __grid_constant__ Runs r, const T* parts, const Slopes<T> to) {
  const i64 c = thread_index(), apart = r.parts() * r.channels;
  if (c >= r.channels) return;
  double sum = 0, along = 0;
  for (i64 part = 0; part < r.parts(); ++part) {
    sum += double(parts[part * r.channels + c]);
    along += double(parts[part * r.channels + c + apart]);
  }
  to.set(c, sum, along);
}

// dx = w / std (dy - mean(dy) - normal mean(dy normal)); over_count is 0 outside training.
template <class T>
__global__ void __launch_bounds__(block_threads)
    batch_apply_backward(ChannelOf channel_of, i64 size, T over_count, const T* dy, const T* x,
                         const T* w, const T* saved, const T* dw, const T* db, T* dx) {
  const i64 id = thread_index();
  if (id >= size) return;
  const i64 c = channel_of(id);
  const T scale = saved[channel_of.channels + c], along = dw[c] * scale * over_count;
  dx[id] = (dy[id] - db[c] * over_count - (x[id] - saved[c]) * along) * (w[c] * scale);
}

// The channels around one, on the side of the window that reads it: below, above.
struct Window {
  i64 channels, apart, below, above;

  Window(const LayerProblem& p, bool mirrored)
      : channels(p.c),
        apart(p.layout == Layout::nchw ? p.pixels : 1),
        below(mirrored ? p.size - 1 - p.size / 2 : p.size / 2),
        above(p.size - 1 - below) {}
  template <class Term>
  __device__ auto sum(i64 c, i64 at, Term&& term) const {
    decltype(term(at)) total = 0;
    const i64 last = min_of(above, channels - 1 - c);
    for (i64 j = c < below ? -c : -below; j <= last; ++j) total += term(at + j * apart);
    return total;
  }
};

// s^-beta; the literature's 0.75 without logarithms.
template <class T>
__device__ inline T power_of(T s, double beta) {
  return beta == 0.75 ? 1 / sqrt(s * sqrt(s)) : T(pow(double(s), -beta));
}

template <class T>
__global__ void __launch_bounds__(block_threads)
    response(ChannelOf channel_of, Window window, i64 size, T alpha, double beta, T k, const T* x,
             T* y, T* saved) {
  const i64 id = thread_index();
  if (id >= size) return;
  const T sum = window.sum(channel_of(id), id, [&](i64 at) { return x[at] * x[at]; });
  const T s = k + alpha * sum;
  if (saved) saved[id] = s;
  y[id] = x[id] * power_of(s, beta);
}

// dx = dy s^-beta, and dy y / s takes the place of s.
template <class T>
__global__ void __launch_bounds__(block_threads)
    response_straight(i64 size, double beta, const T* dy, const T* x, T* s, T* dx) {
  const i64 id = thread_index();
  if (id >= size) return;
  const T straight = dy[id] * power_of(s[id], beta);
  dx[id] = straight;
  s[id] = straight * x[id] / s[id];
}

template <class T>
__global__ void __launch_bounds__(block_threads)
    response_across(ChannelOf channel_of, Window window, i64 size, T factor, const T* x,
                    const T* ratio, T* dx) {
  const i64 id = thread_index();
  if (id < size)
    dx[id] -= factor * x[id] * window.sum(channel_of(id), id, [&](i64 at) { return ratio[at]; });
}

}  // namespace

template <class T>
void batch_norm(const LayerProblem& p, void* const* buffers, void* stream) {
  const auto at = [&](int i) { return static_cast<T*>(buffers[i]); };
  const Statistics<T> statistics{at(7), at(3), at(4), p.c, p.numbers[0], p.numbers[1]};
  const Runs runs(p);
  if (p.training) {
    launch("batch_norm", batch_parts<T>, runs.tiles() * runs.parts(), block_threads, stream, runs,
           at(0), at(6), statistics);
    if (runs.parts() > 1)
      launch_each("batch_norm", batch_merge<T>, p.c, stream, runs, at(6), statistics);
  } else {
    launch_each("batch_norm", running_scales<T>, p.c, stream, statistics);
  }
  launch_each("batch_norm", batch_apply<T>, p.elements(), stream, ChannelOf(p), p.elements(),
              p.activation, at(0), at(1), at(2), at(5), at(7), at(6));
}

template <class T>
void batch_norm_backward(const LayerProblem& p, void* const* buffers, void* stream) {
  const auto at = [&](int i) { return static_cast<T*>(buffers[i]); };
  const Slopes<T> slopes{at(3), at(5), at(6), p.c};
  const Runs runs(p);
  launch("batch_norm_backward", batch_slopes<T>, runs.tiles() * runs.parts(), block_threads, stream,
         runs, at(0), at(1), at(4), slopes);
  if (runs.parts() > 1)
    launch_each("batch_norm_backward", batch_merge_slopes<T>, p.c, stream, runs, at(4), slopes);
  const double count = double(p.n) * double(p.pixels);
  launch_each("batch_norm_backward", batch_apply_backward<T>, p.elements(), stream, ChannelOf(p),
              p.elements(), p.training ? T(1 / count) : T(0), at(0), at(1), at(2), at(3), at(5),
              at(6), at(4));
}

// numbers: alpha / size, beta, k.
template <class T>
void local_response_norm(const LayerProblem& p, void* const* buffers, void* stream) {
  const auto at = [&](int i) { return static_cast<T*>(buffers[i]); };
  const double beta = p.numbers[1];
  const i64 size = p.elements();
  if (!p.backward)
    return launch_each("local_response_norm", response<T>, size, stream, ChannelOf(p),
                       Window(p, false), size, T(p.numbers[0]), beta, T(p.numbers[2]), at(0), at(1),
                       at(2));
  launch_each("local_response_norm_backward", response_straight<T>, size, stream, size, beta, at(0),
              at(1), at(2), at(3));
  launch_each("local_response_norm_backward", response_across<T>, size, stream, ChannelOf(p),
              Window(p, true), size, T(2 * p.numbers[0] * beta), at(1), at(2), at(3));
}

template void batch_norm<float>(const LayerProblem&, void* const*, void*);
template void batch_norm<double>(const LayerProblem&, void* const*, void*);
template void batch_norm_backward<float>(const LayerProblem&, void* const*, void*);
template void batch_norm_backward<double>(const LayerProblem&, void* const*, void*);
template void local_response_norm<float>(const LayerProblem&, void* const*, void*);
template void local_response_norm<double>(const LayerProblem&, void* const*, void*);

}  // namespace pyconv::cuda

// Batch norm and local response normalisation, both passes.
//
// Batch norm: a task owns a channel (NCHW: lanes along its pixels) or a vector of channels (NHWC:
// lanes along channels) and runs over its memory three times forward (mean, variance, result), two
// times backward; a channel of a training batch mostly stays in an L2 cache. Sums are kept in
// vectors and flushed into doubles every 64, so that they are as good as double sums.
// Ioffe and Szegedy, ICML 2015; Krizhevsky et al., NIPS 2012, section 3.3.
#pragma once
#include "../layer.h"
#include "pointwise.h"

namespace pyconv::PYCONV_TARGET {

// The memory of a channel, or of a vector of channels: `outers` runs of `run` elements.
template <class T>
struct ChannelRuns {
  bool along_pixels;
  i64 first, channels;  // of the task
  i64 begin, outers, apart, run;

  ChannelRuns(const LayerProblem& p, i64 task) {
    along_pixels = p.layout == Layout::nchw;
    first = along_pixels ? task : task * lanes<T>;
    channels = along_pixels ? 1 : min_of<i64>(lanes<T>, p.c - first);
    begin = along_pixels ? first * p.pixels : first;
    outers = along_pixels ? p.n : p.n * p.pixels;
    apart = along_pixels ? p.c * p.pixels : p.c;
    run = along_pixels ? p.pixels : channels;
  }

  static i64 tasks(const LayerProblem& p) {
    return p.layout == Layout::nchw ? p.c : ceil_div(p.c, lanes<T>);
  }

  // body(offset, count of elements, whether they are a whole vector as a type)
  template <class Body>
  PYCONV_INLINE void each(Body&& body) const {
    for (i64 o = 0; o < outers; ++o) {
      const i64 at = begin + o * apart;
      i64 i = 0;
      for (; i + lanes<T> <= run; i += lanes<T>) body(at + i, lanes<T>, Whole<true>{});
      if (i < run) body(at + i, int(run - i), Whole<false>{});
    }
  }

  // The task's part of an array with one element a channel, in every lane it belongs to.
  PYCONV_INLINE Vec<T> spread(const T* per_channel) const {
    return along_pixels ? splat(per_channel[first])
                        : load_first(per_channel + first, int(channels));
  }

  template <bool VALUE>
  struct Whole {
    static constexpr bool value = VALUE;
  };
};

// Sums of `COUNT` kinds over the runs; term(offset, count, whole, terms) fills a vector of each.
template <int COUNT, class T, class Term>
PYCONV_INLINE void sum_runs(const ChannelRuns<T>& runs, double (&totals)[COUNT][lanes<T>],
                            Term&& term) {
  Vec<T> sums[COUNT] = {};
  int since = 0;
  const auto flush = [&] {
    for (int s = 0; s < COUNT; ++s) {
      for (int i = 0; i < lanes<T>; ++i) totals[s][i] += double(sums[s][i]);
      sums[s] = Vec<T>{};
    }
    since = 0;
  };
  for (auto& total : totals)
    for (double& lane : total) lane = 0;
  runs.each([&](i64 at, int count, auto whole) {
    Vec<T> terms[COUNT];
    term(at, count, whole, terms);
    for (int s = 0; s < COUNT; ++s) sums[s] += terms[s];
    if (++since == 64) flush();
  });
  flush();
  if (!runs.along_pixels) return;
  for (auto& total : totals)
    for (int i = 1; i < lanes<T>; ++i) total[0] += total[i];
}

template <class T>
void batch_norm(const LayerProblem& p, void* const* buffers, int threads) {
  const T* x = static_cast<const T*>(buffers[0]);
  const T *w = static_cast<const T*>(buffers[1]), *b = static_cast<const T*>(buffers[2]);
  T *running_mean = static_cast<T*>(buffers[3]), *running_variance = static_cast<T*>(buffers[4]);
  const T* residual = static_cast<const T*>(buffers[5]);
  T *y = static_cast<T*>(buffers[6]), *saved = static_cast<T*>(buffers[7]);
  const double eps = p.numbers[0], momentum = p.numbers[1];
  const double count = double(p.n) * double(p.pixels);
  parallel_for(ChannelRuns<T>::tasks(p), threads, [&](i64 task, int) {
    const ChannelRuns<T> runs(p, task);
    const int channels = int(runs.channels);
    double mean[1][lanes<T>], square[1][lanes<T>];
    T *const means = saved + runs.first, *const scales = saved + p.c + runs.first;
    if (p.training) {
      sum_runs<1>(runs, mean, [&](i64 at, int some, auto whole, Vec<T>(&terms)[1]) {
        terms[0] = load_part<T, whole.value>(x + at, some);
      });
      for (int i = 0; i < channels; ++i) means[i] = T(mean[0][i] / count);
      const Vec<T> centre = runs.spread(saved);
      Vec<T> numbered;
      for (int i = 0; i < lanes<T>; ++i) numbered[i] = T(i);
      sum_runs<1>(runs, square, [&](i64 at, int some, auto whole, Vec<T>(&terms)[1]) {
        Vec<T> apart = load_part<T, whole.value>(x + at, some) - centre;
        if constexpr (!whole.value)  // lanes beyond the run must add nothing
          apart = numbered < T(some) ? apart : Vec<T>{};
        terms[0] = apart * apart;
      });
      for (int i = 0; i < channels; ++i) {
        const i64 c = runs.first + i;
        const double variance = square[0][i] / count;
        scales[i] = T(1 / __builtin_sqrt(variance + eps));
        running_mean[c] = T((1 - momentum) * double(running_mean[c]) + momentum * double(means[i]));
        running_variance[c] = T((1 - momentum) * double(running_variance[c]) +
                                momentum * variance * (count / (count - 1)));
      }
    } else {
      for (int i = 0; i < channels; ++i) {
        means[i] = running_mean[runs.first + i];
        scales[i] = T(1 / __builtin_sqrt(double(running_variance[runs.first + i]) + eps));
      }
    }
    const Vec<T> centre = runs.spread(saved), shift = runs.spread(b);
    const Vec<T> scale = runs.spread(saved + p.c) * runs.spread(w);
    runs.each([&](i64 at, int some, auto whole) {
      constexpr bool all = decltype(whole)::value;
      Vec<T> value = (load_part<T, all>(x + at, some) - centre) * scale + shift;
      if (residual) value += load_part<T, all>(residual + at, some);
      store_part<T, all>(y + at, activate<T>(p.activation, value), some);
    });
  });
}

// dx = w / std (dy - mean(dy) - normal mean(dy normal)), normal = (x - mean) / std.
template <class T>
void batch_norm_backward(const LayerProblem& p, void* const* buffers, int threads) {
  const T *dy = static_cast<const T*>(buffers[0]), *x = static_cast<const T*>(buffers[1]);
  const T *w = static_cast<const T*>(buffers[2]), *saved = static_cast<const T*>(buffers[3]);
  T *dx = static_cast<T*>(buffers[4]), *dw = static_cast<T*>(buffers[5]);
  T* db = static_cast<T*>(buffers[6]);
  const double count = double(p.n) * double(p.pixels);
  parallel_for(ChannelRuns<T>::tasks(p), threads, [&](i64 task, int) {
    const ChannelRuns<T> runs(p, task);
    const Vec<T> centre = runs.spread(saved), scale = runs.spread(saved + p.c);
    double totals[2][lanes<T>];
    sum_runs<2>(runs, totals, [&](i64 at, int some, auto whole, Vec<T>(&terms)[2]) {
      terms[0] = load_part<T, whole.value>(dy + at, some);
      terms[1] = terms[0] * (load_part<T, whole.value>(x + at, some) - centre);
    });
    for (i64 i = 0; i < runs.channels; ++i) {
      const i64 c = runs.first + i;
      db[c] = T(totals[0][i]);
      dw[c] = T(totals[1][i] * double(saved[p.c + c]));
    }
    const Vec<T> factor = runs.spread(w) * scale;
    const Vec<T> one_over = splat(p.training ? T(1 / count) : T(0));
    const Vec<T> mean = runs.spread(db) * one_over, along = runs.spread(dw) * scale * one_over;
    runs.each([&](i64 at, int some, auto whole) {
      constexpr bool all = decltype(whole)::value;
      const Vec<T> apart = load_part<T, all>(x + at, some) - centre;
      const Vec<T> g = load_part<T, all>(dy + at, some) - mean - apart * along;
      store_part<T, all>(dx + at, g * factor, some);
    });
  });
}

PYCONV_INLINE float root(float x) {
  return __builtin_sqrtf(x);
}
PYCONV_INLINE double root(double x) {
  return __builtin_sqrt(x);
}

// s^-beta; the literature's 0.75 without logarithms.
template <class T>
PYCONV_INLINE Vec<T> power_of(Vec<T> s, double beta) {
  Vec<T> y;
  if (beta == 0.75) {
    for (int i = 0; i < lanes<T>; ++i) y[i] = root(s[i] * root(s[i]));
    return 1 / y;
  }
  for (int i = 0; i < lanes<T>; ++i) y[i] = T(__builtin_pow(double(s[i]), -beta));
  return y;
}

// Every element (its offset, and the neighbouring channels [low, high] within its window) of a part
// of the images, a vector of elements that share them at a time. Channels lie `apart` elements from
// each other. body(offset, count, low, high)
template <class T, class Body>
PYCONV_INLINE void each_window(const LayerProblem& p, i64 task, i64 below, Body&& body) {
  const i64 above = p.size - 1 - below;
  if (p.layout == Layout::nchw) {  // 256 pixels of every channel: a window of them stays in L1
    const i64 blocks = ceil_div(p.pixels, 256), n = task / blocks, first = task % blocks * 256;
    const i64 last = min_of(p.pixels, first + 256);
    for (i64 c = 0; c < p.c; ++c) {
      const i64 low = max_of(-below, -c), high = min_of(above, p.c - 1 - c);
      for (i64 i = first; i < last; i += lanes<T>)
        body((n * p.c + c) * p.pixels + i, int(min_of<i64>(lanes<T>, last - i)), low, high);
    }
    return;
  }
  const i64 last = min_of(p.n * p.pixels, (task + 1) * 64);
  for (i64 row = task * 64; row < last; ++row)
    for (i64 c = 0; c < p.c;) {
      // A whole vector if every lane's window lies inside, else one channel.
      const bool inside = c >= below && c + lanes<T> + above <= p.c;
      body(row * p.c + c, inside ? lanes<T> : 1, max_of(-below, -c), min_of(above, p.c - 1 - c));
      c += inside ? lanes<T> : 1;
    }
}

PYCONV_INLINE i64 window_tasks(const LayerProblem& p) {
  return p.layout == Layout::nchw ? p.n * ceil_div(p.pixels, i64(256))
                                  : ceil_div(p.n * p.pixels, i64(64));
}

// y = x s^-beta, s = k + alpha/size * (sum of x^2 over the window); numbers: alpha/size, beta, k.
template <class T>
void local_response_norm(const LayerProblem& p, void* const* buffers, int threads) {
  const T* x = static_cast<const T*>(buffers[0]);
  T *y = static_cast<T*>(buffers[1]), *saved = static_cast<T*>(buffers[2]);
  const double beta = p.numbers[1];
  const T alpha = T(p.numbers[0]), k = T(p.numbers[2]);
  const i64 apart = p.layout == Layout::nchw ? p.pixels : 1;
  parallel_for(window_tasks(p), threads, [&](i64 task, int) {
    each_window<T>(p, task, p.size / 2, [&](i64 at, int count, i64 low, i64 high) {
      Vec<T> sum{};
      for (i64 j = low; j <= high; ++j) {
        const Vec<T> near = load_first(x + at + j * apart, count);
        sum += near * near;
      }
      const Vec<T> s = k + alpha * sum;
      if (saved) store_first(saved + at, s, count);
      store_first(y + at, load_first(x + at, count) * power_of<T>(s, beta), count);
    });
  });
}

// dx = dy s^-beta - 2 alpha/size beta x (sum of dy y / s): that sum runs over the channels whose
// window holds this one, so the window is mirrored. dy y / s takes the place of s.
template <class T>
void local_response_norm_backward(const LayerProblem& p, void* const* buffers, int threads) {
  const T *dy = static_cast<const T*>(buffers[0]), *x = static_cast<const T*>(buffers[1]);
  T *s = static_cast<T*>(buffers[2]), *dx = static_cast<T*>(buffers[3]);
  const double beta = p.numbers[1];
  const T factor = T(2 * p.numbers[0] * beta);
  const i64 apart = p.layout == Layout::nchw ? p.pixels : 1;
  parallel_for(window_tasks(p), threads, [&](i64 task, int) {
    const i64 below = p.size - 1 - p.size / 2;
    each_window<T>(p, task, below, [&](i64 at, int count, i64, i64) {
      const Vec<T> root = load_first(s + at, count);
      const Vec<T> straight = load_first(dy + at, count) * power_of<T>(root, beta);
      store_first(dx + at, straight, count);
      store_first(s + at, straight * load_first(x + at, count) / root, count);
    });
    each_window<T>(p, task, below, [&](i64 at, int count, i64 low, i64 high) {
      Vec<T> sum{};
      for (i64 j = low; j <= high; ++j) sum += load_first(s + at + j * apart, count);
      const Vec<T> value = load_first(dx + at, count) - factor * load_first(x + at, count) * sum;
      store_first(dx + at, value, count);
    });
  });
}

}  // namespace pyconv::PYCONV_TARGET

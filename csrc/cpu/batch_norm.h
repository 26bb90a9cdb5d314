// Batch norm, both passes.
//
// NCHW: lanes run along the pixels of a channel, which is a task: it runs over its memory three
// times forward (mean, variance, result), two times backward, and a channel of a training batch
// mostly stays in an L2 cache. NHWC: lanes are channels, and large batches are cut into parts of
// their pixels, whose sums wait in the array of the results and are added in order. (16 channels of
// 128 images of 32x32 were one task: forward 2.6 ms, gradient 2.7.)
// Sums are kept in vectors and flushed into doubles every 64, so that they are as good as double
// sums. Ioffe and Szegedy, ICML 2015.
#pragma once
#include "../layer.h"
#include "pointwise.h"

namespace pyconv::PYCONV_TARGET {

constexpr i64 norm_rows = 16;     // NHWC: pixels of which a vector of channels is summed at once
constexpr i64 norm_parts = 64;    // of the pixels, at most
constexpr i64 norm_large = 2048;  // pixels from which on they are cut

// The memory of a channel, or of a vector of channels of some pixels: `outers` runs of `run`
// elements.
template <class T>
struct ChannelRuns {
  bool along_pixels;
  i64 first, channels;
  i64 begin, outers, apart, run;

  // NHWC: of pixels [row0, row1).
  ChannelRuns(const LayerProblem& p, i64 task, i64 row0, i64 row1) {
    along_pixels = p.layout == Layout::nchw;
    first = along_pixels ? task : task * lanes<T>;
    channels = along_pixels ? 1 : min_of<i64>(lanes<T>, p.c - first);
    begin = along_pixels ? first * p.pixels : row0 * p.c + first;
    outers = along_pixels ? p.n : row1 - row0;
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

  // Its part of an array with one element a channel, in every lane it belongs to.
  PYCONV_INLINE Vec<T> spread(const T* per_channel) const {
    return along_pixels ? splat(per_channel[first])
                        : load_first(per_channel + first, int(channels));
  }

  template <bool VALUE>
  struct Whole {
    static constexpr bool value = VALUE;
  };
};

template <int COUNT, class T>
using Totals = double[COUNT][lanes<T>];

// Adds to the sums of `COUNT` kinds over the runs; term(offset, count, whole, terms) fills a vector
// of each.
template <int COUNT, class T, class Term>
PYCONV_INLINE void sum_runs(const ChannelRuns<T>& runs, Totals<COUNT, T>& totals, Term&& term) {
  Vec<T> sums[COUNT] = {};
  int since = 0;
  const auto flush = [&] {
    for (int s = 0; s < COUNT; ++s) {
      for (int i = 0; i < lanes<T>; ++i) totals[s][i] += double(sums[s][i]);
      sums[s] = Vec<T>{};
    }
    since = 0;
  };
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

// A step of a pass: sums over each channel, term_of(runs) being sum_runs's term, and what becomes
// of them, finish(runs, totals).
template <int COUNT, class TermOf, class Finish>
struct SumStep {
  TermOf term_of;
  Finish finish;

  template <class T>
  void whole(const ChannelRuns<T>& runs) const {
    Totals<COUNT, T> totals = {};
    sum_runs<COUNT, T>(runs, totals, term_of(runs));
    finish(runs, totals);
  }

  template <class T>
  void in_parts(const LayerProblem& p, i64 parts, int threads, T* scratch) const {
    const i64 rows = p.n * p.pixels, vectors = ChannelRuns<T>::tasks(p);
    constexpr i64 kept = i64(sizeof(Totals<COUNT, T>)) / i64(sizeof(T));
    parallel_for(parts, threads, [&](i64 part, int) {
      T* const own = scratch + part * vectors * kept;
      __builtin_memset(own, 0, std::size_t(vectors * kept) * sizeof(T));
      const i64 last = rows * (part + 1) / parts;
      for (i64 row = rows * part / parts; row < last; row += norm_rows)
        for (i64 v = 0; v < vectors; ++v) {
          const ChannelRuns<T> runs(p, v, row, min_of(last, row + norm_rows));
          Totals<COUNT, T> totals;
          __builtin_memcpy(totals, own + v * kept, sizeof totals);
          sum_runs<COUNT, T>(runs, totals, term_of(runs));
          __builtin_memcpy(own + v * kept, totals, sizeof totals);
        }
    });
    for (i64 v = 0; v < vectors; ++v) {
      Totals<COUNT, T> totals = {}, own;
      for (i64 part = 0; part < parts; ++part) {
        __builtin_memcpy(own, scratch + (part * vectors + v) * kept, sizeof own);
        for (int s = 0; s < COUNT; ++s)
          for (int i = 0; i < lanes<T>; ++i) totals[s][i] += own[s][i];
      }
      finish(ChannelRuns<T>(p, v, 0, rows), totals);
    }
  }
};
template <int COUNT, class TermOf, class Finish>
SumStep<COUNT, TermOf, Finish> sum_step(TermOf term_of, Finish finish) {
  return {term_of, finish};
}

// The step that writes the results: write(runs).
template <class Write>
struct WriteStep {
  Write write;

  template <class T>
  void whole(const ChannelRuns<T>& runs) const {
    write(runs);
  }

  template <class T>
  void in_parts(const LayerProblem& p, i64, int threads, T*) const {
    const i64 rows = p.n * p.pixels, some = max_of<i64>(1, 1024 / p.c);
    parallel_for(ceil_div(rows, norm_rows * some), threads, [&](i64 task, int) {
      const i64 last = min_of(rows, (task + 1) * norm_rows * some);
      for (i64 row = task * norm_rows * some; row < last; row += some)
        for (i64 v = 0; v < ChannelRuns<T>::tasks(p); ++v)
          write(ChannelRuns<T>(p, v, row, min_of(last, row + some)));
    });
  }
};
template <class Write>
WriteStep(Write) -> WriteStep<Write>;

// The steps one after the other, for a channel at a time or for all; `results` are written last.
template <class T, class... Steps>
void each_channel(const LayerProblem& p, int threads, T* results, Steps... steps) {
  const i64 rows = p.n * p.pixels, vectors = ChannelRuns<T>::tasks(p);
  if (p.layout == Layout::nhwc && rows >= norm_large) {
    // Two sums of a vector are four vectors of doubles: no part's lie outside `results`.
    const i64 fit = rows * p.c * i64(sizeof(T)) / (vectors * i64(sizeof(Totals<2, T>)));
    const i64 parts = min_of(min_of(norm_parts, fit), rows / norm_rows);
    (steps.in_parts(p, parts, threads, results), ...);
    return;
  }
  parallel_for(vectors, threads, [&](i64 task, int) {
    const ChannelRuns<T> runs(p, task, 0, rows);
    (steps.whole(runs), ...);
  });
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
  using Runs = ChannelRuns<T>;

  const auto mean = sum_step<1>(
      [&](const Runs&) {
        return [&](i64 at, int some, auto whole, Vec<T>(&terms)[1]) {
          terms[0] = load_part<T, whole.value>(x + at, some);
        };
      },
      [&](const Runs& runs, const Totals<1, T>& sums) {
        for (i64 i = 0; i < runs.channels; ++i) saved[runs.first + i] = T(sums[0][i] / count);
      });
  const auto variance = sum_step<1>(
      [&](const Runs& runs) {
        Vec<T> numbered;
        for (int i = 0; i < lanes<T>; ++i) numbered[i] = T(i);
        return [&, numbered, centre = runs.spread(saved)](i64 at, int some, auto whole,
                                                          Vec<T>(&terms)[1]) {
          Vec<T> apart = load_part<T, whole.value>(x + at, some) - centre;
          if constexpr (!whole.value)  // lanes beyond the run must add nothing
            apart = numbered < T(some) ? apart : Vec<T>{};
          terms[0] = apart * apart;
        };
      },
      [&](const Runs& runs, const Totals<1, T>& sums) {
        for (i64 i = 0; i < runs.channels; ++i) {
          const i64 c = runs.first + i;
          const double square = sums[0][i] / count;
          saved[p.c + c] = T(1 / __builtin_sqrt(square + eps));
          running_mean[c] =
              T((1 - momentum) * double(running_mean[c]) + momentum * double(saved[c]));
          running_variance[c] = T((1 - momentum) * double(running_variance[c]) +
                                  momentum * square * (count / (count - 1)));
        }
      });
  const WriteStep write{[&](const Runs& runs) {
    const Vec<T> centre = runs.spread(saved), shift = runs.spread(b);
    const Vec<T> scale = runs.spread(saved + p.c) * runs.spread(w);
    runs.each([&](i64 at, int some, auto whole) {
      constexpr bool all = decltype(whole)::value;
      Vec<T> value = (load_part<T, all>(x + at, some) - centre) * scale + shift;
      if (residual) value += load_part<T, all>(residual + at, some);
      store_part<T, all>(y + at, activate<T>(p.activation, value), some);
    });
  }};
  if (p.training) return each_channel<T>(p, threads, y, mean, variance, write);
  for (i64 c = 0; c < p.c; ++c) {
    saved[c] = running_mean[c];
    saved[p.c + c] = T(1 / __builtin_sqrt(double(running_variance[c]) + eps));
  }
  each_channel<T>(p, threads, y, write);
}

// dx = w / std (dy - mean(dy) - normal mean(dy normal)), normal = (x - mean) / std.
template <class T>
void batch_norm_backward(const LayerProblem& p, void* const* buffers, int threads) {
  const T *dy = static_cast<const T*>(buffers[0]), *x = static_cast<const T*>(buffers[1]);
  const T *w = static_cast<const T*>(buffers[2]), *saved = static_cast<const T*>(buffers[3]);
  T *dx = static_cast<T*>(buffers[4]), *dw = static_cast<T*>(buffers[5]);
  T* db = static_cast<T*>(buffers[6]);
  const double count = double(p.n) * double(p.pixels);
  using Runs = ChannelRuns<T>;

  const auto sums = sum_step<2>(
      [&](const Runs& runs) {
        return [&, centre = runs.spread(saved)](i64 at, int some, auto whole, Vec<T>(&terms)[2]) {
          terms[0] = load_part<T, whole.value>(dy + at, some);
          terms[1] = terms[0] * (load_part<T, whole.value>(x + at, some) - centre);
        };
      },
      [&](const Runs& runs, const Totals<2, T>& totals) {
        for (i64 i = 0; i < runs.channels; ++i) {
          const i64 c = runs.first + i;
          db[c] = T(totals[0][i]);
          dw[c] = T(totals[1][i] * double(saved[p.c + c]));
        }
      });
  const WriteStep write{[&](const Runs& runs) {
    const Vec<T> centre = runs.spread(saved), scale = runs.spread(saved + p.c);
    const Vec<T> factor = runs.spread(w) * scale;
    const Vec<T> one_over = splat(p.training ? T(1 / count) : T(0));
    const Vec<T> mean = runs.spread(db) * one_over, along = runs.spread(dw) * scale * one_over;
    runs.each([&](i64 at, int some, auto whole) {
      constexpr bool all = decltype(whole)::value;
      const Vec<T> apart = load_part<T, all>(x + at, some) - centre;
      const Vec<T> g = load_part<T, all>(dy + at, some) - mean - apart * along;
      store_part<T, all>(dx + at, g * factor, some);
    });
  }};
  each_channel<T>(p, threads, dx, sums, write);
}

}  // namespace pyconv::PYCONV_TARGET

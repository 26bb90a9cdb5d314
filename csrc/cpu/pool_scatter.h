// Backward of max pooling and unpooling: every value to the place that its index names.
//
//   max  dx = 0, then dx[index] += dy in order        unpool  y = 0, then y[index] = x in order
//
// A plane (NCHW), or a block of channels of an image (NHWC), is a task, so that no sum depends on
// threads. Zeros are written just ahead of the highest index so far: the values then go to memory
// that is in the cache, wherever indices point.
#pragma once
#include "pool_window.h"

namespace pyconv::PYCONV_TARGET {

bool indices_within(const i64* indices, i64 count, i64 plane, int threads) {
  constexpr i64 block = 16384;
  bool outside = false;
  parallel_for(ceil_div(count, block), threads, [&](i64 task, int) {
    std::uint64_t found = 0;
    for (i64 i = task * block; i < min_of(count, (task + 1) * block); ++i)
      found |= std::uint64_t(indices[i]) >= std::uint64_t(plane);
    if (found) __atomic_store_n(&outside, true, __ATOMIC_RELAXED);
  });
  return !outside;
}

// The tasks of a scatter: body(image, first channel, channels), planes of `pixels` written.
template <class T>
struct ScatterTasks {
  i64 images, channels, block, blocks, together;

  ScatterTasks(i64 channels, i64 images, i64 pixels, int threads)
      : images(images), channels(channels) {
    constexpr i64 line = 64 / i64(sizeof(T));
    // Blocks of whole cache lines, as few as give every thread two tasks.
    const i64 wanted = max_of<i64>(1, ceil_div(2 * i64(threads), images));
    block = min_of(channels, round_up(ceil_div(channels, wanted), line));
    blocks = ceil_div(channels, block);
    together = max_of<i64>(1, 16384 / max_of<i64>(1, pixels * block));  // some 64 KB
  }

  template <class Body>
  PYCONV_INLINE void run(int threads, Body&& body) const {
    parallel_for(ceil_div(images * blocks, together), threads, [&](i64 task, int) {
      const i64 last = min_of(images * blocks, (task + 1) * together);
      for (i64 unit = task * together; unit < last; ++unit) {
        const i64 c = unit % blocks * block;
        body(unit / blocks, c, min_of(block, channels - c));
      }
    });
  }
};

// A plane, or `count` of the channels of an image, that becomes zero from its beginning on.
template <class T>
struct ScatterTarget {
  T* data;
  i64 channels, count;
  i64 zeros = 0;  // pixels that are written

  PYCONV_INLINE void clear(i64 end) {
    if (count == channels) {
      __builtin_memset(data + zeros * channels, 0,
                       std::size_t((end - zeros) * channels) * sizeof(T));
      zeros = end;
    }
    for (; zeros < end; ++zeros)
      __builtin_memset(data + zeros * channels, 0, std::size_t(count) * sizeof(T));
  }
};

// `pixels` of the small and of the big plane.
template <class T, bool Add>
void scatter(const PoolProblem& p, i64 from_pixels, i64 to_pixels, const Buffers& b) {
  const bool nhwc = p.layout == Layout::nhwc;
  const i64 channels = nhwc ? p.c : 1, images = nhwc ? p.n : p.n * p.c;
  const ScatterTasks<T> tasks(channels, images, to_pixels, b.threads);
  const i64 chunk = max_of<i64>(1, 512 / tasks.block);  // pixels between looks at the highest index
  tasks.run(b.threads, [&](i64 image, i64 c, i64 count) {
    const T* from = static_cast<const T*>(b.a) + image * from_pixels * channels + c;
    const i64* index = static_cast<const i64*>(b.b) + image * from_pixels * channels + c;
    ScatterTarget<T> to{static_cast<T*>(b.out) + image * to_pixels * channels + c, channels, count};
    for (i64 i = 0; i < from_pixels; i += chunk) {
      const i64 end = min_of(from_pixels, i + chunk);
      i64 highest = to.zeros - 1;
      for (i64 k = i; k < end; ++k)
        for (i64 j = 0; j < count; ++j) highest = max_of(highest, index[k * channels + j]);
      to.clear(highest + 1);
      for (i64 k = i; k < end; ++k)
        for (i64 j = 0; j < count; ++j) {
          T& cell = to.data[index[k * channels + j] * channels + j];
          cell = from[k * channels + j] + (Add ? cell : 0);
        }
    }
    to.clear(to_pixels);
  });
}

}  // namespace pyconv::PYCONV_TARGET

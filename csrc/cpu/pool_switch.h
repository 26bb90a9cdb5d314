// Backward of max pooling by its switches: dx = 0, then dx[the tap that won] += dy in order.
//
// As pool_scatter.h from an eighth of the memory. Where a window lies inside the input, a table
// gives the place of its tap; switches come from outside, so that others are looked at one by one.
// (The inverse, each input looking at the switches of the outputs over it in vectors, took 1.6
// times as long for 2x2 at 15x15, three times for 7x7.)
#pragma once
#include "pool_scatter.h"

namespace pyconv::PYCONV_TARGET {

constexpr int switch_taps = 256;  // a byte's numbers

struct SwitchTaps {
  i64 pixels[switch_taps];  // from a window's first tap; 0 where there is no such tap
  i64 at[switch_taps][3];   // likewise: no product of a dilation that no window has
  i64 count, reach[3];

  explicit SwitchTaps(const PoolProblem& p) : count(p.window[0] * p.window[1] * p.window[2]) {
    for (int axis = 0; axis < 3; ++axis) reach[axis] = (p.window[axis] - 1) * p.dilation[axis];
    for (i64 tap = 0; tap < switch_taps; ++tap) {
      const i64 of[3] = {tap / p.window[2] / p.window[1], tap / p.window[2] % p.window[1],
                         tap % p.window[2]};
      for (int axis = 0; axis < 3; ++axis)
        at[tap][axis] = tap < count ? of[axis] * p.dilation[axis] : 0;
      pixels[tap] = (at[tap][0] * p.in[1] + at[tap][1]) * p.in[2] + at[tap][2];
    }
  }
};

// The outputs [begin, end) along an axis whose windows lie inside.
PYCONV_INLINE Range windows_inside(const PoolProblem& p, int axis, i64 reach) {
  const i64 begin = ceil_div(p.pad[axis], p.stride[axis]);
  const i64 room = p.in[axis] + p.pad[axis] - reach;
  return {begin, room <= 0 ? 0 : min_of(p.out[axis], ceil_div(room, p.stride[axis]))};
}

template <class T>
void switch_backward(const PoolProblem& p, const Buffers& b) {
  const bool nhwc = p.layout == Layout::nhwc;
  const i64 channels = nhwc ? p.c : 1, images = nhwc ? p.n : p.n * p.c, pixels = p.in_pixels();
  const SwitchTaps taps(p);
  Range inside[3];
  for (int axis = 0; axis < 3; ++axis) inside[axis] = windows_inside(p, axis, taps.reach[axis]);
  const auto within = [&](int axis, i64 o) {
    return o >= inside[axis].begin && o < inside[axis].end;
  };
  const ScatterTasks<T> tasks(channels, images, pixels, b.threads);
  tasks.run(b.threads, [&](i64 image, i64 c, i64 count) {
    const i64 outputs = image * p.out_pixels() * channels + c;
    const T* from = static_cast<const T*>(b.a) + outputs;
    const std::uint8_t* at = static_cast<const std::uint8_t*>(b.b) + outputs;
    ScatterTarget<T> to{static_cast<T*>(b.out) + image * pixels * channels + c, channels, count};
    i64 o[3], first[3];
    const auto put = [&](i64 pixel, i64 j) PYCONV_ALWAYS {
      T& cell = to.data[pixel * channels + j];
      cell = from[j] + cell;
    };
    for (o[0] = 0; o[0] < p.out[0]; ++o[0])
      for (o[1] = 0; o[1] < p.out[1]; ++o[1]) {
        for (int axis = 0; axis < 2; ++axis) first[axis] = o[axis] * p.stride[axis] - p.pad[axis];
        const i64 deep = min_of(p.in[0] - 1, first[0] + taps.reach[0]);
        const i64 high = min_of(p.in[1] - 1, first[1] + taps.reach[1]);
        to.clear(max_of(to.zeros, (deep * p.in[1] + high + 1) * p.in[2]));
        const i64 row = (first[0] * p.in[1] + first[1]) * p.in[2] - p.pad[2];
        const bool whole = within(0, o[0]) && within(1, o[1]);
        for (o[2] = 0; o[2] < p.out[2]; ++o[2], from += channels, at += channels) {
          const i64 pixel = row + o[2] * p.stride[2];
          if (whole && within(2, o[2])) {
            for (i64 j = 0; j < count; ++j) put(pixel + taps.pixels[at[j]], j);
            continue;
          }
          first[2] = o[2] * p.stride[2] - p.pad[2];
          for (i64 j = 0; j < count; ++j) {
            bool valid = at[j] < taps.count;
            for (int axis = 0; axis < 3; ++axis) {
              const i64 i = first[axis] + taps.at[at[j]][axis];
              valid = valid && i >= 0 && i < p.in[axis];
            }
            if (valid) put(pixel + taps.pixels[at[j]], j);
          }
        }
      }
    to.clear(pixels);
  });
}

}  // namespace pyconv::PYCONV_TARGET

// Backward of max pooling by its switches: dx_i = sum of dy_o over the outputs o whose tap at i
// won.
//
// NHWC: lanes are channels. NCHW: lanes are neighbouring outputs of a row; what a tap gives them
// goes to every stride-th input, so that sums are kept by phase and interleaved at the end. Each
// input adds in the order of its outputs, as a scatter by indices would: the same bits from an
// eighth of the memory, and none of it written twice.
#pragma once
#include "pool_op.h"

namespace pyconv::PYCONV_TARGET {

constexpr i64 switch_sums = 4096;  // elements of a row's phases on the stack

// dy where the switch names the tap, else 0.
template <class T>
PYCONV_INLINE Vec<T> won(const std::uint8_t* switches, Vec<T> dy, int tap, int count) {
  Pack<std::uint8_t, lanes<T>> bytes{};
  if (count == lanes<T>) {
    __builtin_memcpy(&bytes, switches, sizeof bytes);
  } else {
#if PYCONV_VECTOR_BYTES == 64
    const __m128i some = _mm_maskz_loadu_epi8(first_lanes(count), switches);
    __builtin_memcpy(&bytes, &some, sizeof bytes);
#else
    __builtin_memcpy(&bytes, switches, std::size_t(count));
#endif
  }
  const auto numbers = __builtin_convertvector(bytes, decltype(dy < dy));
  return numbers == tap ? dy : Vec<T>{};
}

// An output, or a row of them, that reaches over an input: where it is, and its (first) tap there.
struct SwitchRow {
  i64 from, tap;
};
constexpr int switch_taps = 256;  // a byte's numbers; no more outputs reach an input

// body(row) for each of them, in order.
template <class Body>
PYCONV_INLINE void each_switch_row(const PoolProblem& p, i64 z, i64 h, Body&& body) {
  const Range deep = covering(p, 0, z), high = covering(p, 1, h);
  for (i64 oz = deep.begin; oz < deep.end; ++oz) {
    const i64 tz = tap_at(p, 0, oz, z);
    if (tz < 0) continue;
    for (i64 oh = high.begin; oh < high.end; ++oh) {
      const i64 th = tap_at(p, 1, oh, h);
      if (th >= 0)
        body(SwitchRow{(oz * p.out[1] + oh) * p.out[2], (tz * p.window[1] + th) * p.window[2]});
    }
  }
}

// The phases of a row of inputs: input o stride + first + tap dilation is element o + shift of one.
struct SwitchPhases {
  i64 stride, before, pitch;  // elements before the first input, of a phase

  explicit SwitchPhases(const PoolProblem& p) : stride(p.stride[2]) {
    const i64 reach = (p.window[2] - 1) * p.dilation[2];
    before = ceil_div(p.pad[2], stride);
    pitch = max_of(before + ceil_div(p.in[2], stride), before + p.out[2] + reach / stride + 1);
  }
  // A vector may be written too much.
  template <class T>
  bool fit() const {
    return double(stride) * double(pitch + lanes<T>) <= double(switch_sums);
  }
};

// A row of dx from the rows of outputs over it.
template <class T>
void switch_row(const PoolProblem& p, const SwitchPhases& phases, i64 z, i64 h, const T* dy,
                const std::uint8_t* switches, T* dx) {
  alignas(64) T sums[switch_sums];
  const i64 stride = phases.stride, pitch = phases.pitch + lanes<T>;
  __builtin_memset(sums, 0, std::size_t(stride * pitch) * sizeof(T));
  each_switch_row(p, z, h, [&](SwitchRow row) {
    for (i64 w = p.window[2] - 1; w >= 0; --w) {  // later taps belong to earlier outputs
      const i64 first = w * p.dilation[2] - p.pad[2] + phases.before * stride;
      T* const to = sums + first % stride * pitch + first / stride;
      for (i64 o = 0; o < p.out[2]; o += lanes<T>) {
        const int count = int(min_of<i64>(lanes<T>, p.out[2] - o));
        const i64 at = row.from + o;
        const Vec<T> given = load_first(dy + at, count);
        store(to + o, load(to + o) + won<T>(switches + at, given, int(row.tap + w), count));
      }
    }
  });
  const T* const from = sums + phases.before;
  const i64 width = p.in[2];
  if (stride == 1) {
    __builtin_memcpy(dx, from, std::size_t(width) * sizeof(T));
    return;
  }
  i64 i = 0;
  for (; stride == 2 && i + 2 * lanes<T> <= width; i += 2 * lanes<T>)
    for (int half = 0; half < 2; ++half)
      store(dx + i + half * lanes<T>,
            interleaved<T>(load(from + i / 2), load(from + pitch + i / 2), half));
  if (stride == 2) {
    for (int half = 0; half < 2; ++half, i += lanes<T>)
      if (const i64 left = width - i; left > 0) {
        const i64 even = (i - half * lanes<T>) / 2;
        store_first(dx + i, interleaved<T>(load(from + even), load(from + pitch + even), half),
                    int(min_of<i64>(lanes<T>, left)));
      }
    return;
  }
  for (; i < width; ++i) dx[i] = from[i % stride * pitch + i / stride];
}

// The same of any row, an output at a time.
template <class T>
void switch_row_plain(const PoolProblem& p, i64 z, i64 h, const T* dy, const std::uint8_t* switches,
                      T* dx) {
  __builtin_memset(dx, 0, std::size_t(p.in[2]) * sizeof(T));
  each_switch_row(p, z, h, [&](SwitchRow row) {
    for (i64 o = 0; o < p.out[2]; ++o) {
      const i64 w = switches[row.from + o] - row.tap;
      const i64 i = o * p.stride[2] - p.pad[2] + w * p.dilation[2];
      if (w >= 0 && w < p.window[2] && i >= 0 && i < p.in[2]) dx[i] += dy[row.from + o];
    }
  });
}

template <class T>
void switch_row_nhwc(const PoolProblem& p, i64 z, i64 h, const T* dy, const std::uint8_t* switches,
                     T* dx) {
  SwitchRow rows[switch_taps], outputs[switch_taps];
  int high = 0;
  each_switch_row(p, z, h, [&](SwitchRow row) { rows[high++] = row; });
  for (i64 w = 0; w < p.in[2]; ++w, dx += p.c) {
    const Range wide = covering(p, 2, w);
    int count = 0;
    for (int row = 0; row < high; ++row)
      for (i64 o = wide.begin; o < wide.end; ++o)
        if (const i64 tap = tap_at(p, 2, o, w); tap >= 0)
          outputs[count++] = {(rows[row].from + o) * p.c, rows[row].tap + tap};
    for (i64 c = 0; c < p.c; c += lanes<T>) {
      const int some = int(min_of<i64>(lanes<T>, p.c - c));
      Vec<T> sum{};
      for (int i = 0; i < count; ++i) {
        const i64 at = outputs[i].from + c;
        sum += won<T>(switches + at, load_first(dy + at, some), int(outputs[i].tap), some);
      }
      store_first(dx + c, sum, some);
    }
  }
}

template <class T>
void switch_backward(const PoolProblem& p, const Buffers& b) {
  const bool nhwc = p.layout == Layout::nhwc;
  const i64 channels = nhwc ? p.c : 1;
  const SwitchPhases phases(p);
  const bool by_phase = phases.fit<T>();
  parallel_rows(nhwc ? p.n : p.n * p.c, p.in, p.in[2] * channels, b.threads,
                [&](i64 image, i64 z, i64 begin, i64 end) {
                  const i64 outputs = image * p.out_pixels() * channels;
                  const T* const dy = static_cast<const T*>(b.a) + outputs;
                  const std::uint8_t* const at = static_cast<const std::uint8_t*>(b.b) + outputs;
                  T* const dx = static_cast<T*>(b.out) + image * p.in_pixels() * channels;
                  for (i64 h = begin; h < end; ++h) {
                    T* const row = dx + (z * p.in[1] + h) * p.in[2] * channels;
                    if (nhwc)
                      switch_row_nhwc(p, z, h, dy, at, row);
                    else if (by_phase)
                      switch_row(p, phases, z, h, dy, at, row);
                    else
                      switch_row_plain(p, z, h, dy, at, row);
                  }
                });
}

}  // namespace pyconv::PYCONV_TARGET

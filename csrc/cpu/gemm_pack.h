// The weights of a GEMM, packed in the order of their use: panels of result channels, each with the
// depths of all phases one after the other, [group][panel][phase][depth][width].
//
// A panel is packed for all phases together, so w is read once.
#pragma once
#include "epilogue.h"
#include "gemm_tile.h"
#include "transpose.h"

namespace pyconv::PYCONV_TARGET {

// A side of `size`, its full vectors spread evenly over as few panels as there can be.
template <class T>
PYCONV_INLINE Side even_side(i64 size, i64 widest = tile_columns<T>) {
  const i64 panels = max_of<i64>(1, ceil_div(size, widest));
  return {size, max_of<i64>(lanes<T>, round_up(ceil_div(size, panels), lanes<T>)), lanes<T>};
}

// The result channels of a group, as its weights are packed.
template <class T>
PYCONV_INLINE Side channel_side(const Correlation& q) {
  if (q.layout == Layout::nchw) return row_side<T>(q.result_channels);
  // Few pixels: narrow panels, whose rows of w are turned in fewer pages at a time.
  const int widest = q.pixels() <= 64 ? 2 : widest_tile;
  return even_side<T>(q.result_channels, widest * lanes<T>);
}

// Where the weights of a group's first panel begin, and how much a panel's channel has.
template <class T>
struct PackedWeights {
  Side side;
  i64 depth;  // of all phases

  PackedWeights(const ConvProblem& p, const Correlation& q)
      : side(channel_side<T>(q)), depth(q.source_channels * p.taps()) {}

  PYCONV_INLINE i64 at(i64 group, i64 channel) const {
    return (group * side.total() + channel) * depth;
  }
};

// The border's gradients read w as it is: a copy of it then ends the packed weights.
PYCONV_INLINE i64 copied_weights(const ConvProblem& p, Pass pass) {
  const bool copied = pass == Pass::bwd_data && p.border != Border::zeros;
  return copied ? p.k * p.c_per_group() * p.taps() : 0;
}

template <class T>
i64 packed_elements(const ConvProblem& p, Pass pass) {
  return PackedWeights<T>(p, correlation(p, pass)).at(p.groups, 0);
}

template <class T>
std::size_t gemm_packed_bytes(const ConvProblem& p, Pass pass) {
  if (pass == Pass::bwd_weight) return 0;
  return std::size_t(packed_elements<T>(p, pass) + copied_weights(p, pass)) * sizeof(T);
}

// Rows of w become columns faster by squares, all taps together and source channels as they lie;
// not where lanes are neighbours in w already, nor in panels of 8 rows.
constexpr i64 turned_rows = 64;
PYCONV_INLINE bool turns_rows(const Correlation& q, i64 all) {
  return all <= turned_rows && q.weight_result > 1 && (all == 1 || q.layout == Layout::nhwc);
}

// One panel: `valid` results of the `stored`; `all` taps a channel in w.
template <class T>
void pack_turned(const ConvProblem& p, Pass pass, const T* w, i64 valid, i64 stored, T* out) {
  const Correlation q = correlation(p, pass);
  const i64 channels = q.source_channels, all = p.taps();
  i64 place[turned_rows];  // of a tap in the panel
  each_tapped_phase(p, pass, [&](const Correlation& phase, i64 before) {
    phase_taps(phase, [&](i64 jd, i64 jh, i64 jw) {
      place[phase.weight_tap(jd, jh, jw)] = before++ * channels * stored;
    });
  });
  const i64 together = q.weight_source == all ? turned_rows / all : 1;
  // Rows lie pages apart, too far for the hardware to run ahead.
  const i64 ahead = together > 1 ? channels : 4;
  // Rows of a power of two bytes would share the sets of an L1 cache.
  const i64 pitch = all == 1 ? stored : stored + lanes<T>;
  T turned[turned_rows * (widest_tile + 1) * lanes<T>];
  for (i64 c0 = 0; c0 < channels; c0 += together) {
    const i64 some = min_of(together, channels - c0);
    for (i64 r = 0; r < valid && c0 + ahead < channels; ++r)
      for (i64 i = 0; i < some * all; i += 64 / i64(sizeof(T)))
        __builtin_prefetch(w + (c0 + ahead) * q.weight_source + r * q.weight_result + i);
    T* to = all == 1 ? out + c0 * stored : turned;
    for (i64 r = 0; r < stored; r += lanes<T>)
      transpose_rows(w + c0 * q.weight_source + min_of(r, valid - 1) * q.weight_result,
                     q.weight_result, int(max_of<i64>(0, min_of<i64>(lanes<T>, valid - r))),
                     some * all, to + r, pitch, int(min_of<i64>(lanes<T>, stored - r)));
    const T* row = turned;
    for (i64 c = c0; c < c0 + some && all > 1; ++c)
      for (i64 tap = 0; tap < all; ++tap, row += pitch)
        __builtin_memcpy(out + place[tap] + c * stored, row, std::size_t(stored) * sizeof(T));
  }
}

// One panel of a group, from its first channel on.
template <class T>
void pack_panel(const ConvProblem& p, Pass pass, const T* weights, i64 group, i64 channel, T* out) {
  const Correlation q = correlation(p, pass);
  const Side side = channel_side<T>(q);
  const i64 panel = channel / side.width, valid = side.valid(panel), stored = side.stored(panel);
  const T* w = weights + group * q.weight_group + channel * q.weight_result;
  if (turns_rows(q, p.taps())) return pack_turned(p, pass, w, valid, stored, out);
  const i64 channels = q.source_channels;
  if (q.weight_result == 1 && stored == valid) {  // neighbours already
    for (i64 c = 0; c < channels; ++c)
      __builtin_memcpy(out + c * stored, w + c * q.weight_source, std::size_t(valid) * sizeof(T));
    return;
  }
  each_tapped_phase(p, pass, [&](const Correlation& phase, i64 before) {
    const i64 taps = phase.taps();
    for (i64 c = 0; c < channels; ++c) {
      i64 tap = 0;
      phase_taps(phase, [&](i64 jd, i64 jh, i64 jw) PYCONV_ALWAYS {
        const T* at = w + c * q.weight_source + phase.weight_tap(jd, jh, jw);
        const i64 k = p.layout == Layout::nhwc ? tap * channels + c : c * taps + tap;
        T* row = out + (before * channels + k) * stored;
        const auto copy = [&](auto count) PYCONV_ALWAYS {
          for (i64 i = 0; i < count; ++i) row[i] = at[i * q.weight_result];
        };
        valid == tile_rows ? copy(Constant<tile_rows>{}) : copy(valid);
        for (i64 i = valid; i < stored; ++i) row[i] = T(0);
        ++tap;
      });
    }
  });
}

template <class T>
void gemm_pack(const ConvProblem& p, Pass pass, const void* weights, void* packed, int threads) {
  const T* w = static_cast<const T*>(weights);
  T* to = static_cast<T*>(packed);
  const PackedWeights<T> all(p, correlation(p, pass));
  const i64 panels = all.side.panels();
  parallel_for(p.groups * panels, threads, [&](i64 task, int) {
    const i64 group = task / panels, channel = task % panels * all.side.width;
    pack_panel(p, pass, w, group, channel, to + all.at(group, channel));
  });
  __builtin_memcpy(to + packed_elements<T>(p, pass), w,
                   std::size_t(copied_weights(p, pass)) * sizeof(T));
}

}  // namespace pyconv::PYCONV_TARGET

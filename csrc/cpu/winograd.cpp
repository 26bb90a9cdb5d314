// The Winograd kernels of this instruction set: sizes, packing, the filter's choice of a tiling.
#include "winograd.h"

#include "tables.h"
#include "winograd_channels.h"
#include "winograd_weight.h"

namespace pyconv::PYCONV_TARGET {
namespace {

// body(correlation) for every phase (of the D axis).
template <class Body>
PYCONV_INLINE void each_phase(const ConvProblem& p, Pass pass, Body&& body) {
  for (i64 phase = 0; phase < phase_count(p, pass); ++phase) body(correlation(p, pass, phase));
}

template <int R>
struct WinogradTiling {
  static constexpr int M = alpha + 1 - R;

  static std::size_t scratch_bytes(const ConvProblem& p, Pass pass) {
    i64 most = 0;
    if (pass == Pass::bwd_weight)
      most = WinogradWeight<R>::scratch_elements;
    else
      each_phase(p, pass, [&](const Correlation& q) {
        most = max_of(most, WinogradPhase<R>::scratch_elements(q));
      });
    return std::size_t(most) * sizeof(float);
  }

  static std::size_t shared_bytes(const ConvProblem& p, Pass pass) {
    i64 most = 0;
    if (pass == Pass::bwd_weight)
      return std::size_t(WinogradWeight<R>(p).shared_elements()) * sizeof(float);
    each_phase(p, pass, [&](const Correlation& q) {
      const WinogradBlocks blocks(q, M);
      if (blocks.shared) most = max_of(most, blocks.v_elements());
    });
    return std::size_t(most) * sizeof(float);
  }

  // The transformed weights of every phase, then a copy of w for sum_directly.
  static std::size_t packed_bytes(const ConvProblem& p, Pass pass) {
    if (pass == Pass::bwd_weight) return 0;
    i64 elements = p.k * p.c_per_group() * p.taps();
    each_phase(p, pass,
               [&](const Correlation& q) { elements += winograd_u_offset(q, q.groups, 0); });
    return std::size_t(elements) * sizeof(float);
  }

  static bool packs(const ConvProblem& p, Pass pass) {
    bool any = false;
    each_phase(p, pass, [&](const Correlation& q) { any = any || !WinogradBlocks(q, M).unpacked; });
    return any;
  }

  static void pack(const ConvProblem& p, Pass pass, const void* weights, void* packed,
                   int threads) {
    const float* w = static_cast<const float*>(weights);
    float* u = static_cast<float*>(packed);
    each_phase(p, pass, [&](const Correlation& q) {
      const i64 row_blocks = ceil_div(q.result_channels, winograd_rows);
      const i64 depth = q.source_channels * q.axis[0].taps;
      const i64 flushes = ceil_div(depth, winograd_flush);
      parallel_for(q.groups * row_blocks * flushes, threads, [&](i64 task, int) {
        const i64 row0 = task / flushes % row_blocks * winograd_rows;
        const i64 group = task / flushes / row_blocks, k0 = task % flushes * winograd_flush;
        const i64 rows = min_of(winograd_rows, q.result_channels - row0);
        transform_filters<R>(
            q, w + group * q.weight_group, row0, rows, k0, min_of(depth, k0 + winograd_flush),
            u + winograd_u_offset(q, group, row0) + k0 * rows, rows * depth + winograd_pad);
      });
      u += winograd_u_offset(q, q.groups, 0);
    });
    __builtin_memcpy(u, w, std::size_t(p.k * p.c_per_group() * p.taps()) * sizeof(float));
  }

  static const char* refuse(const ConvProblem& p, Pass pass) {
    if (scratch_bytes(p, pass) + shared_bytes(p, pass) > 16 << 20)
      return "it would need over 16 MB a thread";
    return nullptr;
  }

  static void run(const ConvProblem& p, Pass pass, const Buffers& b) {
    if (pass == Pass::bwd_weight) return WinogradWeight<R>(p).run(b);
    const float *u = static_cast<const float*>(b.packed), *w = static_cast<const float*>(b.b);
    if (u) w = u + packed_bytes(p, pass) / sizeof(float) - p.k * p.c_per_group() * p.taps();
    for_each_phase<float>(p, pass, b, [&](const Correlation& q) {
      WinogradPhase<R>{p, q, WinogradBlocks(q, M), static_cast<const float*>(b.a), u, w, b}.run();
      if (u) u += winograd_u_offset(q, q.groups, 0);
    });
    if (pass == Pass::bwd_data)
      add_border_gradients(p, static_cast<const float*>(b.a), w, static_cast<float*>(b.out),
                           b.threads);
  }
};

// The same of few channels a group in NHWC.
template <int R>
struct ChannelTiling {
  static const char* refuse(const ConvProblem&, Pass) { return nullptr; }
  static bool packs(const ConvProblem& p, Pass pass) {
    return WinogradChannels<R>::packs(correlation(p, pass));
  }
  static std::size_t shared_bytes(const ConvProblem& p, Pass pass) {
    return std::size_t(WinogradChannels<R>::place_elements(correlation(p, pass))) * sizeof(i64);
  }
  static std::size_t scratch_bytes(const ConvProblem& p, Pass pass) {
    const i64 elements = WinogradChannels<R>::scratch_elements(correlation(p, pass));
    return std::size_t(elements) * sizeof(float);
  }

  // U, then a copy of w for sum_directly.
  static i64 u_elements(const ConvProblem& p, Pass pass) {
    const WinogradBundle bundle(correlation(p, pass));
    return bundle.count * bundle.u_elements();
  }
  static std::size_t packed_bytes(const ConvProblem& p, Pass pass) {
    const i64 copied = p.k * p.c_per_group() * p.taps();
    return std::size_t(u_elements(p, pass) + copied) * sizeof(float);
  }
  static void pack(const ConvProblem& p, Pass pass, const void* weights, void* packed,
                   int threads) {
    const Correlation q = correlation(p, pass);
    const WinogradBundle bundle(q);
    const float* w = static_cast<const float*>(weights);
    float* u = static_cast<float*>(packed);
    constexpr i64 some = 16;  // channels
    const i64 parts = ceil_div(bundle.channels, some);
    parallel_for(bundle.count * parts, threads, [&](i64 task, int) {
      const i64 index = task / parts, c = task % parts * some;
      pack_bundle<R>(q, bundle, index, c, min_of(bundle.channels, c + some), w,
                     u + index * bundle.u_elements());
    });
    __builtin_memcpy(u + bundle.count * bundle.u_elements(), w,
                     std::size_t(p.k * p.c_per_group() * p.taps()) * sizeof(float));
  }

  static void run(const ConvProblem& p, Pass pass, const Buffers& b) {
    const float* u = static_cast<const float*>(b.packed);
    const float* w = u ? u + u_elements(p, pass) : static_cast<const float*>(b.b);
    for_each_phase<float>(p, pass, b,
                          [&](const Correlation& q) { WinogradChannels<R>(p, q, u, w, b).run(); });
    if (pass == Pass::bwd_data)
      add_border_gradients(p, static_cast<const float*>(b.a), w, static_cast<float*>(b.out),
                           b.threads);
  }
};

// The kernel as a table sees it: filter, layout and channels decide between the tilings.
struct Winograd {
  template <class Body>
  static PYCONV_INLINE auto tiling(const ConvProblem& p, Pass pass, Body&& body) {
    const bool five = p.filter[2] == 5;
    if (winograd_channels_fit(p, pass))
      return five ? body(ChannelTiling<5>{}) : body(ChannelTiling<3>{});
    return five ? body(WinogradTiling<5>{}) : body(WinogradTiling<3>{});
  }
  static const char* refuse(const ConvProblem& p, Pass pass) {
    for (int a = 1; a < 3; ++a) {
      if ((p.filter[a] != 3 && p.filter[a] != 5) || p.filter[a] != p.filter[2])
        return "the filter is neither 3x3 nor 5x5";
      if (p.stride[a] != 1 || p.dilation[a] != 1) return "stride and dilation must be 1";
    }
    return tiling(p, pass, [&](auto t) { return t.refuse(p, pass); });
  }
  static std::size_t packed_bytes(const ConvProblem& p, Pass pass) {
    return tiling(p, pass, [&](auto t) { return t.packed_bytes(p, pass); });
  }
  static bool packs(const ConvProblem& p, Pass pass) {
    return tiling(p, pass, [&](auto t) { return t.packs(p, pass); });
  }
  static void pack(const ConvProblem& p, Pass pass, const void* w, void* packed, int threads) {
    tiling(p, pass, [&](auto t) { t.pack(p, pass, w, packed, threads); });
  }
  static std::size_t scratch_bytes(const ConvProblem& p, Pass pass) {
    return tiling(p, pass, [&](auto t) { return t.scratch_bytes(p, pass); });
  }
  static std::size_t shared_bytes(const ConvProblem& p, Pass pass) {
    return tiling(p, pass, [&](auto t) { return t.shared_bytes(p, pass); });
  }
  static void run(const ConvProblem& p, Pass pass, const Buffers& b) {
    tiling(p, pass, [&](auto t) { t.run(p, pass, b); });
  }
};

}  // namespace

const ConvKernel winograd_kernels[2]{
    {Winograd::refuse, Winograd::packed_bytes, Winograd::pack, Winograd::scratch_bytes,
     Winograd::shared_bytes, Winograd::run, Winograd::packs},
    {}};

}  // namespace pyconv::PYCONV_TARGET

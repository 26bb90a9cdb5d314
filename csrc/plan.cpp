#include "plan.h"

#include <algorithm>
#include <vector>

#include "check.h"
#include "fft_tile.h"

namespace pyconv {
namespace {

std::size_t round_up_64(std::size_t bytes) {
  return (bytes + 63) / 64 * 64;
}

// One way a problem can be served: a rule fits or it does not, and says why. The first that fits
// wins; forcing an algorithm skips the rules but not the kernel's own refusal.
struct Rule {
  Algorithm algorithm;
  bool (*fits)(const ConvProblem&, Pass, const pyconv_conv_desc&);
  const char* reason;
};

using Desc = pyconv_conv_desc;

// Whether tiles of an FFT take less time than the fewest products elsewhere, at the rates of one
// Sapphire Rapids core.
bool fft_pays(const ConvProblem& p, Pass pass, const Desc& d) {
  if (p.precision == Precision::strict || p.dtype != DType::f32) return false;
  const bool gradient = pass == Pass::bwd_weight;
  // Kept weights, or a choice that must not depend on the batch: some eight images share them.
  const double images = d.batch_invariant ? 8 : double(p.n);
  double cost = 0;
  for (i64 phase = 0; phase < (gradient ? 1 : phase_count(p, pass)); ++phase) {
    const Correlation q = correlation(p, gradient ? Pass::fwd : pass, phase);
    const FftTile tile = fft_tile(q);
    if (tile.points() == 0) return false;
    cost += double(p.groups) * fft_cost(q, tile, images);
  }
  const double k = double(p.k_per_group()), c = double(p.c_per_group());
  double products = images * double(p.out_pixels()) * double(p.groups) * k * c * double(p.taps());
  if (p.stride[1] == 1 && p.stride[2] == 1 && p.filter[1] == p.filter[2]) {  // Winograd's
    if (p.filter[2] == 3 && c >= 16 && k >= 16) products /= 4;
    if (p.filter[2] == 5 && c >= 16 && k >= 16) products /= 2.8;
  }
  // Products in a ns: 75 is the peak, 45 what depthwise filters reach.
  return cost < products / (c * k > 4 ? 75 : 45);
}

const Rule rules[] = {
    {Algorithm::fft, fft_pays,
     "a large filter: transformed tiles take fewer operations (31x31 over 32 channels: 98 ms "
     "direct, 13 by FFT, 7 with weights kept)"},
    {Algorithm::direct,
     [](const ConvProblem& p, Pass, const Desc&) {
       return p.c_per_group() == 1 && p.k_per_group() <= 4;
     },
     "depthwise: a GEMM would have at most 4 rows and no channels to sum"},
    {Algorithm::winograd,
     [](const ConvProblem& p, Pass pass, const Desc& d) {
       // Two Sapphire Rapids cores, eight images, GFLOP/s of this, the best other: 3x3, 8 channels
       // a group at 28x28 176 and 118, 16 at 14x14 265 and 188, 32 at 7x7 313 and 191, 64 at 28x28
       // 654 and 456, one group of 64 at 56x56 757 and 441; 5x5, 16 at 28x28 338 and 259. One image
       // of 16 a group at 14x14: 124 and 145.
       const i64 c = p.c_per_group(), pixels = p.n * p.out_pixels();
       return pass != Pass::bwd_weight && p.layout == Layout::nhwc && p.c == p.k && p.c % 16 == 0 &&
              c >= 4 && c <= 64 && (c & (c - 1)) == 0 && p.filter[0] == 1 &&
              p.precision != Precision::strict && (d.batch_invariant || pixels * c >= 8192);
     },
     "a few channels in NHWC: Winograd with lanes along the channels"},
    {Algorithm::direct,
     [](const ConvProblem& p, Pass pass, const Desc&) {
       // Two Sapphire Rapids cores, GFLOP/s of direct, Winograd and GEMM. 3x3: 16 channels a group
       // at 14x14 201, 192, 80; 32 at 7x7 166, 206, 84 (NHWC, one
       // core: 108, 66, 113). 5x5: 16 to 32 at 28x28 259, 331, 147 (NHWC, one core: 154, 145, 115);
       // 20 to 50 at 12x12 194, 398, 134.
       const bool five = p.filter[1] == 5 && p.filter[2] == 5;
       const bool channels_last = p.layout == Layout::nhwc;
       const bool small = channels_last && p.out[1] * p.out[2] <= 64;
       const i64 most = five ? (channels_last ? 512 : 255) : small ? 1024 : 576;
       return pass != Pass::bwd_weight && p.c_per_group() * p.k_per_group() <= most;
     },
     "so few channels that transforms or columns would cost more than the products they save"},
    {Algorithm::winograd,
     [](const ConvProblem& p, Pass pass, const Desc& d) {
       // Transforming the weights takes about 20 cycles for each of K C, what it saves about 0.2 a
       // pixel: without a look at N, or with weights that are kept, it always pays. (256 to 256
       // channels, one image of 14x14: 0.96 ms, by GEMM 1.12 in NHWC, 1.86 in NCHW.) A gradient is
       // transformed once as well: with 512 channels on a single 7x7 map 157 and 114 GFLOP/s (two
       // cores, Winograd and GEMM), with 16 channels a group 144 and 184, on eight of them 304 and
       // 227; 64 to 12 channels at 56x56 418 and 164 (NCHW 315 and 180), 16 to 8 247 and 141 (155
       // and 138), 8 a group at 28x28 70 and 77 (98 and 146).
       const i64 pixels = p.n * p.out_pixels();
       const bool kept = pass != Pass::bwd_weight && d.batch_invariant;
       const bool gradient = pass == Pass::bwd_weight;
       const bool wide = gradient && p.c_per_group() * p.k_per_group() >= 4096;
       // 5x5, 20 to 50 channels at 12x12, NCHW: 41 us, direct 72; input gradient 76 and 121.
       const bool five = !gradient && p.filter[1] == 5 && p.layout == Layout::nchw;
       const bool pays = kept || pixels >= (wide ? 36 : gradient ? 200 : five ? 64 : 160);
       // A tile has 4x4 results. 256 channels at 3x3 and at 2x2, 64 images, Winograd and GEMM: NCHW
       // 299 and 66, 130 and 45; NHWC 239 and 259, 114 and 214.
       const i64 side = p.layout == Layout::nchw && !gradient ? 2 : 4;
       return p.precision != Precision::strict && pays && p.c_per_group() >= 16 &&
              p.k_per_group() >= (gradient ? 8 : 16) && p.out[1] >= side && p.out[2] >= side;
     },
     "a 3x3 or 5x5 filter at stride 1: Winograd needs 2.8 to 4 times fewer products"},
    {Algorithm::direct,
     [](const ConvProblem& p, Pass pass, const Desc&) {
       // One Sapphire Rapids core, GFLOP/s of direct against GEMM, NCHW and NHWC. 3x3 stride 2: 32
       // to 64 channels 115 and 53, 119 and 121; 64 to 128 (2x2) 87 and 107, 107 and 123; 128 to
       // 128 112 and 125, 133 and 133. NHWC's input gradients at stride 2, whose phases share a
       // band: 32 to 64 130 and 121, 64 to 128 144 and 137, 128 to 128 141 and 135, 256 to 512 126
       // and 143. 1x1 64 to 64: 89 and 60, 87 and 55. Weight gradient (two cores): 1 to 6 channels
       // 106 and 63, 4 a group 107 and 39, 8 a group 146 and 102, NHWC 66 and 62, 25 and 16, 77 and
       // 73; in NCHW 6 to 16 110 and 190, 3 to 20 164 and 141.
       const i64 products = p.c_per_group() * p.k_per_group();
       const bool channels_last = p.layout == Layout::nhwc;
       if (pass == Pass::bwd_weight) {
         const i64 k = p.k_per_group(), lanes = (k + 15) / 16 * 16;
         return p.taps() > 1 && (channels_last ? k < 8 : k < 16 || 10 * k < 7 * lanes);
       }
       // Pixels read in place: 1x1 from 24 to 144 in NHWC 134 by GEMM, 46 direct.
       if (channels_last && p.taps() == 1 && p.c_per_group() >= 16) return false;
       if (channels_last && pass == Pass::bwd_data && phase_count(p, pass) > 1)
         return products <= 16384;
       return products <= (channels_last ? 4096 : 8192);
     },
     "few channels: lanes run along the pixels of shifted rows, without columns"},
    {Algorithm::gemm, [](const ConvProblem&, Pass, const Desc&) { return true; },
     "im2col tiles and the blocked GEMM serve every shape"},
};

bool convolves(Pass pass) {
  return pass <= Pass::bwd_weight;
}

void choose(const ConvProblem& p, Pass pass, const pyconv_conv_desc& desc, pyconv_plan& plan) {
  const Check check(desc.op, desc.axes);
  const auto forced = check.choice<Algorithm>("algorithm", desc.algorithm, algorithm_count);
  if (plan.table->prefers_direct && forced == Algorithm::automatic) {
    const bool direct = plan.table->prefers_direct(p, pass);
    plan.algorithm = direct ? Algorithm::direct : Algorithm::gemm;
    plan.kernel = &plan.table->conv[int(plan.algorithm)][int(p.dtype)];
    plan.reason = direct ? "a group has at most 8 result channels, too few for a tile of GEMM"
                         : "implicit GEMM serves every shape";
    return;
  }
  for (const Rule& rule : rules) {
    const bool by_name = forced != Algorithm::automatic;
    if (by_name ? rule.algorithm != forced : !rule.fits(p, pass, desc)) continue;
    const ConvKernel* row = plan.table->conv[int(rule.algorithm)];
    const ConvKernel kernel = row ? row[int(p.dtype)] : ConvKernel{};
    const char* refused = !kernel.run     ? "it is not built for this instruction set"
                          : kernel.refuse ? kernel.refuse(p, pass)
                                          : nullptr;
    if (refused && !by_name) continue;
    // Transformed weights beyond 32 MB (256 to 256 channels of 11x11: 285) are too much to carry.
    if (!by_name && rule.algorithm == Algorithm::fft &&
        kernel.packed_bytes(p, pass) > std::size_t(32 << 20))
      continue;
    if (refused)
      check.fail(std::string("algorithm \"") + algorithm_name(forced) + "\" cannot serve: " +
                 refused + "; x is " + shape_text(desc.x) + ", w is " + shape_text(desc.w));
    plan.kernel = &row[int(p.dtype)];
    plan.algorithm = rule.algorithm;
    plan.reason = by_name ? "forced by name" : rule.reason;
    return;
  }
  check.fail("no algorithm serves this problem");  // the last rule fits everything
}

// A filter as large as its input is a matrix product, dense in memory: the batch becomes the pixels
// of one image, the taps become channels. LeNet's 5x5 layer on 5x5 maps took 7.6 ms for its
// gradients as a convolution.
void flatten(ConvProblem& p) {
  for (int axis = 0; axis < 3; ++axis)
    if (p.out[axis] != 1 || p.filter[axis] != p.in[axis] || p.pad[axis] || p.pad_after[axis])
      return;
  const i64 taps = p.taps();
  const bool in_order = p.layout == Layout::nchw || taps == 1 || p.c == 1;
  if (p.groups != 1 || p.n == 0 || !in_order || (p.flip && taps > 1)) return;
  p.layout = Layout::nhwc;
  p.c *= taps;
  for (i64& size : p.filter) size = 1;
  for (i64& size : p.in) size = 1;
  p.in[2] = p.out[2] = p.n;
  p.n = 1;
}

// What run() will touch, so that a caller's arrays can be held against it.
void set_buffer_bytes(const pyconv_conv_desc& desc, pyconv_plan& plan) {
  const ConvProblem& p = plan.conv;
  const std::size_t element = p.dtype == DType::f32 ? 4 : 8;
  const std::size_t x = std::size_t(p.n * p.c * p.in_pixels()) * element;
  const std::size_t y = std::size_t(p.n * p.k * p.out_pixels()) * element;
  const std::size_t w = std::size_t(p.k * p.c_per_group() * p.taps()) * element;
  const std::size_t columns = std::size_t(p.n * p.c * p.taps() * p.out_pixels()) * element;
  std::size_t (&bytes)[6] = plan.buffer_bytes;
  switch (plan.pass) {
    case Pass::fwd: bytes[0] = x, bytes[1] = w, bytes[4] = y; break;
    case Pass::bwd_data: bytes[0] = y, bytes[1] = w, bytes[4] = x; break;
    case Pass::bwd_weight: bytes[0] = y, bytes[1] = x, bytes[4] = w; break;
    case Pass::bwd_bias: bytes[0] = y, bytes[4] = std::size_t(p.k) * element; break;
    case Pass::im2col: bytes[0] = x, bytes[4] = columns; break;
    case Pass::col2im: bytes[0] = columns, bytes[4] = x; break;
  }
  if (plan.transposed && plan.pass == Pass::bwd_weight) std::swap(bytes[0], bytes[1]);
  if (plan.asked == Pass::fwd) {
    bytes[2] = desc.bias.values ? std::size_t(plan.transposed ? p.c : p.k) * element : 0;
    bytes[3] = desc.residual.values ? bytes[4] : 0;
  }
}

void set_buffer_bytes(const pyconv_pool_desc& desc, pyconv_plan& plan) {
  const PoolProblem& p = plan.pool;
  const std::size_t element = p.dtype == DType::f32 ? 4 : 8;
  const std::size_t x = std::size_t(p.n * p.c * p.in_pixels());
  const std::size_t y = std::size_t(p.n * p.c * p.out_pixels());
  const bool forward = plan.pass == Pass::fwd;
  std::size_t (&bytes)[6] = plan.buffer_bytes;
  bytes[0] = (forward ? x : y) * element;
  bytes[4] = (forward ? y : x) * element;
  switch (p.kind) {
    case PoolKind::max: bytes[forward ? 5 : 1] = y * 8; break;
    case PoolKind::avg:
      if (desc.weights.values) {  // an array of the window's shape, so its size cannot be absurd
        const Check check(desc.op, desc.axes);
        const i64 plane = check.times(p.window[1], p.window[2], "weights");
        bytes[1] =
            std::size_t(check.times(check.times(p.window[0], plane, "weights"), 8, "weights"));
        if (p.dtype == DType::f32) bytes[1] /= 2;
      }
      break;
    case PoolKind::lp:
      if (!forward) bytes[1] = x * element, bytes[5] = y * element;
      break;
    case PoolKind::unpool: bytes[1] = x * 8; break;
    case PoolKind::switches: bytes[forward ? 5 : 1] = y; break;
  }
}

}  // namespace

const char* algorithm_name(Algorithm algorithm) {
  static const char* const names[algorithm_count] = {"auto", "direct", "gemm", "winograd", "fft"};
  return names[int(algorithm)];
}

pyconv_plan plan_conv(const pyconv_conv_desc& desc) {
  pyconv_plan plan{};
  ConvProblem& p = plan.conv = check_conv(desc, plan.pass);
  plan.asked = Pass(desc.pass);
  plan.transposed = desc.transposed != 0;
  plan.table = &current_target();

  const Check check(desc.op, desc.axes);
  const bool out_is_input = plan.pass == Pass::bwd_data || plan.pass == Pass::col2im;
  std::vector<i64> shape;
  if (plan.pass == Pass::bwd_weight) {
    shape.assign(desc.w.values, desc.w.values + desc.w.count);
  } else if (plan.pass == Pass::bwd_bias) {
    shape = {p.k};
  } else if (plan.pass == Pass::im2col) {
    shape = {p.n, p.c * p.taps(), p.out_pixels()};
  } else {
    shape = out_is_input ? check.joined(p.layout, p.n, p.c, p.in)
                         : check.joined(p.layout, p.n, p.k, p.out);
  }
  plan.rank = int(shape.size());
  std::copy(shape.begin(), shape.end(), plan.shape);

  const double element = p.dtype == DType::f32 ? 4 : 8;
  const double x = double(p.n) * double(p.c) * double(p.in_pixels());
  const double y = double(p.n) * double(p.k) * double(p.out_pixels());
  const double w = double(p.k) * double(p.c_per_group()) * double(p.taps());
  if (convolves(plan.pass)) {
    flatten(p);
    plan.flops = 2 * double(p.n) * double(p.out_pixels()) * w;
    plan.bytes = element * (x + y + w);
    choose(p, plan.pass, desc, plan);
    const ConvKernel& kernel = *plan.kernel;
    plan.packed_bytes = kernel.packed_bytes ? round_up_64(kernel.packed_bytes(p, plan.pass)) : 0;
    const bool packs = !kernel.packs || kernel.packs(p, plan.pass);
    plan.call_packed_bytes = packs ? plan.packed_bytes : 0;
    plan.scratch_bytes = kernel.scratch_bytes ? round_up_64(kernel.scratch_bytes(p, plan.pass)) : 0;
    plan.shared_bytes = kernel.shared_bytes ? round_up_64(kernel.shared_bytes(p, plan.pass)) : 0;
  } else {
    const double columns = double(p.n) * double(p.c) * double(p.taps()) * double(p.out_pixels());
    plan.flops = plan.pass == Pass::bwd_bias ? y : plan.pass == Pass::col2im ? columns : 0;
    plan.bytes = element * (plan.pass == Pass::bwd_bias ? y : x + columns);
    plan.algorithm = Algorithm::direct;
    plan.reason = "there is one way";
  }
  plan.most_threads = threads_worth(plan.flops, plan.bytes);
  set_buffer_bytes(desc, plan);
  plan.op = desc.op ? desc.op : "pyconv";
  return plan;
}

pyconv_plan plan_pool(const pyconv_pool_desc& desc) {
  pyconv_plan plan{};
  plan.pools = true;
  const PoolProblem& p = plan.pool = check_pool(desc);
  const Check check(desc.op, desc.axes);
  plan.pass = plan.asked = Pass(desc.pass);
  plan.table = &current_target();
  if (p.kind == PoolKind::switches && !plan.table->indices_within)
    check.fail("switches are for arrays on the CPU");
  plan.algorithm = Algorithm::direct;
  plan.reason = "there is one way";
  const auto shape = plan.pass == Pass::fwd ? check.joined(p.layout, p.n, p.c, p.out)
                                            : check.joined(p.layout, p.n, p.c, p.in);
  plan.rank = int(shape.size());
  std::copy(shape.begin(), shape.end(), plan.shape);
  const double planes = double(p.n) * double(p.c);
  const double window =
      p.adaptive ? 1 : double(p.window[0]) * double(p.window[1]) * double(p.window[2]);
  plan.flops = planes * double(p.out_pixels()) * window;
  plan.bytes = (p.dtype == DType::f32 ? 4 : 8) * planes * double(p.in_pixels() + p.out_pixels());
  plan.most_threads = threads_worth(plan.flops, plan.bytes);
  set_buffer_bytes(desc, plan);
  plan.op = desc.op ? desc.op : "pyconv";
  return plan;
}

}  // namespace pyconv

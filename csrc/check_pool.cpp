#include <algorithm>
#include <cstdio>

#include "check.h"

namespace pyconv {
namespace {

// Every axis of an array a pooling reads holds something; only the batch may be empty.
void require_filled(const Check& check, const char* name, Layout layout, i64 c,
                    const i64 (&spatial)[3]) {
  auto axis_of_shape = [&](int i) {
    return std::string(name) + ".shape[" + std::to_string(i) + "]";
  };
  const int first = layout == Layout::nchw ? 2 : 1, axes = check.axes();
  check.require(c >= 1, axis_of_shape(layout == Layout::nchw ? 1 : axes + 1), c,
                "must be at least 1: there are no channels");
  for (int i = 0; i < axes; ++i)
    check.require(spatial[3 - axes + i] >= 1, axis_of_shape(first + i), spatial[3 - axes + i],
                  "must be at least 1: the images are empty");
}

void require_given(const Check& check, const char* name, const pyconv_ints& list) {
  if (!list.values) check.fail(std::string(name) + " must be given");
}

void read_window(const Check& check, const pyconv_pool_desc& d, PoolProblem& p) {
  require_given(check, "kernel_size", d.kernel);
  check.per_axis_from("kernel_size", d.kernel, 1, 1, 1, p.window);
  if (d.stride.values)
    check.per_axis_from("stride", d.stride, 1, 1, 1, p.stride);
  else
    std::copy(p.window, p.window + 3, p.stride);
  check.per_axis_from("padding", d.padding, 0, 0, 0, p.pad);
  check.per_axis_from("dilation", d.dilation, 1, 1, 1, p.dilation);
}

i64 floor_div(i64 a, i64 b) {
  return a / b - (a % b < 0);
}

// A window that starts before the input reads nothing if its dilation steps over the whole input.
// At most half the window hangs out, so the starts run over one period of the dilation at most:
// the first to leave the input's residues, if it does not jump the gap, is the only candidate
// besides the two ends.
void require_reading(const Check& check, const PoolProblem& p, int axis) {
  const i64 in = p.in[axis], stride = p.stride[axis], pad = p.pad[axis], step = p.dilation[axis];
  if (step <= in || pad == 0) return;
  const i64 before = std::min(p.out[axis], (pad - 1) / stride + 1);  // starts left of the input
  auto first_tap = [&](i64 o) { return (step - (pad - o * stride) % step) % step; };
  for (i64 o : {i64(0), first_tap(0) < in ? (in - first_tap(0) - 1) / stride + 1 : 0, before - 1})
    if (o < before && first_tap(o) >= in)
      check.fail(check.axis_name("dilation", axis) + " (=" + std::to_string(step) +
                 ") must not step over the whole input (=" + std::to_string(in) + "): window " +
                 std::to_string(o) + " lies wholly in the padding");
}

// out = floor((in + 2 pad - dilation (window - 1) - 1) / stride) + 1, or ceil without the windows
// that would start in the padding after the input.
void set_output(const Check& check, const pyconv_pool_desc& d, PoolProblem& p, int axis) {
  const i64 in = p.in[axis], stride = p.stride[axis], pad = p.pad[axis];
  const i64 extent =
      check.plus(check.times(p.window[axis] - 1, p.dilation[axis], "the window's extent"), 1,
                 "the window's extent");
  check.require(pad <= extent / 2, check.axis_name("padding", axis), pad,
                "must be at most half the window (=" + std::to_string(extent) + ")");
  const i64 padded = check.plus(in, check.times(2, pad, "the padded input"), "the padded input");
  check.plus(padded, extent, "the padded input and the window");
  // Up or down, without the sum room + stride - 1, which a large stride would make wrap.
  const i64 room = padded - extent;
  const bool up = d.ceil_mode && floor_div(room, stride) * stride != room;
  i64& out = p.out[axis];
  out = floor_div(room, stride) + up + 1;
  if (d.ceil_mode && out > 1 && (out - 1) > (in + pad - 1) / stride) --out;
  check.require(out >= 1, check.axis_name("kernel_size", axis), p.window[axis],
                "must fit the padded input (=" + std::to_string(padded) + "): the window spans " +
                    std::to_string(extent));
  // Neither moves anything then, and numbers near 2^63 would wrap in the kernels.
  if (out == 1) p.stride[axis] = 1;
  if (p.window[axis] == 1) p.dilation[axis] = 1;
  require_reading(check, p, axis);
}

// The size that a pooling with this window would have come from, or one given that could have.
void set_unpooled(const Check& check, const pyconv_pool_desc& d, PoolProblem& p) {
  i64 given[3];
  check.per_axis_from("output_size", d.output_size, 1, 1, 1, given);
  for (int axis = 0; axis < 3; ++axis) {
    const char* const what = "the unpooled size";
    const i64 stride = p.stride[axis];
    const i64 steps = check.times(p.in[axis] - 1, stride, what);
    const i64 size = check.plus(check.plus(steps, p.window[axis], what),
                                -check.times(2, p.pad[axis], what), what);
    p.out[axis] = size;
    if (d.output_size.values && axis >= 3 - check.axes()) {
      p.out[axis] = given[axis];
      const i64 low = check.plus(size, -stride, what), high = check.plus(size, stride, what);
      check.require(low < given[axis] && given[axis] < high, check.axis_name("output_size", axis),
                    given[axis],
                    "must lie between " + std::to_string(low) + " and " + std::to_string(high) +
                        " (both excluded)");
    }
    check.require(p.out[axis] >= 1, check.axis_name("output_size", axis), p.out[axis],
                  "must be at least 1");
  }
}

void check_options(const Check& check, const pyconv_pool_desc& d, PoolProblem& p) {
  if (d.has_divisor)
    check.require(d.divisor != 0, "divisor_override", d.divisor, "must not be zero");
  p.divisor = d.has_divisor ? d.divisor : 0;
  p.include_pad = !d.exclude_pad;
  p.norm_type = d.norm_type;
  if (p.kind == PoolKind::lp && !(d.norm_type > 0)) {
    char text[32];
    std::snprintf(text, sizeof text, "%g", d.norm_type);
    check.fail(std::string("norm_type (=") + text + ") must be positive");
  }
  p.weighted = d.weights.values;
  if (!p.weighted) return;
  if (p.kind != PoolKind::avg || p.adaptive)
    check.fail("weights belong to an average over windows of one size");
  check.same_shape("weights", d.weights, {p.window + 3 - check.axes(), p.window + 3});
}

}  // namespace

PoolProblem check_pool(const pyconv_pool_desc& d) {
  Check check(d.op, d.axes);
  PoolProblem p{};
  p.axes = d.axes;
  p.kind = check.choice<PoolKind>("kind", d.kind, 5);
  p.dtype = check.choice<DType>("dtype", d.dtype, 2);
  p.layout = check.choice<Layout>("layout", d.layout, 2);
  p.adaptive = d.adaptive;
  const bool backward = check.choice<Pass>("pass", d.pass, 2) == Pass::bwd_data;
  const bool by_index = p.kind == PoolKind::max && backward;
  const bool unpools = p.kind == PoolKind::unpool, switches = p.kind == PoolKind::switches;
  if (switches && p.adaptive) check.fail("switches are for windows of one size");
  if (unpools && (backward || p.adaptive)) check.fail("unpooling runs forward, over fixed windows");

  const char* const x = backward && p.kind != PoolKind::lp ? "input_shape" : "x";
  check.show("dy", d.dy);
  check.show("indices", d.indices);
  check.show(x, d.x);
  check.show("weights", d.weights);
  check.show("kernel_size", d.kernel);
  require_given(check, x, d.x);
  check.split(x, d.x, p.layout, p.n, p.c, p.in);
  require_filled(check, x, p.layout, p.c, p.in);
  check.addressable(x, p.dtype, p.n, p.c, p.in);
  if (backward) require_given(check, "dy", d.dy);
  const bool reads_places = by_index || unpools || (switches && backward);
  if (reads_places) require_given(check, switches ? "switches" : "indices", d.indices);

  if (by_index) {
    i64 n, c;
    check.split("dy", d.dy, p.layout, n, c, p.out);
    check.require(n == p.n, "the batch of dy", n, "must be that of input_shape");
    check.require(c == p.c, "the channels of dy", c, "must be those of input_shape");
    require_filled(check, "dy", p.layout, c, p.out);
  } else if (p.adaptive) {
    require_given(check, "output_size", d.output_size);
    check.per_axis_from("output_size", d.output_size, 1, 1, 1, p.out);
  } else {
    read_window(check, d, p);
    if (unpools)
      set_unpooled(check, d, p);
    else
      for (int axis = 0; axis < 3; ++axis) set_output(check, d, p, axis);
    i64 taps = 1;
    for (int axis = 0; axis < 3 && switches; ++axis) {
      check.require(p.window[axis] <= 256 / taps, check.axis_name("kernel_size", axis),
                    p.window[axis], "must leave a window of at most 256 taps, a byte's numbers");
      taps *= p.window[axis];
    }
  }
  check_options(check, d, p);
  // Indices are 64-bit and as many as values.
  check.addressable("the result", p.kind == PoolKind::max ? DType::f64 : p.dtype, p.n, p.c, p.out);
  const auto outer = check.joined(p.layout, p.n, p.c, p.out);
  if (backward) check.same_shape("dy", d.dy, outer);
  if (by_index || (switches && backward))
    check.same_shape(switches ? "switches" : "indices", d.indices, outer);
  if (unpools) check.same_shape("indices", d.indices, check.joined(p.layout, p.n, p.c, p.in));
  return p;
}

}  // namespace pyconv

#include "problem.h"

#include <algorithm>

#include "check.h"

namespace pyconv {
namespace {

// Padding of one axis: what is added before and after.
struct Pads {
  i64 before[3], after[3];
};

// Explicit numbers, or one of the named rules; `extent` is the dilated filter.
Pads resolve_padding(const Check& check, const pyconv_conv_desc& d, const ConvProblem& p,
                     const i64 (&extent)[3]) {
  Pads pads{};
  const auto kind = check.choice<pyconv_padding>("padding", d.padding_kind, 5);
  const int first = 3 - check.axes();
  if (kind == PYCONV_PAD_EXPLICIT) {
    if (d.padding_pairs) {
      if (d.padding.count != 2 * check.axes())
        check.fail("padding must have one (before, after) pair for each of " +
                   std::to_string(check.axes()) + " axes, got " +
                   std::to_string(d.padding.count / 2));
      for (int axis = first; axis < 3; ++axis) {
        pads.before[axis] = d.padding.values[2 * (axis - first)];
        pads.after[axis] = d.padding.values[2 * (axis - first) + 1];
      }
    } else {
      if (check.axes() == 1 && d.padding.count == 2)
        check.fail("padding " + shape_text(d.padding) +
                   " must be one integer; per-side padding in 1-D is a pair for the one axis, ((" +
                   std::to_string(d.padding.values[0]) + ", " +
                   std::to_string(d.padding.values[1]) + "),)");
      check.per_axis("padding", d.padding, 0, 0, pads.before);
      std::copy(pads.before, pads.before + 3, pads.after);
    }
    for (int axis = first; axis < 3; ++axis)
      for (i64 pad : {pads.before[axis], pads.after[axis]})
        check.require(pad >= 0, check.axis_name("padding", axis), pad, "must not be negative");
    return pads;
  }
  for (int axis = first; axis < 3 && kind != PYCONV_PAD_VALID; ++axis) {
    if (kind == PYCONV_PAD_FULL) {
      pads.before[axis] = pads.after[axis] = extent[axis] - 1;
      continue;
    }
    // The adjoint of "same" (transposed) starts from the output, which is input * stride, so its
    // last window always begins at the last stride.
    const i64 size = p.in[axis], stride = p.stride[axis];
    const i64 last = d.transposed ? 0 : size > 0 ? (size - 1) / stride * stride - size : 0;
    const i64 total = std::max<i64>(0, d.transposed ? extent[axis] - stride : last + extent[axis]);
    const i64 smaller = total / 2;
    pads.before[axis] = kind == PYCONV_PAD_SAME ? smaller : total - smaller;
    pads.after[axis] = total - pads.before[axis];
  }
  return pads;
}

void check_border(const Check& check, const ConvProblem& p) {
  for (int axis = 3 - check.axes(); axis < 3; ++axis) {
    const i64 pad = std::max(p.pad[axis], p.pad_after[axis]);
    const i64 most = p.border == Border::reflect ? p.in[axis] - 1 : p.in[axis];
    if (p.border != Border::zeros && p.border != Border::replicate)
      check.require(pad <= most, check.axis_name("padding", axis), pad,
                    std::string("must be at most ") + std::to_string(most) + " in padding_mode \"" +
                        (p.border == Border::reflect    ? "reflect"
                         : p.border == Border::circular ? "circular"
                                                        : "symmetric") +
                        "\", which reads the input's own pixels");
  }
}

// in + pads, and how often the filter fits: the forward rule.
void forward_sizes(const Check& check, ConvProblem& p, const i64 (&extent)[3]) {
  for (int axis = 0; axis < 3; ++axis) {
    const i64 pads = check.plus(p.pad[axis], p.pad_after[axis], "padding");
    const i64 padded = check.plus(p.in[axis], pads, "the padded input");
    if (extent[axis] > padded)
      check.fail("the filter (size " + std::to_string(p.filter[axis]) + ", dilation " +
                 std::to_string(p.dilation[axis]) + ": extent " + std::to_string(extent[axis]) +
                 ") exceeds the padded input (" + std::to_string(padded) + ") on spatial axis " +
                 std::to_string(axis - (3 - check.axes())));
    p.out[axis] = (padded - extent[axis]) / p.stride[axis] + 1;
  }
}

// The transposed rule: the size whose convolution gives p.out, plus output_padding.
void transposed_sizes(const Check& check, const pyconv_conv_desc& d, ConvProblem& p, Pads& pads,
                      const i64 (&extent)[3]) {
  const int first = 3 - check.axes();
  i64 extra[3], wanted[3];
  check.per_axis_from("output_padding", d.output_padding, 0, 0, 0, extra);
  check.per_axis("output_size", d.output_size, 1, 0, wanted);
  for (int axis = first; axis < 3; ++axis) {
    const i64 steps = check.times(p.out[axis] - 1, p.stride[axis], "the output size");
    const i64 natural = check.plus(steps, extent[axis], "the output size");
    const i64 total = check.plus(pads.before[axis], pads.after[axis], "padding");
    const i64 least = natural - total;
    const i64 limit = std::max(p.stride[axis], p.dilation[axis]);
    const bool same = d.padding_kind == PYCONV_PAD_SAME || d.padding_kind == PYCONV_PAD_SAME_LOWER;
    if (d.output_size.values) {
      check.require(wanted[axis] >= least &&
                        wanted[axis] < check.plus(least, p.stride[axis], "the output size"),
                    check.axis_name("output_size", axis), wanted[axis],
                    "must be at least " + std::to_string(least) + " and less than " +
                        std::to_string(least) + " + stride (=" + std::to_string(p.stride[axis]) +
                        ")");
      extra[axis] = wanted[axis] - least;
    } else if (same) {
      extra[axis] = check.times(p.out[axis], p.stride[axis], "the output size") - least;
    } else {
      check.require(extra[axis] < limit, check.axis_name("output_padding", axis), extra[axis],
                    "must be smaller than stride (=" + std::to_string(p.stride[axis]) +
                        ") or dilation (=" + std::to_string(p.dilation[axis]) + ")");
    }
    p.in[axis] = check.plus(least, extra[axis], "the output size");
    check.require(p.in[axis] >= 1,
                  "the output size on spatial axis " + std::to_string(axis - first), p.in[axis],
                  "must be at least 1");
  }
}

void check_filter(const Check& check, const pyconv_conv_desc& d, ConvProblem& p) {
  const int rank = check.axes() + 2;
  static const char* const letters[] = {"W", "H, W", "D, H, W"};
  if (d.w.count != rank)
    check.fail("w must have " + std::to_string(rank) + " dimensions (" +
               (d.transposed ? "C, K/groups, " : "K, C/groups, ") + "kernel " +
               letters[check.axes() - 1] + "), got " + std::to_string(d.w.count));
  for (int i = 0; i < rank; ++i)
    check.require(d.w.values[i] >= 1, "w.shape[" + std::to_string(i) + "]", d.w.values[i],
                  "must be at least 1");
  for (int axis = 0; axis < 3; ++axis) {
    const int i = axis - (3 - check.axes());
    p.filter[axis] = i < 0 ? 1 : d.w.values[2 + i];
  }
}

// Channels of x, w and groups must agree; c and k become those of the (untransposed) problem.
void check_channels(const Check& check, const pyconv_conv_desc& d, i64 channels, ConvProblem& p) {
  const std::string in_channels = "in_channels (=" + std::to_string(channels) + ")";
  const std::string groups = "groups (=" + std::to_string(p.groups) + ")";
  check.require(channels >= 1, "in_channels", channels, "must be at least 1");
  check.require(p.groups >= 1, "groups", p.groups, "must be at least 1");
  if (channels % p.groups) check.fail(in_channels + " must be divisible by " + groups);
  const i64 first = d.w.values[0], second = d.w.values[1];
  if (d.transposed) {
    if (first != channels)
      check.fail("w.shape[0] (=" + std::to_string(first) + ") must equal " + in_channels);
    p.k = channels;
    p.c = check.times(second, p.groups, "out_channels");
  } else {
    if (second != channels / p.groups)
      check.fail("w.shape[1] (=" + std::to_string(second) + ") must be in_channels / groups (=" +
                 std::to_string(channels) + " / " + std::to_string(p.groups) + ")");
    if (first % p.groups)
      check.fail("out_channels (=" + std::to_string(first) + ") must be divisible by " + groups);
    p.k = first;
    p.c = channels;
  }
}

Pass untransposed(Pass pass, bool transposed) {
  if (!transposed) return pass;
  return pass == Pass::fwd ? Pass::bwd_data : pass == Pass::bwd_data ? Pass::fwd : pass;
}

}  // namespace

ConvProblem check_conv(const pyconv_conv_desc& d, Pass& pass) {
  Check check(d.op, d.axes);
  check.show("x", d.x);
  check.show("w", d.w);
  check.show("dy", d.dy);
  check.show("b", d.bias);
  check.show("residual", d.residual);

  ConvProblem p{};
  p.axes = d.axes;
  p.dtype = check.choice<DType>("dtype", d.dtype, 2);
  p.layout = check.choice<Layout>("layout", d.layout, 2);
  p.border = check.choice<Border>("padding_mode", d.border, 5);
  p.activation = check.choice<Activation>("activation", d.activation, activation_count);
  p.precision = check.choice<Precision>("precision", d.precision, 4);
  p.flip = d.flip != 0;
  p.groups = d.groups;
  const auto asked = check.choice<Pass>("pass", d.pass, 6);
  pass = untransposed(asked, d.transposed != 0);
  if (d.transposed && p.border != Border::zeros)
    check.fail("a transposed convolution has no padding_mode but \"zeros\"");

  // x as the caller sees it: the input of a convolution, the output end of a transposed one.
  i64 channels, spatial[3];
  check.split("x", d.x, p.layout, p.n, channels, spatial);
  check_filter(check, d, p);
  check.per_axis_from("stride", d.stride, 1, 1, 1, p.stride);
  check.per_axis_from("dilation", d.dilation, 1, 1, 1, p.dilation);
  check_channels(check, d, channels, p);

  i64 extent[3];
  for (int axis = 0; axis < 3; ++axis) {
    i64& size = d.transposed ? p.out[axis] : p.in[axis];
    size = spatial[axis];
    extent[axis] = check.plus(
        check.times(p.filter[axis] - 1, p.dilation[axis], "the extent of the dilated filter"), 1,
        "the extent of the dilated filter");
    check.require(size >= 1, "x's size on spatial axis " + std::to_string(axis - (3 - d.axes)),
                  size, "must be at least 1");
  }
  Pads pads = resolve_padding(check, d, p, extent);
  if (d.transposed) {
    if (d.padding_kind == PYCONV_PAD_FULL)
      check.fail("padding \"full\" has no meaning in a transposed convolution");
    p.in[0] = p.in[1] = 1;
    transposed_sizes(check, d, p, pads, extent);
  }
  std::copy(pads.before, pads.before + 3, p.pad);
  std::copy(pads.after, pads.after + 3, p.pad_after);
  check_border(check, p);
  if (!d.transposed) forward_sizes(check, p, extent);

  // A stride over one output and a dilation of one tap move nothing. As 1 they cannot make the
  // kernels' index arithmetic wrap, however large they were.
  for (int axis = 0; axis < 3; ++axis) {
    if (p.out[axis] == 1) p.stride[axis] = 1;
    if (p.filter[axis] == 1) p.dilation[axis] = 1;
  }

  const i64 columns = check.times(
      p.c_per_group(),
      check.times(p.filter[0], check.times(p.filter[1], p.filter[2], "the filter"), "the filter"),
      "the filter");
  check.times(check.times(columns, p.k, "the filter"), 8, "the filter");
  check.addressable("x", p.dtype, p.n, p.c, p.in);
  check.addressable("y", p.dtype, p.n, p.k, p.out);

  const std::vector<i64> y = check.joined(p.layout, p.n, p.k, p.out);
  const std::vector<i64> x = check.joined(p.layout, p.n, p.c, p.in);
  const std::vector<i64>& result = d.transposed ? x : y;
  const i64 out_channels = d.transposed ? p.c : p.k;
  if (asked == Pass::im2col || asked == Pass::col2im) {
    const i64 pixels = check.times(p.out[0], check.times(p.out[1], p.out[2], "columns"), "columns");
    const i64 rows = check.times(columns, p.groups, "columns");
    check.times(check.times(check.times(rows, pixels, "columns"), p.n ? p.n : 1, "columns"), 8,
                "columns");
    check.same_shape("columns", d.dy, {p.n, rows, pixels});
  } else {
    check.same_shape("dy", d.dy, result);
  }
  check.same_shape("b", d.bias, {out_channels});
  check.same_shape("residual", d.residual, result);
  if (pass == Pass::bwd_bias && d.transposed) {  // sums what is the input of the problem
    p.k = p.c;
    std::copy(p.in, p.in + 3, p.out);
  }
  return p;
}

}  // namespace pyconv

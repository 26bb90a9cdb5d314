#include "check.h"

namespace pyconv {

std::string shape_text(const pyconv_ints& shape) {
  std::string text = "(";
  for (int i = 0; i < shape.count; ++i) text += (i ? ", " : "") + std::to_string(shape.values[i]);
  return text + (shape.count == 1 ? ",)" : ")");
}

void Check::fail(const std::string& text) const {
  std::string all = op_ + ": " + text;
  for (std::size_t i = 0; i < shapes_.size(); ++i)
    all += (i ? ", " : "; ") + shapes_[i].first + " is " + shapes_[i].second;
  throw ValueError(all);
}

void Check::per_axis(const char* name, const pyconv_ints& list, i64 filler, i64 fallback,
                     i64 (&to)[3]) const {
  if (list.values && list.count != 1 && list.count != axes_)
    fail(std::string(name) + " " + shape_text(list) + " must be one integer or have length " +
         std::to_string(axes_) + ", got length " + std::to_string(list.count));
  for (int axis = 0; axis < 3; ++axis) {
    const int i = axis - (3 - axes_);
    to[axis] = i < 0 ? filler : !list.values ? fallback : list.values[list.count == 1 ? 0 : i];
  }
}

void Check::per_axis_from(const char* name, const pyconv_ints& list, i64 filler, i64 fallback,
                          i64 least, i64 (&to)[3]) const {
  per_axis(name, list, filler, fallback, to);
  for (int axis = 3 - axes_; axis < 3; ++axis)
    require(to[axis] >= least, list.count == 1 ? name : axis_name(name, axis), to[axis],
            "must be at least " + std::to_string(least));
}

void Check::split(const char* name, const pyconv_ints& shape, Layout layout, i64& n, i64& c,
                  i64 (&spatial)[3]) const {
  static const char* const axis_letters[3][2] = {
      {"N, C, W", "N, W, C"}, {"N, C, H, W", "N, H, W, C"}, {"N, C, D, H, W", "N, D, H, W, C"}};
  const int rank = axes_ + 2;
  if (shape.count != rank)
    fail(std::string(name) + " must have " + std::to_string(rank) + " dimensions (" +
         axis_letters[axes_ - 1][int(layout)] + "), got " + std::to_string(shape.count) +
         (shape.count == rank - 1
              ? "; inputs are batched: add the axis with " + std::string(name) + "[None]"
              : ""));
  for (int i = 0; i < rank; ++i)
    require(shape.values[i] >= 0, std::string(name) + ".shape[" + std::to_string(i) + "]",
            shape.values[i], "must not be negative");
  const int first = layout == Layout::nchw ? 2 : 1;
  n = shape.values[0];
  c = shape.values[layout == Layout::nchw ? 1 : rank - 1];
  for (int axis = 0; axis < 3; ++axis) {
    const int i = axis - (3 - axes_);
    spatial[axis] = i < 0 ? 1 : shape.values[first + i];
  }
}

std::vector<i64> Check::joined(Layout layout, i64 n, i64 c, const i64 (&spatial)[3]) const {
  std::vector<i64> shape{n};
  if (layout == Layout::nchw) shape.push_back(c);
  for (int axis = 3 - axes_; axis < 3; ++axis) shape.push_back(spatial[axis]);
  if (layout == Layout::nhwc) shape.push_back(c);
  return shape;
}

void Check::same_shape(const char* name, const pyconv_ints& shape,
                       const std::vector<i64>& expected) const {
  if (!shape.values) return;
  const pyconv_ints want{expected.data(), std::int32_t(expected.size())};
  bool same = shape.count == want.count;
  for (int i = 0; same && i < want.count; ++i) same = shape.values[i] == want.values[i];
  if (!same)
    fail(std::string(name) + " must have shape " + shape_text(want) + ", got " + shape_text(shape));
}

i64 Check::times(i64 a, i64 b, const char* what) const {
  i64 result;
  if (__builtin_mul_overflow(a, b, &result))
    fail(std::string(what) + " overflows: " + std::to_string(a) + " * " + std::to_string(b));
  return result;
}

i64 Check::plus(i64 a, i64 b, const char* what) const {
  i64 result;
  if (__builtin_add_overflow(a, b, &result))
    fail(std::string(what) + " overflows: " + std::to_string(a) + " + " + std::to_string(b));
  return result;
}

void Check::addressable(const char* name, DType dtype, i64 n, i64 c,
                        const i64 (&spatial)[3]) const {
  const std::string what = std::string("the size of ") + name;
  // An empty batch must not hide an absurd image, nor a zero a product that wraps.
  i64 bytes = dtype == DType::f32 ? 4 : 8;
  const i64 factors[] = {n, c, spatial[0], spatial[1], spatial[2]};
  for (i64 factor : factors) bytes = times(bytes, factor ? factor : 1, what.c_str());
}

}  // namespace pyconv

// What the two check functions share: error texts that always carry the operation and every shape,
// lists of one integer an axis, and arithmetic that cannot wrap.
#pragma once
#include <string>
#include <utility>
#include <vector>

#include "problem.h"

namespace pyconv {

constexpr i64 size_max = INT64_MAX;

class Check {
 public:
  Check(const char* op, int axes) : op_(op ? op : "pyconv"), axes_(axes) {
    if (axes < 1 || axes > 3) fail("axes (=" + std::to_string(axes) + ") must be 1, 2 or 3");
  }

  int axes() const { return axes_; }

  // A shape that every later error quotes.
  void show(const char* name, const pyconv_ints& shape) {
    if (shape.values) shapes_.emplace_back(name, shape_text(shape));
  }

  [[noreturn]] void fail(const std::string& text) const;

  // Fails as "name (=value) rule".
  void require(bool ok, const std::string& name, i64 value, const std::string& rule) const {
    if (!ok) fail(name + " (=" + std::to_string(value) + ") " + rule);
  }

  // An enumerator in [0, count).
  template <class E>
  E choice(const char* name, int value, int count) const {
    require(value >= 0 && value < count, name, value, "is not one of its choices");
    return E(value);
  }

  // One integer an axis, or one for all (count 1), into the last `axes` of three; the leading ones
  // get `filler`. Not given: `fallback` everywhere.
  void per_axis(const char* name, const pyconv_ints& list, i64 filler, i64 fallback,
                i64 (&to)[3]) const;

  // per_axis, each >= least.
  void per_axis_from(const char* name, const pyconv_ints& list, i64 filler, i64 fallback, i64 least,
                     i64 (&to)[3]) const;

  // Splits (N, C, *spatial) or (N, *spatial, C), after checking rank and signs.
  void split(const char* name, const pyconv_ints& shape, Layout layout, i64& n, i64& c,
             i64 (&spatial)[3]) const;

  // The inverse; returns what a caller with this layout would see.
  std::vector<i64> joined(Layout layout, i64 n, i64 c, const i64 (&spatial)[3]) const;

  // Fails unless `shape`, if given, is `expected`.
  void same_shape(const char* name, const pyconv_ints& shape,
                  const std::vector<i64>& expected) const;

  // a * b and a + b, or an error that `what` overflows.
  i64 times(i64 a, i64 b, const char* what) const;
  i64 plus(i64 a, i64 b, const char* what) const;

  // Bytes of an array of n * c * spatial elements must fit a pointer difference.
  void addressable(const char* name, DType dtype, i64 n, i64 c, const i64 (&spatial)[3]) const;

  // "stride[1]": the axis as the caller counts it.
  std::string axis_name(const char* name, int axis) const {
    return std::string(name) + "[" + std::to_string(axis - (3 - axes_)) + "]";
  }

 private:
  std::string op_;
  int axes_;
  std::vector<std::pair<std::string, std::string>> shapes_;
};

}  // namespace pyconv

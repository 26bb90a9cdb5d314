// What is asked. Every number and shape error there is comes from the two check functions here;
// a kernel gets a checked problem and nothing else.
//
// Index letters (CUTLASS): N batch, C in, K out, G groups; D H W input, T R S filter, Z P Q output.
// Every operation has three spatial axes; 1-D and 2-D enter with leading ones. A transposed
// convolution is the problem whose BWD_DATA it is: its input is that problem's dy.
#pragma once
#include <cstdint>
#include <stdexcept>
#include <string>

#include "pyconv/pyconv.h"

// Of functions that host and device compile. Always inlined on the host: kernels of several
// instruction sets include them, and the linker must not keep one set's copy for all.
#if defined(__CUDACC__)
#define PYCONV_HD __host__ __device__
#else
#define PYCONV_HD __attribute__((always_inline))
#endif

namespace pyconv {

using i64 = std::int64_t;

enum class DType : int { f32, f64 };
enum class Layout : int { nchw, nhwc };
enum class Pass : int { fwd, bwd_data, bwd_weight, bwd_bias, im2col, col2im };
enum class Border : int { zeros, reflect, replicate, circular, symmetric };
enum class Activation : int { none, relu, leaky_relu, tanh, sigmoid, gelu, silu, relu6 };
constexpr int activation_count = 8;
enum class Algorithm : int { automatic, direct, gemm, winograd, fft };
constexpr int algorithm_count = 5;
enum class Precision : int { standard, strict, tf32, tf32_three };
enum class PoolKind : int { max, avg, lp, unpool, switches };

// A rule was broken; the text names the operation, the argument, the rule, the value, the shapes.
struct ValueError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct ConvProblem {
  int axes;  // 1, 2 or 3: how many of the three the caller sees
  i64 n, c, k, groups;
  i64 in[3], filter[3], out[3];
  i64 stride[3], dilation[3];
  i64 pad[3];  // before; the padding after only shows in `out`
  i64 pad_after[3];
  DType dtype;
  Layout layout;
  Border border;
  Activation activation;
  Precision precision;
  bool flip;

  PYCONV_HD i64 c_per_group() const { return c / groups; }
  PYCONV_HD i64 k_per_group() const { return k / groups; }
  PYCONV_HD i64 taps() const { return filter[0] * filter[1] * filter[2]; }
  PYCONV_HD i64 in_pixels() const { return in[0] * in[1] * in[2]; }
  PYCONV_HD i64 out_pixels() const { return out[0] * out[1] * out[2]; }
};

struct PoolProblem {
  int axes;
  PoolKind kind;
  bool adaptive;  // window of output o: floor(o in / out) <= i < ceil((o + 1) in / out)
  i64 n, c;
  i64 in[3], window[3], out[3];
  i64 stride[3], dilation[3], pad[3];
  DType dtype;
  Layout layout;
  bool include_pad;  // average: divide by the window clipped to the padded input, else to the input
  bool weighted;     // average: b holds the window's weights
  i64 divisor;       // average: 0, or what to divide by instead
  double norm_type;

  PYCONV_HD i64 in_pixels() const { return in[0] * in[1] * in[2]; }
  PYCONV_HD i64 out_pixels() const { return out[0] * out[1] * out[2]; }
};

// The only way to a problem. Throws ValueError. `pass` is the pass of the returned problem: for a
// transposed convolution FWD and BWD_DATA change places.
ConvProblem check_conv(const pyconv_conv_desc& desc, Pass& pass);
PoolProblem check_pool(const pyconv_pool_desc& desc);

// "x is (1, 6, 8, 8), w is (4, 2, 3, 3)", for errors; empty lists are left out.
std::string shape_text(const pyconv_ints& shape);

// Where padded position `i` (may be negative or beyond) reads: an index in [0, size), or -1 for a
// zero. check_conv has made sure that one reflection or turn is enough.
PYCONV_HD inline i64 border_index(i64 i, i64 size, Border border) {
  if (i >= 0 && i < size) return i;
  switch (border) {
    case Border::reflect: return i < 0 ? -i : 2 * (size - 1) - i;
    case Border::replicate: return i < 0 ? 0 : size - 1;
    case Border::circular: return i < 0 ? i + size : i - size;
    case Border::symmetric: return i < 0 ? -1 - i : 2 * size - 1 - i;
    default: return -1;
  }
}

}  // namespace pyconv

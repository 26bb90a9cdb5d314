// XLA's call of a convolution: buffers and attributes become a descriptor of pyconv's C ABI.
// Compiled on the user's machine against jax.ffi.include_dir(), see _build.py.
#include <algorithm>
#include <memory>
#include <new>

#include "pyconv/pyconv.h"
#include "xla/ffi/api/ffi.h"

namespace {

namespace ffi = xla::ffi;
using Ints = ffi::Span<const int64_t>;

pyconv_ints list(Ints span) {
  return {span.begin(), int32_t(span.size())};
}

// FWD: y of x, w; BWD_DATA: x of y, w; BWD_WEIGHT: w of y, x. The shapes are the buffers' own.
ffi::Error convolve(ffi::AnyBuffer a, ffi::AnyBuffer b, ffi::Result<ffi::AnyBuffer> out,
                    int64_t pass, int64_t layout, int64_t algorithm, int64_t groups, bool flip,
                    bool strict, bool batch_invariant, Ints stride, Ints padding, Ints dilation) {
  const pyconv_ints first = list(a.dimensions()), second = list(b.dimensions());
  const pyconv_ints result = list(out->dimensions());
  pyconv_conv_desc d{};
  d.struct_size = sizeof d;
  d.op = "conv_general_dilated";
  d.axes = int32_t(stride.size());
  d.pass = int32_t(pass);
  d.dtype = a.element_type() == ffi::F32 ? PYCONV_FLOAT32 : PYCONV_FLOAT64;
  d.layout = int32_t(layout);
  d.algorithm = int32_t(algorithm);
  d.flip = flip;
  d.padding_pairs = 1;
  d.batch_invariant = batch_invariant;
  d.precision = strict ? PYCONV_STRICT : PYCONV_DEFAULT;
  d.x = pass == PYCONV_FWD ? first : pass == PYCONV_BWD_DATA ? result : second;
  d.w = pass == PYCONV_BWD_WEIGHT ? result : second;
  if (pass != PYCONV_FWD) d.dy = first;
  d.stride = list(stride);
  d.padding = list(padding);
  d.dilation = list(dilation);
  d.groups = groups;

  const auto refused = [] { return ffi::Error::InvalidArgument(pyconv_last_error()); };
  pyconv_plan* made = nullptr;
  pyconv_status status = pyconv_plan_conv(&d, &made);
  if (status != PYCONV_OK && algorithm != PYCONV_AUTO) {  // a preference, not a force
    d.algorithm = PYCONV_AUTO;
    status = pyconv_plan_conv(&d, &made);
  }
  if (status != PYCONV_OK) return refused();
  const std::unique_ptr<pyconv_plan, void (*)(pyconv_plan*)> plan(made, pyconv_plan_free);
  int64_t shape[5];
  const int32_t rank = pyconv_plan_shape(made, shape);
  if (rank != result.count || !std::equal(shape, shape + rank, result.values))
    return ffi::Error::InvalidArgument("conv_general_dilated: the result has another shape");

  pyconv_buffers buffers{};
  buffers.a = a.untyped_data();
  buffers.b = b.untyped_data();
  buffers.out = out->untyped_data();
  buffers.workspace_bytes = pyconv_plan_workspace(made, 0);
  const std::unique_ptr<char[]> workspace(new (std::nothrow) char[buffers.workspace_bytes]);
  if (!workspace)
    return ffi::Error(ffi::ErrorCode::kResourceExhausted, "no memory for a workspace");
  buffers.workspace = workspace.get();
  return pyconv_run(made, &buffers) == PYCONV_OK ? ffi::Error::Success() : refused();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(pyconv_xla_conv, convolve,
                              ffi::Ffi::Bind()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Attr<int64_t>("pass")
                                  .Attr<int64_t>("layout")
                                  .Attr<int64_t>("algorithm")
                                  .Attr<int64_t>("groups")
                                  .Attr<bool>("flip")
                                  .Attr<bool>("strict")
                                  .Attr<bool>("batch_invariant")
                                  .Attr<Ints>("stride")
                                  .Attr<Ints>("padding")
                                  .Attr<Ints>("dilation"));

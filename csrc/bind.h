// What the bindings of every device share: Python's integers and names become a descriptor of the
// C ABI, status codes become exceptions, a plan becomes an object.
#pragma once
#include <pybind11/pybind11.h>

#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "pyconv/pyconv.h"

namespace pyconv::binding {

namespace py = pybind11;

[[noreturn]] inline void raise(PyObject* type, const std::string& text) {
  PyErr_SetString(type, text.c_str());
  throw py::error_already_set();
}

inline void require_ok(pyconv_status status) {
  if (status == PYCONV_OK) return;
  raise(status == PYCONV_VALUE_ERROR    ? PyExc_ValueError
        : status == PYCONV_MEMORY_ERROR ? PyExc_MemoryError
                                        : PyExc_RuntimeError,
        pyconv_last_error());
}

template <std::size_t Count>
int index_of(const std::string& op, const char* argument, const std::string& name,
             const char* const (&names)[Count]) {
  std::string all;
  for (std::size_t i = 0; i < Count; ++i) {
    if (name == names[i]) return int(i);
    all += (i ? ", \"" : "\"") + std::string(names[i]) + "\"";
  }
  raise(PyExc_ValueError, op + ": " + argument + " (=\"" + name + "\") must be one of " + all);
}

const char* const layout_names[] = {"NCHW", "NHWC"};
const char* const dtype_names[] = {"float32", "float64"};
const char* const border_names[] = {"zeros", "reflect", "replicate", "circular", "symmetric"};
const char* const activation_names[] = {"none",    "relu", "leaky_relu", "tanh",
                                        "sigmoid", "gelu", "silu",       "relu6"};
const char* const algorithm_names[] = {"auto", "direct", "gemm", "winograd", "fft"};
const char* const pass_names[] = {"fwd", "bwd_data", "bwd_weight", "bwd_bias", "im2col", "col2im"};
const char* const padding_names[] = {"", "valid", "same", "same_lower", "full"};
const char* const pool_names[] = {"max", "avg", "lp", "unpool", "switches"};

// The integers of one call: keeps the lists that the descriptor points to, and knows the operation
// and the shapes for the errors that must be raised before the core sees a number.
class Arguments {
 public:
  explicit Arguments(std::string op) : op_(std::move(op)) {}

  const char* op() const { return op_.c_str(); }

  pyconv_ints shape(const char* name, py::handle object) {
    if (object.is_none()) return {nullptr, 0};
    const pyconv_ints list = ints(name, object);
    shapes_ +=
        (shapes_.empty() ? "; " : ", ") + std::string(name) + " is " + std::string(py::str(object));
    return list;
  }

  pyconv_ints ints(const char* name, py::handle object) {
    if (object.is_none()) return {nullptr, 0};
    std::vector<int64_t>& list = lists_.emplace_back();
    if (is_sequence(object)) {
      append(name, object, list);
    } else {
      list.push_back(integer(name, object));
    }
    list.reserve(1);  // so that an empty list is not mistaken for one that is not given
    return {list.data(), std::int32_t(list.size())};
  }

  // As ints, where None does not mean the default.
  pyconv_ints required(const char* name, py::handle object) {
    if (object.is_none()) integer(name, object);
    return ints(name, object);
  }

  // An int, a list of ints, a list of (before, after) pairs, or a name.
  void padding(py::handle object, pyconv_conv_desc& d) {
    if (py::isinstance<py::str>(object)) {
      const auto name = py::cast<std::string>(object);
      d.padding_kind = name.empty() ? -1 : index_of(op_, "padding", name, padding_names);
      if (d.padding_kind < 0) fail(PyExc_ValueError, "padding must not be an empty string");
      return;
    }
    if (!is_sequence(object)) {
      d.padding = required("padding", object);
      return;
    }
    std::vector<int64_t>& list = lists_.emplace_back();
    list.reserve(1);
    std::size_t pairs = 0, items = 0;
    for (py::handle item : object) {
      ++items;
      if (!is_sequence(item)) {
        list.push_back(integer("padding", item));
        continue;
      }
      ++pairs;
      const std::size_t before = list.size();
      append("padding", item, list);
      if (list.size() != before + 2)
        fail(PyExc_ValueError,
             "padding " + std::string(py::repr(object)) + " must hold (before, after) pairs");
    }
    if (pairs && pairs != items)
      fail(PyExc_ValueError, "padding " + std::string(py::repr(object)) +
                                 " must hold either integers or (before, after) pairs, not both");
    d.padding_pairs = pairs != 0;
    d.padding = {list.data(), std::int32_t(list.size())};
  }

  int64_t integer(const char* name, py::handle object) {
    const auto refuse = [&] {
      fail(PyExc_TypeError, std::string(name) + " must be an int or a sequence of ints, got " +
                                std::string(py::repr(object)) + " of type " +
                                Py_TYPE(object.ptr())->tp_name);
    };
    if (PyBool_Check(object.ptr()) || !PyIndex_Check(object.ptr())) refuse();
    const auto number = py::reinterpret_steal<py::object>(PyNumber_Index(object.ptr()));
    if (!number) {  // an array of several elements has __index__, and no single integer
      PyErr_Clear();
      refuse();
    }
    int overflow = 0;
    const long long value = PyLong_AsLongLongAndOverflow(number.ptr(), &overflow);
    if (overflow)
      fail(PyExc_ValueError,
           std::string(name) + " (=" + std::string(py::str(number)) + ") must fit in 64 bits");
    return value;
  }

  [[noreturn]] void fail(PyObject* type, const std::string& text) const {
    raise(type, op_ + ": " + text + shapes_);
  }

 private:
  static bool is_sequence(py::handle object) {
    return PyTuple_Check(object.ptr()) || PyList_Check(object.ptr());
  }

  void append(const char* name, py::handle sequence, std::vector<int64_t>& list) {
    for (py::handle item : sequence) list.push_back(integer(name, item));
  }

  std::string op_, shapes_;
  std::deque<std::vector<int64_t>> lists_;  // a deque: pointers to its vectors stay valid
};

inline int activation_of(const std::string& op, py::handle activation) {
  return activation.is_none()
             ? int(PYCONV_NONE)
             : index_of(op, "activation", py::cast<std::string>(activation), activation_names);
}

const char* const layer_names[] = {
    "batch_norm", "local_response_norm", "dropout", "activation", "sgd", "adam"};

// A call of a layer's kernel: pointer(name, object, bytes) makes an array's pointer, checked to
// hold so many bytes.
struct LayerCall {
  std::string op;
  pyconv_layer_desc desc{};
  void* buffers[8] = {};

  template <class Pointer>
  LayerCall(const std::string& kind, int dtype, const py::tuple& arrays, const std::string& layout,
            int64_t n, int64_t c, int64_t pixels, const py::tuple& numbers, bool backward,
            bool training, int64_t size, uint64_t seed, const py::object& activation,
            Pointer&& pointer)
      : op(kind) {
    desc.struct_size = sizeof desc;
    desc.op = op.c_str();
    desc.kind = index_of(op, "kind", kind, layer_names);
    desc.dtype = dtype;
    desc.layout = index_of(op, "layout", layout, layout_names);
    desc.activation = activation_of(op, activation);
    desc.backward = backward;
    desc.training = training;
    desc.n = n, desc.c = c, desc.pixels = pixels, desc.size = size, desc.seed = seed;
    if (arrays.empty() || arrays.size() > 8 || numbers.size() > 8)
      raise(PyExc_ValueError, op + ": takes 1 to 8 arrays and at most 8 numbers");
    for (std::size_t i = 0; i < numbers.size(); ++i) desc.numbers[i] = py::cast<double>(numbers[i]);
    int64_t bytes[8];
    require_ok(pyconv_layer_bytes(&desc, bytes));
    for (std::size_t i = 0; i < arrays.size(); ++i) {
      const py::object array = arrays[i];
      if (array.is_none() && bytes[i] < 0) continue;
      buffers[i] = pointer("array " + std::to_string(i), array,
                           std::size_t(bytes[i] < 0 ? -bytes[i] : bytes[i]));
    }
  }
  LayerCall(const LayerCall&) = delete;  // desc points into it
  LayerCall& operator=(const LayerCall&) = delete;
};

// A plan as Python sees it; a module adds how it is run on its arrays.
class BoundPlan {
 public:
  explicit BoundPlan(pyconv_plan* plan) : plan_(plan) {
    int64_t shape[5];
    const int rank = pyconv_plan_shape(plan, shape);
    pyconv_plan_buffer_bytes(plan, bytes_);
    shape_ = py::tuple(rank);
    for (int i = 0; i < rank; ++i) shape_[std::size_t(i)] = shape[i];
    sizes_.assign(shape, shape + rank);
  }
  BoundPlan(const BoundPlan&) = delete;
  BoundPlan& operator=(const BoundPlan&) = delete;
  ~BoundPlan() { pyconv_plan_free(plan_); }

 protected:
  template <class Plan>
  friend py::class_<Plan> bind_plans(py::module_&);

  pyconv_plan* plan_;
  std::size_t bytes_[6];
  py::tuple shape_;
  std::vector<py::ssize_t> sizes_;  // the same
};

template <class Plan>
std::unique_ptr<Plan> plan_conv(const std::string& op, int axes, const std::string& direction,
                                bool transposed, const std::string& dtype,
                                const std::string& layout, py::handle x, py::handle w,
                                py::handle dy, py::handle bias, py::handle residual,
                                py::handle stride, py::handle padding, py::handle dilation,
                                py::handle groups, const std::string& border, bool flip,
                                py::handle activation, const std::string& algorithm,
                                py::handle output_padding, py::handle output_size, int precision,
                                bool batch_invariant) {
  Arguments arguments(op);
  pyconv_conv_desc d{};
  d.struct_size = sizeof d;
  d.op = arguments.op();
  d.axes = axes;
  d.x = arguments.shape("x", x);
  d.w = arguments.shape("w", w);
  d.dy = arguments.shape("dy", dy);
  d.bias = arguments.shape("b", bias);
  d.residual = arguments.shape("residual", residual);
  d.pass = index_of(op, "direction", direction, pass_names);
  d.transposed = transposed;
  d.dtype = index_of(op, "dtype", dtype, dtype_names);
  d.layout = index_of(op, "layout", layout, layout_names);
  d.border = index_of(op, "padding_mode", border, border_names);
  d.activation = activation_of(op, activation);
  d.algorithm = index_of(op, "algorithm", algorithm, algorithm_names);
  d.flip = flip;
  d.precision = precision;
  d.batch_invariant = batch_invariant;
  d.stride = arguments.required("stride", stride);
  arguments.padding(padding, d);
  d.dilation = arguments.required("dilation", dilation);
  d.groups = arguments.integer("groups", groups);
  d.output_padding = arguments.required("output_padding", output_padding);
  d.output_size = arguments.ints("output_size", output_size);
  pyconv_plan* plan = nullptr;
  require_ok(pyconv_plan_conv(&d, &plan));
  return std::make_unique<Plan>(plan);
}

template <class Plan>
std::unique_ptr<Plan> plan_pool(const std::string& op, int axes, const std::string& kind,
                                const std::string& direction, const std::string& dtype,
                                const std::string& layout, py::handle x, py::handle dy,
                                py::handle indices, py::handle weights, py::handle kernel,
                                py::handle stride, py::handle padding, py::handle dilation,
                                py::handle output_size, bool adaptive, bool ceil_mode,
                                bool count_include_pad, py::handle divisor, double norm_type) {
  Arguments arguments(op);
  pyconv_pool_desc d{};
  d.struct_size = sizeof d;
  d.op = arguments.op();
  d.axes = axes;
  d.x = arguments.shape("x", x);
  d.dy = arguments.shape("dy", dy);
  d.indices = arguments.shape("indices", indices);
  d.weights = arguments.shape("weights", weights);
  d.kind = index_of(op, "kind", kind, pool_names);
  d.pass = index_of(op, "direction", direction, pass_names);
  d.dtype = index_of(op, "dtype", dtype, dtype_names);
  d.layout = index_of(op, "layout", layout, layout_names);
  d.adaptive = adaptive;
  d.ceil_mode = ceil_mode;
  d.exclude_pad = !count_include_pad;
  d.has_divisor = !divisor.is_none();
  if (d.has_divisor) d.divisor = arguments.integer("divisor_override", divisor);
  d.norm_type = norm_type;
  const bool windowless = adaptive || (d.kind == PYCONV_POOL_MAX && d.pass != PYCONV_FWD);
  d.kernel = windowless ? arguments.ints("kernel_size", kernel)
                        : arguments.required("kernel_size", kernel);
  d.stride = arguments.ints("stride", stride);
  d.padding = arguments.required("padding", padding);
  d.dilation = arguments.required("dilation", dilation);
  d.output_size = arguments.ints("output_size", output_size);
  pyconv_plan* plan = nullptr;
  require_ok(pyconv_plan_pool(&d, &plan));
  return std::make_unique<Plan>(plan);
}

// The class and the two functions that make its objects.
template <class Plan>
py::class_<Plan> bind_plans(py::module_& m) {
  m.def("plan_conv", &plan_conv<Plan>);
  m.def("plan_pool", &plan_pool<Plan>);
  return py::class_<Plan>(m, "Plan")
      .def_property_readonly("output_shape", [](const Plan& p) { return p.shape_; })
      .def_property_readonly("workspace_bytes",
                             [](const Plan& p) { return pyconv_plan_workspace(p.plan_, 0); })
      .def_property_readonly("packed_bytes",
                             [](const Plan& p) { return pyconv_plan_packed_bytes(p.plan_); })
      .def_property_readonly("algorithm",
                             [](const Plan& p) { return pyconv_plan_algorithm(p.plan_); })
      .def_property_readonly("target", [](const Plan& p) { return pyconv_plan_target(p.plan_); })
      .def_property_readonly("reason", [](const Plan& p) { return pyconv_plan_reason(p.plan_); })
      .def_property_readonly("flops", [](const Plan& p) { return pyconv_plan_flops(p.plan_); })
      .def_property_readonly("bytes", [](const Plan& p) { return pyconv_plan_bytes(p.plan_); });
}

}  // namespace pyconv::binding

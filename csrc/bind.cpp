// The only pybind11 file, and a client of the C ABI alone: arrays become pointers, Python integers
// become lists, status codes become exceptions, and the GIL is released while a kernel runs.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "pyconv/pyconv.h"

namespace py = pybind11;

namespace {

[[noreturn]] void raise(PyObject* type, const std::string& text) {
  PyErr_SetString(type, text.c_str());
  throw py::error_already_set();
}

void require_ok(pyconv_status status) {
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
  raise(PyExc_ValueError,
        op + ": " + argument + " (=\"" + name + "\") must be one of " + all);
}

const char* const layout_names[] = {"NCHW", "NHWC"};
const char* const dtype_names[] = {"float32", "float64"};
const char* const border_names[] = {"zeros", "reflect", "replicate", "circular", "symmetric"};
const char* const activation_names[] = {"none",    "relu", "leaky_relu", "tanh",
                                        "sigmoid", "gelu", "silu"};
const char* const algorithm_names[] = {"auto", "direct", "gemm"};
const char* const pass_names[] = {"fwd", "bwd_data", "bwd_weight", "bwd_bias", "im2col", "col2im"};
const char* const padding_names[] = {"", "valid", "same", "same_lower", "full"};
const char* const pool_names[] = {"max", "avg", "lp", "unpool"};

// The integers of one call: keeps the lists that the descriptor points to, and knows the operation
// and the shapes for the errors that must be raised before the core sees a number.
class Arguments {
 public:
  explicit Arguments(std::string op) : op_(std::move(op)) {}

  const char* op() const { return op_.c_str(); }

  pyconv_ints shape(const char* name, py::handle object) {
    if (object.is_none()) return {nullptr, 0};
    const pyconv_ints list = ints(name, object);
    shapes_ += (shapes_.empty() ? "; " : ", ") + std::string(name) + " is " +
               std::string(py::str(object));
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

  // An int, a list of ints, a list of (before, after) pairs, or a name.
  void padding(py::handle object, pyconv_conv_desc& d) {
    if (py::isinstance<py::str>(object)) {
      const auto name = py::cast<std::string>(object);
      d.padding_kind = name.empty() ? -1 : index_of(op_, "padding", name, padding_names);
      if (d.padding_kind < 0) fail(PyExc_ValueError, "padding must not be an empty string");
      return;
    }
    if (!is_sequence(object)) {
      d.padding = ints("padding", object);
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
        fail(PyExc_ValueError, "padding " + std::string(py::repr(object)) +
                                   " must hold (before, after) pairs");
    }
    if (pairs && pairs != items)
      fail(PyExc_ValueError, "padding " + std::string(py::repr(object)) +
                                 " must hold either integers or (before, after) pairs, not both");
    d.padding_pairs = pairs != 0;
    d.padding = {list.data(), std::int32_t(list.size())};
  }

  int64_t integer(const char* name, py::handle object) {
    if (PyBool_Check(object.ptr()) || !PyIndex_Check(object.ptr()))
      fail(PyExc_TypeError, std::string(name) + " must be an int or a sequence of ints, got " +
                                std::string(py::repr(object)) + " of type " +
                                Py_TYPE(object.ptr())->tp_name);
    const auto number = py::reinterpret_steal<py::object>(PyNumber_Index(object.ptr()));
    if (!number) throw py::error_already_set();
    int overflow = 0;
    const long long value = PyLong_AsLongLongAndOverflow(number.ptr(), &overflow);
    if (overflow)
      fail(PyExc_ValueError, std::string(name) + " (=" + std::string(py::str(number)) +
                                 ") must fit in 64 bits");
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

class Plan {
 public:
  explicit Plan(pyconv_plan* plan) : plan_(plan) {
    int64_t shape[5];
    const int rank = pyconv_plan_shape(plan, shape);
    pyconv_plan_buffer_bytes(plan, bytes_);
    shape_ = py::tuple(rank);
    for (int i = 0; i < rank; ++i) shape_[std::size_t(i)] = shape[i];
  }
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;
  ~Plan() { pyconv_plan_free(plan_); }

  const pyconv_plan* get() const { return plan_; }
  py::tuple shape() const { return shape_; }

  void run(const py::object& a, const py::object& b, const py::object& bias,
           const py::object& residual, const py::array& out, const py::object& aux,
           const py::object& workspace, bool b_is_packed) const {
    pyconv_buffers buffers{};
    const std::size_t packed = pyconv_plan_packed_bytes(plan_);
    buffers.a = pointer("a", a, bytes_[0]);
    buffers.b = pointer("b", b, b_is_packed ? packed : bytes_[1]);
    buffers.bias = pointer("bias", bias, bytes_[2]);
    buffers.residual = pointer("residual", residual, bytes_[3]);
    buffers.out = const_cast<void*>(pointer("out", out, bytes_[4]));
    if (!out.writeable()) raise(PyExc_ValueError, "pyconv: out is read-only");
    if (!aux.is_none()) buffers.aux = const_cast<void*>(pointer("aux", aux, bytes_[5]));
    if (!workspace.is_none()) {
      auto array = py::reinterpret_borrow<py::array>(workspace);
      buffers.workspace = array.mutable_data();
      buffers.workspace_bytes = std::size_t(array.nbytes());
    }
    buffers.b_is_packed = b_is_packed;
    pyconv_status status;
    {
      py::gil_scoped_release release;
      status = pyconv_run(plan_, &buffers);
    }
    require_ok(status);
  }

  void pack(const py::array& w, py::array& packed) const {
    if (std::size_t(packed.nbytes()) < pyconv_plan_packed_bytes(plan_))
      raise(PyExc_ValueError, "pyconv: packed is smaller than plan.packed_bytes");
    const void* from = w.data();
    void* to = packed.mutable_data();
    pyconv_status status;
    {
      py::gil_scoped_release release;
      status = pyconv_pack_weights(plan_, from, to);
    }
    require_ok(status);
  }

 private:
  // The kernels trust their pointers, so even a direct call of this class must bring what the plan
  // says it will touch. The plan knows bytes, which is all that safety needs.
  static const void* pointer(const char* name, const py::object& object, std::size_t bytes) {
    if (object.is_none() || !bytes) {
      if (bytes) raise(PyExc_ValueError, std::string("pyconv: this plan needs ") + name);
      return nullptr;
    }
    if (!py::isinstance<py::array>(object))
      raise(PyExc_TypeError, std::string("pyconv: ") + name + " must be a NumPy array");
    const auto array = py::reinterpret_borrow<py::array>(object);
    if (std::size_t(array.nbytes()) != bytes || !(array.flags() & py::array::c_style))
      raise(PyExc_ValueError, std::string("pyconv: ") + name + " must be C-contiguous and hold " +
                                  std::to_string(bytes) + " bytes, got " +
                                  std::to_string(array.nbytes()));
    return array.data();
  }

  pyconv_plan* plan_;
  std::size_t bytes_[6];
  py::tuple shape_;
};

int activation_of(const std::string& op, py::handle activation) {
  return activation.is_none() ? int(PYCONV_NONE)
                              : index_of(op, "activation", py::cast<std::string>(activation),
                                         activation_names);
}

std::unique_ptr<Plan> plan_conv(const std::string& op, int axes, const std::string& direction,
                                bool transposed, const std::string& dtype,
                                const std::string& layout, py::handle x, py::handle w,
                                py::handle dy, py::handle bias, py::handle residual,
                                py::handle stride, py::handle padding, py::handle dilation,
                                py::handle groups, const std::string& border, bool flip,
                                py::handle activation, const std::string& algorithm,
                                py::handle output_padding, py::handle output_size, bool strict,
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
  d.strict = strict;
  d.batch_invariant = batch_invariant;
  d.stride = arguments.ints("stride", stride);
  arguments.padding(padding, d);
  d.dilation = arguments.ints("dilation", dilation);
  d.groups = arguments.integer("groups", groups);
  d.output_padding = arguments.ints("output_padding", output_padding);
  d.output_size = arguments.ints("output_size", output_size);
  pyconv_plan* plan = nullptr;
  require_ok(pyconv_plan_conv(&d, &plan));
  return std::make_unique<Plan>(plan);
}

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
  d.kernel = arguments.ints("kernel_size", kernel);
  d.stride = arguments.ints("stride", stride);
  d.padding = arguments.ints("padding", padding);
  d.dilation = arguments.ints("dilation", dilation);
  d.output_size = arguments.ints("output_size", output_size);
  pyconv_plan* plan = nullptr;
  require_ok(pyconv_plan_pool(&d, &plan));
  return std::make_unique<Plan>(plan);
}

void activation_backward(const std::string& activation, const py::array& dy, const py::array& y,
                         py::array& dx) {
  const int kind = activation_of("activation_backward", py::str(activation));
  const int dtype = dy.itemsize() == 4 ? PYCONV_FLOAT32 : PYCONV_FLOAT64;
  const void *from = dy.data(), *at = y.data();
  void* to = dx.mutable_data();
  const int64_t size = dy.size();
  pyconv_status status;
  {
    py::gil_scoped_release release;
    status = pyconv_activation_backward(kind, dtype, size, from, at, to);
  }
  require_ok(status);
}

}  // namespace

PYBIND11_MODULE(_core, m, py::mod_gil_not_used()) {
  m.doc() = "The compiled core of pyconv; see _core.pyi.";
  // Plans, like any call, need a target; a wrong PYCONV_TARGET is told at import.
  if (!pyconv_get_target()) raise(PyExc_ImportError, pyconv_last_error());

  py::class_<Plan>(m, "Plan")
      .def_property_readonly("output_shape", &Plan::shape)
      .def_property_readonly("workspace_bytes",
                             [](const Plan& p) { return pyconv_plan_workspace(p.get(), 0); })
      .def_property_readonly("packed_bytes",
                             [](const Plan& p) { return pyconv_plan_packed_bytes(p.get()); })
      .def_property_readonly("algorithm",
                             [](const Plan& p) { return pyconv_plan_algorithm(p.get()); })
      .def_property_readonly("target", [](const Plan& p) { return pyconv_plan_target(p.get()); })
      .def_property_readonly("reason", [](const Plan& p) { return pyconv_plan_reason(p.get()); })
      .def_property_readonly("flops", [](const Plan& p) { return pyconv_plan_flops(p.get()); })
      .def_property_readonly("bytes", [](const Plan& p) { return pyconv_plan_bytes(p.get()); })
      .def("pack", &Plan::pack, py::arg("w"), py::arg("packed"))
      .def("run", &Plan::run, py::arg("a"), py::arg("b"), py::arg("bias"), py::arg("residual"),
           py::arg("out"), py::arg("aux"), py::arg("workspace"), py::arg("b_is_packed") = false);
  m.def("plan_conv", &plan_conv);
  m.def("plan_pool", &plan_pool);
  m.def("activation_backward", &activation_backward);
  m.def("set_num_threads", &pyconv_set_num_threads);
  m.def("get_num_threads", &pyconv_get_num_threads);
  m.def("targets", [] {
    py::list names;
    for (int i = 0; i < pyconv_target_count(); ++i) names.append(pyconv_target_name(i));
    return names;
  });
  m.def("get_target", &pyconv_get_target);
  m.def("set_target", [](const std::string& name) { require_ok(pyconv_set_target(name.c_str())); });
  m.attr("abi_version") = PYCONV_ABI_VERSION;
  m.attr("compiler") = PYCONV_COMPILER;
  m.attr("openmp") = bool(PYCONV_OPENMP);
}

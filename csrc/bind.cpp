// The CPU module, a client of the C ABI alone: arrays become pointers, and the GIL is released
// while a kernel runs.
#include "bind.h"

#include <pybind11/numpy.h>

#include <algorithm>

#include "memory_pool.h"

namespace {

using namespace pyconv::binding;

// Whether kernels read it as it is: exactly ndarray, native float32 or float64, dense.
bool dense_floats(PyObject* object) {
  using py::detail::npy_api;
  static PyObject* const floats[] = {py::dtype::of<float>().release().ptr(),
                                     py::dtype::of<double>().release().ptr()};
  if (Py_TYPE(object) != npy_api::get().PyArray_Type_) return false;
  const auto* const array = py::detail::array_proxy(object);
  constexpr int dense = npy_api::NPY_ARRAY_C_CONTIGUOUS_ | npy_api::NPY_ARRAY_ALIGNED_;
  return (array->descr == floats[0] || array->descr == floats[1]) &&
         (array->flags & dense) == dense;
}

// A bare C function: pybind11 would take as long for the call as the answer does.
PyObject* ready(PyObject*, PyObject* const* arrays, Py_ssize_t count) {
  bool is = count > 0 && dense_floats(arrays[0]);
  for (Py_ssize_t i = 1; is && i < count; ++i)
    is = arrays[i] == Py_None ||
         (dense_floats(arrays[i]) &&
          py::detail::array_proxy(arrays[i])->descr == py::detail::array_proxy(arrays[0])->descr);
  return PyBool_FromLong(is);
}

PyMethodDef functions[] = {
    {"ready", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(&ready)), METH_FASTCALL,
     nullptr},
    {nullptr, nullptr, 0, nullptr}};

py::array array_of(const char* name, const py::object& object) {
  if (!py::isinstance<py::array>(object))
    raise(PyExc_TypeError, std::string("pyconv: ") + name + " must be a NumPy array");
  return py::reinterpret_borrow<py::array>(object);
}

class Plan : public BoundPlan {
 public:
  using BoundPlan::BoundPlan;

  // None for `out` or for the workspace: new ones.
  py::object run_on(const py::object& a, const py::object& b, const py::object& bias,
                    const py::object& residual, const py::object& given, const py::object& aux,
                    const py::object& workspace, bool b_is_packed) const {
    pyconv_buffers buffers{};
    const std::size_t packed = pyconv_plan_packed_bytes(plan_);
    buffers.a = pointer("a", a, bytes_[0]);
    buffers.b = pointer("b", b, b_is_packed ? packed : bytes_[1]);
    buffers.bias = pointer("bias", bias, bytes_[2]);
    buffers.residual = pointer("residual", residual, bytes_[3]);
    const py::object out =
        given.is_none() ? py::array(array_of("a", a).dtype(), sizes_) : py::object(given);
    buffers.out = const_cast<void*>(pointer("out", out, bytes_[4]));
    if (!py::reinterpret_borrow<py::array>(out).writeable())
      raise(PyExc_ValueError, "pyconv: out is read-only");
    if (!aux.is_none()) buffers.aux = const_cast<void*>(pointer("aux", aux, bytes_[5]));
    buffers.b_is_packed = b_is_packed;
    run(buffers, workspace);
    return out;
  }

  // As run, at addresses: for arrays of a framework, whose pointers cost less than views of them.
  void run_at(std::uintptr_t a, std::uintptr_t b, std::uintptr_t bias, std::uintptr_t out,
              std::uintptr_t aux, const py::object& workspace) const {
    pyconv_buffers buffers{};
    buffers.a = reinterpret_cast<const void*>(a);
    buffers.b = reinterpret_cast<const void*>(b);
    buffers.bias = reinterpret_cast<const void*>(bias);
    buffers.out = reinterpret_cast<void*>(out);
    buffers.aux = reinterpret_cast<void*>(aux);
    run(buffers, workspace);
  }

  // Whether the result may be written to `out` as it is, while `inputs` are read.
  bool accepts(const py::object& out, const py::args& inputs) const {
    if (!dense_floats(out.ptr())) return false;
    const auto array = py::reinterpret_borrow<py::array>(out);
    const auto begin = reinterpret_cast<std::uintptr_t>(array.data()), end = begin + bytes_[4];
    if (!array.writeable() || array.ndim() != py::ssize_t(sizes_.size()) ||
        !std::equal(sizes_.begin(), sizes_.end(), array.shape()))
      return false;
    for (py::handle item : inputs) {
      if (item.is_none()) continue;
      const auto input = py::reinterpret_borrow<py::array>(item);
      const auto first = reinterpret_cast<std::uintptr_t>(input.data());
      if (item.ptr() == inputs[0].ptr() && !array.dtype().is(input.dtype())) return false;
      if (first < end && begin < first + std::size_t(input.nbytes())) return false;
    }
    return true;
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

  void run(pyconv_buffers& buffers, const py::object& workspace) const {
    alignas(64) char small[1024];  // a new array takes 0.13 us of a small call's 3
    py::object large = workspace;
    buffers.workspace = small;
    buffers.workspace_bytes = sizeof small;
    const std::size_t size = pyconv_plan_workspace(plan_, 0);
    if (large.is_none() && size > sizeof small)
      large = py::array_t<std::uint8_t>(py::ssize_t(size));
    if (!large.is_none()) {
      py::array array = array_of("workspace", large);
      buffers.workspace = array.mutable_data();
      buffers.workspace_bytes = std::size_t(array.nbytes());
    }
    pyconv_status status;
    {
      py::gil_scoped_release release;
      status = pyconv_run(plan_, &buffers);
    }
    require_ok(status);
  }

  // The kernels trust their pointers, so even a direct call of this class must bring what the plan
  // says it will touch. The plan knows bytes, which is all that safety needs.
  static const void* pointer(const char* name, const py::object& object, std::size_t bytes) {
    if (object.is_none() || !bytes) {
      if (bytes) raise(PyExc_ValueError, std::string("pyconv: this plan needs ") + name);
      return nullptr;
    }
    const py::array array = array_of(name, object);
    if (std::size_t(array.nbytes()) != bytes || !(array.flags() & py::array::c_style))
      raise(PyExc_ValueError, std::string("pyconv: ") + name + " must be C-contiguous and hold " +
                                  std::to_string(bytes) + " bytes, got " +
                                  std::to_string(array.nbytes()));
    return array.data();
  }
};

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
    status = pyconv_activation_backward(kind, dtype, size, from, at, to, nullptr);
  }
  require_ok(status);
}

void run_layer(const std::string& kind, const py::tuple& arrays, const std::string& layout,
               int64_t n, int64_t c, int64_t pixels, const py::tuple& numbers, bool backward,
               bool training, int64_t size, uint64_t seed, const py::object& activation) {
  const bool single = !arrays.empty() && py::cast<py::array>(arrays[0]).itemsize() == 4;
  const auto pointer = [](const std::string& name, const py::object& array, std::size_t bytes) {
    return const_cast<void*>(Plan::pointer(name.c_str(), array, bytes));
  };
  const LayerCall call(kind, single ? PYCONV_FLOAT32 : PYCONV_FLOAT64, arrays, layout, n, c, pixels,
                       numbers, backward, training, size, seed, activation, pointer);
  pyconv_status status;
  {
    py::gil_scoped_release release;
    status = pyconv_run_layer(&call.desc, call.buffers, nullptr);
  }
  require_ok(status);
}

// Slot 304 of NumPy's C API, which is there since 1.22: PyDataMem_SetHandler.
py::object set_memory_handler(const py::object& handler) {
  static void** const api = [] {
    const auto version = py::cast<std::string>(py::module_::import("numpy").attr("__version__"));
    const char* name =
        version[0] == '1' ? "numpy.core._multiarray_umath" : "numpy._core._multiarray_umath";
    const auto capsule = py::module_::import(name).attr("_ARRAY_API");
    return static_cast<void**>(PyCapsule_GetPointer(capsule.ptr(), nullptr));
  }();
  PyObject* before = reinterpret_cast<PyObject* (*)(PyObject*)>(api[304])(handler.ptr());
  if (!before) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(before);
}

MemoryPool& pool_of(const py::object& capsule) {
  void* handler = PyCapsule_GetPointer(capsule.ptr(), "mem_handler");
  if (!handler) throw py::error_already_set();
  return *static_cast<MemoryPool*>(static_cast<MemoryPool::Handler*>(handler)->pool);
}

// A NumPy memory handler: a capsule, which lives as long as the last array it gave memory to.
py::object memory_pool() {
  auto pool = std::make_unique<MemoryPool>();
  PyObject* capsule = PyCapsule_New(pool->handler(), "mem_handler", [](PyObject* object) {
    void* handler = PyCapsule_GetPointer(object, "mem_handler");
    delete static_cast<MemoryPool*>(static_cast<MemoryPool::Handler*>(handler)->pool);
  });
  if (!capsule) throw py::error_already_set();
  pool.release();
  return py::reinterpret_steal<py::object>(capsule);
}

}  // namespace

PYBIND11_MODULE(_core, m, py::mod_gil_not_used()) {
  m.doc() = "The compiled core of pyconv; see _core.pyi.";
  // Plans, like any call, need a target; a wrong PYCONV_TARGET is told at import.
  if (!pyconv_get_target()) raise(PyExc_ImportError, pyconv_last_error());

  bind_plans<Plan>(m)
      .def("pack", &Plan::pack, py::arg("w"), py::arg("packed"))
      .def("run", &Plan::run_on, py::arg("a"), py::arg("b"), py::arg("bias"), py::arg("residual"),
           py::arg("out"), py::arg("aux"), py::arg("workspace") = py::none(),
           py::arg("b_is_packed") = false)
      .def("run_at", &Plan::run_at)
      .def("accepts", &Plan::accepts);
  PyModule_AddFunctions(m.ptr(), functions);
  m.def("activation_backward", &activation_backward);
  m.def("run_layer", &run_layer, py::arg("kind"), py::arg("arrays"), py::arg("layout"),
        py::arg("n"), py::arg("c"), py::arg("pixels"), py::arg("numbers"),
        py::arg("backward") = false, py::arg("training") = false, py::arg("size") = 0,
        py::arg("seed") = 0, py::arg("activation") = py::none());
  m.def("memory_pool", &memory_pool);
  m.def("set_memory_handler", &set_memory_handler);
  m.def("trim_memory_pool", [](const py::object& pool) { pool_of(pool).trim(); });
  m.def("idle_bytes", [](const py::object& pool) { return pool_of(pool).idle_bytes(); });
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

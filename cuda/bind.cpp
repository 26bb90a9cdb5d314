// The CUDA module: the plans of csrc/, run on device memory that the caller owns, on its stream.
#include "../csrc/bind.h"

#include <cuda_runtime.h>

namespace {

using namespace pyconv::binding;

// The caller's device for as long as this lives; its own context is the one the stream belongs to.
class OnDevice {
 public:
  explicit OnDevice(int device) {
    require(cudaGetDevice(&before_));
    if (device != before_) require(cudaSetDevice(device));
  }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;
  ~OnDevice() { cudaSetDevice(before_); }

 private:
  static void require(cudaError_t error) {
    if (error == cudaSuccess) return;
    cudaGetLastError();
    throw std::runtime_error(std::string("pyconv: CUDA: ") + cudaGetErrorString(error));
  }

  int before_ = 0;
};

struct Memory {
  void* pointer;
  std::size_t bytes;
};

// None, or (address, bytes): what the kernels touch is held against it.
Memory memory(const char* name, const py::object& object) {
  if (object.is_none()) return {nullptr, 0};
  if (!PyTuple_Check(object.ptr()) || PyTuple_GET_SIZE(object.ptr()) != 2)
    raise(PyExc_TypeError, std::string("pyconv: ") + name + " must be None or (address, bytes)");
  const auto [address, bytes] = py::cast<std::pair<std::uintptr_t, std::size_t>>(object);
  return {reinterpret_cast<void*>(address), bytes};
}

void* buffer(const char* name, const py::object& object, std::size_t bytes) {
  const Memory given = memory(name, object);
  if (bytes && given.bytes != bytes)
    raise(PyExc_ValueError, std::string("pyconv: ") + name + " must hold " + std::to_string(bytes) +
                                " bytes, got " + std::to_string(given.bytes));
  return bytes ? given.pointer : nullptr;
}

class Plan : public BoundPlan {
 public:
  using BoundPlan::BoundPlan;

  void run(const py::object& a, const py::object& b, const py::object& bias,
           const py::object& residual, const py::object& out, const py::object& aux,
           const py::object& workspace, int device, std::uintptr_t stream) const {
    pyconv_buffers buffers{};
    buffers.a = buffer("a", a, bytes_[0]);
    buffers.b = buffer("b", b, bytes_[1]);
    buffers.bias = buffer("bias", bias, bytes_[2]);
    buffers.residual = buffer("residual", residual, bytes_[3]);
    buffers.out = buffer("out", out, bytes_[4]);
    if (!aux.is_none()) buffers.aux = buffer("aux", aux, bytes_[5]);
    const Memory scratch = memory("workspace", workspace);
    buffers.workspace = scratch.pointer;
    buffers.workspace_bytes = scratch.bytes;
    buffers.stream = reinterpret_cast<void*>(stream);
    pyconv_status status;
    {
      py::gil_scoped_release release;
      const OnDevice current(device);
      status = pyconv_run(plan_, &buffers);
    }
    require_ok(status);
  }
};

int dtype_of(const std::string& op, const std::string& dtype) {
  return index_of(op, "dtype", dtype, dtype_names);
}

void activation_backward(const std::string& activation, const std::string& dtype,
                         const py::object& dy, const py::object& y, const py::object& dx,
                         int device, std::uintptr_t stream) {
  const std::string op = "activation_backward";
  const int kind = activation_of(op, py::str(activation)), type = dtype_of(op, dtype);
  const std::size_t bytes = memory("dy", dy).bytes;
  const void *from = buffer("dy", dy, bytes), *at = buffer("y", y, bytes);
  void* to = buffer("dx", dx, bytes);
  const auto size = int64_t(bytes / (type == PYCONV_FLOAT32 ? sizeof(float) : sizeof(double)));
  pyconv_status status;
  {
    py::gil_scoped_release release;
    const OnDevice current(device);
    status =
        pyconv_activation_backward(kind, type, size, from, at, to, reinterpret_cast<void*>(stream));
  }
  require_ok(status);
}

void run_layer(const std::string& kind, const std::string& dtype, const py::tuple& arrays,
               const std::string& layout, int64_t n, int64_t c, int64_t pixels,
               const py::tuple& numbers, bool backward, bool training, int64_t size, uint64_t seed,
               const py::object& activation, int device, std::uintptr_t stream) {
  const auto pointer = [](const std::string& name, const py::object& array, std::size_t bytes) {
    return buffer(name.c_str(), array, bytes);
  };
  const LayerCall call(kind, dtype_of(kind, dtype), arrays, layout, n, c, pixels, numbers, backward,
                       training, size, seed, activation, pointer);
  pyconv_status status;
  {
    py::gil_scoped_release release;
    const OnDevice current(device);
    status = pyconv_run_layer(&call.desc, call.buffers, reinterpret_cast<void*>(stream));
  }
  require_ok(status);
}

// 0 where there is no driver, or no device.
int device_count() {
  int count = 0;
  if (cudaGetDeviceCount(&count) == cudaSuccess) return count;
  cudaGetLastError();
  return 0;
}

}  // namespace

PYBIND11_MODULE(_cuda, m, py::mod_gil_not_used()) {
  m.doc() = "The CUDA kernels of pyconv; see _cuda.pyi.";
  bind_plans<Plan>(m).def("run", &Plan::run, py::arg("a"), py::arg("b"), py::arg("bias"),
                          py::arg("residual"), py::arg("out"), py::arg("aux"), py::arg("workspace"),
                          py::arg("device"), py::arg("stream"));
  m.def("activation_backward", &activation_backward);
  m.def("run_layer", &run_layer);
  m.def("device_count", &device_count);
  m.attr("abi_version") = PYCONV_ABI_VERSION;
  m.attr("runtime_version") = CUDART_VERSION;
  m.attr("compiler") = PYCONV_COMPILER;
  m.attr("architectures") = PYCONV_ARCHITECTURES;
}

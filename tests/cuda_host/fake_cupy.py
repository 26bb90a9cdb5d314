"""What pyconv asks of CuPy, over memory of the CPU, where the host build's kernels read it.

Like CuPy it follows NumPy's protocols, and like CuPy it refuses to mix with NumPy's arrays or to
become one by itself.
"""

import contextlib
from types import SimpleNamespace

import numpy as np

FAKE = True  # for tests that can only be made here, or only on a GPU


def _host(value):
    if isinstance(value, ndarray):
        return value.host
    if isinstance(value, np.ndarray) and value.ndim:
        raise TypeError("Unsupported type <class 'numpy.ndarray'>")
    if isinstance(value, tuple | list):
        return type(value)(map(_host, value))
    return value


def _device(value):
    if isinstance(value, np.ndarray | np.generic):
        return ndarray(np.asarray(value))
    return type(value)(map(_device, value)) if isinstance(value, tuple | list) else value


def _on_host(function):
    def call(*arguments, **options):
        given = {name: _host(value) for name, value in options.items()}
        return _device(function(*map(_host, arguments), **given))

    return call


class ndarray(np.lib.mixins.NDArrayOperatorsMixin):
    def __init__(self, host, device=0):
        self.host = host
        self.device = Device(device)
        self.shape, self.strides, self.dtype = host.shape, host.strides, host.dtype
        self.ndim, self.size, self.nbytes = host.ndim, host.size, host.nbytes
        self.data = SimpleNamespace(ptr=host.__array_interface__["data"][0])
        self.flags = SimpleNamespace(c_contiguous=host.flags.c_contiguous)

    @property
    def __cuda_array_interface__(self):
        return self.host.__array_interface__ | {"stream": None}

    def __dlpack_device__(self):
        return 2, self.device.id

    def __array__(self, *arguments, **options):
        raise TypeError("Implicit conversion to a NumPy array is not allowed")

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **options):
        if out is not None:  # in place
            options["out"] = tuple(map(_host, out))
            getattr(ufunc, method)(*map(_host, inputs), **options)
            return out[0]
        return _on_host(getattr(ufunc, method))(*inputs, **options)

    def __array_function__(self, function, types, arguments, options):
        return _on_host(function)(*arguments, **options)

    def __getattr__(self, name):
        if name not in ARRAY_METHODS:
            raise AttributeError(f"'ndarray' object has no attribute {name!r}")
        return _on_host(getattr(self.host, name))

    def transpose(self, *axes):
        return ndarray(self.host.transpose(*axes), self.device.id)

    @property
    def T(self):
        return self.transpose()

    def get(self):
        return self.host

    def __len__(self):
        return len(self.host)

    def __getitem__(self, where):
        return ndarray(np.asarray(self.host[_host(where)]), self.device.id)

    def __setitem__(self, where, value):
        self.host[_host(where)] = _host(value)

    def __float__(self):
        return float(self.host)

    def __int__(self):
        return int(self.host)

    def __bool__(self):
        return bool(self.host)


ARRAY_METHODS = {"all", "any", "argmax", "astype", "copy", "max", "mean", "min", "reshape"}
ARRAY_METHODS |= {"ravel", "sum", "swapaxes", "take"}


class Device(contextlib.nullcontext):
    def __init__(self, number):
        super().__init__()
        self.id = number


def empty(shape, dtype):
    """New memory, its numbers NaN: what a kernel forgets to write is found."""
    poison = np.nan if np.dtype(dtype).kind == "f" else np.iinfo(dtype).max
    return ndarray(np.full(shape, poison, dtype))


def array(value, dtype=None, order="K"):
    return ndarray(np.array(getattr(value, "host", value), dtype, order=order))


def asarray(value):
    return value if isinstance(value, ndarray) else ndarray(np.asarray(value))


def asnumpy(value):
    return value.get()


arange = _on_host(np.arange)
ascontiguousarray = _on_host(np.ascontiguousarray)

cuda = SimpleNamespace(
    runtime=SimpleNamespace(getDevice=lambda: 0),
    Device=Device,
    get_current_stream=lambda device=-1: SimpleNamespace(ptr=0),
)

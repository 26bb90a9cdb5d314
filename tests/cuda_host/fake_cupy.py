"""What pyconv asks of CuPy, over memory of the CPU, where the host build's kernels read it."""

import contextlib
from types import SimpleNamespace

import numpy as np

FAKE = True  # for tests that can only be made here, or only on a GPU


class ndarray:
    def __init__(self, host, device=0):
        self.host = host
        self.device = Device(device)
        self.shape, self.strides, self.dtype = host.shape, host.strides, host.dtype
        self.ndim, self.size, self.nbytes = host.ndim, host.size, host.nbytes
        self.data = SimpleNamespace(ptr=host.__array_interface__["data"][0])

    @property
    def __cuda_array_interface__(self):
        return self.host.__array_interface__ | {"stream": None}

    def __dlpack_device__(self):
        return 2, self.device.id

    def transpose(self, axes):
        return ndarray(self.host.transpose(axes), self.device.id)

    def copy(self):
        return ndarray(self.host.copy(), self.device.id)

    def get(self):
        return self.host

    def __getitem__(self, where):
        return ndarray(self.host[where], self.device.id)

    def __setitem__(self, where, value):
        self.host[where] = value.host


class Device(contextlib.nullcontext):
    def __init__(self, number):
        super().__init__()
        self.id = number


def empty(shape, dtype):
    """New memory, its numbers NaN: what a kernel forgets to write is found."""
    poison = np.nan if np.dtype(dtype).kind == "f" else np.iinfo(dtype).max
    return ndarray(np.full(shape, poison, dtype))


def asarray(array):
    return ndarray(np.asarray(getattr(array, "host", array)))


def asnumpy(array):
    return array.get()


cuda = SimpleNamespace(
    runtime=SimpleNamespace(getDevice=lambda: 0),
    Device=Device,
    get_current_stream=lambda device=-1: SimpleNamespace(ptr=0),
)

"""Arrays on CUDA devices: the same face towards `_arrays.Call` as NumPy's arrays have, and towards
`_plan.py` as the compiled core has.

CuPy arrays and PyTorch tensors are served as they are; those of other libraries (JAX, Numba) are
looked at through CuPy. Results, workspaces and copies come from the caller's library, so from its
memory pool, and work goes to its current stream. Nothing here waits for the device, but for
`to_host`, which only the few window weights of a weighted average need.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from . import _core

Owner = Any  # an array of the library

_SUPPORTED = ("float32", "float64", "int64", "uint8")


@cache
def module() -> Any:
    """`pyconv._cuda`; RuntimeError where it was not built, does not load, or finds no device."""
    try:
        found = importlib.import_module("pyconv._cuda")
    except ModuleNotFoundError as error:
        raise RuntimeError(
            "this build of pyconv has no CUDA module; build with "
            "pip install . -Ccmake.define.PYCONV_CUDA=ON"
        ) from error
    except ImportError as error:
        raise RuntimeError(f"pyconv's CUDA module cannot be loaded: {error}") from error
    if found.abi_version != _core.abi_version:
        raise RuntimeError("pyconv's CUDA module and its core are of different versions; rebuild")
    if not found.device_count():
        raise RuntimeError("the CUDA driver is missing, older than the CUDA module, or has no GPU")
    return found


class View:
    """What kernels need to know of an array on a device. `owner` is the library's array, which
    keeps the memory alive.
    """

    __slots__ = ("address", "device", "dtype", "library", "owner", "shape", "strides")

    def __init__(
        self,
        library: Library,
        owner: Owner,
        dtype: np.dtype[Any],
        strides: tuple[int, ...],
        address: int,
        device: int,
    ) -> None:
        self.library = library
        self.owner = owner
        self.dtype = dtype
        self.shape: tuple[int, ...] = tuple(owner.shape)
        self.strides = strides  # in bytes, as NumPy counts
        self.address = address
        self.device = device

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        total = 1
        for n in self.shape:
            total *= n
        return total

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    def contiguous(self, axes: Sequence[int] | None = None) -> bool:
        """Whether it is dense memory, its axes taken in this order."""
        expected = self.dtype.itemsize
        for axis in reversed(range(self.ndim) if axes is None else axes):
            n = self.shape[axis]
            if n != 1 and self.strides[axis] != expected:
                return self.size == 0
            expected *= n
        return True

    def transpose(self, axes: Sequence[int]) -> View:
        owner = self.library.transpose(self.owner, axes)
        strides = tuple(self.strides[axis] for axis in axes)
        return View(self.library, owner, self.dtype, strides, self.address, self.device)

    def copy(self) -> View:
        """A dense copy in the order of the axes, made on the current stream."""
        return self.library.view(self.library.copy(self.owner))

    def empty(self, shape: Sequence[int], dtype: np.dtype[Any]) -> View:
        """New memory on the same device, from the library's pool."""
        return self.library.view(self.library.empty(self, tuple(shape), dtype))

    def overlaps(self, other: View) -> bool:
        (first, last), (low, high) = self._extent(), other._extent()
        return self.device == other.device and first < high and low < last

    def _extent(self) -> tuple[int, int]:
        if self.size == 0:
            return self.address, self.address
        ends = [(n - 1) * stride for n, stride in zip(self.shape, self.strides)]
        first = self.address + sum(end for end in ends if end < 0)
        return first, self.address + sum(end for end in ends if end > 0) + self.dtype.itemsize

    @property
    def buffer(self) -> tuple[int, int]:
        return self.address, self.nbytes


class Library:
    """CuPy, or one that is like it."""

    def __init__(self) -> None:
        self.cupy = importlib.import_module("cupy")

    def view(self, owner: Owner) -> View:
        return View(self, owner, owner.dtype, owner.strides, owner.data.ptr, owner.device.id)

    def transpose(self, owner: Owner, axes: Sequence[int]) -> Owner:
        return owner.transpose(axes)

    def copy(self, owner: Owner) -> Owner:
        with owner.device:
            return owner.copy()  # in C order

    def assign(self, target: Owner, source: Owner) -> None:
        with target.device:
            target[...] = source

    def empty(self, like: View, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Owner:
        if self.cupy.cuda.runtime.getDevice() == like.device:
            return self.cupy.empty(shape, dtype)
        with self.cupy.cuda.Device(like.device):
            return self.cupy.empty(shape, dtype)

    def stream(self, device: int) -> int:
        """The caller's current stream on the device, as a cudaStream_t."""
        return int(self.cupy.cuda.get_current_stream(device).ptr)

    def to_host(self, owner: Owner) -> np.ndarray[Any, Any]:
        return self.cupy.asnumpy(owner)  # type: ignore[no-any-return]

    def from_host(self, like: View, array: np.ndarray[Any, Any]) -> Owner:
        with self.cupy.cuda.Device(like.device):
            return self.cupy.asarray(array)


class Torch(Library):
    def __init__(self) -> None:
        self.torch = importlib.import_module("torch")

    def view(self, owner: Owner) -> View:
        owner = owner.resolve_neg()  # a view with a pending sign is another number in memory
        dtype = np.dtype(str(owner.dtype).removeprefix("torch."))
        strides = tuple(step * dtype.itemsize for step in owner.stride())
        return View(self, owner, dtype, strides, owner.data_ptr(), owner.device.index or 0)

    def transpose(self, owner: Owner, axes: Sequence[int]) -> Owner:
        return owner.permute(*axes)

    def copy(self, owner: Owner) -> Owner:
        return owner.clone(memory_format=self.torch.contiguous_format)

    def assign(self, target: Owner, source: Owner) -> None:
        target.copy_(source)

    def empty(self, like: View, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Owner:
        kind = getattr(self.torch, dtype.name)
        return self.torch.empty(shape, dtype=kind, device=like.owner.device)

    def stream(self, device: int) -> int:
        return int(self.torch.cuda.current_stream(device).cuda_stream)

    def to_host(self, owner: Owner) -> np.ndarray[Any, Any]:
        return owner.cpu().numpy()  # type: ignore[no-any-return]

    def from_host(self, like: View, array: np.ndarray[Any, Any]) -> Owner:
        return self.torch.from_numpy(array).to(like.owner.device)


_cupy, _torch = cache(Library), cache(Torch)


def _library(array: Any) -> Library | None:
    """The one whose own array it is."""
    for name, kind, library in (("cupy", "ndarray", _cupy), ("torch", "Tensor", _torch)):
        loaded = sys.modules.get(name)
        if loaded is not None and isinstance(array, getattr(loaded, kind, ())):
            return library()
    return None


def view(op: str, name: str, array: Any) -> View:
    """`array`, which is on a CUDA device, as the kernels see it, without a copy."""
    try:
        module()
    except RuntimeError as error:
        raise RuntimeError(f"{op}: {name} is on a CUDA device, but {error}") from error
    library = _library(array)
    if isinstance(library, Torch):
        found = _view_of_tensor(op, name, library, array)
    elif library is not None:
        found = library.view(array)
    else:
        found = _view_of_other(op, name, array)
    if found.address % found.dtype.itemsize and found.size:
        raise ValueError(
            f"{op}: {name} must be aligned to {found.dtype.itemsize} bytes; "
            f"it lies at {found.address:#x} and is {found.shape}"
        )
    return found


def namespace(array: Any) -> Any:
    """CuPy for its arrays, else NumPy."""
    return _cupy().cupy if type(_library(array)) is Library else np


def device_of(op: str, device: object) -> int | None:
    """The number of a device said as "cuda" or "cuda:1"; None for "cpu". ValueError for another
    word; RuntimeError where there is no such device, or no CuPy, whose arrays networks run on."""
    word, _, number = str(device).partition(":")
    if device == "cpu":
        return None
    if word != "cuda" or (number and not number.isdecimal()) or str(device).endswith(":"):
        raise ValueError(f"{op}: device must be 'cpu', 'cuda' or 'cuda:NUMBER', got {device!r}")
    try:
        count = module().device_count()
        _cupy()
    except RuntimeError as error:
        raise RuntimeError(f"{op}: device is {device!r}, but {error}") from error
    except ImportError as error:
        raise RuntimeError(
            f"{op}: device is {device!r}, where networks run on CuPy's arrays: "
            "pip install 'pyconv-engine[cuda12]', or [cuda13]"
        ) from error
    if int(number or 0) >= count:
        raise RuntimeError(f"{op}: device is {device!r}, but there are {count}")
    return int(number or 0)


def moved(array: Any, device: int | None) -> Any:
    """A NumPy or CuPy array, copied to where it is wanted if it is not there."""
    on_host = namespace(array) is np
    if device is None:
        return array if on_host else _cupy().to_host(array)
    if not on_host and array.device.id == device:
        return array
    with _cupy().cupy.cuda.Device(device):
        return _cupy().cupy.asarray(array)


def ready(*arrays: Any) -> list[View | None] | None:
    """Views of arrays (None aside) of which all is known at a glance: CuPy's, dense, of one float
    dtype, on one device. None where it takes a `_arrays.Call` to find out, 16 us of a call's 28.
    """
    cupy = sys.modules.get("cupy")
    kind = getattr(cupy, "ndarray", None)
    first = arrays[0]
    if kind is None or type(first) is not kind or first.dtype.char not in "fd":
        return None
    module()
    library, views = _cupy(), list[View | None]()
    for array in arrays:
        if array is None:
            views.append(None)
            continue
        if type(array) is not kind or array.dtype != first.dtype or not array.flags.c_contiguous:
            return None
        found = library.view(array)
        if found.device != first.device.id or found.address % found.dtype.itemsize:
            return None
        views.append(found)
    return views


def _view_of_other(op: str, name: str, array: Any) -> View:
    try:
        library = _cupy()
    except ImportError as error:
        raise RuntimeError(
            f"{op}: {name} is a {type(array).__name__} on a CUDA device, which is read through "
            "CuPy: pip install 'pyconv-engine[cuda12]', or [cuda13]"
        ) from error
    through = library.cupy.from_dlpack if hasattr(array, "__dlpack__") else library.cupy.asarray
    return library.view(through(array))


def _view_of_tensor(op: str, name: str, library: Torch, tensor: Any) -> View:
    if tensor.layout is not library.torch.strided:
        raise TypeError(f"{op}: {name} must be a dense tensor, got layout {tensor.layout}")
    kind = str(tensor.dtype).removeprefix("torch.")
    if kind not in _SUPPORTED:
        raise TypeError(
            f"{op}: {name} is {kind}, but must be float32 or float64; "
            f"cast it, e.g. {name}.to(torch.float32)"
        )
    return library.view(tensor)


def is_served(array: Any) -> bool:
    """Whether it is of a library that results are made by."""
    return _library(array) is not None


def is_writeable(array: Any) -> bool:
    """Of an `out`; arrays that have no CUDA array interface (JAX's by DLPack) do not change."""
    if isinstance(_library(array), Torch):
        return True
    interface = getattr(array, "__cuda_array_interface__", None)
    return interface is not None and not interface["data"][1]


class Plan:
    """`_core.Plan` on device views."""

    def __init__(self, plan: Any) -> None:
        self._plan = plan
        self._scratch: int = plan.workspace_bytes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._plan, name)

    def run(
        self,
        a: View,
        b: View | None,
        bias: View | None,
        residual: View | None,
        out: View,
        aux: View | None,
        workspace: None = None,
        b_is_packed: bool = False,
    ) -> View:
        """Enqueue on the current stream of a's library; the workspace goes back to its pool, which
        lends it again to later work of that stream only."""
        scratch = a.empty((self._scratch,), np.dtype(np.uint8)) if self._scratch else None
        given = (a, b, bias, residual, out, aux, scratch)
        buffers = (None if view is None else view.buffer for view in given)
        self._plan.run(*buffers, a.device, a.library.stream(a.device))
        return out


def plan_conv(*problem: Any) -> Plan:
    return Plan(module().plan_conv(*problem))


def plan_pool(*problem: Any) -> Plan:
    return Plan(module().plan_pool(*problem))


def activation_backward(activation: str, dy: View, y: View, dx: View) -> None:
    stream = dy.library.stream(dy.device)
    buffers = (dy.buffer, y.buffer, dx.buffer)
    module().activation_backward(activation, dy.dtype.name, *buffers, dy.device, stream)


def run_layer(
    kind: str,
    arrays: tuple[View | None, ...],
    layout: str,
    n: int,
    c: int,
    pixels: int,
    numbers: tuple[float, ...],
    backward: bool = False,
    training: bool = False,
    size: int = 0,
    seed: int = 0,
    activation: str | None = None,
) -> None:
    """`_core.run_layer` on device views."""
    first = next(view for view in arrays if view is not None)
    buffers = tuple(None if view is None else view.buffer for view in arrays)
    options = (backward, training, size, seed, activation)
    stream = first.library.stream(first.device)
    head = (kind, first.dtype.name, buffers, layout, n, c, pixels, numbers)
    module().run_layer(*head, *options, first.device, stream)

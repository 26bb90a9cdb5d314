"""Arrays in and out, the only place that knows kinds of arrays: what is one, whether its dtype and
device serve, how it becomes the dense memory that kernels read, and how a result becomes the
caller's kind again. Shapes and numbers are the core's to check.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from . import _core, _gpu

Array = Any  # numpy.ndarray, or any object with __dlpack__ or an array interface, CUDA's included
Dense = npt.NDArray[Any]
# What kernels read: on a device a _gpu.View, which has of an ndarray what is asked of it here.
View = Any
Shape = tuple[int, ...]

_FLOAT32, _FLOAT64, INT64 = np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.int64)
UINT8 = np.dtype(np.uint8)
_PLACES = {"indices": INT64, "switches": UINT8}  # where a maximum was: its pixel, its tap
DENSE = 0x0101  # NPY_ARRAY_C_CONTIGUOUS | NPY_ARRAY_ALIGNED
_OPTIONAL = frozenset({"b", "residual", "weights"})
# (N, C, *spatial); the others never turn.
_CHANNELLED = ("x", "dy", "y", "residual", "indices", "switches")
_DLPACK_CPU, _DLPACK_CUDA = frozenset({1, 3}), frozenset({2, 13})  # 3 pinned, 13 managed memory


def dtype_name(dtype: np.dtype[Any]) -> str:
    return "float32" if dtype is _FLOAT32 else "float64"  # dtype.name takes 20 times as long


def float_name(op: str, dtype: npt.DTypeLike) -> str:
    """The name of a dtype given as such; TypeError unless it is one of the two that serve."""
    try:
        found = np.dtype("V" if dtype is None else dtype)
    except TypeError:
        found = np.dtype("V")
    if found not in (_FLOAT32, _FLOAT64):
        raise TypeError(f"{op}: dtype must be float32 or float64, got {dtype!r}")
    return found.name


def shape_tuple(op: str, name: str, shape: Any) -> Shape:
    """A shape given as such; TypeError unless it is a sequence of integers."""
    if type(shape) is tuple and set(map(type, shape)) <= {int}:
        return shape  # the tests below take 2 us, as long as a small operation
    if not isinstance(shape, Sequence) or isinstance(shape, str):
        raise TypeError(f"{op}: {name} must be a tuple of integers, got {shape!r}")
    for size in shape:
        if isinstance(size, bool) or not isinstance(size, int | np.integer):
            raise TypeError(f"{op}: {name} must hold integers, got {size!r} in {tuple(shape)}")
    return tuple(map(int, shape))


def _on_cuda(array: Array) -> bool:
    if isinstance(array, np.ndarray | type):
        return False
    if hasattr(array, "__dlpack_device__"):
        return array.__dlpack_device__()[0] in _DLPACK_CUDA
    return hasattr(array, "__cuda_array_interface__")


def view_of(op: str, name: str, array: Array) -> View:
    """`array` as the kernels of its device see it, without a copy."""
    if not _on_cuda(array):
        return host_view(op, name, array)
    _require_detached(op, name, array)
    return _gpu.view(op, name, array)


def _require_detached(op: str, name: str, array: Array) -> None:
    if getattr(array, "requires_grad", False):
        raise ValueError(f"{op}: {name} requires grad, which is not tracked; use {name}.detach()")


def host_view(op: str, name: str, array: Array) -> Dense:
    """`array` as NumPy sees it, without a copy; TypeError for what is no array."""
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError(f"{op}: {name} is a masked array; fill it first: {name}.filled(0)")
    if isinstance(array, np.ndarray):
        return np.asarray(array)
    knows_dlpack = hasattr(array, "__dlpack__") and not isinstance(array, type)
    if _on_cuda(array):
        raise TypeError(f"{op}: {name} is on a CUDA device; this operation takes host arrays only")
    is_value = isinstance(array, type | np.generic)
    if not knows_dlpack and not is_value and hasattr(array, "__array_interface__"):
        return np.asarray(array)
    if not knows_dlpack:
        what = "None" if array is None else type(array).__name__
        hint = f"; np.asarray({name}) makes one" if isinstance(array, list | np.generic) else ""
        raise TypeError(f"{op}: {name} must be an array, got {what}{hint}")
    _require_detached(op, name, array)
    device, _ = array.__dlpack_device__()
    if device not in _DLPACK_CPU:
        raise TypeError(f"{op}: {name} is on neither the CPU nor CUDA (DLPack device {device})")
    try:
        return np.from_dlpack(array)
    except (BufferError, RuntimeError) as error:
        raise TypeError(f"{op}: {name} cannot be read as float32 or float64: {error}") from error


def exporter(
    op: str, name: str, array: Array, device: int | None = None
) -> Callable[[View], Array]:
    """What makes a result, on the CPU or a device, the same kind as `array`."""
    if device is None:
        if isinstance(array, np.ndarray) or not hasattr(array, "__dlpack__"):
            return lambda result: result
    elif _gpu.is_served(array):
        return lambda result: result.owner
    if hasattr(array, "__array_namespace__"):
        namespace = array.__array_namespace__()
    else:
        namespace = importlib.import_module(type(array).__module__.partition(".")[0])
    if not hasattr(namespace, "from_dlpack"):
        raise TypeError(
            f"{op}: {name} is a {type(array).__name__}, whose module has no from_dlpack "
            f"to take the result; use a {'NumPy' if device is None else 'CuPy'} array"
        )
    take: Callable[[Any], Array] = namespace.from_dlpack
    return take if device is None else lambda result: take(result.owner)


def _turn(layout: str, rank: int) -> Shape:
    """The axes of the other layout."""
    if layout == "NHWC":
        return (0, rank - 1, *range(1, rank - 1))
    return (0, *range(2, rank), 1)


def place(device: int | None) -> str:
    return "the CPU" if device is None else f"CUDA device {device}"


def _device(view: View) -> int | None:
    return view.device if isinstance(view, _gpu.View) else None


def _contiguous(view: View, axes: Shape | None = None) -> bool:
    """Whether it is dense memory, its axes taken in this order."""
    if isinstance(view, _gpu.View):
        return view.contiguous(axes)
    turned = view if axes is None else view.transpose(axes)
    return bool(turned.flags.c_contiguous)


def _dense(view: View) -> bool:
    """Whether kernels read it as it is."""
    if isinstance(view, _gpu.View):
        return view.contiguous()
    return bool(view.flags.num & DENSE == DENSE and view.dtype.isnative)


class Call:
    """The arrays of one call whose arrays are not all `ready`, or that has an `out`.

    Construction checks kinds, dtypes and devices; `job` plans, which checks the numbers, and
    returns what runs; only then is anything copied. The first array that is dense in exactly one of
    the two layouts decides which one is run, so a transposed view needs no copy.
    """

    def __init__(
        self,
        op: str,
        layout: str,
        arrays: Mapping[str, Array],
        shapes: Mapping[str, Shape] | None = None,
        may_turn: bool = True,
    ) -> None:
        if not isinstance(layout, str):
            raise TypeError(f"{op}: layout must be a string, got {layout!r}")
        self.op = op
        self.layout = self.run_layout = layout
        self._shapes = dict(shapes or {})
        self._views: dict[str, View] = {}
        for name, array in arrays.items():
            if array is not None or name not in _OPTIONAL:
                self._views[name] = view_of(op, name, array)
        self._first, *_ = self._views
        self.device = _device(self._views[self._first])  # None: the CPU
        self._check_dtypes()
        for name, view in self._views.items():
            self._check_device(name, view)
        self._export = exporter(op, *next(iter(arrays.items())), self.device)
        if may_turn:
            self._choose_layout()

    def _check_dtypes(self) -> None:
        first = self._first
        self.dtype = self._views[first].dtype.newbyteorder("=")
        for name, view in self._views.items():
            dtype = view.dtype.newbyteorder("=")
            if name in _PLACES:
                if dtype != _PLACES[name]:
                    raise TypeError(f"{self.op}: {name} must be {_PLACES[name]}, got {dtype}")
            elif dtype not in (_FLOAT32, _FLOAT64):
                raise TypeError(
                    f"{self.op}: {name} is {dtype}, but must be float32 or float64; "
                    f"cast it, e.g. {name}.astype(np.float32)"
                )
            elif dtype != self.dtype:
                raise TypeError(
                    f"{self.op}: {first} is {self.dtype} but {name} is {dtype}; cast one of them"
                )
        self.dtype = _FLOAT32 if self.dtype == _FLOAT32 else _FLOAT64  # which `is` may ask for

    def _check_device(self, name: str, view: View) -> None:
        device = _device(view)
        if device != self.device:
            raise TypeError(
                f"{self.op}: {self._first} is on {place(self.device)} but {name} is on "
                f"{place(device)}; copy one of them"
            )

    def _choose_layout(self) -> None:
        for name in _CHANNELLED:
            view = self._views.get(name)
            if view is None or view.ndim < 3:
                continue
            turns = _contiguous(view, _turn(self.layout, view.ndim))
            if _contiguous(view) != turns:
                if turns:
                    self.run_layout = "NCHW" if self.layout == "NHWC" else "NHWC"
                return

    def shape(self, name: str, layout: str) -> Shape | None:
        """The shape of an argument as `layout` says it."""
        view = self._views.get(name)
        shape = self._shapes.get(name) if view is None else view.shape
        if shape is None or layout == self.layout or name not in _CHANNELLED:
            return shape
        return tuple(shape[axis] for axis in _turn(self.layout, len(shape)))

    def describe(self) -> str:
        names = (*self._views, *self._shapes)
        return ", ".join(f"{name} is {self.shape(name, self.layout)}" for name in names)

    def dense(self, name: str | None) -> Any:
        """An argument as the kernels read it, copied at most once; None where it was not given."""
        if name is None or name not in self._views:
            return None
        view = self._to_run(self._views[name], name in _CHANNELLED)
        if not _dense(view):
            if self.device is None:
                view = view.astype(view.dtype.newbyteorder("="), order="C")
            else:
                view = view.copy()
            self._views[name] = self._from_run(view, name in _CHANNELLED)
        return view

    def empty(self, shape: Shape, dtype: npt.DTypeLike | None = None) -> View:
        """New memory beside the first array: the caller's pool on a device."""
        kind = self.dtype if dtype is None else np.dtype(dtype)
        if self.device is None:
            return np.empty(shape, kind)
        return self._views[self._first].empty(shape, kind)

    def host(self, name: str) -> Dense | None:
        """A small argument whose values are needed here; from a device that waits for them."""
        view = self.dense(name)
        on_device = isinstance(view, _gpu.View)
        found: Dense | None = view.library.to_host(view.owner) if on_device else view
        return found

    def beside(self, array: Dense) -> View:
        """The inverse of `host`."""
        if self.device is None:
            return array
        first = self._views[self._first]
        return first.library.view(first.library.from_host(first, array))

    def _to_run(self, view: View, channelled: bool) -> View:
        turn = channelled and self.run_layout != self.layout
        return view.transpose(_turn(self.layout, view.ndim)) if turn else view

    def _from_run(self, view: View, channelled: bool) -> View:
        turn = channelled and self.run_layout != self.layout
        return view.transpose(_turn(self.run_layout, view.ndim)) if turn else view

    def job(
        self,
        plan: Callable[[str], _core.Plan],
        kernel: Callable[[_core.Plan, View], None],
        *,
        out: Array = None,
        out_name: str = "out",
        channelled: bool = True,
    ) -> Callable[[], Array]:
        """Check all there is about `plan(layout)` and `out`; what is returned computes the result.

        kernel(plan, result) runs on `dense` arguments; `channelled`: the result has a layout.
        """
        said = plan(self.layout)  # in the caller's layout, so that errors speak of their shapes
        chosen = said if self.run_layout == self.layout else plan(self.run_layout)
        view = None if out is None else self._check_out(out, out_name, said.output_shape)

        def compute() -> Array:
            target: View = None if view is None else self._to_run(view, channelled)
            fits = target is not None and _dense(target)
            result = target if fits else self.empty(chosen.output_shape)
            kernel(chosen, result)
            if target is None:
                return self.hand_back(result, channelled)
            if result is not target:
                if self.device is None:
                    target[...] = result
                else:
                    target.library.assign(target.owner, result.owner)
            return out

        return compute

    def hand_back(self, result: View, channelled: bool = True) -> Array:
        """A dense result as the caller's kind, in their layout."""
        return self._export(self._from_run(result, channelled))

    def _check_out(self, out: Array, name: str, shape: Shape) -> View:
        view = view_of(self.op, name, out)
        self._check_device(name, view)
        if view.dtype != self.dtype:
            raise TypeError(f"{self.op}: {name} is {view.dtype}, but the result is {self.dtype}")
        if view.shape != shape:
            raise ValueError(
                f"{self.op}: {name} is {view.shape}, but the result is {shape}; {self.describe()}"
            )
        if not (view.flags.writeable if self.device is None else _gpu.is_writeable(out)):
            raise ValueError(f"{self.op}: {name} must be writable; it is {view.shape}")
        for other, array in self._views.items():
            if np.may_share_memory(view, array) if self.device is None else view.overlaps(array):
                raise ValueError(
                    f"{self.op}: {name} must not share memory with {other}; "
                    f"{name} is {view.shape}, {self.describe()}"
                )
        self._views[name] = view  # the next result must not share memory with this one
        return view

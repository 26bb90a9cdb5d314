"""Operators that move a window: convolutions, pooling and their inverses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from pyconv import functional as F
from pyconv._arrays import Array, Shape
from pyconv._pool import pool as core_pool
from pyconv.onnx._table import operator

Ints = Sequence[int]
Pairs = list[tuple[int, int]]

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def spatial(x: Array) -> Any:
    if not 3 <= x.ndim <= 5:
        raise NotImplementedError(f"one to three spatial axes are served; x is {x.shape}")
    return x.ndim - 2


def per_axis(
    values: Ints | None, axes: int, low: int = 1, what: str = "strides"
) -> tuple[int, ...]:
    found = (low if low else 0,) * axes if values is None else tuple(values)
    if len(found) != axes or min(found) < low:
        raise ValueError(f"{what} {found} must be {axes} numbers from {low} on")
    return found


def explicit(pads: Ints | None, axes: int) -> Pairs:
    found = per_axis(pads, 2 * axes, 0, "pads")
    return list(zip(found[:axes], found[axes:]))


def resolved(auto_pad: str, pads: Ints | None, size: Shape, extent: Shape, stride: Shape) -> Pairs:
    """(before, after) of each axis."""
    if auto_pad == "NOTSET":
        return explicit(pads, len(size))
    if auto_pad == "VALID":
        return [(0, 0)] * len(size)
    if auto_pad not in ("SAME_UPPER", "SAME_LOWER"):
        raise ValueError(f"auto_pad {auto_pad!r} is unknown")
    totals = [max((-(-n // s) - 1) * s + e - n, 0) for n, e, s in zip(size, extent, stride)]
    less = [(t // 2, t - t // 2) for t in totals]
    return less if auto_pad == "SAME_UPPER" else [(b, a) for a, b in less]


def extents(kernel: Ints, dilation: Ints) -> Shape:
    return tuple((k - 1) * d + 1 for k, d in zip(kernel, dilation))


def _widened(function: Any, *arrays: Array | None, **options: Any) -> Array:
    """In float32 where the arrays are of half precision."""
    first = arrays[0]
    assert first is not None
    if first.itemsize > 2:
        return function(*arrays, **options)
    wide = (None if a is None else a.astype(np.float32) for a in arrays)
    return function(*wide, **options).astype(first.dtype)


def conv_options(x: Shape, w: Shape, auto_pad: str = "NOTSET", dilations: Ints | None = None,
                 group: int = 1, kernel_shape: Ints | None = None, pads: Ints | None = None,
                 strides: Ints | None = None) -> dict[str, Any]:  # fmt: skip
    """The arguments of `pyconv.conv2d` for an ONNX convolution of these shapes."""
    axes = len(x) - 2
    if kernel_shape is not None and tuple(kernel_shape) != w[2:]:
        raise ValueError(f"kernel_shape {tuple(kernel_shape)} is not that of w {w}")
    if len(w) != len(x):
        raise ValueError(f"x {x} and w {w} must have as many axes")
    stride, dilation = per_axis(strides, axes), per_axis(dilations, axes, what="dilations")
    padding = resolved(auto_pad, pads, x[2:], extents(w[2:], dilation), stride)
    return {"stride": stride, "padding": tuple(padding), "dilation": dilation, "groups": group}


@operator("Conv")
def conv(x: Array, w: Array, b: Array | None = None, **attributes: Any) -> Array:
    function = _CONV[spatial(x)]
    return _widened(function, x, w, b, **conv_options(x.shape, w.shape, **attributes))


def _centred(x: Array, zero: Array | None, axis: int) -> Array:
    """Exact in float64, which is what is summed: 2^53 products of 8 bits."""
    if zero is None:
        return x.astype(np.float64)
    shape = [1] * x.ndim
    if zero.size > 1:
        shape[axis] = zero.size
    return x.astype(np.float64) - zero.reshape(shape).astype(np.float64)


@operator("ConvInteger")
def conv_integer(x: Array, w: Array, x_zero: Array | None = None, w_zero: Array | None = None,
                 **attributes: Any) -> Array:  # fmt: skip
    return conv(_centred(x, x_zero, 1), _centred(w, w_zero, 0), **attributes).astype(np.int32)


@operator("QLinearConv")
def qlinear_conv(x: Array, x_scale: Array, x_zero: Array, w: Array, w_scale: Array, w_zero: Array,
                 y_scale: Array, y_zero: Array, b: Array | None = None,
                 **attributes: Any) -> Array:  # fmt: skip
    exact = conv(_centred(x, x_zero, 1), _centred(w, w_zero, 0),
                 None if b is None else b.astype(np.float64), **attributes)  # fmt: skip
    scale = (x_scale.astype(np.float64) * w_scale / y_scale).reshape(-1, *[1] * (x.ndim - 2))
    limits = np.iinfo(y_zero.dtype)
    return np.clip(np.rint(exact * scale) + y_zero, limits.min, limits.max).astype(y_zero.dtype)


@operator("ConvTranspose")
def conv_transpose(x: Array, w: Array, b: Array | None = None, auto_pad: str = "NOTSET",
                   dilations: Ints | None = None, group: int = 1, kernel_shape: Ints | None = None,
                   output_padding: Ints | None = None, output_shape: Ints | None = None,
                   pads: Ints | None = None, strides: Ints | None = None) -> Array:  # fmt: skip
    """output_padding enlarges the map, it does not append zeros; output_shape overrides pads."""
    axes = spatial(x)
    if w.ndim != x.ndim or tuple(kernel_shape or w.shape[2:]) != w.shape[2:]:
        raise ValueError(f"x {x.shape}, w {w.shape} and kernel_shape {kernel_shape} disagree")
    stride, dilation = per_axis(strides, axes), per_axis(dilations, axes, what="dilations")
    extra = per_axis(output_padding, axes, 0, "output_padding")
    size, extent = x.shape[2:], extents(w.shape[2:], dilation)
    full = [(n - 1) * s + e for n, s, e in zip(size, stride, extent)]  # without any padding
    same = auto_pad in ("SAME_UPPER", "SAME_LOWER")
    if output_shape is not None or same:
        if output_shape is None:
            wanted: Ints = [n * s for n, s in zip(size, stride)]
        else:
            wanted = per_axis(tuple(output_shape)[-axes:], axes, what="output_shape")
        totals = [f + e - n for f, e, n in zip(full, extra, wanted)]
        halves = [(max(t, 0) // 2, max(t, 0) - max(t, 0) // 2) for t in totals]
        padding = halves if auto_pad == "SAME_UPPER" else [(b, a) for a, b in halves]
    else:
        padding = resolved(auto_pad, pads, size, extent, stride)
        wanted = [f + e - sum(p) for f, e, p in zip(full, extra, padding)]
    if min(wanted) < 1:
        raise ValueError(f"pads {padding} leave nothing of {full}")
    # What lies beyond the full map is the core's output_padding: less than a stride or a dilation.
    ends = [n + before for n, (before, _) in zip(wanted, padding)]
    inner = tuple((before, max(f - e, 0)) for f, e, (before, _) in zip(full, ends, padding))
    beyond = tuple(max(e - f, 0) for f, e in zip(full, ends))
    options = {"stride": stride, "dilation": dilation, "groups": group}
    return _widened(_TRANSPOSED[axes], x, w, b, padding=inner, output_padding=beyond, **options)


class _Window:
    """The geometry of a pooling: where its windows lie and how much of each is there to read."""

    def __init__(self, x: Array, kernel: Ints, auto_pad: str, ceil_mode: int, pads: Ints | None,
                 strides: Ints | None, dilations: Ints | None) -> None:  # fmt: skip
        axes = spatial(x)
        self.size = x.shape[2:]
        self.kernel = per_axis(kernel, axes, what="kernel_shape")
        self.stride = per_axis(strides, axes)
        self.dilation = per_axis(dilations, axes, what="dilations")
        self.extent = extents(self.kernel, self.dilation)
        self.padding = resolved(auto_pad, pads, self.size, self.extent, self.stride)
        self.ceil = bool(ceil_mode) and auto_pad == "NOTSET"  # the automatic ones have no rest
        self.out = tuple(map(self._count, range(axes)))
        if min(self.out) < 1:
            raise ValueError(f"kernel_shape {self.kernel} exceeds the padded x {x.shape}")

    def _count(self, axis: int) -> Any:
        """As many windows as begin inside the input or the padding before it."""
        (before, after), stride = self.padding[axis], self.stride[axis]
        room = self.size[axis] + before + after - self.extent[axis]
        count = (-(-room // stride) if self.ceil else room // stride) + 1
        return min(count, (self.size[axis] + before - 1) // stride + 1) if self.ceil else count

    def served(self) -> bool:
        """Whether the core's own padding, half the window at most on both sides, is enough."""
        return all(
            before == after <= extent // 2 and dilation <= size
            for (before, after), extent, dilation, size in zip(
                self.padding, self.extent, self.dilation, self.size
            )
        )

    def reach(self) -> Pairs:
        """What to add before and (negative: to leave out) after, for windows to fit exactly."""
        ends = ((o - 1) * s + e for o, s, e in zip(self.out, self.stride, self.extent))
        return [(p[0], e - n - p[0]) for e, n, p in zip(ends, self.size, self.padding)]

    def counts(self, include_pad: bool) -> Array:
        """How many pixels each window counts: those of the input, or of its declared padding."""
        result = np.ones((), np.int64)
        for axis, (before, after) in enumerate(self.padding):
            starts = np.arange(self.out[axis]) * self.stride[axis]
            taps = starts[:, None] + np.arange(self.kernel[axis]) * self.dilation[axis]
            first, end = before, before + self.size[axis]
            if include_pad:
                first, end = 0, end + after
            inside = ((taps >= first) & (taps < end)).sum(1)
            result = result[..., None] * inside
        return result


def _run(kind: str, x: Array, window: _Window, *, padding: Any = 0, ceil: bool = False,
         include: bool = True, divisor: int | None = None, p: float = 2.0,
         indices: bool = False) -> Any:  # fmt: skip
    options = (window.kernel, window.stride, padding, window.dilation)
    rest = (None, False, ceil, include, divisor, float(p))
    op = {"max": "MaxPool", "avg": "AveragePool", "lp": "LpPool"}[kind]
    axes = x.ndim - 2
    return core_pool(op, axes, kind, x, "NCHW", (*options, *rest), return_indices=indices)


def _framed(x: Array, window: _Window, fill: float) -> Array:
    """x with as much around it as the windows read."""
    reach = window.reach()
    cut = tuple(slice(None, after if after < 0 else None) for _, after in reach)
    widths = [(0, 0), (0, 0), *((before, max(after, 0)) for before, after in reach)]
    return np.pad(x[(..., *cut)], widths, constant_values=fill)


def _floating(x: Array) -> Array:
    return x if x.dtype in (np.float32, np.float64) else x.astype(np.float32)


@operator("MaxPool")
def max_pool(x: Array, kernel_shape: Ints, auto_pad: str = "NOTSET", ceil_mode: int = 0,
             dilations: Ints | None = None, pads: Ints | None = None, storage_order: int = 0,
             strides: Ints | None = None, outputs: int = 1) -> Any:  # fmt: skip
    """Indices count over the whole tensor, along columns where storage_order says so."""
    window = _Window(x, kernel_shape, auto_pad, ceil_mode, pads, strides, dilations)
    wide, indices = _floating(x), outputs > 1  # exact for 8-bit integers and half precision
    if window.served():
        before = tuple(p[0] for p in window.padding)
        found = _run("max", wide, window, padding=before, ceil=window.ceil, indices=indices)
        frame, offset = window.size, (0,) * len(window.size)
    else:
        framed = _framed(wide, window, -np.inf)
        found = _run("max", framed, window, indices=indices)
        frame, offset = framed.shape[2:], tuple(p[0] for p in window.padding)
    if not indices:
        return found.astype(x.dtype, copy=False)
    y, flat = found
    at = np.unravel_index(flat, frame)
    at = tuple(np.clip(i - o, 0, n - 1) for i, o, n in zip(at, offset, window.size))
    order: Any = "F" if storage_order else "C"
    planes = np.arange(math.prod(x.shape[:2])).reshape(*x.shape[:2], *[1] * len(at))
    flat = np.ravel_multi_index(at, window.size, order=order) + planes * math.prod(window.size)
    return y.astype(x.dtype, copy=False), flat


@operator("AveragePool")
def average_pool(x: Array, kernel_shape: Ints, auto_pad: str = "NOTSET", ceil_mode: int = 0,
                 count_include_pad: int = 0, dilations: Ints | None = None,
                 pads: Ints | None = None, strides: Ints | None = None) -> Array:  # fmt: skip
    window = _Window(x, kernel_shape, auto_pad, ceil_mode, pads, strides, dilations)
    wide = _floating(x)
    if window.served():
        before = tuple(p[0] for p in window.padding)
        include = bool(count_include_pad)
        y = _run("avg", wide, window, padding=before, ceil=window.ceil, include=include)
    else:
        total = _run("avg", _framed(wide, window, 0), window, divisor=1)
        y = total / window.counts(bool(count_include_pad)).astype(wide.dtype)
    return y.astype(x.dtype, copy=False)


@operator("LpPool")
def lp_pool(x: Array, kernel_shape: Ints, auto_pad: str = "NOTSET", ceil_mode: int = 0,
            dilations: Ints | None = None, p: int = 2, pads: Ints | None = None,
            strides: Ints | None = None) -> Array:  # fmt: skip
    window = _Window(x, kernel_shape, auto_pad, ceil_mode, pads, strides, dilations)
    wide = _floating(x)
    if window.served():
        before = tuple(pair[0] for pair in window.padding)
        y = _run("lp", wide, window, padding=before, ceil=window.ceil, p=p)
    else:
        y = _run("lp", _framed(wide, window, 0), window, p=p)
    return y.astype(x.dtype, copy=False)


@operator("GlobalAveragePool")
def global_average_pool(x: Array) -> Array:
    if x.dtype in (np.float32, np.float64) and 3 <= x.ndim <= 5:
        return F.global_avg_pool(x)
    return _floating(x).mean(tuple(range(2, x.ndim)), keepdims=True).astype(x.dtype)


@operator("GlobalMaxPool")
def global_max_pool(x: Array) -> Array:
    return x.max(tuple(range(2, x.ndim)), keepdims=True)


@operator("GlobalLpPool")
def global_lp_pool(x: Array, p: int) -> Array:
    total = (np.abs(_floating(x)) ** p).sum(tuple(range(2, x.ndim)), keepdims=True)
    return (total ** (1 / p)).astype(x.dtype)


@operator("MaxUnpool")
def max_unpool(x: Array, indices: Array, output_shape: Array | None = None, *,
               kernel_shape: Ints, pads: Ints | None = None,
               strides: Ints | None = None) -> Array:  # fmt: skip
    """Indices count over the tensor that was pooled, which a larger output_shape surrounds."""
    axes = x.ndim - 2
    kernel, stride = per_axis(kernel_shape, axes), per_axis(strides, axes)
    padding = explicit(pads, axes)
    shape = (*x.shape[:2], *((n - 1) * s + k - sum(p)
             for n, s, k, p in zip(x.shape[2:], stride, kernel, padding)))  # fmt: skip
    if indices.shape != x.shape or min(shape) < 0:
        raise ValueError(f"indices {indices.shape} for x {x.shape}, unpooled to {shape}")
    if x.size and not 0 <= indices.min() <= indices.max() < math.prod(shape):
        raise ValueError(f"indices must lie between 0 and {math.prod(shape)}")
    y = np.zeros(shape, x.dtype)
    y.reshape(-1)[indices.reshape(-1)] = x.reshape(-1)
    if output_shape is None:
        return y
    wanted = tuple(output_shape.tolist())
    if len(wanted) != y.ndim or any(w < n for w, n in zip(wanted, shape)):
        raise ValueError(f"output_shape {wanted} does not hold the unpooled {shape}")
    return np.pad(y, [(0, w - n) for w, n in zip(wanted, shape)])


@operator("Col2Im")
def col2im(columns: Array, image_shape: Array, block_shape: Array, dilations: Ints | None = None,
           pads: Ints | None = None, strides: Ints | None = None) -> Array:  # fmt: skip
    image, block = tuple(image_shape.tolist()), tuple(block_shape.tolist())
    axes = len(image)
    area = math.prod(per_axis(block, axes, what="block_shape"))
    if columns.ndim != 3 or columns.shape[1] % area:
        raise ValueError(f"columns {columns.shape} hold no blocks {block}")
    shape = (len(columns), columns.shape[1] // area, *image)
    return _widened(
        F.col2im, columns, input_shape=shape, kernel_size=block,
        stride=per_axis(strides, axes), padding=tuple(explicit(pads, axes)),
        dilation=per_axis(dilations, axes, what="dilations"),
    )  # fmt: skip

"""The core's layer kernels on the arrays of a network."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from pyconv import _core, _gpu
from pyconv._arrays import Array, Shape


def dense(x: Array) -> Array:
    """x itself where its memory is (N, C, ...) or (N, ..., C) in order, else a copy."""
    return x if x.flags.c_contiguous or _channels_last(x) else x.copy()


def require_float(op: str, x: Array, w: Array | None = None) -> None:
    """TypeError unless x is float32 or float64, and the weights w, if there are any, the same."""
    if x.dtype != np.float32 and x.dtype != np.float64:
        raise TypeError(f"{op}: x is {x.dtype}, but must be float32 or float64")
    if w is not None and w.dtype != x.dtype:
        raise TypeError(f"{op}: x is {x.dtype} but the weights are {w.dtype}; see Layer.to")


def like(x: Array, other: Array) -> Array:
    """x in the memory order of `other`, copied only where it has another."""
    if x.strides == other.strides and x.dtype == other.dtype:
        return x
    copy = np.empty_like(other)
    copy[...] = x
    return copy


def run(kind: str, x: Array, arrays: tuple[Any, ...], numbers: tuple[float, ...] = (),
        **options: Any) -> None:  # fmt: skip
    """Run one kernel on `arrays`, which lie in memory as x does or hold a value a channel."""
    require_float(kind, x)
    n, c, pixels = _shape(x.shape)
    last = _channels_last(x)
    turned = tuple(_turn(a) if last and a is not None and a.ndim == x.ndim else a for a in arrays)
    layout = "NHWC" if last else "NCHW"
    _run(kind, turned, layout, n, c, pixels, numbers, **options)


def update(
    kind: str, arrays: tuple[Array | None, ...], numbers: tuple[float, ...] = (), **options: Any
) -> None:
    """Run an elementwise kernel on arrays that lie in memory alike."""
    first = next(a for a in arrays if a is not None)
    flat = tuple(_turn(a) if a is not None and _channels_last(a) else a for a in arrays)
    _run(kind, flat, "NCHW", first.size, 1, 1, numbers, **options)


def _run(kind: str, arrays: tuple[Any, ...], *rest: Any, **options: Any) -> None:
    core: Any = _core
    if not isinstance(next(a for a in arrays if a is not None), np.ndarray):
        core = _gpu
        arrays = tuple(None if a is None else _gpu.view(kind, "an array", a) for a in arrays)
    core.run_layer(kind, arrays, *rest, **options)


def _shape(shape: Shape) -> tuple[int, int, int]:
    return shape[0], shape[1], math.prod(shape[2:])


def _channels_last(x: Array) -> bool:
    return x.ndim > 2 and not x.flags.c_contiguous and bool(_turn(x).flags.c_contiguous)


def _turn(x: Array) -> Array:
    return x.transpose(0, *range(2, x.ndim), 1)

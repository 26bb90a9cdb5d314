"""Largest and smallest neighbour, by max pooling along one axis after the other."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import pooling
from .._arrays import Array, Dense
from .._filtering import fold, magnitude, pad, scipy_function, takes_arrays
from ._arguments import (
    answer,
    border_of,
    cast,
    check_axes,
    check_axis,
    check_origin,
    each,
    output_dtype,
    passes_on,
)

_POOL = {1: pooling.max_pool1d, 2: pooling.max_pool2d, 3: pooling.max_pool3d}


def _pooled(x: Dense, size: int, axis: int, padding: int, dilation: int = 1) -> Dense:
    folded, [place] = fold(x, [axis])
    window, pads, steps = ([least] * (folded.ndim - 1) for least in (1, 0, 1))
    window[place], pads[place], steps[place] = size, padding, dilation
    y = _POOL[folded.ndim - 1](folded[:, None], window, 1, pads, steps)
    return np.asarray(y).reshape((*x.shape[:axis], -1, *x.shape[axis + 1 :]))


def _extreme(x: Dense, size: int, axis: int, mode: str, cval: Any, before: int) -> Dense:
    """The largest of `size` neighbours along one axis, floats in and out."""
    border, after = border_of(mode), size - 1 - before
    if size <= 32 and before == after and border in ("symmetric", "replicate"):
        return _pooled(x, size, axis, before)  # what these put beyond the edge is in the window
    x = pad(x, [axis], [(before, after)], border, cval)
    if size <= 32:
        return _pooled(x, size, axis, 0)
    # A long window is the union of short ones: of `count` of `part` neighbours each, and of two
    # such that may overlap; about 2 sqrt(size) comparisons.
    part = int(size**0.5)
    count = size // part
    x = _pooled(_pooled(x, part, axis, 0), count, axis, 0, part)
    rest = size - part * count
    return _pooled(x, 2, axis, 0, rest) if rest else x


def _extremum(
    name: str,
    x: Any,
    sizes: Any,
    axes: Any,
    output: Any,
    modes: Any,
    cval: Any,
    origins: Any,
    scipys: Callable[[], Any],
) -> Any:
    if x.dtype.kind == "c":
        raise TypeError("Complex type not supported")
    wide = x.dtype.kind in "iu" and x.dtype.itemsize == 8 and magnitude(x) > 2**53
    if passes_on(x) or wide:
        return scipys()
    sign = -1 if name.startswith("minimum") else 1
    dtype = output_dtype(output, x, False)
    short = x.dtype.kind == "f" if x.dtype.itemsize == 4 else x.dtype.itemsize < 4
    y = x.astype(np.float32 if short else np.float64, copy=False)
    y = -y if sign < 0 else y
    for size, axis, mode, origin in zip(sizes, axes, modes, origins):
        before = check_origin(origin, size, "invalid origin")
        border_of(mode)
        if x.size and size > 1:
            y = _extreme(y, size, axis, mode, sign * cval, before)
    y = -y if sign < 0 else y
    return answer(cast(y.copy() if y is x else y, dtype), output)


def _extremum1d(
    name: str, x: Any, size: Any, axis: int, output: Any, mode: Any, cval: Any, origin: int
) -> Any:
    x = np.asarray(x)
    axes = [check_axis(axis, x.ndim)]
    if size < 1:
        raise RuntimeError("incorrect filter size")

    def scipys() -> Any:
        return scipy_function("ndimage", name)(x, size, axis, output, mode, cval, origin)

    return _extremum(name, x, [int(size)], axes, output, [mode], cval, [origin], scipys)


def _extremum_nd(
    name: str,
    x: Any,
    size: Any,
    footprint: Any,
    output: Any,
    mode: Any,
    cval: Any,
    origin: Any,
    axes: Any,
) -> Any:
    if size is not None and footprint is not None:
        warnings.warn("ignoring size because footprint is set", UserWarning, stacklevel=4)
    if footprint is None and size is None:
        raise RuntimeError("no footprint provided")
    x = np.asarray(x)
    options = {} if axes is None else {"axes": axes}
    size = None if footprint is not None else size

    def scipys() -> Any:
        given = (x, size, footprint, output, mode, cval, origin)
        return scipy_function("ndimage", name)(*given, **options)

    if footprint is not None:
        footprint = np.asarray(footprint, dtype=bool)
        if not footprint.any():
            raise ValueError("All-zero footprint is not supported.")
        if not footprint.all():
            return scipys()
    axes = check_axes(axes, x.ndim)
    box = size if footprint is None else footprint.shape
    sizes, modes, origins = (each(value, len(axes)) for value in (box, mode, origin))
    sizes = [int(size) for size in sizes]
    return _extremum(name, x, sizes, axes, output, modes, cval, origins, scipys)


@takes_arrays
def maximum_filter1d(
    input: Array,
    size: int,
    axis: int = -1,
    output: Any = None,
    mode: str = "reflect",
    cval: float = 0.0,
    origin: int = 0,
) -> Array:
    """As `scipy.ndimage.maximum_filter1d`; NaN propagates.

    >>> from pyconv import ndimage
    >>> ndimage.maximum_filter1d([2, 8, 0, 4, 1, 9, 9, 0], size=3)
    array([8, 8, 8, 4, 9, 9, 9, 9])
    """
    return _extremum1d("maximum_filter1d", input, size, axis, output, mode, cval, origin)


@takes_arrays
def minimum_filter1d(
    input: Array,
    size: int,
    axis: int = -1,
    output: Any = None,
    mode: str = "reflect",
    cval: float = 0.0,
    origin: int = 0,
) -> Array:
    """As `scipy.ndimage.minimum_filter1d`; NaN propagates."""
    return _extremum1d("minimum_filter1d", input, size, axis, output, mode, cval, origin)


@takes_arrays
def maximum_filter(
    input: Array,
    size: Any = None,
    footprint: Any = None,
    output: Any = None,
    mode: Any = "reflect",
    cval: float = 0.0,
    origin: Any = 0,
    *,
    axes: Any = None,
) -> Array:
    """As `scipy.ndimage.maximum_filter`: the largest value in a box; NaN propagates.

    >>> import numpy as np
    >>> from pyconv import ndimage
    >>> ndimage.maximum_filter(np.diag([1, 2, 3]), size=2)
    array([[1, 1, 0],
           [1, 2, 2],
           [0, 2, 3]])
    """
    given = (input, size, footprint, output, mode, cval, origin, axes)
    return _extremum_nd("maximum_filter", *given)


@takes_arrays
def minimum_filter(
    input: Array,
    size: Any = None,
    footprint: Any = None,
    output: Any = None,
    mode: Any = "reflect",
    cval: float = 0.0,
    origin: Any = 0,
    *,
    axes: Any = None,
) -> Array:
    """As `scipy.ndimage.minimum_filter`: the smallest value in a box; NaN propagates."""
    given = (input, size, footprint, output, mode, cval, origin, axes)
    return _extremum_nd("minimum_filter", *given)

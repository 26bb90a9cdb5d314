"""Correlation and convolution with given weights."""

from typing import Any

import numpy as np

from .._arrays import Array, Dense
from .._filtering import scipy_function, takes_arrays
from ._arguments import (
    answer,
    check_axes,
    check_axis,
    check_origin,
    each,
    filtered,
    output_dtype,
    passes_on,
)


def _check_weights(x: Dense, w: Dense, cval: Any) -> Dense:
    if not isinstance(cval, int | float) and np.iscomplexobj(cval) and x.dtype.kind != "c":
        raise ValueError("Cannot provide a complex-valued cval when the input is real.")
    return w if w.dtype.kind == "c" else w.astype(np.float64, copy=False)


def _correlated1d(
    name: str, x: Dense, w: Dense, axis: int, output: Any, mode: Any, cval: Any, origin: int
) -> Any:
    x, w = np.asarray(x), np.asarray(w)
    if passes_on(x, w):
        return scipy_function("ndimage", name)(x, w, axis, output, mode, cval, origin)
    w = _check_weights(x, w, cval)
    dtype = output_dtype(output, x, x.dtype.kind == "c" or w.dtype.kind == "c")
    if w.ndim != 1 or len(w) < 1:
        raise RuntimeError("no filter weights given")
    axis = check_axis(axis, x.ndim)
    if name == "convolve1d":
        w, origin = w[::-1], -origin - (1 - len(w) % 2)
    else:
        w = w.conj()
    before = check_origin(
        origin,
        len(w),
        "Invalid origin; origin must satisfy -(len(weights) // 2) <= origin <= "
        "(len(weights)-1) // 2",
    )
    return answer(filtered(x, w, [axis], [before], mode, cval, dtype), output)


@takes_arrays
def correlate1d(
    input: Array,
    weights: Array,
    axis: int = -1,
    output: Any = None,
    mode: str = "reflect",
    cval: complex = 0.0,
    origin: int = 0,
) -> Array:
    """As `scipy.ndimage.correlate1d`: y[i] = sum over j of w[j] x[i - len(w)//2 - origin + j].

    >>> from pyconv import ndimage
    >>> ndimage.correlate1d([2, 8, 0, 4, 1, 9, 9, 0], weights=[1, 3])
    array([ 8, 26,  8, 12,  7, 28, 36,  9])
    """
    return _correlated1d("correlate1d", input, weights, axis, output, mode, cval, origin)


@takes_arrays
def convolve1d(
    input: Array,
    weights: Array,
    axis: int = -1,
    output: Any = None,
    mode: str = "reflect",
    cval: complex = 0.0,
    origin: int = 0,
) -> Array:
    """As `scipy.ndimage.convolve1d`: correlate1d with the weights reversed.

    >>> from pyconv import ndimage
    >>> ndimage.convolve1d([2, 8, 0, 4, 1, 9, 9, 0], weights=[1, 3])
    array([14, 24,  4, 13, 12, 36, 27,  0])
    """
    return _correlated1d("convolve1d", input, weights, axis, output, mode, cval, origin)


def _correlated(
    name: str, x: Any, w: Any, output: Any, mode: Any, cval: Any, origin: Any, axes: Any
) -> Any:
    x, w = np.asarray(x), np.asarray(w)
    if passes_on(x, w):
        options = {} if axes is None else {"axes": axes}
        return scipy_function("ndimage", name)(x, w, output, mode, cval, origin, **options)
    w = _check_weights(x, w, cval)
    dtype = output_dtype(output, x, x.dtype.kind == "c" or w.dtype.kind == "c")
    axes = check_axes(axes, x.ndim)
    # In SciPy `weights` has its axes in the input's order, whatever the order in `axes`; so have
    # origins, unless some axes are left out.
    origins = each(origin, len(axes))
    if len(axes) < x.ndim:
        origins = [o for _, o in sorted(zip(axes, origins))]
    axes = sorted(axes)
    if w.ndim != len(axes) or 0 in w.shape:
        raise RuntimeError(f"weights.ndim ({w.ndim}) must match len(axes) ({len(axes)})")
    if name == "convolve":
        w = np.flip(w)
        origins = [-o - (1 - size % 2) for o, size in zip(origins, w.shape)]
    else:
        w = w.conj()
    message = (
        "Invalid origin; origin must satisfy -(weights.shape[k] // 2) <= origin[k] <= "
        "(weights.shape[k]-1) // 2"
    )
    before = [check_origin(o, size, message) for o, size in zip(origins, w.shape)]
    return answer(filtered(x, w, axes, before, mode, cval, dtype), output)


@takes_arrays
def correlate(
    input: Array,
    weights: Array,
    output: Any = None,
    mode: str = "reflect",
    cval: complex = 0.0,
    origin: Any = 0,
    *,
    axes: Any = None,
) -> Array:
    """As `scipy.ndimage.correlate`; axes not in `axes` are a batch.

    >>> import numpy as np
    >>> from pyconv import ndimage
    >>> ndimage.correlate(np.arange(9).reshape(3, 3), [[0, 1, 0], [1, -4, 1], [0, 1, 0]])
    array([[ 4,  3,  2],
           [ 1,  0, -1],
           [-2, -3, -4]])
    """
    return _correlated("correlate", input, weights, output, mode, cval, origin, axes)


@takes_arrays
def convolve(
    input: Array,
    weights: Array,
    output: Any = None,
    mode: str = "reflect",
    cval: complex = 0.0,
    origin: Any = 0,
    *,
    axes: Any = None,
) -> Array:
    """As `scipy.ndimage.convolve`: correlate with the weights reversed along every axis.

    >>> import numpy as np
    >>> from pyconv import ndimage
    >>> ndimage.convolve(np.eye(3, dtype=int), [[1, 2], [3, 4]], mode="constant")
    array([[5, 2, 0],
           [3, 5, 2],
           [0, 3, 4]])
    """
    return _correlated("convolve", input, weights, output, mode, cval, origin, axes)

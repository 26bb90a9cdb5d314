"""Convolution of `scipy.signal` on pyconv's kernels: the same names, arguments and results.

`convolve` and `correlate` also take `axes`: the other axes are broadcast, so that many signals meet
one filter, or one signal a bank of filters. Integers are exact modulo their size, as in SciPy.
Fourier transforms are `scipy.fft`'s, over all threads, where SciPy is installed, else NumPy's.
`longdouble`, `float16` and object arrays are passed on to SciPy.
"""

import operator
import timeit
import warnings
from collections.abc import Sequence
from functools import partial
from math import prod
from typing import Any

import numpy as np

from . import _fft
from ._arrays import Array, Dense
from ._filtering import NATIVE, grouped, magnitude, scipy_function, takes_arrays
from ._filtering import correlate as _correlate
from ._plan import plan_conv

__all__ = [
    "choose_conv_method",
    "convolve",
    "convolve2d",
    "correlate",
    "correlate2d",
    "fftconvolve",
    "oaconvolve",
]

_BOUNDARIES = {
    "fill": "zeros",
    "pad": "zeros",
    "wrap": "circular",
    "circular": "circular",
    "symm": "symmetric",
    "symmetric": "symmetric",
}


def _passes_on(*arrays: Dense) -> bool:
    return any(array.dtype.char not in NATIVE for array in arrays)


def _check_mode(mode: Any) -> None:
    if mode not in ("full", "same", "valid"):
        raise ValueError("acceptable mode flags are 'valid', 'same', or 'full'")


def _check_axes(x: Dense, w: Dense, axes: Any) -> list[int]:
    """The axes to convolve along; the others must broadcast."""
    if x.ndim != w.ndim:
        raise ValueError("in1 and in2 should have the same dimensionality")
    if axes is None:
        return list(range(x.ndim))
    try:
        given = [operator.index(axis) for axis in (axes if np.iterable(axes) else [axes])]
    except TypeError as error:
        raise ValueError("axes must be a scalar or iterable of integers") from error
    if not given:
        raise ValueError("when provided, axes cannot be empty")
    if any(not -x.ndim <= axis < x.ndim for axis in given):
        raise ValueError("axes exceeds dimensionality of input")
    found = sorted({axis % x.ndim for axis in given})
    if len(found) != len(given):
        raise ValueError("all axes must be unique")
    for axis in range(x.ndim):
        if (
            axis not in found
            and x.shape[axis] != w.shape[axis]
            and 1
            not in (
                x.shape[axis],
                w.shape[axis],
            )
        ):
            raise ValueError(f"incompatible shapes for in1 and in2: {x.shape} and {w.shape}")
    return found


def _swapped(x: Dense, w: Dense, mode: str, axes: Sequence[int]) -> bool:
    """Whether `valid` slides x over w."""
    if mode != "valid" or all(x.shape[a] >= w.shape[a] for a in axes):
        return False
    if all(w.shape[a] >= x.shape[a] for a in axes):
        return True
    raise ValueError(
        "For 'valid' mode, one must be at least as large as the other in every dimension"
    )


def _padding(mode: str, sizes: Sequence[int]) -> list[tuple[int, int]]:
    """What a correlation with a reversed filter of these sizes pads for a convolution."""
    if mode == "valid":
        return [(0, 0)] * len(sizes)
    if mode == "full":
        return [(size - 1, size - 1) for size in sizes]
    return [(size // 2, (size - 1) // 2) for size in sizes]


def _direct(
    x: Dense,
    w: Dense,
    mode: str,
    axes: list[int],
    border: str = "zeros",
    fill: Any = 0,
    later: bool = False,
) -> Dense:
    """`later`: "same" takes the later of two middles."""
    kind = np.result_type(x, w)
    others = [axis for axis in range(x.ndim) if axis not in axes]
    if mode == "full" and border == "zeros" and w.size > x.size and len(axes) == x.ndim:
        x, w = w, x
    w = np.flip(w, tuple(axes))
    sizes = [w.shape[axis] for axis in axes]
    pairs = _padding(mode, sizes)
    if later:
        pairs = [(after, before) for before, after in pairs]
    whole = kind.kind in "biu"
    if any(w.shape[axis] > 1 for axis in others):
        y = _bank(x, w, axes, others, pairs)
        return y.astype(kind, copy=False)
    sums = kind if kind.kind == x.dtype.kind and not whole else None
    if fill != 0 and whole:
        x = x.astype(kind)
    finish = (lambda y: y.astype(kind)) if whole else None
    return _correlate(x, w.reshape(sizes), axes, pairs, border, fill, sums, kind, finish)


def _bank(
    x: Dense, w: Dense, axes: list[int], others: list[int], pairs: list[tuple[int, int]]
) -> Dense:
    """Filters that differ along axes where x has size 1, or where both vary: groups."""
    if len(axes) > 3:
        raise ValueError("a bank of filters has at most 3 axes to convolve along")
    filters = [a for a in others if w.shape[a] > 1 and x.shape[a] == 1]
    groups = [a for a in others if w.shape[a] > 1 and x.shape[a] > 1]
    batch = [a for a in others if w.shape[a] == 1]
    order = [*batch, *groups, *filters, *axes]

    def size(array: Dense, some: list[int]) -> int:
        return prod(array.shape[a] for a in some)

    spatial = [[array.shape[a] for a in axes] for array in (x, w)]
    x_grouped = x.transpose(order).reshape(size(x, batch), size(x, groups), *spatial[0])
    w_grouped = w.transpose(order).reshape(size(w, groups), size(w, filters), *spatial[1])
    y = grouped(x_grouped, w_grouped, pairs)
    outer = [x.shape[a] for a in (*batch, *groups)] + [w.shape[a] for a in filters]
    return y.reshape(*outer, *y.shape[3:]).transpose(np.argsort(order))


def _convolve(in1: Any, in2: Any, mode: Any, method: Any, axes: Any, name: str) -> Any:
    x, w = np.asarray(in1), np.asarray(in2)
    if method not in ("auto", "direct", "fft"):
        raise ValueError("Acceptable method flags are 'auto', 'direct', or 'fft'.")
    reverses = name == "correlate"
    if x.ndim == w.ndim == 0:
        return x[()] * (w[()].conj() if reverses else w[()])
    if _passes_on(x, w):
        if axes is not None:
            raise ValueError(f"{name}: axes needs numbers of at most 64 bits, complex of 128")
        return scipy_function("signal", name)(x, w, mode, method)
    along = _check_axes(x, w, axes)
    _check_mode(mode)
    if 0 in x.shape or 0 in w.shape:
        return scipy_function("signal", name)(x, w, mode, method)
    if reverses:
        w = np.flip(w.conj(), tuple(along))
    if _swapped(x, w, mode, along):
        x, w = w, x
    if method == "auto":
        method = _choose(x, w, mode, along)
    if method == "direct":
        return _direct(x, w, mode, along)
    kind = np.result_type(x, w)
    y = _transformed(x, w, mode, along, along)
    if kind.kind in "iu":
        y = np.rint(y)
    if not np.isfinite(y.flat[0]):
        warnings.warn(
            "Use of fft convolution on input with NAN or inf results in NAN or inf output. "
            "Consider using method='direct' instead.",
            category=RuntimeWarning,
            stacklevel=4,
        )
    return y.astype(kind, copy=False)


@takes_arrays
def convolve(
    in1: Array, in2: Array, mode: str = "full", method: str = "auto", *, axes: Any = None
) -> Array:
    """As `scipy.signal.convolve`: the convolution of two arrays with as many axes.

    mode : "full", "same" (the middle, of in1's size) or "valid". method : "direct", "fft", or what
        takes less time.
    axes : convolve along these alone; the others are broadcast (not in SciPy).

    >>> import numpy as np
    >>> from pyconv import signal
    >>> signal.convolve([1, 2, 3], [0, 1, 2])
    array([0, 1, 4, 7, 6])
    >>> filters = np.array([[1, -1], [1, 1]])  # two, for one signal
    >>> signal.convolve(np.array([[1, 2, 4]]), filters, "valid", axes=1)
    array([[1, 2],
           [3, 6]])
    """
    return _convolve(in1, in2, mode, method, axes, "convolve")


@takes_arrays
def correlate(
    in1: Array, in2: Array, mode: str = "full", method: str = "auto", *, axes: Any = None
) -> Array:
    """As `scipy.signal.correlate`: convolve with in2 reversed and conjugated.

    >>> from pyconv import signal
    >>> signal.correlate([1, 2, 3], [0, 1, 2])
    array([2, 5, 8, 3, 0])
    """
    return _convolve(in1, in2, mode, method, axes, "correlate")


def _convolve2d(in1: Any, in2: Any, mode: Any, boundary: Any, fillvalue: Any, name: str) -> Any:
    x, w = np.asarray(in1), np.asarray(in2)
    if not x.ndim == w.ndim == 2:
        raise ValueError(f"{name} inputs must both be 2-D arrays")
    swaps = _swapped(x, w, mode, [0, 1])
    _check_mode(mode)
    if boundary not in _BOUNDARIES:
        raise ValueError(
            "Acceptable boundary flags are 'fill', 'circular' (or 'wrap'), and "
            "'symmetric' (or 'symm')."
        )
    kind = np.result_type(x, w)
    plain = np.ndim(fillvalue) == 0 and np.can_cast(np.result_type(fillvalue), kind, "same_kind")
    if _passes_on(x, w) or 0 in x.shape or 0 in w.shape or not plain:
        return scipy_function("signal", name)(x, w, mode, boundary, fillvalue)
    reverses = name == "correlate2d"
    if reverses:
        w = np.flip(w.conj())
    if swaps:
        x, w = w, x
    return _direct(x, w, mode, [0, 1], _BOUNDARIES[boundary], fillvalue, reverses)


@takes_arrays
def convolve2d(
    in1: Array, in2: Array, mode: str = "full", boundary: str = "fill", fillvalue: Any = 0
) -> Array:
    """As `scipy.signal.convolve2d`; boundary is "fill", "wrap" or "symm".

    >>> from pyconv import signal
    >>> signal.convolve2d([[1, 2], [3, 4]], [[1, 1]], "same", "wrap")
    array([[3, 3],
           [7, 7]])
    """
    return _convolve2d(in1, in2, mode, boundary, fillvalue, "convolve2d")


@takes_arrays
def correlate2d(
    in1: Array, in2: Array, mode: str = "full", boundary: str = "fill", fillvalue: Any = 0
) -> Array:
    """As `scipy.signal.correlate2d`: convolve2d with in2 reversed and conjugated."""
    return _convolve2d(in1, in2, mode, boundary, fillvalue, "correlate2d")


def _transformed(x: Dense, w: Dense, mode: str, axes: list[int], centred: list[int]) -> Dense:
    """By Fourier transforms; "same" has x's size along `centred`."""
    axes = [axis for axis in axes if 1 not in (x.shape[axis], w.shape[axis])]
    swaps = all(w.shape[axis] >= x.shape[axis] for axis in axes)
    y = _fft.convolve(*((w, x) if swaps else (x, w)), axes) if axes else x * w
    index = [slice(None)] * x.ndim
    for axis in centred if mode == "same" else axes if mode == "valid" else []:
        size = x.shape[axis] - (w.shape[axis] - 1 if mode == "valid" else 0)
        start = (y.shape[axis] - size) // 2
        index[axis] = slice(start, start + size)
    return y[tuple(index)]


def _by_transform(in1: Any, in2: Any, mode: Any, axes: Any, name: str) -> Any:
    x, w = np.asarray(in1), np.asarray(in2)
    if x.ndim == w.ndim == 0:
        return x[()] * w[()]
    if _passes_on(x, w):
        return scipy_function("signal", name)(x, w, mode, axes)
    if x.ndim == w.ndim and (x.size == 0 or w.size == 0):
        return np.array([])
    along = [a for a in _check_axes(x, w, axes) if 1 not in (x.shape[a], w.shape[a])]
    if _swapped(x, w, mode, along):
        x, w = w, x
    _check_mode(mode)
    y = _transformed(x, w, mode, along, list(range(x.ndim)))
    return np.ascontiguousarray(y) if y.base is not None else y


@takes_arrays
def fftconvolve(in1: Array, in2: Array, mode: str = "full", axes: Any = None) -> Array:
    """As `scipy.signal.fftconvolve`: convolution by Fourier transforms, in blocks where that pays.

    >>> from pyconv import signal
    >>> signal.fftconvolve([1.0, 2.0, 3.0], [0.0, 1.0, 0.5]).round(12) + 0.0
    array([0. , 1. , 2.5, 4. , 1.5])
    """
    return _by_transform(in1, in2, mode, axes, "fftconvolve")


@takes_arrays
def oaconvolve(in1: Array, in2: Array, mode: str = "full", axes: Any = None) -> Array:
    """As `scipy.signal.oaconvolve`; the same as `fftconvolve`, which chooses its blocks itself."""
    return _by_transform(in1, in2, mode, axes, "oaconvolve")


# Of float32, by axes: up to so many taps along each, the convolution's own transforms of tiles in a
# cache are faster than SciPy's of the whole. 2049 of 2^20 samples 1.5 ms against 4.1, 33x33 of
# 1024x1024 2.8 against 14.6, but 49x49 10.1 against 7.8; 9x9x9 of 64x128x128 8 against 59, 15x15x15
# 14 against 12 (two cores of a Sapphire Rapids).
_TILED_TAPS = {1: 1 << 20, 2: 41, 3: 11}


def _tiles(x: Dense, w: Dense, axes: list[int]) -> bool:
    """Whether the direct method transforms tiles, and is the faster for it."""
    if x.dtype != np.float32 or w.dtype != np.float32 or len(axes) != x.ndim or x.ndim > 3:
        return False
    if w.size > x.size:
        x, w = w, x
    if max(w.shape) > min(_TILED_TAPS[x.ndim], *x.shape):
        return False
    padding = [size - 1 for size in w.shape]
    return plan_conv((1, 1, *x.shape), (1, 1, *w.shape), padding=padding).algorithm == "fft"


def _choose(x: Dense, w: Dense, mode: str, axes: list[int]) -> str:
    if (x.dtype.kind == w.dtype.kind == "b") or _tiles(x, w, axes):
        return "direct"
    if x.dtype.kind in "iu" or w.dtype.kind in "iu":  # transforms of integers must be rounded
        bound = magnitude(x) * magnitude(w) * min(x.size, w.size)
        if bound > 2**52 - 1:
            return "direct"
    size = [x.shape[a] + w.shape[a] - 1 for a in axes]
    lanes = prod(max(x.shape[a], w.shape[a]) for a in range(x.ndim) if a not in axes)
    taps = prod(min(x.shape[a], w.shape[a]) for a in axes)
    outputs = prod(x.shape[a] for a in axes) if mode == "same" else prod(size)
    if mode == "valid":
        outputs = prod(abs(x.shape[a] - w.shape[a]) + 1 for a in axes)
    parts = (1 + (x.dtype.kind == "c")) * (1 + (w.dtype.kind == "c"))
    direct = lanes * taps * outputs * parts
    fft = lanes * _fft.cost([x.shape[a] for a in axes], [w.shape[a] for a in axes])
    return "fft" if fft < direct else "direct"


@takes_arrays
def choose_conv_method(
    in1: Array, in2: Array, mode: str = "full", measure: bool = False
) -> str | tuple[str, dict[str, float]]:
    """As `scipy.signal.choose_conv_method`: "direct" or "fft", for `convolve` as it is here.

    >>> import numpy as np
    >>> from pyconv import signal
    >>> signal.choose_conv_method(np.ones(100), np.ones(3))
    'direct'
    """
    x, w = np.asarray(in1), np.asarray(in2)
    if measure:
        times = {}
        for method in ("fft", "direct"):
            timer = timeit.Timer(partial(convolve, x, w, mode, method))
            count, seconds = timer.autorange()
            times[method] = min(seconds / count, *timer.repeat(2, count))
        return min(times, key=lambda method: times[method]), times
    if _passes_on(x, w):
        return "direct"
    _check_mode(mode)
    return _choose(x, w, mode, list(range(x.ndim)))

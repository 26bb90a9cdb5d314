"""What `pyconv.ndimage` and `pyconv.signal` share: correlation of NumPy arrays of any numeric dtype
along any of their axes, by the kernels that know float32, float64 and three spatial axes.

A number is a vector of parts, and a product of numbers a small matrix over the channels of one
convolution: complex numbers are two parts, 64-bit integers four limbs of 16 bits.
"""

import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import cache, wraps
from typing import Any, ParamSpec, TypeVar, cast

import numpy as np

from . import convolution
from ._arrays import Dense, exporter, host_view
from ._config import config

P = ParamSpec("P")
R = TypeVar("R")
Pairs = Sequence[tuple[int, int]]

_CONV = {1: convolution.conv1d, 2: convolution.conv2d, 3: convolution.conv3d}
NATIVE = frozenset("?bBhHiIlLqQfdFD")  # dtypes served; the others are SciPy's
# Of ours, NumPy's name for padding by it; only these repeat where a pad exceeds the array.
_NUMPY_PAD = {
    "zeros": "constant",
    "symmetric": "symmetric",
    "reflect": "reflect",
    "replicate": "edge",
    "circular": "wrap",
}


@cache
def scipy_function(module: str, name: str) -> Callable[..., Any]:
    """SciPy's own, for what is passed on to it; ImportError with the line that installs it."""
    try:
        return cast("Callable[..., Any]", getattr(importlib.import_module(f"scipy.{module}"), name))
    except ImportError as error:
        raise ImportError(
            f"{name}: these arguments are passed on to SciPy; pip install 'pyconv-engine[scipy]'"
        ) from error


def takes_arrays(function: Callable[P, R]) -> Callable[P, R]:
    """Let `function`, written for NumPy, take any DLPack array and answer in the same kind."""
    op = function.__name__

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        def foreign(value: Any) -> bool:
            return not isinstance(value, np.ndarray | type) and hasattr(value, "__dlpack__")

        if not any(map(foreign, args)) and not any(map(foreign, kwargs.values())):
            return function(*args, **kwargs)
        views: list[tuple[Any, Dense]] = []

        def taken(name: str, value: Any) -> Any:
            if not foreign(value):
                return value
            views.append((value, host_view(op, name, value)))
            return views[-1][1]

        names = function.__code__.co_varnames
        host_args = [taken(name, value) for name, value in zip(names, args)]
        host_kwargs = {name: taken(name, value) for name, value in kwargs.items()}
        result: Any = cast("Callable[..., Any]", function)(*host_args, **host_kwargs)
        for value, view in views:
            if result is view:  # the caller's own `output`
                return cast("R", value)
        if not isinstance(result, np.ndarray):
            return cast("R", result)
        return cast("R", exporter(op, names[0], views[0][0])(result))

    return call


def pad(x: Dense, axes: Sequence[int], pairs: Pairs, border: str, fill: Any = 0) -> Dense:
    """`x` with so many elements before and after it along `axes`."""
    width = [(0, 0)] * x.ndim
    for axis, pair in zip(axes, pairs):
        width[axis] = pair
    mode: Any = _NUMPY_PAD[border]
    return np.pad(x, width, mode, **({"constant_values": fill} if border == "zeros" else {}))


def fold(x: Dense, axes: Sequence[int]) -> tuple[Dense, list[int]]:
    """`x`, without a copy if it is contiguous, as (N, *spatial) of few spatial axes; which of them
    (counted from 0) are `axes`, in their order, while neighbours of the others are one.
    """
    shape: list[int] = []
    place: dict[int, int] = {}
    joins = False
    for axis, size in enumerate(x.shape):
        if axis in axes:
            place[axis] = len(shape)
            shape.append(size)
        elif joins:
            shape[-1] *= size
        else:
            shape.append(size)
        joins = axis not in axes
    # A leading axis that is not filtered is the batch; beside one alone it is spatial, since many
    # short lines make better tiles as one image than as a batch.
    batch = len(shape) > 2 and 0 not in place.values()
    folded = x.reshape(shape if batch else [1, *shape])
    return folded, [place[axis] - batch for axis in axes]


# Elements of a block of lines that are converted, filtered and rounded together: they stay in a
# cache, and its little memory is used again, where fresh pages for copies of the whole image cost
# more than the filter.
_BLOCK = 1 << 17


def correlate(
    x: Dense,
    w: Dense,
    axes: Sequence[int],
    pairs: Pairs,
    border: str,
    fill: Any,
    sums: Any,
    result: np.dtype[Any],
    finish: Callable[[Dense], Dense] | None,
) -> Dense:
    """Valid correlation along `axes` of `x`, padded there by `pairs`, with `w`, one axis each.

    The sums are those `grouped` makes of x, of dtype `sums` (None: as it is); what `finish` (None:
    nothing) makes of them goes to the result, of dtype `result`.
    """
    order = sorted(range(w.ndim), key=lambda i: axes[i] % x.ndim)
    idle = [w.shape[i] == 1 and pairs[i] == (0, 0) for i in range(w.ndim)]
    kept = [i for i in order if not idle[i]] or order[:1]  # nothing happens along the others
    w = w.transpose(order).reshape([w.shape[i] for i in kept])
    axes, pairs = [axes[i] % x.ndim for i in kept], [pairs[i] for i in kept]
    shape = list(x.shape)
    for axis, pair, size in zip(axes, pairs, w.shape):
        shape[axis] += sum(pair) - size + 1
    if 0 in x.shape or 0 in shape:
        return np.zeros(shape, result)
    folded, place = fold(x, axes)
    if folded.ndim > 4:
        y = _first_axis_by_taps(x if sums is None else x.astype(sums), w, axes, pairs, border, fill)
        return (y if finish is None else finish(y)).astype(result, copy=False)
    kernel, padding = [1] * (folded.ndim - 1), [(0, 0)] * (folded.ndim - 1)
    for at, size, pair in zip(place, w.shape, pairs):
        kernel[at], padding[at] = size, pair
    w = w.reshape(1, 1, *kernel)
    as_is = finish is None and x.dtype == sums == result
    if (as_is or folded.size <= _BLOCK) and _fits(folded, padding, border, fill):
        whole = folded if as_is or sums is None else folded.astype(sums)
        y = grouped(whole[:, None], w, padding, border).reshape(shape)
        return y.astype(result, copy=False) if finish is None else finish(y)
    y = np.empty(shape, result)
    into = fold(y, axes)[0]
    rows = pad(np.arange(folded.shape[1]), [0], padding[:1], border, -1)
    given = _fits(folded, padding, border, fill)
    around = [(0, 0), *(padding[1:] if given else [(0, 0)] * (folded.ndim - 2))]
    across = range(2, folded.ndim)
    for images, lines in _blocks(into):
        block = _take(folded[images], rows[lines.start : lines.stop + kernel[0] - 1], sums, fill)
        if not given:
            block = pad(block, across, padding[1:], border, fill)
        part = grouped(block[:, None], w, around, border)[:, 0, 0]
        into[images, lines] = part if finish is None else finish(part)
    return y


def _fits(folded: Dense, padding: Pairs, border: str, fill: Any) -> bool:
    """Whether the kernels fill such borders: zeros, or one turn or reflection."""
    most = {"symmetric": 0, "circular": 0, "reflect": 1}.get(border)
    if most is None:
        return border != "zeros" or fill == 0
    return all(max(pair) <= size - most for pair, size in zip(padding, folded.shape[1:]))


def _blocks(y: Dense) -> Iterator[tuple[slice, slice]]:
    """Images of `y`, or lines of each, about _BLOCK elements of them."""
    count, lines = y.shape[:2]
    line = max(1, y[0, 0].size)
    images = max(1, _BLOCK // (lines * line))
    step = lines if images > 1 else max(1, _BLOCK // line)
    for n in range(0, count, images):
        for start in range(0, lines, step):
            yield slice(n, n + images), slice(start, min(start + step, lines))


def _take(images: Dense, rows: Dense, sums: Any, fill: Any) -> Dense:
    """These rows of each image (-1: one of `fill`) in dtype `sums`."""
    dtype = images.dtype if sums is None else sums
    first, last = int(rows[0]), int(rows[-1])
    if first >= 0 and (np.diff(rows) == 1).all():
        return images[:, first : last + 1].astype(dtype, copy=False)
    block = images.take(rows, axis=1).astype(dtype, copy=False)
    if first < 0 or last < 0:
        block[:, rows < 0] = fill
    return block


def _first_axis_by_taps(
    x: Dense, w: Dense, axes: list[int], pairs: Pairs, border: str, fill: Any
) -> Dense:
    """More axes than a convolution has: the sum over the taps of the first."""
    x = pad(x, axes[:1], pairs[:1], border, fill)
    count = x.shape[axes[0]] - len(w) + 1
    total: Any = None
    for tap, part in enumerate(w):
        window = x[(slice(None),) * axes[0] + (slice(tap, tap + count),)]
        kind = np.result_type(x, w)
        y = correlate(window, part, axes[1:], pairs[1:], border, fill, None, kind, None)
        total = y if total is None else np.add(total, y, out=total)
    return cast("Dense", total)


def grouped(x: Dense, w: Dense, padding: Pairs, border: str = "zeros") -> Dense:
    """x (N, G, *spatial) by the filters w (G, K, *kernel) of each group -> (N, G, K, *out)."""
    conv = _CONV[x.ndim - 2]
    padding = tuple(padding)  # which the kept plans take as it is
    split, matrix, join = _arithmetic(x, w)
    groups, filters = w.shape[:2]
    parts = split(x)  # (N, G, parts, *spatial)
    rows = matrix(w)  # (G, K, parts out, parts in, *kernel)
    outs, ins = rows.shape[2:4]
    exact = np.result_type(x, w).kind in "biu"  # no sums of rounded transforms
    with config(precision="strict") if exact else nullcontext():
        y = conv(
            parts.reshape(len(x), groups * ins, *x.shape[2:]),
            rows.reshape(groups * filters * outs, ins, *w.shape[2:]),
            groups=groups,
            padding=padding,
            padding_mode=border,
        )
    return join(y.reshape(len(x), groups, filters, outs, *y.shape[2:]))


Split = Callable[[Dense], Dense]


def _arithmetic(x: Dense, w: Dense) -> tuple[Split, Split, Split]:
    """How these numbers become parts, a filter a matrix over them, and sums numbers again."""
    kind = np.result_type(x, w)
    if kind.kind == "f":

        def one(values: Dense) -> Dense:
            return values.astype(kind, copy=False)[:, :, None]

        return one, lambda w: one(w)[:, :, None], lambda y: y[:, :, :, 0]
    if kind.kind == "c":
        real = np.dtype(f"f{kind.itemsize // 2}")
        return _complex(x.dtype.kind == "c", w.dtype.kind == "c", kind, real)
    return _limbs(x, w)


def _complex(
    complex_x: bool, complex_w: bool, kind: np.dtype[Any], real: np.dtype[Any]
) -> tuple[Split, Split, Split]:
    def split(x: Dense) -> Dense:
        return np.stack([x.real, x.imag] if complex_x else [x], 2).astype(real, copy=False)

    def matrix(w: Dense) -> Dense:
        re, im = w.real.astype(real, copy=False), w.imag.astype(real, copy=False)
        rows = [[re, -im], [im, re]] if complex_x else [[re], [im]]
        return np.stack([np.stack(row, 2) for row in rows], 2)

    def join(y: Dense) -> Dense:
        result = np.empty(y.shape[:3] + y.shape[4:], kind)
        result.real, result.imag = y[:, :, :, 0], y[:, :, :, 1]
        return result

    return split, matrix, join


def _limbs(x: Dense, w: Dense) -> tuple[Split, Split, Split]:
    """Exact sums of products of integers, modulo 2^64: one float64 part while all sums stay below
    2^53 (2^24 for one float32 part), else limbs of 16 bits, whose sums do for 2^19 taps.
    """
    taps = w[0, 0].size
    bound = magnitude(x) * magnitude(w) * taps
    if bound < 2**53:
        short = bound < 2**24
        real, whole = (np.float32, np.int32) if short else (np.float64, np.int64)

        def one(values: Dense) -> Dense:
            return values.astype(real)[:, :, None]

        def join(y: Dense) -> Dense:
            return y[:, :, :, 0].astype(whole)

        return one, lambda w: one(w)[:, :, None], join
    if taps >= 2**19:
        raise ValueError(f"exact sums of {taps} products of such large integers are not supported")
    shifts = np.arange(0, 64, 16, dtype=np.uint64)

    def split(x: Dense) -> Dense:
        bits = x.astype(np.uint64)
        return np.stack([(bits >> s & 0xFFFF).astype(np.float64) for s in shifts], 2)

    def matrix(w: Dense) -> Dense:
        limbs = split(w)
        none = np.zeros_like(limbs[:, :, 0])
        rows = [[limbs[:, :, o - i] if o >= i else none for i in range(4)] for o in range(4)]
        return np.stack([np.stack(row, 2) for row in rows], 2)

    def join_limbs(y: Dense) -> Dense:
        total = y[:, :, :, 0].astype(np.uint64)
        for i in (1, 2, 3):
            total += y[:, :, :, i].astype(np.uint64) << shifts[i]
        return total

    return split, matrix, join_limbs


def magnitude(x: Dense) -> int:
    """The largest |x|, or for short integers what their type allows."""
    if x.dtype.kind == "b" or x.size == 0:
        return 1
    if x.dtype.itemsize <= 2:
        return int(np.iinfo(x.dtype).max) + 1
    return max(abs(int(x.min())), abs(int(x.max())))

"""What the arguments of SciPy's filters mean, and the one filter that the others are."""

import operator
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from .._arrays import Dense
from .._filtering import NATIVE, correlate, magnitude

_BORDERS = {
    "reflect": "symmetric",
    "grid-mirror": "symmetric",
    "mirror": "reflect",
    "nearest": "replicate",
    "wrap": "circular",
    "grid-wrap": "circular",
    "constant": "zeros",
    "grid-constant": "zeros",
}


def border_of(mode: Any) -> str:
    if not isinstance(mode, str) and np.iterable(mode):
        raise RuntimeError("A sequence of modes is not supported")
    if mode not in _BORDERS:
        raise RuntimeError("boundary mode not supported")
    return _BORDERS[mode]


def each(value: Any, count: int) -> list[Any]:
    """One value for each axis."""
    if isinstance(value, str) or not np.iterable(value):
        return [value] * count
    values = list(value)
    if len(values) != count:
        raise RuntimeError("sequence argument must have length equal to input rank")
    return values


def check_axes(axes: Any, rank: int) -> tuple[int, ...]:
    if axes is None:
        return tuple(range(rank))
    if not np.isscalar(axes) and not np.iterable(axes):
        raise ValueError("axes must be an integer, iterable of integers, or None")
    given = [operator.index(axis) for axis in (axes if np.iterable(axes) else [axes])]
    for axis in given:
        if not -rank <= axis < rank:
            raise ValueError(f"specified axis: {axis} is out of range")
    found = tuple(axis % rank for axis in given)
    if len(set(found)) != len(found):
        raise ValueError("axes must be unique")
    return found


def check_axis(axis: Any, rank: int) -> int:
    index = operator.index(axis)
    if not -rank <= index < rank:
        raise np.exceptions.AxisError(index, rank)
    return index % rank


def check_origin(origin: Any, size: int, message: str) -> int:
    """Elements of a window before the one it belongs to."""
    before = size // 2 + operator.index(origin)
    if not 0 <= before < size:
        raise ValueError(message)
    return before


def output_dtype(output: Any, x: Dense, is_complex: bool) -> np.dtype[Any]:
    """The dtype of the result that `output`, None, a dtype or an array, asks for."""
    if output is None:
        kind = x.dtype.newbyteorder("=")
        return np.promote_types(kind, np.complex64) if is_complex else kind
    if isinstance(output, type | np.dtype):
        kind = np.dtype(output)
        if is_complex and kind.kind != "c":
            warnings.warn("promoting specified output dtype to complex", stacklevel=4)
            kind = np.promote_types(kind, np.complex64)
        return kind
    if isinstance(output, str):
        kind = np.dtype(output)
        if not is_complex and not issubclass(kind.type, np.number):
            raise RuntimeError("output must have numeric dtype")
    else:
        kind = np.asarray(output).dtype
        if np.shape(output) != x.shape:
            raise RuntimeError("output shape not correct")
    if is_complex and kind.kind != "c":
        raise RuntimeError("output must have complex dtype")
    return kind


def answer(result: Dense, output: Any) -> Any:
    """`result`, written to `output` if that is an array."""
    if output is None or isinstance(output, type | np.dtype | str):
        return result
    view = np.asarray(output)
    view[...] = result
    return view


def cast(y: Dense, dtype: np.dtype[Any]) -> Dense:
    """As C converts: toward zero, and short integers modulo their size."""
    if y.dtype.kind == "f" and dtype.kind in "iu" and dtype.itemsize < 8:
        y = y.astype(np.int64)
    elif y.dtype.kind == "f" and dtype == np.uint64:
        return np.where(y > -1, abs(y).astype(np.uint64), -abs(y).astype(np.uint64))
    elif y.dtype.kind != "b" and dtype.kind == "b":
        y = y.astype(np.int64)
    return y.astype(dtype, copy=False)


def filtered(
    x: Dense,
    w: Dense,
    axes: Sequence[int],
    before: Sequence[int],
    mode: Any,
    cval: Any,
    dtype: np.dtype[Any],
    divisor: int = 1,
) -> Dense:
    """Correlation with `w` along `axes`; each result belongs to the element `before` its window."""
    border = border_of(mode)
    pairs = [(b, size - 1 - b) for b, size in zip(before, w.shape)]
    sums: Any = None
    if _is_whole(x, w) and cval == 0:
        w = w.astype(np.int64)
    else:
        sums = np.result_type(x, np.float64)
        w = w.astype(np.result_type(w, np.float64), copy=False)
    same = sums is not None and np.result_type(w, sums) == dtype and divisor == 1

    def finish(y: Dense) -> Dense:
        if divisor != 1:
            y = np.divide(y, divisor, out=y if sums is not None else None)
        return cast(y, dtype)

    return correlate(x, w, axes, pairs, border, cval, sums, dtype, None if same else finish)


def _is_whole(x: Dense, w: Dense) -> bool:
    """Whether all sums are integers that float64 holds."""
    if x.dtype.kind not in "biu" or w.dtype.kind == "c" or not (w == np.rint(w)).all():
        return False
    return bool(abs(w).sum() * magnitude(x) < 2**53)


def passes_on(*arrays: Dense) -> bool:
    return any(array.dtype.char not in NATIVE for array in arrays)

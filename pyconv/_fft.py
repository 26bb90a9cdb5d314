"""Convolution by Fourier transforms: SciPy's, with threads, or NumPy's where that is not there."""

from collections.abc import Sequence
from functools import cache
from importlib import import_module
from math import log2
from typing import Any

import numpy as np

from ._arrays import Dense
from ._config import get_num_threads


@cache
def _module() -> Any:
    try:
        return import_module("scipy.fft")
    except ImportError:
        return np.fft


def next_fast(size: int) -> int:
    """The next product of 2, 3 and 5."""
    best = 1 << (size - 1).bit_length()
    five = 1
    while five < best:
        three = five
        while three < best:
            quotient = -(-size // three)
            best = min(best, three << (quotient - 1).bit_length())
            three *= 3
        five *= 5
    return best


@cache
def block_length(size: int, taps: int) -> int:
    """Of the transforms along an axis: of the whole output, or of blocks that overlap by the taps,
    whichever has fewer operations for an output.
    """
    whole = next_fast(size + taps - 1)
    lengths = [whole]
    length = next_fast(2 * taps)
    while length < whole // 2:
        lengths.append(length)
        length = next_fast(length * 3 // 2)

    def work(length: int) -> float:
        blocks = 1 if length == whole else -(-(size + taps - 1) // (length - taps + 1))
        return blocks * length * log2(length)

    return min(lengths, key=work)


# Products that the direct kernels sum in the time that a transform takes for an element and power
# of two. On 2 cores of a Sapphire Rapids 0.06 to 0.1 ns in float64, against 0.4 to 0.9 ns; in
# float32 0.03 to 0.06 against 0.25 to 0.5.
_PRODUCTS = 7.0


def cost(x: Sequence[int], w: Sequence[int]) -> float:
    """Of a convolution of these sizes, in products of a direct one."""
    total, length = 1.0, 1.0
    for n, k in zip(x, w):
        n, k = max(n, k), min(n, k)
        block = block_length(n, k)
        total *= block * (-(-(n + k - 1) // max(1, block - k + 1)) if block < n + k - 1 else 1)
        length *= block
    return 3 * total * max(1.0, log2(length)) * _PRODUCTS


def convolve(x: Dense, w: Dense, axes: Sequence[int]) -> Dense:
    """The full convolution along `axes` of x and the shorter w; the other axes are broadcast."""
    x, w = (a.astype(np.float64) if a.dtype.kind in "biu" else a for a in (x, w))
    kind = np.result_type(x, w)
    is_complex = kind.kind == "c"
    sizes = [x.shape[a] + w.shape[a] - 1 for a in axes]
    lengths = [block_length(max(x.shape[a], w.shape[a]), min(x.shape[a], w.shape[a])) for a in axes]
    overlaps = [w.shape[a] - 1 for a in axes]
    whole = all(length >= size for length, size in zip(lengths, sizes))
    rank = x.ndim
    where: list[int] = list(axes)
    if not whole:
        # Overlap-save: blocks of x, each beginning with the elements before it that its first
        # outputs need, as views; they become new axes at the end.
        steps = [length - over for length, over in zip(lengths, overlaps)]
        counts = [-(-size // step) for size, step in zip(sizes, steps)]
        width = [(0, 0)] * rank
        for a, over, step, count in zip(axes, overlaps, steps, counts):
            width[a] = (over, count * step - x.shape[a])
        x = np.lib.stride_tricks.sliding_window_view(np.pad(x, width), lengths, tuple(axes))
        index = [slice(None)] * x.ndim
        for a, step in zip(axes, steps):
            index[a] = slice(None, None, step)
        x = x[tuple(index)]
        where = list(range(rank, x.ndim))
        w = w.reshape(*w.shape, *[1] * len(axes))
        for a, at in zip(axes, where):
            w = w.swapaxes(a, at)
    forward, inverse = _transforms(is_complex)
    y = inverse(forward(x, lengths, where) * forward(w, lengths, where), lengths, where)
    y = y.astype(kind, copy=False)
    if whole:
        index = [slice(None)] * rank
        for a, size in zip(axes, sizes):
            index[a] = slice(size)
        return np.asarray(y[tuple(index)])
    index = [slice(None)] * rank + [slice(over, None) for over in overlaps]
    y = y[tuple(index)]
    order: list[int] = []
    for i in range(rank):
        order += [i, rank + list(axes).index(i)] if i in axes else [i]
    shape = [
        n * steps[list(axes).index(i)] if i in axes else n for i, n in enumerate(y.shape[:rank])
    ]
    y = y.transpose(order).reshape(shape)
    final = tuple(slice(sizes[list(axes).index(i)] if i in axes else None) for i in range(rank))
    return np.asarray(y[final])


def _transforms(is_complex: bool) -> tuple[Any, Any]:
    fft = _module()
    forward, inverse = (fft.fftn, fft.ifftn) if is_complex else (fft.rfftn, fft.irfftn)
    options = {} if fft is np.fft else {"workers": max(1, get_num_threads())}

    def call(transform: Any) -> Any:
        return lambda x, lengths, axes: transform(x, lengths, axes=axes, **options)

    return call(forward), call(inverse)

"""Types, and the arithmetic of sizes and paddings."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

Array = np.ndarray[Any, Any]
Size = Sequence[int]
Ints = int | Sequence[int]
Pairs = list[tuple[int, int]]
Padding = Ints | Sequence[Sequence[int]] | str
PadMode = Literal["constant", "reflect", "edge", "wrap", "symmetric"]

PAD_MODE: dict[str, PadMode] = {
    "zeros": "constant",
    "reflect": "reflect",
    "replicate": "edge",
    "circular": "wrap",
    "symmetric": "symmetric",
}


def per_axis(value: Ints, axes: int) -> list[int]:
    return [value] * axes if isinstance(value, int) else list(value)


def extents(kernel: Size, dilation: Ints) -> list[int]:
    return [(k - 1) * d + 1 for k, d in zip(kernel, per_axis(dilation, len(kernel)))]


def pad_pairs(padding: Padding, size: Size, extent: Size, stride: Ints) -> Pairs:
    """(before, after) of each axis."""
    if padding == "valid":
        return [(0, 0)] * len(size)
    if padding == "full":
        return [(e - 1, e - 1) for e in extent]
    if isinstance(padding, str):  # same: output = ceil(size / stride)
        rows = zip(size, extent, per_axis(stride, len(size)))
        totals = [max((-(-i // s) - 1) * s + e - i, 0) for i, e, s in rows]
        pairs = [(t // 2, t - t // 2) for t in totals]
        return pairs if padding == "same" else [(after, before) for before, after in pairs]
    if isinstance(padding, int):
        return [(padding, padding)] * len(size)
    return [(p, p) if isinstance(p, int) else (p[0], p[1]) for p in padding]


def conv_size(
    size: Size, kernel: Size, stride: Ints, padding: Padding, dilation: Ints
) -> tuple[list[int], Pairs]:
    """Output size floor((size + before + after - extent) / stride) + 1, and the padding."""
    extent, steps = extents(kernel, dilation), per_axis(stride, len(size))
    pairs = pad_pairs(padding, size, extent, steps)
    return [(i + sum(p) - e) // s + 1 for i, p, e, s in zip(size, pairs, extent, steps)], pairs

"""Operators that move, select and repeat values without changing them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from pyconv._arrays import Array
from pyconv.onnx._table import operator

Axes = Sequence[int]


def normal_axes(axes: Any, rank: int) -> tuple[int, ...]:
    """Axes counted from 0; ValueError outside the rank and for one named twice."""
    found = []
    for axis in np.asarray(axes).ravel().tolist():
        if not -rank <= axis < rank:
            raise ValueError(f"axis {axis} does not exist in {rank} axes")
        found.append(axis % rank)
    if len(set(found)) < len(found):
        raise ValueError(f"axes {found} name one twice")
    return tuple(found)


def _numbers(values: Any) -> list[int]:
    return [int(v) for v in np.asarray(values).ravel().tolist()]


@operator("Reshape")
def reshape(x: Array, shape: Array, allowzero: int = 0) -> Array:
    wanted = _numbers(shape)
    if not allowzero:
        if any(size == 0 and axis >= x.ndim for axis, size in enumerate(wanted)):
            raise ValueError(f"shape {wanted} copies an axis that {x.shape} does not have")
        wanted = [x.shape[axis] if size == 0 else size for axis, size in enumerate(wanted)]
    if min(wanted, default=0) < -1:
        raise ValueError(f"shape {wanted} has a negative size")
    return x.reshape(wanted)


@operator("Flatten")
def flatten(x: Array, axis: int) -> Array:
    if not -x.ndim <= axis <= x.ndim:
        raise ValueError(f"axis {axis} does not exist in {x.ndim} axes")
    axis += x.ndim if axis < 0 else 0
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


@operator("Squeeze")
def squeeze(x: Array, axes: Any = None) -> Array:
    return x.squeeze(None if axes is None else normal_axes(axes, x.ndim))


@operator("Unsqueeze")
def unsqueeze(x: Array, axes: Any) -> Array:
    return np.expand_dims(x, normal_axes(axes, x.ndim + np.asarray(axes).size))


@operator("Transpose")
def transpose(x: Array, perm: Axes | None = None) -> Array:
    return x.transpose(perm)


@operator("Concat")
def concat(*xs: Array, axis: int) -> Array:
    return np.concatenate(xs, axis)


@operator("Split")
def split(x: Array, split: Any = None, axis: int = 0, num_outputs: int | None = None,
          outputs: int = 1) -> tuple[Array, ...]:  # fmt: skip
    """Without sizes into equal parts, of which only num_outputs allows a smaller last one."""
    [axis] = normal_axes(axis, x.ndim)
    size = x.shape[axis]
    if split is None:
        if size % outputs and num_outputs is None:
            raise ValueError(f"{size} along axis {axis} do not split into {outputs} equal parts")
        each = -(-size // outputs)
        edges = [min(each * i, size) for i in range(outputs + 1)]
    else:
        sizes = _numbers(split)
        if len(sizes) != outputs or min(sizes) < 0 or sum(sizes) != size:
            raise ValueError(f"split {sizes} must be {outputs} sizes with the sum {size}")
        edges = np.cumsum([0, *sizes]).tolist()
    before = (slice(None),) * axis
    return tuple(x[(*before, slice(a, b))] for a, b in pairwise(edges))


@operator("Slice")
def slice_between(x: Array, starts: Axes, ends: Axes, axes: Axes | None = None) -> Array:
    return sliced(x, starts, ends, axes)


@operator("Slice", since=10)
def sliced(x: Array, starts: Any, ends: Any, axes: Any = None, steps: Any = None) -> Array:
    first, last = _numbers(starts), _numbers(ends)
    at = normal_axes(range(len(first)) if axes is None else axes, x.ndim)
    by = [1] * len(first) if steps is None else _numbers(steps)
    if not len(first) == len(last) == len(at) == len(by):
        raise ValueError(f"starts {first}, ends {last}, axes {at}, steps {by} differ in length")
    index = [slice(None)] * x.ndim
    for axis, start, end, step in zip(at, first, last, by):
        index[axis] = slice(start, end, step)
    return x[tuple(index)]


@operator("Gather")
def gather(x: Array, indices: Array, axis: int) -> Array:
    return np.take(x, indices, axis)


@operator("Shape")
def shape(x: Array, start: int = 0, end: int | None = None) -> Array:
    return np.array(x.shape[start:end], np.int64)


@operator("Size")
def size(x: Array) -> Array:
    return np.array(x.size, np.int64)


@operator("ConstantOfShape")
def constant_of_shape(shape: Array, value: Array | None = None) -> Array:
    fill = np.zeros(1, np.float32) if value is None else value
    if fill.size != 1:
        raise ValueError(f"value must have one element, got {fill.size}")
    return np.full(_numbers(shape), fill.reshape(()))


@operator("Expand")
def expand(x: Array, shape: Array) -> Array:
    return np.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(_numbers(shape))))


@operator("Tile")
def tile(x: Array, repeats: Array) -> Array:
    return np.tile(x, _numbers(repeats))


@operator("Range")
def ranged(start: Array, limit: Array, delta: Array, stash_type: int = 1) -> Array:
    count = max(math.ceil((limit.item() - start.item()) / delta.item()), 0)
    return start + np.arange(count).astype(start.dtype) * delta


_PAD_MODES = ("constant", "reflect", "edge", "wrap")


@operator("Pad")
def pad_by(x: Array, pads: Axes, mode: str, value: float) -> Array:
    return pad(x, pads, np.array(value, x.dtype), mode=mode)


@operator("Pad", since=11)
def pad(x: Array, pads: Any, value: Array | None = None, axes: Any = None,
        mode: str = "constant") -> Array:  # fmt: skip
    """Negative pads remove; they do so first, as there is nothing else to repeat."""
    if mode not in _PAD_MODES:
        raise ValueError(f"mode {mode!r} is none of {', '.join(_PAD_MODES)}")
    at = normal_axes(range(x.ndim) if axes is None else axes, x.ndim)
    numbers = _numbers(pads)
    if len(numbers) != 2 * len(at):
        raise ValueError(f"pads {numbers} must be two numbers for each of {len(at)} axes")
    widths = [(0, 0)] * x.ndim
    index = [slice(None)] * x.ndim
    for i, axis in enumerate(at):
        before, after = numbers[i], numbers[len(at) + i]
        keep = x.shape[axis] + min(before, 0) + min(after, 0)
        if keep < 0:
            raise ValueError(f"pads {numbers} remove more than there is of {x.shape}")
        index[axis] = slice(max(-before, 0), max(-before, 0) + keep)
        widths[axis] = max(before, 0), max(after, 0)
    options: Any = {"mode": mode}
    if mode == "constant":
        options["constant_values"] = 0 if value is None else value.reshape(())
    return np.pad(x[tuple(index)], widths, **options)

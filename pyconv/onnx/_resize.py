"""Resize and Upsample: along each axis every output is a weighted sum of a few inputs, its taps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from pyconv._arrays import Array
from pyconv.onnx._shapes import normal_axes
from pyconv.onnx._table import operator

_NEAREST: dict[str, Callable[[Array], Array]] = {
    "round_prefer_floor": lambda at: np.ceil(at - 0.5),
    "round_prefer_ceil": lambda at: np.floor(at + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}


class _Axis(NamedTuple):
    """What happens along one axis: size to out, by `scale`; roi is (start, end) of the input."""

    size: int
    out: int
    scale: float
    roi: tuple[float, float]

    def places(self, mode: str) -> Array:
        """The input coordinate of every output pixel."""
        y = np.arange(self.out, dtype=np.float64)
        n, length, (start, end) = self.size, self.out, self.roi
        if mode == "asymmetric":
            return y / self.scale
        if mode == "align_corners":
            exact = n * self.scale  # not rounded
            return y * (n - 1) / (exact - 1) if exact != 1 else y * 0
        if mode == "tf_crop_and_resize":
            if length > 1:
                return start * (n - 1) + y * (end - start) * (n - 1) / (length - 1)
            return y * 0 + 0.5 * (start + end) * (n - 1)
        if mode == "tf_half_pixel_for_nn":
            return (y + 0.5) / self.scale
        half = (y + 0.5) / self.scale - 0.5
        if mode == "half_pixel":
            return half
        if mode == "pytorch_half_pixel":
            return half if length > 1 else y * 0
        if mode == "half_pixel_symmetric":  # the rounding of the output size, on both sides alike
            return half + n / 2 * (1 - length / (n * self.scale))
        raise ValueError(f"coordinate_transformation_mode {mode!r} is unknown")


def _linear(distance: Array) -> Array:
    return np.maximum(1 - np.abs(distance), 0)


def _cubic(distance: Array, a: float) -> Array:
    d = np.abs(distance)
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0))


def _taps(axis: _Axis, at: Array, mode: str, nearest_mode: str, cubic: float, exclude: bool,
          antialias: bool) -> tuple[Array, Array]:  # fmt: skip
    """For each output pixel the inputs it reads (out, taps) and their weights."""
    if mode == "nearest":
        if nearest_mode not in _NEAREST:
            raise ValueError(f"nearest_mode {nearest_mode!r} is none of {', '.join(_NEAREST)}")
        index = _NEAREST[nearest_mode](at)[:, None]
        return index.clip(0, axis.size - 1).astype(np.int64), np.ones_like(index)
    reach, shrink = (1 if mode == "linear" else 2), 1.0
    if antialias and axis.scale < 1:  # the filter covers what one output pixel stands for
        shrink = axis.scale
    width = math.ceil(reach / shrink)
    index = np.floor(at)[:, None] + np.arange(1 - width, width + 1)
    distance = (index - at[:, None]) * shrink
    weights = _linear(distance) if mode == "linear" else _cubic(distance, cubic)
    if exclude:
        weights = np.where((index >= 0) & (index < axis.size), weights, 0)
    if exclude or shrink < 1:
        weights = weights / weights.sum(1, keepdims=True)
    return index.clip(0, axis.size - 1).astype(np.int64), weights


def _resize(x: Array, axes: dict[int, _Axis], mode: str, coordinates: str, nearest_mode: str,
            cubic: float = -0.75, exclude: bool = False, antialias: bool = False,
            extrapolation: float = 0.0) -> Array:  # fmt: skip
    if mode not in ("nearest", "linear", "cubic"):
        raise ValueError(f"mode {mode!r} is none of nearest, linear, cubic")
    y, outside = x, []
    for number, axis in axes.items():
        at = axis.places(coordinates)
        if coordinates == "tf_crop_and_resize":
            outside.append((number, (at < 0) | (at > axis.size - 1)))
        elif axis.out == axis.size and np.array_equal(at, np.arange(axis.out)):
            continue
        index, weights = _taps(axis, at, mode, nearest_mode, cubic, exclude, antialias)
        weights = weights.reshape(*weights.shape, *[1] * (y.ndim - 1 - number))
        if mode == "nearest":
            y = y.take(index[:, 0], number)
        else:
            kind = y.dtype.type if y.dtype.kind == "f" and y.itemsize > 2 else np.float32
            parts = (
                y.take(index[:, t], number) * weights[:, t].astype(kind)
                for t in range(index.shape[1])
            )
            total = next(parts)
            for part in parts:
                total = total + part
            y = total
    if y.dtype != x.dtype:
        y = (np.rint(y) if x.dtype.kind in "iu" else y).astype(x.dtype)
    for number, mask in outside:
        y = y.copy() if y is x else y
        y[(slice(None),) * number + (mask,)] = x.dtype.type(extrapolation)
    return y


def _by_scales(x: Array, scales: Sequence[float], at: Sequence[int], roi: Any) -> dict[int, _Axis]:
    if len(scales) != len(at) or not all(0 < s < math.inf for s in scales):
        raise ValueError(f"scales {list(scales)} must be a positive number for each axis of {at}")
    return {
        axis: _Axis(x.shape[axis], math.floor(x.shape[axis] * s), s, r)
        for axis, s, r in zip(at, scales, roi)
    }


@operator("Upsample")
def upsample(x: Array, scales: Any, mode: str) -> Array:
    each = np.asarray(scales, np.float64).ravel().tolist()
    axes = _by_scales(x, each, range(x.ndim), [(0.0, 1.0)] * x.ndim)
    return _resize(x, axes, mode, "asymmetric", "floor")


operator("Resize")(upsample)  # opset 10 only renamed it


@operator("Resize", since=11)
def resize(x: Array, roi: Array | None = None, scales: Array | None = None,
           sizes: Array | None = None, *, coordinate_transformation_mode: str, mode: str,
           nearest_mode: str, cubic_coeff_a: float, exclude_outside: int,
           extrapolation_value: float, antialias: int = 0, axes: Any = None,
           keep_aspect_ratio_policy: str = "stretch") -> Array:  # fmt: skip
    at = normal_axes(range(x.ndim) if axes is None else axes, x.ndim)
    scaled = scales is not None and scales.size > 0
    if scaled == (sizes is not None and sizes.size > 0):
        raise ValueError("takes either scales or sizes")
    bounds = [(0.0, 1.0)] * len(at)
    if coordinate_transformation_mode == "tf_crop_and_resize":
        if roi is None or roi.size != 2 * len(at):
            raise ValueError(f"tf_crop_and_resize needs a roi of {2 * len(at)} numbers")
        numbers = [float(v) for v in roi.ravel()]
        bounds = list(zip(numbers[: len(at)], numbers[len(at) :]))
    if scaled:
        assert scales is not None
        plan = _by_scales(x, scales.astype(np.float64).ravel().tolist(), at, bounds)
    else:
        assert sizes is not None
        plan = _by_sizes(x, sizes.ravel().tolist(), at, bounds, keep_aspect_ratio_policy)
    options = (cubic_coeff_a, bool(exclude_outside), bool(antialias), extrapolation_value)
    return _resize(x, plan, mode, coordinate_transformation_mode, nearest_mode, *options)


def _by_sizes(x: Array, sizes: list[int], at: Sequence[int], roi: Any,
              policy: str) -> dict[int, _Axis]:  # fmt: skip
    if len(sizes) != len(at) or min(sizes, default=1) < 1 or 0 in x.shape:
        raise ValueError(f"sizes {sizes} must be positive, one for each axis of {at}")
    each = [size / x.shape[axis] for axis, size in zip(at, sizes)]
    if policy != "stretch":
        if policy not in ("not_larger", "not_smaller"):
            raise ValueError(f"keep_aspect_ratio_policy {policy!r} is unknown")
        one = min(each) if policy == "not_larger" else max(each)
        each = [one] * len(at)
        sizes = [math.floor(one * x.shape[axis] + 0.5) for axis in at]
    return {
        axis: _Axis(x.shape[axis], size, scale, r)
        for axis, size, scale, r in zip(at, sizes, each, roi)
    }

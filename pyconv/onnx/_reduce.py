"""Operators that sum along axes: reductions, normalisation, softmax, matrix products."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from pyconv import nn
from pyconv._arrays import Array
from pyconv.nn import _kernel
from pyconv.onnx._shapes import normal_axes
from pyconv.onnx._table import operator

_REDUCTIONS: dict[str, Callable[..., Array]] = {
    "ReduceL1": lambda x, **at: np.abs(x).sum(**at),
    "ReduceL2": lambda x, **at: np.sqrt((x * x).sum(**at)),
    "ReduceLogSum": lambda x, **at: np.log(x.sum(**at)),
    "ReduceMax": lambda x, **at: x.max(**at, initial=_limit(x, least=True)),
    "ReduceMean": lambda x, **at: x.mean(**at, dtype=np.float32 if x.itemsize == 2 else None),
    "ReduceMin": lambda x, **at: x.min(**at, initial=_limit(x, least=False)),
    "ReduceProd": lambda x, **at: x.prod(**at),
    "ReduceSum": lambda x, **at: x.sum(**at),
    "ReduceSumSquare": lambda x, **at: (x * x).sum(**at),
}


def _limit(x: Array, least: bool) -> Any:
    """What the greatest of no values is, or the least."""
    if x.dtype.kind not in "iu":
        return x.dtype.type(not least) if x.dtype.kind == "b" else -np.inf if least else np.inf
    limits = np.iinfo(x.dtype)
    return limits.min if least else limits.max


def _reduction(function: Callable[..., Array]) -> Callable[..., Array]:
    def reduced(x: Array, axes: Any = None, keepdims: int = 1,
                noop_with_empty_axes: int = 0) -> Array:  # fmt: skip
        """Without axes over all of them, or over none where the attribute says so."""
        if axes is None or not np.asarray(axes).size:
            over: tuple[int, ...] = () if noop_with_empty_axes else tuple(range(x.ndim))
        else:
            over = normal_axes(axes, x.ndim)
        return np.asarray(function(x, axis=over, keepdims=bool(keepdims))).astype(x.dtype)

    return reduced


for _name, _function in _REDUCTIONS.items():
    operator(_name)(_reduction(_function))


def _shifted(x: Array, axis: int) -> Array:
    return x - x.max(axis, keepdims=True)


def _softmax(x: Array, axis: int) -> Array:
    e = np.exp(_shifted(x, axis))
    return e / e.sum(axis, keepdims=True)


def _log_softmax(x: Array, axis: int) -> Array:
    x = _shifted(x, axis)
    return x - np.log(np.exp(x).sum(axis, keepdims=True))


def _over_the_rest(function: Callable[[Array, int], Array]) -> Callable[..., Array]:
    """Before opset 13 an axis began the rows of a matrix, over which the sum went."""

    def over(x: Array, axis: int = 1) -> Array:
        axis += x.ndim if axis < 0 else 0
        rows = x.reshape(math.prod(x.shape[:axis]), -1)
        return function(rows, 1).reshape(x.shape)

    return over


for _name, _soft in {"Softmax": _softmax, "LogSoftmax": _log_softmax}.items():
    operator(_name)(_over_the_rest(_soft))
    operator(_name, since=13)(_soft)


def _per_channel(values: Array, x: Array) -> Array:
    return values.reshape(-1, *[1] * (x.ndim - 2))


def _require_channels(x: Array, *values: Array) -> None:
    if x.ndim < 2 or any(v.shape != x.shape[1:2] for v in values):
        shapes = ", ".join(str(v.shape) for v in values)
        raise ValueError(f"x {x.shape} needs a value for each channel, got {shapes}")


def _standard(x: Array, mean: Array, variance: Array, epsilon: float) -> Array:
    return (x - mean) / np.sqrt(variance + x.dtype.type(epsilon))


@operator("BatchNormalization")
def batch_normalization(x: Array, scale: Array, b: Array, mean: Array, variance: Array,
                        epsilon: float, momentum: float, spatial: int = 1, training_mode: int = 0,
                        outputs: int = 1) -> Any:  # fmt: skip
    """In inference, and from opset 14 in training: then with the new mean and variance."""
    if not spatial:
        raise NotImplementedError("BatchNormalization over every pixel (spatial=0) is not served")
    if outputs > (3 if training_mode else 1):
        raise NotImplementedError("BatchNormalization in training before opset 14 is not served")
    _require_channels(x, scale, b, mean, variance)
    if training_mode:
        over = (0, *range(2, x.ndim))
        now, spread = x.mean(over), x.var(over)
        old = x.dtype.type(momentum)
        news = (mean * old + now * (1 - old), variance * old + spread * (1 - old))
        y = _standard(x, _per_channel(now, x), _per_channel(spread, x), epsilon)
        y = y * _per_channel(scale, x) + _per_channel(b, x)
        return (y, *(n.astype(m.dtype) for n, m in zip(news, (mean, variance))))[:outputs]
    if x.ndim > 2 and len({a.dtype for a in (x, scale, b, mean, variance)}) == 1 and x.itemsize > 2:
        x = _kernel.dense(x)
        y = np.empty_like(x)
        arrays = (x, scale, b, mean, variance, None, y, np.empty(2 * x.shape[1], x.dtype))
        _kernel.run("batch_norm", x, arrays, (epsilon, 0.0))
        return y
    y = _standard(x, _per_channel(mean, x), _per_channel(variance, x), epsilon)
    return (y * _per_channel(scale, x) + _per_channel(b, x)).astype(x.dtype)


@operator("InstanceNormalization")
def instance_normalization(x: Array, scale: Array, b: Array, epsilon: float) -> Array:
    _require_channels(x, scale, b)
    over = tuple(range(2, x.ndim))
    mean, variance = x.mean(over, keepdims=True), x.var(over, keepdims=True)
    y = _standard(x, mean, variance, epsilon) * _per_channel(scale, x) + _per_channel(b, x)
    return y.astype(x.dtype)


@operator("LayerNormalization")
def layer_normalization(x: Array, scale: Array, b: Array | None = None, axis: int = -1,
                        epsilon: float = 1e-5, stash_type: int = 1,
                        outputs: int = 1) -> Any:  # fmt: skip
    [first] = normal_axes(axis, x.ndim)
    over = tuple(range(first, x.ndim))
    wide = x.astype(np.float32) if x.itemsize == 2 else x
    mean, variance = wide.mean(over, keepdims=True), wide.var(over, keepdims=True)
    y = _standard(wide, mean, variance, epsilon).astype(x.dtype) * scale
    y = y if b is None else y + b
    return (y, mean, 1 / np.sqrt(variance + wide.dtype.type(epsilon)))[:outputs]


@operator("LRN")
def lrn(x: Array, size: int, alpha: float, beta: float, bias: float) -> Array:
    """The window begins (size - 1) // 2 channels before, whether size is odd or even."""
    if x.ndim < 2 or size < 1:
        raise ValueError(f"size {size} must be at least 1 and x (N, C, ...), got {x.shape}")
    if size % 2 and x.itemsize > 2:
        with nn.no_grad():
            return nn.LocalResponseNorm(size, alpha, beta, bias)(x)
    c, before = x.shape[1], (size - 1) // 2
    total = np.zeros((x.shape[0], c + 1, *x.shape[2:]), np.float64)
    np.cumsum(x.astype(np.float64) ** 2, 1, out=total[:, 1:])
    at = np.arange(c)
    window = total.take(np.minimum(at - before + size, c), 1) - total.take(
        np.maximum(at - before, 0), 1
    )
    return (x / (bias + alpha / size * window) ** beta).astype(x.dtype)


@operator("Gemm")
def gemm(a: Array, b: Array, c: Array | None = None, alpha: float = 1.0, beta: float = 1.0,
         transA: int = 0, transB: int = 0) -> Array:  # fmt: skip
    if a.ndim != 2 or b.ndim != 2:
        raise ValueError(f"takes matrices, got {a.shape} and {b.shape}")
    y = (a.T if transA else a) @ (b.T if transB else b)
    if alpha != 1:
        y = _scaled(y, alpha)
    if c is not None and beta:
        y = y + (c if beta == 1 else _scaled(c, beta))
    return y


def _scaled(x: Array, factor: float) -> Array:
    return (x * factor).astype(x.dtype) if x.dtype.kind in "iu" else x * x.dtype.type(factor)


@operator("MatMul")
def matmul(a: Array, b: Array) -> Array:
    return np.matmul(a, b)

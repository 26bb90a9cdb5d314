"""Operators that treat every element alone, and constants."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np

from pyconv._arrays import Array
from pyconv.nn import _kernel
from pyconv.onnx._read import dtype_of
from pyconv.onnx._table import operator

_UNARY: dict[str, Callable[[Array], Array]] = {
    "Abs": np.abs, "Ceil": np.ceil, "Cos": np.cos, "Exp": np.exp, "Floor": np.floor,
    "Identity": lambda x: x, "Log": np.log, "Neg": np.negative, "Not": np.logical_not,
    "Reciprocal": np.reciprocal, "Round": np.rint, "Sign": np.sign, "Sin": np.sin,
    "Sqrt": np.sqrt,
}  # fmt: skip
_BINARY: dict[str, Callable[[Array, Array], Array]] = {
    "Add": np.add, "And": np.logical_and, "Equal": np.equal, "Greater": np.greater,
    "GreaterOrEqual": np.greater_equal, "Less": np.less, "LessOrEqual": np.less_equal,
    "Mul": np.multiply, "Or": np.logical_or, "Sub": np.subtract,
}  # fmt: skip
for _name, _function in (_UNARY | _BINARY).items():
    operator(_name)(_function)


def _variadic(combine: Callable[[Array, Array], Array]) -> Callable[..., Array]:
    return lambda *xs: reduce(combine, xs)


operator("Sum")(_variadic(np.add))
operator("Max")(_variadic(np.maximum))
operator("Min")(_variadic(np.minimum))


@operator("Mean")
def mean(*xs: Array) -> Array:
    return reduce(np.add, xs) / xs[0].dtype.type(len(xs))


@operator("Div")
def div(a: Array, b: Array) -> Array:
    """Integers are cut towards zero, as in C; NumPy rounds down."""
    if a.dtype.kind not in "iu":
        return np.divide(a, b)
    q = np.floor_divide(a, b)
    return q + ((q < 0) & (q * b != a)).astype(a.dtype)


@operator("Pow")
def power(a: Array, b: Array) -> Array:
    return np.power(a, b).astype(a.dtype)


@operator("Where")
def where(condition: Array, a: Array, b: Array) -> Array:
    return np.where(condition, a, b)


def activated(x: Array, name: str) -> Array:
    """One of the activations that convolutions fuse, threaded."""
    x = _kernel.dense(x)
    y = np.empty_like(x)
    _kernel.update("activation", (x, y), activation=name)
    return y


def _threaded(x: Array) -> Any:
    return x.dtype == np.float32 or x.dtype == np.float64


def _wide(x: Array) -> Array:
    """At least float32, what half precision is computed in."""
    return x.astype(np.float32) if x.dtype.itemsize < 4 else x


@operator("Relu")
def relu(x: Array) -> Array:
    return activated(x, "relu") if _threaded(x) else np.maximum(x, x.dtype.type(0))


@operator("Sigmoid")
def sigmoid(x: Array) -> Array:
    if _threaded(x):
        return activated(x, "sigmoid")
    return (1 / (1 + np.exp(-_wide(x)))).astype(x.dtype)


@operator("Tanh")
def tanh(x: Array) -> Array:
    return activated(x, "tanh") if _threaded(x) else np.tanh(_wide(x)).astype(x.dtype)


@operator("LeakyRelu")
def leaky_relu(x: Array, alpha: float) -> Array:
    return np.where(x < 0, x * x.dtype.type(alpha), x)


@operator("PRelu")
def prelu(x: Array, slope: Array) -> Array:
    return np.where(x < 0, x * slope, x)


@operator("Elu")
def elu(x: Array, alpha: float) -> Array:
    return np.where(x < 0, x.dtype.type(alpha) * np.expm1(x), x)


@operator("Celu")
def celu(x: Array, alpha: float) -> Array:
    a = x.dtype.type(alpha)
    return np.where(x < 0, a * np.expm1(x / a), x)


@operator("Selu")
def selu(x: Array, alpha: float, gamma: float) -> Array:
    number = x.dtype.type
    return number(gamma) * np.where(x > 0, x, number(alpha) * np.expm1(x))


@operator("HardSigmoid")
def hard_sigmoid(x: Array, alpha: float, beta: float) -> Array:
    number = x.dtype.type
    return np.clip(number(alpha) * x + number(beta), number(0), number(1))


@operator("HardSwish")
def hard_swish(x: Array) -> Array:
    return x * hard_sigmoid(x, 1 / 6, 0.5)


@operator("Softplus")
def softplus(x: Array) -> Array:
    return np.logaddexp(x, x.dtype.type(0))


@operator("Softsign")
def softsign(x: Array) -> Array:
    return x / (1 + np.abs(x))


@operator("Erf")
def erf(x: Array) -> Array:
    return np.vectorize(math.erf, [np.float64])(x).astype(x.dtype)


@operator("Gelu")
def gelu(x: Array, approximate: str) -> Array:
    if approximate == "none" and _threaded(x):
        return activated(x, "gelu")
    wide = _wide(x)
    if approximate == "none":
        return (wide * (1 + erf(wide * math.sqrt(0.5))) / 2).astype(x.dtype)
    inner = math.sqrt(2 / math.pi) * (wide + 0.044715 * wide**3)
    return (wide * (1 + np.tanh(inner)) / 2).astype(x.dtype)


@operator("Clip")
def clip_between(x: Array, min: float, max: float) -> Array:
    return clip(x, np.array(min, x.dtype), np.array(max, x.dtype))


@operator("Clip", since=11)
def clip(x: Array, low: Array | None = None, high: Array | None = None) -> Array:
    x = x if low is None else np.maximum(x, low)
    return x if high is None else np.minimum(x, high)


@operator("Cast")
def cast(x: Array, to: int, saturate: int = 1, round_mode: str = "up") -> Array:
    """saturate and round_mode are about 8-bit floats only, which are not served."""
    return x.astype(dtype_of(to))


@operator("CastLike")
def cast_like(x: Array, like: Array, saturate: int = 1, round_mode: str = "up") -> Array:
    return x.astype(like.dtype)


@operator("Dropout")
def dropout_in_inference(x: Array, ratio: float, outputs: int) -> Any:
    return (x, np.ones(x.shape, bool))[:outputs]


@operator("Dropout", since=12)
def dropout(x: Array, ratio: Array | None = None, training_mode: Array | None = None,
            seed: int = 0, outputs: int = 1) -> Any:  # fmt: skip
    if training_mode is not None and training_mode and (ratio is None or ratio != 0):
        raise NotImplementedError("Dropout that drops (training_mode) is not served")
    return dropout_in_inference(x, 0.0, outputs)


@operator("Constant")
def constant(*, value: Array | None = None, value_float: float | None = None,
             value_floats: tuple[float, ...] | None = None, value_int: int | None = None,
             value_ints: tuple[int, ...] | None = None, value_string: object = None,
             value_strings: object = None) -> Array:  # fmt: skip
    floats = value_float if value_floats is None else value_floats
    ints = value_int if value_ints is None else value_ints
    given = [v for v in (value, floats, ints, value_string) if v is not None]
    if len(given) != 1 or value_string is not None:
        raise ValueError("Constant takes one of its attributes, and no string")
    if value is not None:
        return value
    return np.array(ints, np.int64) if floats is None else np.array(floats, np.float32)

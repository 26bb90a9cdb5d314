"""Convolutions and matrix products whose weights are transformed once, for each shape of input, and
the memory that their results take in turns.
"""

from __future__ import annotations

import math
import sys
import threading
from typing import Any

import numpy as np

from pyconv._arrays import Dense, Shape
from pyconv._config import current
from pyconv._plan import Plan, plan_conv
from pyconv.onnx._elementwise import activated
from pyconv.onnx._windows import conv, conv_options, spatial

_PLANS = 4  # shapes of input for which a layer keeps its weights
_FEW_TILES = 8  # of 4x4 pixels
_LINE = 64  # bytes of a cache line: results begin at one


class Arena:
    """Memory for results. A piece is free again when nobody but the arena refers to it: neither the
    graph nor, for an output, the caller. So there are as many pieces as results at one time.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pieces: list[Dense] = []  # bytes, the smallest piece first

    def empty(self, shape: Shape, dtype: np.dtype[Any]) -> Dense:
        """An array of unspecified values; MemoryError where there is no room."""
        size = math.prod(shape) * dtype.itemsize
        with self._lock:
            largest = None
            for i in range(len(self._pieces)):
                if sys.getrefcount(self._pieces[i]) > 2:  # the list's and its own argument's
                    continue
                largest = i
                if len(self._pieces[i]) >= size:
                    piece = self._pieces[i]
                    break
            else:
                if largest is not None:  # it is too small: it grows
                    del self._pieces[largest]
                piece = _aligned(size)
                self._pieces.append(piece)
                self._pieces.sort(key=len)
            return np.ndarray(shape, dtype, piece)


def _aligned(size: int) -> Dense:
    """Bytes from the start of a cache line on, in an array that is nobody's view."""
    whole = np.empty(size + _LINE, np.uint8)
    start = -whole.ctypes.data % _LINE
    return np.frombuffer(whole.data[start : start + size], np.uint8)


class Convolution:
    """act(conv(x) + residual), for two spatial axes in NHWC memory behind NCHW shapes: there every
    algorithm is as fast or faster, and 1x1 and depthwise convolutions by far.
    """

    def __init__(self, arena: Arena, attributes: dict[str, Any], w: Dense, b: Dense | None,
                 activation: str | None = None) -> None:  # fmt: skip
        self.arena, self.attributes, self.w, self.b = arena, attributes, w, b
        self.activation = activation
        self.turns = w.ndim == 4
        self._plans: dict[Shape, Plan] = {}

    def __call__(self, x: Dense, residual: Dense | None = None) -> Dense:
        plan = self._plans.get(x.shape) or self._plan(x)
        if residual is not None and not self._alike(residual, plan.output_shape):
            return self._apart(x, residual)
        if self.turns:
            x = self._turned(x)
            residual = None if residual is None else residual.transpose(0, 2, 3, 1)
        y: Dense = plan(x, residual, self.arena.empty(plan.output_shape, x.dtype))
        return y.transpose(0, 3, 1, 2) if self.turns else y

    def _turned(self, x: Dense) -> Dense:
        """x in NHWC; few channels one by one, which NumPy does three times faster than at once."""
        view = x.transpose(0, 2, 3, 1)
        if not 1 < x.shape[1] <= 4 or view.flags.c_contiguous:
            return view
        turned = self.arena.empty(view.shape, x.dtype)
        for channel in range(x.shape[1]):
            turned[..., channel] = x[:, channel]
        return turned

    def _alike(self, residual: Dense, shape: Shape) -> bool:
        return residual.shape == ((shape[0], shape[3], *shape[1:3]) if self.turns else shape)

    def _apart(self, x: Dense, addend: Dense) -> Dense:
        """One after the other, where the sum has another shape than the convolution."""
        y: Dense = conv(x, self.w, self.b, **self.attributes) + addend
        return y if self.activation is None else activated(y, self.activation)

    def _plan(self, x: Dense) -> Plan:
        spatial(x)
        options = conv_options(x.shape, self.w.shape, **self.attributes)
        options |= {"dtype": self.w.dtype, "activation": self.activation}
        shape = x.shape
        if self.turns:
            options["layout"], shape = "NHWC", (shape[0], *shape[2:], shape[1])
        plan = plan_conv(shape, self.w.shape, **options)
        if self.turns and plan.algorithm == "winograd" and not current().batch_invariant:
            n, *spread, _ = plan.output_shape
            # A kept plan is chosen for any batch. Of few tiles, Winograd reads more weights than it
            # saves products: 512 channels at 7x7 6.5 ms, GEMM 2.4 (one thread); from 16 on it wins.
            if n * math.prod(-(-size // 4) for size in spread) <= _FEW_TILES:
                plan = plan_conv(shape, self.w.shape, **options, algorithm="gemm")
        plan.set_weights(self.w, self.b)
        while len(self._plans) >= _PLANS:
            self._plans.pop(next(iter(self._plans)), None)  # another thread may have
        self._plans[x.shape] = plan
        return plan


class Linear:
    """act(x w^T + b) over the rows of x, a 1x1 convolution of them."""

    def __init__(self, arena: Arena, w: Dense, b: Dense | None,
                 activation: str | None = None) -> None:  # fmt: skip
        self._outputs = len(w)
        self._conv = Convolution(arena, {}, w[:, :, None, None], b, activation)

    def __call__(self, x: Dense) -> Dense:
        if x.ndim < 2:
            return self(x[None]).reshape(self._outputs)
        if not x.size:  # no rows: a convolution wants pixels
            return np.zeros((*x.shape[:-1], self._outputs), x.dtype)
        rows = x.reshape(1, math.prod(x.shape[:-1]), 1, x.shape[-1]).transpose(0, 3, 1, 2)
        y: Dense = self._conv(rows).transpose(0, 2, 3, 1).reshape(*x.shape[:-1], self._outputs)
        return y

"""Layers that multiply: convolutions, their transposes, and the linear layer as a 1x1 of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from pyconv import config, functional
from pyconv._arrays import Array, Shape
from pyconv.nn import init as initial
from pyconv.nn.layer import Layer, Parameter, Spatial

Ints = int | Sequence[int]
Padding = int | str | Sequence[int] | Sequence[Sequence[int]]


class _Weighted(Layer):
    """A weight w, a bias b that may be absent, and which gradients are wanted."""

    w: Parameter
    b: Parameter | None

    def _make(
        self, shape: Shape, outputs: int, bias: bool, init: str, mask: Array | None = None
    ) -> None:
        if min(shape) < 1:
            raise ValueError(
                f"{type(self).__name__}: sizes must be at least 1, weights are {shape}"
            )
        self.w = Parameter(initial.make(init, shape, 1 if mask is None else mask), mask)
        self.b = Parameter(initial.make("zeros", (outputs,))) if bias else None

    def _values(self) -> tuple[Array, Array | None]:
        return self.w.value, None if self.b is None else self.b.value

    def _needs(self) -> tuple[str, ...]:
        wanted = {
            "x": self.input_gradient,
            "w": self.w.trainable,
            "b": self.b is not None and self.b.trainable,
        }
        return tuple(name for name, needed in wanted.items() if needed)

    def _accumulate(self, dw: Array | None, db: Array | None) -> None:
        if dw is not None:
            self.w.accumulate(dw)
        if db is not None and self.b is not None:
            self.b.accumulate(db)


class _Kernel(_Weighted, Spatial):
    """What convolutions and transposed ones share: they differ in options and weight shape."""

    options: ClassVar[tuple[str, ...]]
    fuses: tuple[str, ...] = ("activation",)

    def _options(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.options}

    def forward(self, x: Array, **fused: Any) -> Array:
        """fused: activation and residual of `pyconv.conv2d`; their gradients are the caller's."""
        self.keep(x)
        return self.apply(x, *self._values(), **fused)

    def apply(self, x: Array, w: Array, b: Array | None, **fused: Any) -> Array:
        """This layer's operation with other weights."""
        with config(batch_invariant=True):
            return type(self).function(x, w, b, **self._options(), **fused)

    def backward(self, dy: Array) -> Array:
        (x,) = self.kept()
        options = self._options() | {"needs": self._needs()}
        with config(batch_invariant=True):
            dx, dw, db = type(self).gradient(dy, x, self.w.value, **options)
        self._accumulate(dw, db)
        return dx

    def _channels(self, channels: int, groups: int) -> int:
        if groups < 1 or channels % groups:
            raise ValueError(
                f"{type(self).__name__}: channels (={channels}) must be divisible by "
                f"groups (={groups})"
            )
        return channels // groups


class _Conv(_Kernel):
    operation = "conv"
    fuses = ("activation", "residual")
    options = ("stride", "padding", "dilation", "groups", "padding_mode")

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Ints,
        stride: Ints = 1,
        padding: Padding = 0,
        dilation: Ints = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        init: str = "he",
        connections: Sequence[Sequence[int]] | None = None,
    ) -> None:
        self.in_channels, self.out_channels, self.kernel_size = (
            in_channels,
            out_channels,
            kernel_size,
        )
        self.stride, self.padding, self.dilation, self.groups = stride, padding, dilation, groups
        self.bias, self.padding_mode = bias, padding_mode
        self.init, self.connections = init, connections
        inputs = self._channels(in_channels, groups)
        shape = (out_channels, inputs, *self.per_axis(kernel_size))
        mask = None
        if connections is not None:
            table = np.array(connections, np.float32)
            if table.shape != shape[:2]:
                raise ValueError(
                    f"{type(self).__name__}: connections must be {shape[:2]} (outputs x inputs), "
                    f"got {table.shape}"
                )
            mask = np.broadcast_to(table.reshape(*table.shape, *[1] * self.axes), shape)
        self._make(shape, out_channels, bias, init, mask)

    def output_shape(self, shape: Shape) -> Shape:
        options = self._options()
        del options["padding_mode"]
        return tuple(functional.conv_output_shape(shape, self.w.value.shape, **options))

    def multiply_adds(self, shape: Shape) -> int:
        n, _, *spatial = self.output_shape(shape)
        return n * math.prod(spatial) * self.w.size


class Conv1d(_Conv, axes=1):
    """As Conv2d, with one spatial axis: (N, C, W) to (N, K, Q)."""


class Conv2d(_Conv, axes=2):
    """y[n, k] = b[k] + sum over c of x[n, c] correlated with w[k, c]: (N, C, H, W) to (N, K, P, Q).

    Arguments and errors are those of `pyconv.conv2d`; `init` names one of `nn.init.INITIALISERS`.
    `connections` is an optional table (out_channels, in_channels/groups) of 0 and 1: pairs that
    hold 0 have no weights (LeNet-5's C3). Weights are `w` (K, C/groups, R, S) and `b` (K,).

    >>> import numpy as np
    >>> from pyconv import nn
    >>> layer = nn.Conv2d(3, 8, 5, stride=2, padding=2)
    >>> layer(np.zeros((1, 3, 32, 32), np.float32)).shape
    (1, 8, 16, 16)
    """


class Conv3d(_Conv, axes=3):
    """As Conv2d, with three spatial axes: (N, C, D, H, W) to (N, K, Z, P, Q)."""


class _ConvTranspose(_Kernel):
    operation = "conv_transpose"
    options = ("stride", "padding", "output_padding", "groups", "dilation")

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Ints,
        stride: Ints = 1,
        padding: Padding = 0,
        output_padding: Ints = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Ints = 1,
        *,
        init: str = "he",
    ) -> None:
        self.in_channels, self.out_channels, self.kernel_size = (
            in_channels,
            out_channels,
            kernel_size,
        )
        self.stride, self.padding, self.output_padding = stride, padding, output_padding
        self.groups, self.bias, self.dilation, self.init = groups, bias, dilation, init
        self._channels(in_channels, groups)
        outputs = self._channels(out_channels, groups)
        self._make((in_channels, outputs, *self.per_axis(kernel_size)), out_channels, bias, init)

    def output_shape(self, shape: Shape) -> Shape:
        options = self._options() | {"transposed": True}
        return tuple(functional.conv_output_shape(shape, self.w.value.shape, **options))

    def multiply_adds(self, shape: Shape) -> int:
        n, _, *spatial = shape
        return n * math.prod(spatial) * self.w.size


class ConvTranspose1d(_ConvTranspose, axes=1):
    """As ConvTranspose2d, with one spatial axis."""


class ConvTranspose2d(_ConvTranspose, axes=2):
    """The adjoint of a convolution's map, + b: (N, C, H, W) to (N, K, P, Q).

    Arguments and errors are those of `pyconv.conv_transpose2d`; weights are `w`
    (C, K/groups, R, S) and `b` (K,). Doubling height and width:

    >>> import numpy as np
    >>> from pyconv import nn
    >>> layer = nn.ConvTranspose2d(8, 3, 4, stride=2, padding=1)
    >>> layer(np.zeros((1, 8, 16, 16), np.float32)).shape
    (1, 3, 32, 32)
    """


class ConvTranspose3d(_ConvTranspose, axes=3):
    """As ConvTranspose2d, with three spatial axes."""


class Linear(_Weighted):
    """y = x w^T + b over the last axis: (..., F) to (..., K); `w` is (K, F), `b` is (K,).

    It runs as a 1x1 convolution over the rows, so that, unlike with a threaded BLAS, the bits do
    not depend on the number of threads.

    >>> import numpy as np
    >>> from pyconv import nn
    >>> nn.Linear(120, 84)(np.zeros((2, 120), np.float32)).shape
    (2, 84)
    """

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, *, init: str = "he"
    ) -> None:
        self.in_features, self.out_features = in_features, out_features
        self.bias, self.init = bias, init
        self._make((out_features, in_features), out_features, bias, init)

    fuses = ("activation",)

    def forward(self, x: Array, activation: str | None = None) -> Array:
        if x.ndim < 2 or x.shape[-1] != self.in_features:
            raise ValueError(f"Linear: x must be (..., {self.in_features}), got {x.shape}")
        rows = x.reshape(1, -1, self.in_features)
        self.keep(rows)
        w, b = self._values()
        shape = (*x.shape[:-1], self.out_features)
        if not rows.size:
            return np.zeros_like(x, shape=shape)
        y = functional.conv1d(rows, w[:, :, None], b, layout="NHWC", activation=activation)
        return y.reshape(shape)

    def backward(self, dy: Array) -> Array:
        (rows,) = self.kept()
        if not rows.size:
            db = np.zeros_like(dy, shape=(self.out_features,))
            self._accumulate(np.zeros_like(self.w.value), db)
            return np.zeros_like(dy, shape=(*dy.shape[:-1], self.in_features))
        dx, dw, db = functional.conv1d_backward(
            dy.reshape(1, -1, self.out_features),
            rows,
            self.w.value[:, :, None],
            layout="NHWC",
            needs=self._needs(),
        )
        self._accumulate(None if dw is None else dw[:, :, 0], db)
        return dx if dx is None else dx.reshape(*dy.shape[:-1], self.in_features)

    def output_shape(self, shape: Shape) -> Shape:
        return (*shape[:-1], self.out_features)

    def multiply_adds(self, shape: Shape) -> int:
        return math.prod(shape[:-1]) * self.w.size

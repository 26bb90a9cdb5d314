"""Layers that summarise or enlarge windows: pooling, subsampling, upsampling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from pyconv import functional
from pyconv._arrays import Array, Shape
from pyconv._gpu import namespace
from pyconv._plan import Options
from pyconv._pool import pool, pool_backward
from pyconv.nn import init
from pyconv.nn.layer import Layer, Parameter, Spatial, keeping

Ints = int | Sequence[int]


class _MaxPool(Spatial):
    operation = "max_pool"

    def __init__(
        self,
        kernel_size: Ints,
        stride: Ints | None = None,
        padding: Ints = 0,
        dilation: Ints = 1,
        ceil_mode: bool = False,
    ) -> None:
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding
        self.dilation, self.ceil_mode = dilation, ceil_mode

    def forward(self, x: Array) -> Array:
        arguments = (self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode)
        if not keeping():
            return type(self).function(x, *arguments)
        if isinstance(x, np.ndarray) and math.prod(self.per_axis(self.kernel_size)) <= 256:
            # The tap that won in a byte: an eighth of the indices' memory.
            options = self._options()
            name = f"max_pool{self.axes}d"
            y, places = pool(name, self.axes, "switches", x, "NCHW", options, return_indices=True)
        else:
            y, places = type(self).function(x, *arguments, return_indices=True)
        self.keep(places, x.shape)
        return y

    def backward(self, dy: Array) -> Array:
        places, shape = self.kept()
        if places.dtype != np.uint8:
            return type(self).gradient(dy, places, shape)
        arrays, name = {"dy": dy, "switches": places}, f"max_pool{self.axes}d_backward"
        return pool_backward(name, self.axes, "switches", arrays, shape, "NCHW", self._options())

    def _options(self) -> Options:
        sizes = (self.kernel_size, self.stride, self.padding, self.dilation, None)
        return (*sizes, False, self.ceil_mode, True, None, 2.0)

    def output_shape(self, shape: Shape) -> Shape:
        return tuple(
            functional.pool_output_shape(
                shape,
                self.kernel_size,
                stride=self.stride,
                padding=self.padding,
                dilation=self.dilation,
                ceil_mode=self.ceil_mode,
            )
        )


class MaxPool1d(_MaxPool, axes=1):
    """As MaxPool2d, with one spatial axis."""


class MaxPool2d(_MaxPool, axes=2):
    """The largest value of each window; its gradient goes to where that value came from.

    Arguments and errors are those of `pyconv.max_pool2d`.

    >>> import numpy as np
    >>> from pyconv import nn
    >>> nn.MaxPool2d(2)(np.arange(16.0).reshape(1, 1, 4, 4))
    array([[[[ 5.,  7.],
             [13., 15.]]]])
    """


class MaxPool3d(_MaxPool, axes=3):
    """As MaxPool2d, with three spatial axes."""


class _AvgPool(Spatial):
    operation = "avg_pool"

    def __init__(
        self,
        kernel_size: Ints,
        stride: Ints | None = None,
        padding: Ints = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> None:
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding
        self.ceil_mode, self.count_include_pad = ceil_mode, count_include_pad
        self.divisor_override = divisor_override

    def forward(self, x: Array) -> Array:
        self.keep(x.shape)
        return type(self).function(x, *self._arguments())

    def backward(self, dy: Array) -> Array:
        (shape,) = self.kept()
        return type(self).gradient(dy, shape, *self._arguments())

    def _arguments(self) -> tuple[Ints | None | bool, ...]:
        return tuple(self.config().values())

    def output_shape(self, shape: Shape) -> Shape:
        return tuple(
            functional.pool_output_shape(
                shape,
                self.kernel_size,
                stride=self.stride,
                padding=self.padding,
                ceil_mode=self.ceil_mode,
            )
        )


class AvgPool1d(_AvgPool, axes=1):
    """As AvgPool2d, with one spatial axis."""


class AvgPool2d(_AvgPool, axes=2):
    """The mean of each window. Arguments and errors are those of `pyconv.avg_pool2d`.

    >>> import numpy as np
    >>> from pyconv import nn
    >>> nn.AvgPool2d(2)(np.arange(16.0).reshape(1, 1, 4, 4))
    array([[[[ 2.5,  4.5],
             [10.5, 12.5]]]])
    """


class AvgPool3d(_AvgPool, axes=3):
    """As AvgPool2d, with three spatial axes."""


class SubSample2d(Layer):
    """LeNet's trainable subsampling: y = w[c] * (sum of the window) + b[c], two weights a channel.

    The coefficients start at 1 / window size, that is at averaging.
    Source: Y. LeCun et al., Proc. IEEE 86(11), 1998, section II.B.

    >>> import numpy as np
    >>> from pyconv import nn
    >>> nn.SubSample2d(6)(np.zeros((1, 6, 28, 28), np.float32)).shape
    (1, 6, 14, 14)
    """

    def __init__(self, channels: int, kernel_size: Ints = 2, stride: Ints | None = None) -> None:
        self.channels, self.kernel_size, self.stride = channels, kernel_size, stride
        window = kernel_size**2 if isinstance(kernel_size, int) else math.prod(kernel_size)
        self.w = Parameter(init.make("ones", (channels,), 1 / window))
        self.b = Parameter(init.make("zeros", (channels,)))

    def forward(self, x: Array) -> Array:
        total = functional.avg_pool2d(x, self.kernel_size, self.stride, divisor_override=1)
        self.keep(x.shape, total)
        return self.w.value[:, None, None] * total + self.b.value[:, None, None]

    def backward(self, dy: Array) -> Array:
        shape, total = self.kept()
        self.w.accumulate((dy * total).sum((0, 2, 3)))
        self.b.accumulate(dy.sum((0, 2, 3)))
        return functional.avg_pool2d_backward(
            dy * self.w.value[:, None, None],
            shape,
            self.kernel_size,
            self.stride,
            0,
            False,
            True,
            1,
        )

    def output_shape(self, shape: Shape) -> Shape:
        return tuple(functional.pool_output_shape(shape, self.kernel_size, stride=self.stride))

    def multiply_adds(self, shape: Shape) -> int:
        return math.prod(self.output_shape(shape))


class GlobalAvgPool(Layer):
    """The mean over all spatial axes, which stay with size 1: (N, C, *spatial) to (N, C, 1, ...).

    >>> import numpy as np
    >>> from pyconv import nn
    >>> nn.GlobalAvgPool()(np.ones((2, 3, 4, 4))).shape
    (2, 3, 1, 1)
    """

    def forward(self, x: Array) -> Array:
        self.keep(x.shape)
        return functional.global_avg_pool(x)

    def backward(self, dy: Array) -> Array:
        (shape,) = self.kept()
        return functional.global_avg_pool_backward(dy, shape)

    def output_shape(self, shape: Shape) -> Shape:
        return (*shape[:2], *[1] * (len(shape) - 2))


class Upsample(Layer):
    """Enlarge every spatial axis: each value repeated ("nearest") or interpolated ("linear").

    "linear" takes pixels as areas (PyTorch's align_corners=False): in two axes it is bilinear.

    >>> import numpy as np
    >>> from pyconv import nn
    >>> nn.Upsample(2)(np.array([[[1.0, 2.0]]]))
    array([[[1., 1., 2., 2.]]])
    """

    def __init__(self, scale_factor: int, mode: str = "nearest") -> None:
        if scale_factor < 1:
            raise ValueError(f"Upsample: scale_factor must be at least 1, got {scale_factor}")
        if mode not in ("nearest", "linear"):
            raise ValueError(f"Upsample: mode must be 'nearest' or 'linear', got {mode!r}")
        self.scale_factor, self.mode = scale_factor, mode

    def forward(self, x: Array) -> Array:
        if namespace(x) is not np:
            raise TypeError("Upsample: x is on a CUDA device; this layer runs on the CPU only")
        self.keep(x.shape)
        for axis in range(2, x.ndim):
            low, high, t = self._taps(x.shape[axis], x.ndim - 1 - axis, x.dtype)
            x = x.take(low, axis) * (1 - t) + x.take(high, axis) * t
        return x

    def backward(self, dy: Array) -> Array:
        (shape,) = self.kept()
        for axis in range(2, len(shape)):
            low, high, t = self._taps(shape[axis], len(shape) - 1 - axis, dy.dtype)
            dx = np.zeros((*dy.shape[:axis], shape[axis], *dy.shape[axis + 1 :]), dy.dtype)
            along = dx.swapaxes(0, axis)  # a view, so that the sums land in dx
            np.add.at(along, low, (dy * (1 - t)).swapaxes(0, axis))
            np.add.at(along, high, (dy * t).swapaxes(0, axis))
            dy = dx
        return dy

    def _taps(self, size: int, after: int, dtype: Any) -> tuple[Array, Array, Array]:
        """For each output position the two inputs it lies between and the weight of the second."""
        place = (np.arange(size * self.scale_factor) + 0.5) / self.scale_factor - 0.5
        if self.mode == "nearest":
            place = np.floor(place + 0.5)
        place = place.clip(0, size - 1)
        low = np.floor(place).astype(np.int64)
        t = (place - low).astype(dtype).reshape(-1, *[1] * after)
        return low, np.minimum(low + 1, size - 1), t

    def output_shape(self, shape: Shape) -> Shape:
        return (*shape[:2], *(size * self.scale_factor for size in shape[2:]))

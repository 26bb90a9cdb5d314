"""Elementwise layers and softmax. The fused activations of the convolutions are these functions."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np

from pyconv import functional
from pyconv._arrays import Array, Shape
from pyconv.nn import _kernel
from pyconv.nn.layer import Layer


class _Activation(Layer):
    """y = f(x), the activation that convolutions fuse."""

    name: ClassVar[str]
    reads_input: ClassVar[bool] = False  # the derivative is a function of x rather than of y

    def forward(self, x: Array) -> Array:
        _kernel.require_float(type(self).__name__, x)
        x = _kernel.dense(x)
        y = np.empty_like(x)
        _kernel.update("activation", (x, y), activation=self.name)
        self.keep(x if self.reads_input else y)
        return y

    def backward(self, dy: Array) -> Array:
        (read,) = self.kept()
        return functional.activation_backward(dy, read, self.name)


class ReLU(_Activation):
    """y = max(x, 0); dx = dy where y > 0, else 0.

    >>> import numpy as np
    >>> from pyconv import nn
    >>> nn.ReLU()(np.array([-1.0, 0.0, 2.0]))
    array([0., 0., 2.])
    """

    name = "relu"


class ReLU6(_Activation):
    """y = min(max(x, 0), 6); dx = dy where 0 < y < 6, else 0.

    Source: Sandler et al., "MobileNetV2", CVPR 2018.
    """

    name = "relu6"


class Tanh(_Activation):
    """y = tanh x; dx = dy (1 - y^2)."""

    name = "tanh"


class Sigmoid(_Activation):
    """y = 1 / (1 + exp(-x)); dx = dy y (1 - y)."""

    name = "sigmoid"


class GELU(_Activation):
    """y = x Phi(x) with the normal distribution function Phi; dx = dy (Phi(x) + x Phi'(x))."""

    name = "gelu"
    reads_input = True


class SiLU(_Activation):
    """y = x s with s = 1 / (1 + exp(-x)); dx = dy s (1 + x (1 - s))."""

    name = "silu"
    reads_input = True


class LeakyReLU(Layer):
    """y = x where x > 0, else slope * x.

    >>> import numpy as np
    >>> from pyconv import nn
    >>> nn.LeakyReLU(0.1)(np.array([-1.0, 2.0]))
    array([-0.1,  2. ])
    """

    def __init__(self, slope: float = 0.01) -> None:
        self.slope = slope

    def forward(self, x: Array) -> Array:
        self.keep(x)
        return np.where(x > 0, x, x * x.dtype.type(self.slope))

    def backward(self, dy: Array) -> Array:
        (x,) = self.kept()
        return np.where(x > 0, dy, dy * dy.dtype.type(self.slope))


class Scale(Layer):
    """y = factor * x, with a factor that is not learnt.

    >>> import numpy as np
    >>> from pyconv import nn
    >>> nn.Scale(0.5)(np.array([2.0]))
    array([1.])
    """

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def forward(self, x: Array) -> Array:
        return x * x.dtype.type(self.factor)

    def backward(self, dy: Array) -> Array:
        return dy * dy.dtype.type(self.factor)


class Softmax(Layer):
    """y = exp(x) / sum of exp(x) along an axis; dx = y (dy - sum of dy y).

    >>> import numpy as np
    >>> from pyconv import nn
    >>> nn.Softmax()(np.zeros((1, 4)))
    array([[0.25, 0.25, 0.25, 0.25]])
    """

    def __init__(self, axis: int = 1) -> None:
        self.axis = axis

    def forward(self, x: Array) -> Array:
        e = np.exp(x - x.max(self.axis, keepdims=True))
        y = e / e.sum(self.axis, keepdims=True)
        self.keep(y)
        return y

    def backward(self, dy: Array) -> Array:
        (y,) = self.kept()
        return y * (dy - (dy * y).sum(self.axis, keepdims=True))


class Flatten(Layer):
    """(N, ...) to (N, everything else).

    >>> import numpy as np
    >>> from pyconv import nn
    >>> nn.Flatten()(np.zeros((2, 3, 4))).shape
    (2, 12)
    """

    def forward(self, x: Array) -> Array:
        self.keep(x.shape)
        return x.reshape(self.output_shape(x.shape))

    def backward(self, dy: Array) -> Array:
        (shape,) = self.kept()
        return dy.reshape(shape)

    def output_shape(self, shape: Shape) -> Shape:
        return shape[0], math.prod(shape[1:])

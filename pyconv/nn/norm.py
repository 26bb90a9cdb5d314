"""Normalisation and dropout: the layers that treat training and inference differently, and LRN."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from pyconv._arrays import Array, Shape
from pyconv.nn import init
from pyconv.nn.layer import Layer, Parameter


class _BatchNorm(Layer):
    axes: ClassVar[int]
    buffer_names = ("mean", "variance")

    def __init__(self, channels: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        self.channels, self.eps, self.momentum = channels, eps, momentum
        self.w = Parameter(init.make("ones", (channels,)))
        self.b = Parameter(init.make("zeros", (channels,)))
        self.mean = init.make("zeros", (channels,))
        self.variance = init.make("ones", (channels,))

    def forward(self, x: Array) -> Array:
        if x.ndim != self.axes + 2 or x.shape[1] != self.channels:
            raise ValueError(
                f"{type(self).__name__}: x must have {self.axes + 2} axes and {self.channels} "
                f"channels, got {x.shape}"
            )
        over = (0, *range(2, x.ndim))
        if self.training:
            count = x.size // self.channels
            if count < 2:
                raise ValueError(
                    f"{type(self).__name__}: training needs more than one value a channel, "
                    f"x is {x.shape}"
                )
            mean = x.mean(over)
            centred = x - self._wide(mean)
            variance = (centred * centred).mean(over)
            m = x.dtype.type(self.momentum)
            self.mean = (1 - m) * self.mean + m * mean
            self.variance = (1 - m) * self.variance + m * variance * (count / (count - 1))
        else:
            centred = x - self._wide(self.mean)
            variance = self.variance
        scale = 1 / np.sqrt(variance + x.dtype.type(self.eps))
        normal = centred * self._wide(scale)
        self.keep(normal, scale, self.training)
        return normal * self._wide(self.w.value) + self._wide(self.b.value)

    def backward(self, dy: Array) -> Array:
        normal, scale, training = self.kept()
        over = (0, *range(2, dy.ndim))
        dw, db = (dy * normal).sum(over), dy.sum(over)
        self.w.accumulate(dw)
        self.b.accumulate(db)
        if training:
            count = dy.size // self.channels
            dy = dy - self._wide(db / count) - normal * self._wide(dw / count)
        return dy * self._wide(self.w.value * scale)

    def _wide(self, per_channel: Array) -> Array:
        return per_channel.reshape(-1, *[1] * self.axes)

    def multiply_adds(self, shape: Shape) -> int:
        return math.prod(shape)


class BatchNorm1d(_BatchNorm):
    """As BatchNorm2d, for (N, C, W)."""

    axes = 1


class BatchNorm2d(_BatchNorm):
    """y = w (x - mean) / sqrt(variance + eps) + b, per channel of (N, C, H, W).

    In training mean and variance are the batch's and the buffers `mean` and `variance` follow them:
    new = (1 - momentum) old + momentum * batch's (the variance as the unbiased estimate). In
    inference the buffers are used. Source: S. Ioffe, C. Szegedy, ICML 2015.

    >>> import numpy as np
    >>> from pyconv import nn
    >>> y = nn.BatchNorm2d(3)(np.random.default_rng(0).normal(5, 2, (8, 3, 4, 4)))
    >>> bool(abs(y.mean()) < 1e-6), bool(abs(y.std() - 1) < 1e-3)
    (True, True)
    """

    axes = 2


class BatchNorm3d(_BatchNorm):
    """As BatchNorm2d, for (N, C, D, H, W)."""

    axes = 3


class LayerNorm(Layer):
    """y = w (x - mean) / sqrt(variance + eps) + b, statistics over the trailing axes `shape`.

    Source: J. L. Ba et al., arXiv 1607.06450.

    >>> import numpy as np
    >>> from pyconv import nn
    >>> nn.LayerNorm(2)(np.array([[1.0, 3.0]])).round(3)
    array([[-1.,  1.]])
    """

    def __init__(self, shape: int | Sequence[int], eps: float = 1e-5) -> None:
        self.shape = (shape,) if isinstance(shape, int) else tuple(shape)
        self.eps = eps
        self.w = Parameter(init.make("ones", self.shape))
        self.b = Parameter(init.make("zeros", self.shape))

    def forward(self, x: Array) -> Array:
        if x.ndim <= len(self.shape) or x.shape[x.ndim - len(self.shape) :] != self.shape:
            raise ValueError(f"LayerNorm: x must end in {self.shape} after a batch, got {x.shape}")
        over = tuple(range(x.ndim - len(self.shape), x.ndim))
        centred = x - x.mean(over, keepdims=True)
        variance = (centred * centred).mean(over, keepdims=True)
        scale = 1 / np.sqrt(variance + x.dtype.type(self.eps))
        normal = centred * scale
        self.keep(normal, scale)
        return normal * self.w.value + self.b.value

    def backward(self, dy: Array) -> Array:
        normal, scale = self.kept()
        batch = tuple(range(dy.ndim - len(self.shape)))
        over = tuple(range(dy.ndim - len(self.shape), dy.ndim))
        self.w.accumulate((dy * normal).sum(batch))
        self.b.accumulate(dy.sum(batch))
        g = dy * self.w.value
        mean = g.mean(over, keepdims=True)
        along = (g * normal).mean(over, keepdims=True)
        return (g - mean - normal * along) * scale

    def multiply_adds(self, shape: Shape) -> int:
        return math.prod(shape)


class LocalResponseNorm(Layer):
    """y = x s^-beta with s = k + alpha/size * (sum of x^2 over `size` neighbouring channels).

    Arguments are PyTorch's; TensorFlow's depth_radius r and alpha a are size 2r+1, alpha a (2r+1).
    Source: A. Krizhevsky et al., NIPS 2012, section 3.3.

    >>> import numpy as np
    >>> from pyconv import nn
    >>> nn.LocalResponseNorm(1, alpha=3.0, beta=0.5)(np.ones((1, 1, 1)))
    array([[[0.5]]])
    """

    def __init__(self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> None:
        if size < 1:
            raise ValueError(f"LocalResponseNorm: size must be at least 1, got {size}")
        self.size, self.alpha, self.beta, self.k = size, alpha, beta, k

    def forward(self, x: Array) -> Array:
        number = x.dtype.type
        below = self.size // 2
        s = number(self.k) + number(self.alpha / self.size) * self._window(x * x, below)
        y = x * s ** number(-self.beta)
        self.keep(x, s, y)
        return y

    def backward(self, dy: Array) -> Array:
        x, s, y = self.kept()
        number = dy.dtype.type
        # dx = dy s^-beta - 2 alpha/size beta x sum(dy y / s): the sum runs over the channels whose
        # window holds this one, so the window is mirrored.
        mirrored = self._window(dy * y / s, self.size - 1 - self.size // 2)
        factor = number(2 * self.alpha / self.size * self.beta)
        return dy * s ** number(-self.beta) - factor * x * mirrored

    def _window(self, a: Array, below: int) -> Array:
        """Sum over the channels from c - below to c - below + size - 1."""
        total = np.zeros_like(a)
        channels = a.shape[1]
        for offset in range(-below, self.size - below):
            start, stop = max(0, -offset), min(channels, channels - offset)
            if start < stop:
                total[:, start:stop] += a[:, start + offset : stop + offset]
        return total

    def multiply_adds(self, shape: Shape) -> int:
        return math.prod(shape) * (self.size + 1)


class Dropout(Layer):
    """In training each value is zeroed with probability p and the rest divided by 1 - p.

    Masks follow `Layer.reseed`; the Trainer calls it before every step.
    Source: N. Srivastava et al., JMLR 15, 2014.

    >>> import numpy as np
    >>> from pyconv import nn
    >>> nn.Dropout(0.5).eval()(np.ones(4))
    array([1., 1., 1., 1.])
    """

    def __init__(self, p: float = 0.5) -> None:
        if not 0 <= p < 1:
            raise ValueError(f"Dropout: p must be in [0, 1), got {p}")
        self.p = p
        self._rng = np.random.default_rng(0)

    def reseed(self, *seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def forward(self, x: Array) -> Array:
        if not self.training or self.p == 0:
            self.keep(None)
            return x
        kept = self._rng.random(x.shape, np.float32) >= self.p
        scale = kept * x.dtype.type(1 / (1 - self.p))
        self.keep(scale)
        return x * scale

    def backward(self, dy: Array) -> Array:
        (scale,) = self.kept()
        return dy if scale is None else dy * scale

"""Normalisation and dropout: the layers that treat training and inference differently, and LRN."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from pyconv._arrays import Array, Shape
from pyconv.nn import _kernel, init
from pyconv.nn.layer import Layer, Parameter, keeping


class _BatchNorm(Layer):
    axes: ClassVar[int]
    buffer_names = ("mean", "variance")
    fuses = ("activation", "residual")

    def __init__(self, channels: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        self.channels, self.eps, self.momentum = channels, eps, momentum
        self.w = Parameter(init.make("ones", (channels,)))
        self.b = Parameter(init.make("zeros", (channels,)))
        self.mean = init.make("zeros", (channels,))
        self.variance = init.make("ones", (channels,))

    def forward(
        self, x: Array, activation: str | None = None, residual: Array | None = None
    ) -> Array:
        """activation and residual: fused behind, their gradients are the caller's."""
        if x.ndim != self.axes + 2 or x.shape[1] != self.channels:
            raise ValueError(
                f"{type(self).__name__}: x must have {self.axes + 2} axes and {self.channels} "
                f"channels, got {x.shape}"
            )
        if self.training and x.size // self.channels < 2:
            raise ValueError(
                f"{type(self).__name__}: training needs more than one value a channel, "
                f"x is {x.shape}"
            )
        _kernel.require_float(type(self).__name__, x, self.w.value)
        x = _kernel.dense(x)
        y, saved = np.empty_like(x), np.empty_like(x, shape=(2 * self.channels,))
        if self.training:
            self.mean, self.variance = self.mean.copy(), self.variance.copy()
        _kernel.run(
            "batch_norm",
            x,
            (
                *(x, self.w.value, self.b.value, self.mean, self.variance),
                None if residual is None else _kernel.like(residual, x),
                *(y, saved),
            ),
            (self.eps, self.momentum),
            training=self.training,
            activation=activation,
        )
        self.keep(x, saved, self.training)
        return y

    def folded(self, w: Array, b: Array | None) -> tuple[Array, Array]:
        """Weights and bias that do in inference what (w, b) and this layer do."""
        number = w.dtype.type
        scale = self.w.value / np.sqrt(self.variance + number(self.eps))
        shift = self.b.value - self.mean * scale
        wide = w * scale.reshape(-1, *[1] * (w.ndim - 1))
        return wide, shift if b is None else shift + b * scale

    def backward(self, dy: Array) -> Array:
        x, saved, training = self.kept()
        dy = _kernel.like(dy, x)
        dx, dw, db = np.empty_like(x), np.empty_like(self.w.value), np.empty_like(self.b.value)
        arrays = (dy, x, self.w.value, saved, dx, dw, db)
        _kernel.run("batch_norm", x, arrays, backward=True, training=training)
        self.w.accumulate(dw)
        self.b.accumulate(db)
        return dx

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
    >>> x = np.random.default_rng(0).normal(5, 2, (8, 3, 4, 4)).astype(np.float32)
    >>> y = nn.BatchNorm2d(3)(x)
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
        if x.ndim < 2:
            raise ValueError(f"LocalResponseNorm: x must be (N, C, ...), got {x.shape}")
        _kernel.require_float("LocalResponseNorm", x)
        x = _kernel.dense(x)
        y, s = np.empty_like(x), np.empty_like(x) if keeping() else None
        _kernel.run("local_response_norm", x, (x, y, s), self._numbers(), size=self.size)
        self.keep(x, s)
        return y

    def backward(self, dy: Array) -> Array:
        x, s = self.kept()
        dx = np.empty_like(x)
        arrays = (_kernel.like(dy, x), x, s, dx)
        numbers, size = self._numbers(), self.size
        _kernel.run("local_response_norm", x, arrays, numbers, size=size, backward=True)
        return dx

    def _numbers(self) -> tuple[float, ...]:
        return self.alpha / self.size, self.beta, self.k

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
        self._seed = 0

    def reseed(self, *seed: int) -> None:
        self._seed = int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0])

    def forward(self, x: Array) -> Array:
        if not self.training or self.p == 0:
            self.keep(None)
            return x
        seed, self._seed = self._seed, (self._seed + 1) % 2**64
        self.keep(seed)
        return self._drop(x, seed)

    def backward(self, dy: Array) -> Array:
        (seed,) = self.kept()
        return dy if seed is None else self._drop(dy, seed)

    def _drop(self, x: Array, seed: int) -> Array:
        """The mask follows from the seed and the place in memory: it need not be kept."""
        _kernel.require_float("Dropout", x)
        x = _kernel.dense(x)
        y = np.empty_like(x)
        _kernel.update("dropout", (x, y), (self.p,), seed=seed)
        return y

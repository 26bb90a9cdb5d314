"""Random changes of training images: whole batches at once, from a generator made for the step."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Generator = np.random.Generator


@dataclass(frozen=True)
class Batch:
    """Images x (N, C, H, W), their targets y, their places `index` in the data set, the epoch (from
    0), and a generator that only the seed and the step determine.
    """

    x: Array
    y: Array
    index: Array
    epoch: int
    rng: Generator


class Augmentation:
    """Base: a subclass defines `__call__(x, rng)`, or `on_batch` where it needs more than x."""

    def __call__(self, x: Array, rng: Generator) -> Array:
        raise NotImplementedError(f"{type(self).__name__} changes whole batches: see on_batch")

    def on_batch(self, batch: Batch) -> Batch:
        return replace(batch, x=self(batch.x, batch.rng))


class Chain(Augmentation):
    """One augmentation after the other."""

    def __init__(self, *steps: Augmentation) -> None:
        self.steps = steps

    def on_batch(self, batch: Batch) -> Batch:
        for step in self.steps:
            batch = step.on_batch(batch)
        return batch


@dataclass(frozen=True)
class Shift(Augmentation):
    """Moves each image by up to `pixels` in each direction, at random; zeros come in, or with
    mode "reflect" the image's own mirror image.

    >>> import numpy as np
    >>> from pyconv import data
    >>> data.Shift(1)(np.ones((5, 1, 8, 8), np.uint8), np.random.default_rng(0)).shape
    (5, 1, 8, 8)
    """

    pixels: int
    mode: str = "zeros"

    def __call__(self, x: Array, rng: Generator) -> Array:
        m = self.pixels
        mode: Any = "constant" if self.mode == "zeros" else self.mode
        return _cut(np.pad(x, ((0, 0), (0, 0), (m, m), (m, m)), mode), x.shape[2:], rng)


@dataclass(frozen=True)
class Crop(Augmentation):
    """A part of size (height, width) from a random place of each image."""

    size: tuple[int, int]

    def __call__(self, x: Array, rng: Generator) -> Array:
        return _cut(x, self.size, rng)


@dataclass(frozen=True)
class Flip(Augmentation):
    """Mirrors each image left to right, half of the time."""

    def __call__(self, x: Array, rng: Generator) -> Array:
        return _mirrored(x, rng.integers(0, 2, len(x)) == 1)


@dataclass(frozen=True)
class AlternatingFlip(Augmentation):
    """Mirrors each image in every second epoch, half of them in the even ones: in any two epochs
    a network sees each image both ways.

    Source: K. Jordan, arXiv 2404.00498, section 3.6.
    """

    seed: int = 0

    def on_batch(self, batch: Batch) -> Batch:
        coin = _hash(batch.index.astype(np.uint64) + np.uint64(self.seed) * np.uint64(2**32))
        return replace(batch, x=_mirrored(batch.x, (coin + batch.epoch) % 2 == 1))


@dataclass(frozen=True)
class Cutout(Augmentation):
    """Covers a square of size x size around a random pixel with `fill`, a number or one a channel.

    Source: T. DeVries, G. W. Taylor, arXiv 1708.04552.
    """

    size: int
    fill: float | tuple[float, ...] = 0.0

    def __call__(self, x: Array, rng: Generator) -> Array:
        n, _, h, w = x.shape
        row, column = rng.integers(0, (h, w), (n, 2)).T - self.size // 2
        down, right = np.arange(h) - row[:, None], np.arange(w) - column[:, None]
        rows, columns = (((a >= 0) & (a < self.size)) for a in (down, right))
        hidden = rows[:, None, :, None] & columns[:, None, None, :]
        fill = np.round(np.reshape(self.fill, (-1, 1, 1))).astype(x.dtype)
        return np.where(hidden, fill, x)


@dataclass(frozen=True)
class Brightness(Augmentation):
    """Adds a random number of -by..by (of 0..255) to each image."""

    by: float

    def __call__(self, x: Array, rng: Generator) -> Array:
        added = rng.uniform(-self.by, self.by, (len(x), 1, 1, 1)).astype(np.float32)
        return _like(x.astype(np.float32) + added, x)


@dataclass(frozen=True)
class Contrast(Augmentation):
    """Multiplies each image's distance from its channels' means by a random number low..high."""

    low: float
    high: float

    def __call__(self, x: Array, rng: Generator) -> Array:
        factor = rng.uniform(self.low, self.high, (len(x), 1, 1, 1)).astype(np.float32)
        floats = x.astype(np.float32)
        mean = floats.mean((2, 3), keepdims=True)
        return _like((floats - mean) * factor + mean, x)


@dataclass(frozen=True)
class Mixup(Augmentation):
    """x <- t x + (1 - t) x', and so the targets, with another image x' of the batch and t >= 1/2
    from a Beta(alpha, alpha) distribution, one for each image.

    Integer labels become probabilities of `classes` classes.
    Source: H. Zhang et al., ICLR 2018.
    """

    alpha: float
    classes: int

    def on_batch(self, batch: Batch) -> Batch:
        x, y, rng = batch.x, batch.y, batch.rng
        if y.dtype.kind in "iu":
            y = np.eye(self.classes, dtype=np.float32)[y]
        other = rng.permutation(len(x))
        t = rng.beta(self.alpha, self.alpha, len(x)).astype(np.float32)
        t = np.maximum(t, 1 - t)
        here = t.reshape(-1, *[1] * (x.ndim - 1))
        mixed = here * x + (1 - here) * x[other]
        return replace(batch, x=_like(mixed, x), y=t[:, None] * y + (1 - t[:, None]) * y[other])


def _cut(x: Array, size: tuple[int, ...], rng: Generator) -> Array:
    """Of each image a window of this size, from anywhere."""
    n, _, h, w = x.shape
    if size[0] > h or size[1] > w:
        raise ValueError(f"images of {h}x{w} have no part of {size[0]}x{size[1]}")
    down = rng.integers(0, h - size[0] + 1, n)
    right = rng.integers(0, w - size[1] + 1, n)
    windows = np.lib.stride_tricks.sliding_window_view(x, size, (2, 3))
    cut: Array = windows[np.arange(n), :, down, right]
    return cut


def _mirrored(x: Array, chosen: Array) -> Array:
    return np.where(chosen[:, None, None, None], x[..., ::-1], x)


def _like(floats: Array, x: Array) -> Array:
    """In x's type; bytes rounded and kept within 0..255."""
    if x.dtype != np.uint8:
        return floats.astype(x.dtype, copy=False)
    return np.rint(floats).clip(0, 255).astype(np.uint8)


def _hash(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """The top bit of SplitMix64's output: as good as a coin for every value."""
    z = values * np.uint64(0x9E3779B97F4A7C15) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (z >> np.uint64(63)).astype(np.int64)

"""Initial weights. Random numbers come from the generator that `seed` sets, one per thread.

The fans of w (K, C/groups, *kernel) are C/groups * prod(kernel) inwards, K * prod(kernel) outwards.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np

from pyconv._arrays import Array, Shape

Initialiser = Callable[[Shape, np.random.Generator], Array]

_generator: ContextVar[np.random.Generator | None] = ContextVar("generator", default=None)
_blank: ContextVar[bool] = ContextVar("blank", default=False)


def seed(value: int) -> None:
    """Start the random numbers of layers made from now on, in this thread (at first: seed 0)."""
    _generator.set(np.random.default_rng(value))


@contextmanager
def blank() -> Iterator[None]:
    """Layers made inside get zeros that take no memory and must be replaced before use."""
    token = _blank.set(True)
    try:
        yield
    finally:
        _blank.reset(token)


def make(kind: str, shape: Shape, factor: Array = 1) -> Array:
    """Weights of the given kind, a name in `INITIALISERS`, times factor, as float32."""
    if kind not in INITIALISERS:
        raise ValueError(f"init must be one of {', '.join(INITIALISERS)}; got {kind!r}")
    if _blank.get():
        return np.broadcast_to(np.float32(0), shape)
    generator = _generator.get()
    if generator is None:
        generator = np.random.default_rng(0)
        _generator.set(generator)
    return (INITIALISERS[kind](shape, generator) * factor).astype(np.float32)


def zeros(shape: Shape, rng: np.random.Generator) -> Array:
    return np.zeros(shape, np.float32)


def ones(shape: Shape, rng: np.random.Generator) -> Array:
    return np.ones(shape, np.float32)


def glorot(shape: Shape, rng: np.random.Generator) -> Array:
    """Uniform in +-sqrt(6 / (fan_in + fan_out)): keeps variances through linear and tanh layers.

    Source: X. Glorot, Y. Bengio, AISTATS 2010.
    """
    limit = math.sqrt(6 / sum(fans(shape)))
    return rng.uniform(-limit, limit, shape)


def he(shape: Shape, rng: np.random.Generator) -> Array:
    """Normal with variance 2 / fan_in: keeps variances through ReLU layers.

    Source: K. He et al., ICCV 2015.
    """
    return rng.normal(0, math.sqrt(2 / fans(shape)[0]), shape)


def dirac(shape: Shape, rng: np.random.Generator) -> Array:
    """The identity: output k is input k, read at the kernel's centre; the rest is zero."""
    w = np.zeros(shape)
    centre = tuple(size // 2 for size in shape[2:])
    for k in range(min(shape[:2])):
        w[(k, k, *centre)] = 1
    return w


def dirac_uniform(shape: Shape, rng: np.random.Generator) -> Array:
    """As "dirac" for the first C/groups outputs, the rest uniform in +-1 / sqrt(fan_in)."""
    limit = 1 / math.sqrt(fans(shape)[0])
    w = rng.uniform(-limit, limit, shape)
    identity = min(shape[:2])
    w[:identity] = dirac(shape, rng)[:identity]
    return w


def orthogonal(shape: Shape, rng: np.random.Generator) -> Array:
    """Orthonormal rows of w as a (K, C/groups * prod(kernel)) matrix, columns if K is larger.

    By Gram-Schmidt, applied twice, rather than LAPACK, whose bits depend on its thread count.
    Source: A. Saxe et al., ICLR 2014.
    """
    matrix = rng.normal(size=(shape[0], math.prod(shape[1:])))
    rows = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    for i, row in enumerate(rows):
        for _ in range(2):
            row -= ((rows[:i] * row).sum(1, keepdims=True) * rows[:i]).sum(0)
        row /= np.sqrt((row * row).sum())
    return matrix.reshape(shape)


INITIALISERS: dict[str, Initialiser] = {
    "glorot": glorot,
    "he": he,
    "dirac": dirac,
    "dirac_uniform": dirac_uniform,
    "orthogonal": orthogonal,
    "zeros": zeros,
    "ones": ones,
}


def fans(shape: Shape) -> tuple[int, int]:
    """(fan_in, fan_out) of a weight array."""
    window = math.prod(shape[2:])
    return shape[1] * window, shape[0] * window

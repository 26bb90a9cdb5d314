"""What can be written with NumPy and SciPy alone: the versions that a faster one is measured by."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from pyconv import reference
from pyconv.bench.cases import Array, Arrays, Contestant, Layer
from pyconv.reference.convolution import input_gradient, pad, weight_gradient

MOST_STEPS = 200_000  # of a Python loop: about a second
MOST_BYTES = 1 << 30


def numpy(layer: Layer, given: Arrays, direction: str) -> Iterator[Contestant]:
    """Vectorised, with BLAS products: im2col forward, a product for each tap in the gradients."""
    if layer.kind != "conv":
        return
    x, w, dy = given
    window = (layer.stride, layer.padding, layer.dilation, layer.groups)
    if direction == "fwd":
        columns = 4 * math.prod(layer.y) // layer.y[1] * math.prod(layer.w[1:]) * layer.groups
        if columns <= MOST_BYTES:
            yield "numpy im2col", lambda: reference.conv_im2col(x, w, None, *window), False
    elif direction == "bwd_data":
        yield "numpy taps", lambda: input_gradient(dy, w, x.shape, *window), False
    else:
        pairs, rest = _pairs(layer), (layer.stride, layer.dilation, layer.groups)
        yield "numpy taps", lambda: weight_gradient(dy, pad(x, pairs), w.shape, *rest), False


def loops(layer: Layer, given: Arrays, direction: str) -> Iterator[Contestant]:
    """The textbook's: Python loops over images, filters and pixels."""
    if layer.kind != "conv" or direction != "fwd" or math.prod(layer.y) > MOST_STEPS:
        return
    x, w, _ = given
    k, c = layer.w[0] // layer.groups, layer.w[1]
    reach = [layer.dilation * (size - 1) + 1 for size in layer.kernel]

    def run() -> Array:
        padded, y = pad(x, _pairs(layer)), np.empty(layer.y, x.dtype)
        for place in np.ndindex(layer.y):
            group = place[1] // k
            corner = [layer.stride * i for i in place[2:]]
            window = [slice(i, i + size, layer.dilation) for i, size in zip(corner, reach)]
            seen = padded[(place[0], slice(group * c, group * c + c), *window)]
            y[place] = (seen * w[place[1]]).sum()
        return y

    yield "numpy loops", run, False


def fft(layer: Layer, given: Arrays, direction: str) -> Iterator[Contestant]:
    """The convolution theorem: products over the channels at every frequency."""
    padded = [size + 2 * layer.padding for size in layer.x[2:]]
    n, c, g = layer.x[0], layer.w[1], layer.groups
    k = layer.w[0] // g
    frequencies = math.prod(padded[:-1]) * (padded[-1] // 2 + 1)
    if layer.kind != "conv" or direction != "fwd" or layer.dilation > 1 or layer.stride > 1:
        return
    if 8 * frequencies * g * (n * c + n * k + k * c) > MOST_BYTES:
        return
    x, w, _ = given
    axes = tuple(range(-layer.axes, 0))

    def run() -> Array:
        along: dict[str, Any] = {"s": padded, "axes": axes}
        fx = np.fft.rfftn(pad(x, _pairs(layer)), **along).reshape(n, g, c, frequencies)
        fw = np.fft.rfftn(w, **along).conj().reshape(g, k, c, frequencies)
        fy = fx.transpose(1, 3, 0, 2) @ fw.transpose(0, 3, 2, 1)  # (G, frequency, N, K/G)
        fy = fy.transpose(2, 0, 3, 1).reshape(n, g * k, *padded[:-1], padded[-1] // 2 + 1)
        y = np.fft.irfftn(fy, **along).astype(x.dtype, copy=False)
        inside: Any = (..., *[slice(size) for size in layer.y[2:]])
        return y[inside]

    yield "numpy fft", run, False


def scipy(layer: Layer, given: Arrays, direction: str) -> Iterator[Contestant]:
    """scipy.signal.oaconvolve for each filter, summed over the channels; for windows above 64."""
    if layer.kind != "conv" or direction != "fwd" or layer.dilation > 1 or layer.stride > 1:
        return
    if math.prod(layer.kernel) < 64:
        return
    from scipy.signal import oaconvolve

    x, w, _ = given
    k, c = layer.w[0] // layer.groups, layer.w[1]
    axes = tuple(range(-layer.axes, 0))

    def run() -> Array:
        padded, y = pad(x, _pairs(layer)), np.empty(layer.y, x.dtype)
        turned = np.flip(w, axes)
        for i in range(layer.w[0]):
            first = i // k * c
            some = padded[:, first : first + c]
            y[:, i] = oaconvolve(some, turned[i][None], mode="valid", axes=axes).sum(1)
        return y

    yield "scipy oaconvolve", run, False


def _pairs(layer: Layer) -> list[tuple[int, int]]:
    return [(layer.padding, layer.padding)] * layer.axes

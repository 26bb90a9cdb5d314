"""What in an image makes a feature map respond: the view of Zeiler and Fergus."""

from __future__ import annotations

from typing import Any

import numpy as np

from pyconv import functional
from pyconv._arrays import Array
from pyconv.nn.activation import Flatten, LeakyReLU, ReLU, Scale, _Activation
from pyconv.nn.containers import Sequential
from pyconv.nn.conv import Linear, _Conv
from pyconv.nn.layer import Layer, no_grad
from pyconv.nn.norm import Dropout, LocalResponseNorm, _BatchNorm
from pyconv.nn.pool import _MaxPool


def deconvnet(net: Sequential, layer: str, x: Array, channel: int | None = None) -> Array:
    """The strongest response of a feature map, projected back to the pixels of each image.

    x : (N, C, H, W), as the network reads it; `layer` names a layer of a Sequential (a dotted name
    for one in a block); `channel` is by default each image's strongest. Returns an array of x's
    shape. Backwards, a convolution is its transpose, without bias; max pooling puts values back
    where they came from (the switches); a rectifier passes what is positive. Batch norm is its
    scale, local response norm and dropout are the identity.

    Raises ValueError for an unknown layer and for layers in the way that have no such step.
    Source: M. D. Zeiler, R. Fergus, ECCV 2014, section 2.1.

    >>> import numpy as np
    >>> from pyconv import nn
    >>> net = nn.Sequential(conv=nn.Conv2d(1, 2, 3), relu=nn.ReLU(), pool=nn.MaxPool2d(2))
    >>> nn.deconvnet(net, "pool", np.ones((1, 1, 8, 8), np.float32)).shape
    (1, 1, 8, 8)
    """
    chain = _flat(net, "")
    names = [name for name, _ in chain]
    if layer not in names:
        raise ValueError(f"deconvnet: no layer {layer!r}; there are {', '.join(names)}")
    chain = chain[: names.index(layer) + 1]
    back: list[tuple[Layer, Any]] = []
    training = net.training
    net.eval()
    try:
        with no_grad():
            y = x
            for _, one in chain:
                y = _forward(one, y, back)
    finally:
        net.train(training)
    signal = _strongest(y, channel)
    for one, seen in reversed(back):
        signal = _backward(one, signal, seen)
    return signal


def _flat(net: Layer, prefix: str) -> list[tuple[str, Layer]]:
    if not isinstance(net, Sequential):
        return [(prefix, net)]
    dot = f"{prefix}." if prefix else ""
    return [pair for name, one in net.children().items() for pair in _flat(one, f"{dot}{name}")]


def _strongest(y: Array, channel: int | None) -> Array:
    """y with only the largest value of each image's channel left."""
    flat = y.reshape(*y.shape[:2], -1)
    images = np.arange(len(y))
    channels = flat.max(2).argmax(1) if channel is None else np.full(len(y), channel)
    places = flat[images, channels].argmax(1)
    signal = np.zeros_like(flat)
    signal[images, channels, places] = flat[images, channels, places]
    return signal.reshape(y.shape)


def _forward(layer: Layer, x: Array, back: list[tuple[Layer, Any]]) -> Array:
    """The layer's result; what its step back reads joins `back`."""
    if isinstance(layer, _MaxPool):
        pool = type(layer).function
        options = (layer.stride, layer.padding, layer.dilation, layer.ceil_mode)
        y, switches = pool(x, layer.kernel_size, *options, return_indices=True)
        back.append((layer, (switches, x.shape)))
        return y
    back.append((layer, x.shape))
    return layer(x)


def _backward(layer: Layer, signal: Array, seen: Any) -> Array:
    if isinstance(layer, _MaxPool):
        return type(layer).gradient(signal, *seen)
    if isinstance(layer, _Conv):
        weights = layer.w.value
        dx, _, _ = type(layer).gradient(signal, seen, weights, **layer._options(), needs=("x",))
        return dx
    if isinstance(layer, Linear):
        rows = signal.reshape(1, -1, layer.out_features)
        w = np.ascontiguousarray(layer.w.value.T)[:, :, None]
        return functional.conv1d(rows, w, layout="NHWC").reshape(seen)
    if isinstance(layer, Flatten):
        return signal.reshape(seen)
    if isinstance(layer, _BatchNorm):
        w, _ = layer.folded(np.ones((layer.channels, 1), signal.dtype), None)
        return signal * w.reshape(-1, *[1] * (signal.ndim - 2))
    if isinstance(layer, Scale):
        return signal * signal.dtype.type(layer.factor)
    if isinstance(layer, ReLU | LeakyReLU | _Activation):
        return np.maximum(signal, 0)
    if isinstance(layer, LocalResponseNorm | Dropout):
        return signal
    raise ValueError(f"deconvnet: no way back through {type(layer).__name__}")

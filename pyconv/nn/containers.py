"""Layers made of layers."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np

from pyconv._arrays import Array, Shape
from pyconv._gpu import namespace
from pyconv.nn.activation import _Activation
from pyconv.nn.conv import _Conv
from pyconv.nn.layer import Layer, keeping
from pyconv.nn.norm import _BatchNorm
from pyconv.nn.pool import _MaxPool


class _Container(Layer):
    """Layers by position or by name; positions become the names "0", "1", ..."""

    def __init__(self, *layers: Layer, **named: Layer) -> None:
        for layer in (*layers, *named.values()):
            if not isinstance(layer, Layer):
                raise TypeError(f"{type(self).__name__}: {layer!r} is not a Layer")
        self.layers: tuple[Layer, ...] = layers
        self.named: Mapping[str, Layer] = named
        self._all = {str(i): layer for i, layer in enumerate(layers)} | named

    def children(self) -> dict[str, Layer]:
        return self._all

    def __len__(self) -> int:
        return len(self._all)

    def __getitem__(self, key: int | str) -> Layer:
        return self._all[key] if isinstance(key, str) else list(self._all.values())[key]

    def __repr__(self) -> str:
        lines = [f"  {name}: {layer!r}".replace("\n", "\n  ") for name, layer in self._all.items()]
        return "\n".join([f"{type(self).__name__}(", *lines, ")"])


class Sequential(_Container):
    """Each layer on the one before.

    Layers are given in order, or by name: `Sequential(c1=nn.Conv2d(1, 6, 5), s2=nn.MaxPool2d(2))`.

    >>> import numpy as np
    >>> from pyconv import nn
    >>> net = nn.Sequential(nn.Conv2d(1, 6, 5), nn.ReLU(), nn.Flatten(), nn.Linear(96, 10))
    >>> net(np.zeros((2, 1, 8, 8), np.float32)).shape
    (2, 10)
    """

    @property
    def fuses(self) -> tuple[str, ...]:  # type: ignore[override]
        return self[-1].fuses if self._all else ()

    def forward(self, x: Array, **fused: Any) -> Array:
        """fused: what the last layer takes."""
        groups = self.fused()
        before: Layer | None = None
        for index, (layer, norm, activation) in enumerate(groups):
            given = fused if index == len(groups) - 1 else {}
            if activation is not None:
                given = given | {"activation": activation.name}
            if norm is not None:
                x = layer.apply(x, *norm.folded(*layer._values()), **given)
            else:
                x = layer.forward(x, **given) if given else layer(x)
            if activation is not None:
                activation.keep(x)
            if before is not None and _commute(before, layer):
                before.keep(x)
            before = layer if activation is None else activation
        return x

    def fused(self) -> list[tuple[Any, Any, Any]]:
        """The layers as they run now: (layer, batch norm or None, activation or None), as one pass.

        An activation whose gradient follows from its result joins the layer before it; without a
        gradient to come every activation does, and a batch norm in inference the convolution.
        """
        layers = list(self._all.values())
        groups: list[tuple[Any, Any, Any]] = []
        while layers:
            layer, norm, activation = layers.pop(0), None, None
            if layers and not keeping() and isinstance(layer, _Conv) and _infers(layers[0]):
                norm = layers.pop(0)
            if layers and "activation" in layer.fuses and _may_join(layers[0]):
                activation = layers.pop(0)
            groups.append((layer, norm, activation))
        return groups

    def backward(self, dy: Array) -> Array:
        layers = list(self._all.values())
        first = 0
        if not self.input_gradient:  # nothing below the first layer that learns is needed
            while first < len(layers) and not _learns(layers[first]):
                first += 1
        for i, (before, layer) in enumerate(pairwise(layers[first:]), first):
            if _commute(before, layer):
                layers[i : i + 2] = layer, before
        for layer in reversed(layers[first:]):
            layer.input_gradient = self.input_gradient or layer is not layers[first]
            dy = layer.backward(dy)
        return dy

    def inside(self, shape: Shape) -> list[tuple[str, Layer, Shape]]:
        seen = []
        for name, layer in self._all.items():
            seen.append((name, layer, shape))
            shape = layer.output_shape(shape)
        return seen

    def output_shape(self, shape: Shape) -> Shape:
        for layer in self._all.values():
            shape = layer.output_shape(shape)
        return shape


class Concat(_Container):
    """All layers on the same input, their outputs side by side as channels (Inception).

    >>> import numpy as np
    >>> from pyconv import nn
    >>> block = nn.Concat(nn.Conv2d(8, 4, 1), nn.Conv2d(8, 6, 3, padding=1))
    >>> block(np.zeros((1, 8, 5, 5), np.float32)).shape
    (1, 10, 5, 5)
    """

    def forward(self, x: Array) -> Array:
        outputs = [layer(x) for layer in self._all.values()]
        self.keep([y.shape[1] for y in outputs])
        return np.concatenate(outputs, axis=1)

    def backward(self, dy: Array) -> Array:
        (channels,) = self.kept()
        parts = np.split(dy, np.cumsum(channels)[:-1], axis=1)
        dx = None
        for layer, part in zip(self._all.values(), parts, strict=True):
            layer.input_gradient = self.input_gradient
            branch = layer.backward(namespace(part).ascontiguousarray(part))
            if self.input_gradient:
                dx = branch if dx is None else dx + branch
        return dx

    def inside(self, shape: Shape) -> list[tuple[str, Layer, Shape]]:
        return [(name, layer, shape) for name, layer in self._all.items()]

    def output_shape(self, shape: Shape) -> Shape:
        outputs = [layer.output_shape(shape) for layer in self._all.values()]
        n, _, *spatial = outputs[0]
        return (n, sum(y[1] for y in outputs), *spatial)


class Residual(Layer):
    """y = body(x) + shortcut(x); without a shortcut, y = body(x) + x.

    Source: K. He et al., CVPR 2016.

    >>> import numpy as np
    >>> from pyconv import nn
    >>> nn.Residual(nn.ReLU())(np.array([-1.0, 2.0]))
    array([-1.,  4.])
    """

    def __init__(self, body: Layer, shortcut: Layer | None = None) -> None:
        self.body, self.shortcut = body, shortcut

    @property
    def fuses(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("activation",) if self.body.fuses == ("activation", "residual") else ()

    def forward(self, x: Array, activation: str | None = None) -> Array:
        beside = x if self.shortcut is None else self.shortcut(x)
        if self.fuses:
            body: Any = self.body
            return body.forward(x, activation=activation, residual=beside)
        return self.body(x) + beside

    def backward(self, dy: Array) -> Array:
        self.body.input_gradient = self.input_gradient
        dx = self.body.backward(dy)
        if self.shortcut is not None:
            self.shortcut.input_gradient = self.input_gradient
            dy = self.shortcut.backward(dy)
        return dx + dy if self.input_gradient else dx

    def inside(self, shape: Shape) -> list[tuple[str, Layer, Shape]]:
        first = [] if self.shortcut is None else [("shortcut", self.shortcut, shape)]
        return [*first, ("body", self.body, shape)]

    def output_shape(self, shape: Shape) -> Shape:
        return self.body.output_shape(shape)


def _commute(layer: Layer, pool: Layer) -> bool:
    """Whether the layer's gradient may be taken of the pool's result rather than of its own.

    A maximum carries the gradient of one value and is that value: the derivative there follows from
    it, over as few values as the pool leaves, and the full map need not be kept.
    """
    return isinstance(pool, _MaxPool) and isinstance(layer, _Activation) and not layer.reads_input


def _infers(layer: Layer) -> bool:
    return isinstance(layer, _BatchNorm) and not layer.training


def _may_join(layer: Layer) -> bool:
    return isinstance(layer, _Activation) and not (keeping() and layer.reads_input)


def _learns(layer: Layer) -> bool:
    return any(parameter.trainable for parameter in layer.parameters().values())

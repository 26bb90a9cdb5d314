"""GoogLeNet. Source: C. Szegedy et al., "Going deeper with convolutions", CVPR 2015, table 1."""

from __future__ import annotations

from typing import Any

from pyconv.nn.activation import Flatten, ReLU
from pyconv.nn.containers import Concat, Sequential
from pyconv.nn.conv import Conv2d, Linear
from pyconv.nn.graph import Graph
from pyconv.nn.norm import Dropout, LocalResponseNorm
from pyconv.nn.pool import AvgPool2d, GlobalAvgPool, MaxPool2d

# 1x1; 1x1 before 3x3, 3x3; 1x1 before 5x5, 5x5; 1x1 after the pooling
_INCEPTION = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}


def inception(inputs: int, widths: tuple[int, ...]) -> Concat:
    """The Inception module: 1x1, 3x3 and 5x5 convolutions and a pooling, side by side.

    `widths`: of the 1x1; before and of the 3x3; before and of the 5x5; after the pooling.

    >>> import numpy as np
    >>> from pyconv.nn import models
    >>> module = models.inception(192, (64, 96, 128, 16, 32, 32))
    >>> module.output_shape((1, 192, 28, 28))
    (1, 256, 28, 28)
    """
    one, before3, three, before5, five, after = widths
    return Concat(
        one=_conv(inputs, one, 1),
        three=Sequential(_conv(inputs, before3, 1), _conv(before3, three, 3)),
        five=Sequential(_conv(inputs, before5, 1), _conv(before5, five, 5)),
        pool=Sequential(MaxPool2d(3, 1, 1), _conv(inputs, after, 1)),
    )


def googlenet(classes: int = 1000, channels: int = 3) -> Graph:
    """GoogLeNet (Inception v1) for (N, channels, 224, 224).

    In training a call returns (logits, logits of the classifier behind 4a, behind 4d): see
    `nn.auxiliary_loss`, which weights the last two by 0.3.

    >>> from pyconv.nn import models
    >>> net = models.googlenet()
    >>> sum(p.size for name, p in net.parameters().items() if not name.startswith("extra"))
    6998552
    """
    nodes: dict[str, tuple[Any, ...]] = {}
    last = "input"

    def add(name: str, layer: Any) -> None:
        nonlocal last
        nodes[name] = (layer, last)
        last = name

    add("conv1", _conv(channels, 64, 7, 2))
    add("pool1", MaxPool2d(3, 2, ceil_mode=True))
    add("norm1", _lrn())
    add("reduce2", _conv(64, 64, 1))
    add("conv2", _conv(64, 192, 3))
    add("norm2", _lrn())
    add("pool2", MaxPool2d(3, 2, ceil_mode=True))
    inputs = 192
    for name, widths in _INCEPTION.items():
        add(f"inception{name}", inception(inputs, widths))
        inputs = widths[0] + widths[2] + widths[4] + widths[5]
        if name in ("4a", "4d"):
            nodes[f"extra{name}"] = (_extra(inputs, classes), last)
        if name in ("3b", "4e"):
            add(f"pool{name[0]}", MaxPool2d(3, 2, ceil_mode=True))
    add("pool5", GlobalAvgPool())
    add("output", Sequential(Flatten(), Dropout(0.4), Linear(inputs, classes, init="glorot")))
    return Graph(nodes, "output", ("extra4a", "extra4d"))


def _conv(inputs: int, outputs: int, size: int, stride: int = 1) -> Sequential:
    return Sequential(Conv2d(inputs, outputs, size, stride, padding=size // 2), ReLU())


def _lrn() -> LocalResponseNorm:
    return LocalResponseNorm(5, alpha=1e-4, beta=0.75)


def _extra(inputs: int, classes: int) -> Sequential:
    return Sequential(
        AvgPool2d(5, 3),
        _conv(inputs, 128, 1),
        Flatten(),
        Linear(128 * 4 * 4, 1024),
        ReLU(),
        Dropout(0.7),
        Linear(1024, classes, init="glorot"),
    )

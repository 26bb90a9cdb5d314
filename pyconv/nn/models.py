"""Networks of the literature, each a function that returns fresh weights (see `nn.init.seed`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from pyconv.nn.activation import Flatten, ReLU, Tanh
from pyconv.nn.containers import Residual, Sequential
from pyconv.nn.conv import Conv2d, Linear
from pyconv.nn.layer import Layer
from pyconv.nn.norm import BatchNorm2d
from pyconv.nn.pool import GlobalAvgPool, MaxPool2d, SubSample2d

# LeCun et al. 1998, table I: which of the six maps of S2 each of the sixteen maps of C3 reads.
_C3_READS = (
    *((0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (0, 4, 5), (0, 1, 5)),
    *((0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5), (0, 3, 4, 5), (0, 1, 4, 5), (0, 1, 2, 5)),
    *((0, 1, 3, 4), (1, 2, 4, 5), (0, 2, 3, 5)),
    (0, 1, 2, 3, 4, 5),
)


def lenet5(classes: int = 10, channels: int = 1) -> Sequential:
    """LeNet-5 for (N, channels, 32, 32): trainable subsampling, tanh, C3 connected by the table.

    60,000 parameters up to F6 as published; a linear layer stands for the output's radial basis
    functions. Source: Y. LeCun et al., Proc. IEEE 86(11), 1998.

    >>> from pyconv.nn import models
    >>> net = models.lenet5()
    >>> sum(p.size for name, p in net.parameters().items() if not name.startswith("output"))
    60000
    """
    table = tuple(tuple(int(c in reads) for c in range(6)) for reads in _C3_READS)
    return Sequential(
        c1=Conv2d(channels, 6, 5, init="glorot"),
        s2=SubSample2d(6),
        tanh2=Tanh(),
        c3=Conv2d(6, 16, 5, init="glorot", connections=table),
        s4=SubSample2d(16),
        tanh4=Tanh(),
        c5=Conv2d(16, 120, 5, init="glorot"),
        tanh5=Tanh(),
        flatten=Flatten(),
        f6=Linear(120, 84, init="glorot"),
        tanh6=Tanh(),
        output=Linear(84, classes, init="glorot"),
    )


def lenet5_modern(classes: int = 10, channels: int = 1) -> Sequential:
    """LeNet-5 as built today, for (N, channels, 32, 32): max pooling, ReLU, C3 fully connected.

    >>> from pyconv.nn import models
    >>> sum(p.size for p in models.lenet5_modern().parameters().values())
    61706
    """
    return Sequential(
        c1=Conv2d(channels, 6, 5),
        relu1=ReLU(),
        s2=MaxPool2d(2),
        c3=Conv2d(6, 16, 5),
        relu3=ReLU(),
        s4=MaxPool2d(2),
        c5=Conv2d(16, 120, 5),
        relu5=ReLU(),
        flatten=Flatten(),
        f6=Linear(120, 84),
        relu6=ReLU(),
        output=Linear(84, classes, init="glorot"),
    )


def resnet20(classes: int = 10, channels: int = 3) -> Sequential:
    """ResNet-20 for (N, channels, 32, 32): three stages of three residual blocks, 16 to 64 maps.

    Shortcuts that change the shape are 1x1 convolutions (the paper's option B).
    Source: K. He et al., CVPR 2016, section 4.2.
    """

    def conv(inputs: int, outputs: int, size: int, stride: int) -> Conv2d:
        return Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)

    def block(inputs: int, outputs: int, stride: int) -> Sequential:
        body = Sequential(
            *(conv(inputs, outputs, 3, stride), BatchNorm2d(outputs), ReLU()),
            *(conv(outputs, outputs, 3, 1), BatchNorm2d(outputs)),
        )
        same = inputs == outputs and stride == 1
        shortcut = (
            None if same else Sequential(conv(inputs, outputs, 1, stride), BatchNorm2d(outputs))
        )
        return Sequential(Residual(body, shortcut), ReLU())

    return Sequential(
        stem=Sequential(conv(channels, 16, 3, 1), BatchNorm2d(16), ReLU()),
        stage1=Sequential(*(block(16, 16, 1) for _ in range(3))),
        stage2=Sequential(block(16, 32, 2), block(32, 32, 1), block(32, 32, 1)),
        stage3=Sequential(block(32, 64, 2), block(64, 64, 1), block(64, 64, 1)),
        pool=GlobalAvgPool(),
        flatten=Flatten(),
        output=Linear(64, classes, init="glorot"),
    )


class Model(NamedTuple):
    """A network by name, for the command line: how to build it and the image size it expects."""

    build: Callable[[int, int], Layer]
    size: tuple[int, int]


CATALOGUE: dict[str, Model] = {
    "lenet5": Model(lenet5, (32, 32)),
    "lenet5_modern": Model(lenet5_modern, (32, 32)),
    "resnet20": Model(resnet20, (32, 32)),
}

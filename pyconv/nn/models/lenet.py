"""LeNet-5, as published and as built today."""

from __future__ import annotations

from pyconv.nn.activation import Flatten, ReLU, Tanh
from pyconv.nn.containers import Sequential
from pyconv.nn.conv import Conv2d, Linear
from pyconv.nn.pool import MaxPool2d, SubSample2d

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

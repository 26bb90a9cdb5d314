"""Networks for large images that are one row of layers: AlexNet, ZFNet, VGG."""

from __future__ import annotations

from pyconv.nn.activation import Flatten, ReLU
from pyconv.nn.containers import Sequential
from pyconv.nn.conv import Conv2d, Linear
from pyconv.nn.layer import Layer
from pyconv.nn.norm import Dropout, LocalResponseNorm
from pyconv.nn.pool import MaxPool2d

_VGG: dict[int, tuple[int, ...]] = {11: (1, 1, 2, 2, 2), 13: (2,) * 5, 16: (2, 2, 3, 3, 3),
                                    19: (2, 2, 4, 4, 4)}  # fmt: skip


def alexnet(classes: int = 1000, channels: int = 3) -> Sequential:
    """AlexNet for (N, channels, 227, 227); its two GPUs are the two groups of conv2, 4 and 5.

    Source: A. Krizhevsky et al., NIPS 2012 (which says 224, but computes 227).

    >>> from pyconv.nn import models
    >>> sum(p.size for p in models.alexnet().parameters().values())
    60965224
    """
    return Sequential(
        conv1=Conv2d(channels, 96, 11, 4),
        relu1=ReLU(),
        norm1=_lrn(),
        pool1=MaxPool2d(3, 2),
        conv2=Conv2d(96, 256, 5, padding=2, groups=2),
        relu2=ReLU(),
        norm2=_lrn(),
        pool2=MaxPool2d(3, 2),
        conv3=Conv2d(256, 384, 3, padding=1),
        relu3=ReLU(),
        conv4=Conv2d(384, 384, 3, padding=1, groups=2),
        relu4=ReLU(),
        conv5=Conv2d(384, 256, 3, padding=1, groups=2),
        relu5=ReLU(),
        pool5=MaxPool2d(3, 2),
        **_classifier(256 * 6 * 6, classes),
    )


def zfnet(classes: int = 1000, channels: int = 3) -> Sequential:
    """ZFNet for (N, channels, 224, 224): AlexNet with a finer first layer and no groups.

    Source: M. Zeiler, R. Fergus, ECCV 2014, figure 3.

    >>> from pyconv.nn import models
    >>> sum(p.size for p in models.zfnet().parameters().values())
    62357608
    """
    return Sequential(
        conv1=Conv2d(channels, 96, 7, 2, padding=1),
        relu1=ReLU(),
        pool1=MaxPool2d(3, 2, 1),
        norm1=_lrn(),
        conv2=Conv2d(96, 256, 5, 2),
        relu2=ReLU(),
        pool2=MaxPool2d(3, 2, 1),
        norm2=_lrn(),
        conv3=Conv2d(256, 384, 3, padding=1),
        relu3=ReLU(),
        conv4=Conv2d(384, 384, 3, padding=1),
        relu4=ReLU(),
        conv5=Conv2d(384, 256, 3, padding=1),
        relu5=ReLU(),
        pool5=MaxPool2d(3, 2),
        **_classifier(256 * 6 * 6, classes),
    )


def vgg(depth: int = 16, classes: int = 1000, channels: int = 3) -> Sequential:
    """VGG of 11, 13, 16 or 19 layers for (N, channels, 224, 224): 3x3 convolutions throughout.

    Source: K. Simonyan, A. Zisserman, ICLR 2015.

    >>> from pyconv.nn import models
    >>> sum(p.size for p in models.vgg(16).parameters().values())
    138357544
    """
    if depth not in _VGG:
        raise ValueError(f"vgg: depth must be one of {tuple(_VGG)}, got {depth}")
    layers: dict[str, Layer] = {}
    inputs = channels
    for stage, (count, width) in enumerate(zip(_VGG[depth], (64, 128, 256, 512, 512)), 1):
        for index in range(1, count + 1):
            layers[f"conv{stage}_{index}"] = Conv2d(inputs, width, 3, padding=1)
            layers[f"relu{stage}_{index}"] = ReLU()
            inputs = width
        layers[f"pool{stage}"] = MaxPool2d(2)
    return Sequential(**layers, **_classifier(512 * 7 * 7, classes))


def vgg16(classes: int = 1000, channels: int = 3) -> Sequential:
    """`vgg(16)`."""
    return vgg(16, classes, channels)


def _lrn() -> LocalResponseNorm:
    return LocalResponseNorm(5, alpha=1e-4 * 5, beta=0.75, k=2.0)


def _classifier(features: int, classes: int) -> dict[str, Layer]:
    return {
        "flatten": Flatten(),
        "drop6": Dropout(0.5),
        "fc6": Linear(features, 4096),
        "relu6": ReLU(),
        "drop7": Dropout(0.5),
        "fc7": Linear(4096, 4096),
        "relu7": ReLU(),
        "output": Linear(4096, classes, init="glorot"),
    }

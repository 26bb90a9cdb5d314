"""Residual networks. Source: K. He et al., "Deep residual learning", CVPR 2016."""

from __future__ import annotations

from pyconv.nn.activation import Flatten, ReLU
from pyconv.nn.containers import Residual, Sequential
from pyconv.nn.conv import Conv2d, Linear
from pyconv.nn.layer import Layer
from pyconv.nn.norm import BatchNorm2d
from pyconv.nn.pool import GlobalAvgPool, MaxPool2d

# Blocks of the four stages for 224x224 images, and whether they are bottlenecks.
_IMAGENET = {18: ((2, 2, 2, 2), False), 34: ((3, 4, 6, 3), False), 50: ((3, 4, 6, 3), True)}
_CIFAR = (20, 32, 44, 56, 110)


def resnet(
    depth: int = 18, classes: int = 1000, channels: int = 3, *, small_images: bool = False
) -> Sequential:
    """ResNet of 18, 34 or 50 layers for (N, channels, 224, 224), or of 20, 32, 44, 56 or 110 layers
    for (N, channels, 32, 32).

    The stride of a bottleneck sits in its 3x3 convolution; shortcuts that change the shape are 1x1
    convolutions with batch norm (option B). `small_images` gives the first kind a 3x3 stem without
    pooling, for 32x32.

    >>> from pyconv.nn import models
    >>> sum(p.size for p in models.resnet(18).parameters().values())
    11689512
    """
    blocks: tuple[int, ...]
    widths: tuple[int, ...]
    if depth in _CIFAR:
        blocks, bottleneck, widths = ((depth - 2) // 6,) * 3, False, (16, 32, 64)
    elif depth in _IMAGENET:
        (blocks, bottleneck), widths = _IMAGENET[depth], (64, 128, 256, 512)
    else:
        raise ValueError(f"resnet: depth must be one of {(*_IMAGENET, *_CIFAR)}, got {depth}")
    large = depth in _IMAGENET and not small_images
    stem: list[Layer] = _conv(channels, widths[0], 7 if large else 3, 2 if large else 1)
    stem.append(ReLU())
    if large:
        stem.append(MaxPool2d(3, 2, 1))
    stages: dict[str, Layer] = {}
    inputs = widths[0]
    for number, (count, width) in enumerate(zip(blocks, widths, strict=True), 1):
        stage = []
        for index in range(count):
            stride = 2 if number > 1 and index == 0 else 1
            stage.append(_block(inputs, width, stride, bottleneck))
            inputs = width * 4 if bottleneck else width
        stages[f"stage{number}"] = Sequential(*stage)
    return Sequential(
        stem=Sequential(*stem),
        **stages,
        pool=GlobalAvgPool(),
        flatten=Flatten(),
        output=Linear(inputs, classes, init="glorot"),
    )


def resnet20(classes: int = 10, channels: int = 3) -> Sequential:
    """`resnet(20)`: three stages of three blocks, 16 to 64 maps, for (N, channels, 32, 32)."""
    return resnet(20, classes, channels)


def _conv(inputs: int, outputs: int, size: int, stride: int) -> list[Layer]:
    return [
        Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False),
        BatchNorm2d(outputs),
    ]


def _block(inputs: int, width: int, stride: int, bottleneck: bool) -> Sequential:
    outputs = width * 4 if bottleneck else width
    if bottleneck:
        body = Sequential(
            *_conv(inputs, width, 1, 1),
            ReLU(),
            *_conv(width, width, 3, stride),
            ReLU(),
            *_conv(width, outputs, 1, 1),
        )
    else:
        body = Sequential(*_conv(inputs, width, 3, stride), ReLU(), *_conv(width, outputs, 3, 1))
    same = inputs == outputs and stride == 1
    shortcut = None if same else Sequential(*_conv(inputs, outputs, 1, stride))
    return Sequential(Residual(body, shortcut), ReLU())

"""Networks for CIFAR-10: the TensorFlow tutorial's, its variants, and one made for speed."""

from __future__ import annotations

from pyconv.nn.activation import GELU, Flatten, ReLU, Scale
from pyconv.nn.containers import Sequential
from pyconv.nn.conv import Conv2d, Linear
from pyconv.nn.layer import Layer
from pyconv.nn.norm import BatchNorm2d, LocalResponseNorm
from pyconv.nn.pool import MaxPool2d

# (kernel size, maps) of each convolution
_KLEIN = {
    1: ((5, 64),),
    2: ((5, 256),),
    3: ((7, 128), (5, 64), (3, 64)),
    4: ((5, 256), (5, 128), (3, 64)),
}


def cifar_tutorial(classes: int = 10, channels: int = 3) -> Sequential:
    """The network of the TensorFlow CIFAR-10 tutorial (2015 to 2019), for (N, channels, 24, 24).

    The second normalisation stands before its pooling, as there. Its recipe: weight decay 0.004 on
    the first two linear layers, moving average 0.9999 of the weights.

    >>> from pyconv.nn import models
    >>> sum(p.size for p in models.cifar_tutorial().parameters().values())
    1068298
    """
    return Sequential(
        conv1=Conv2d(channels, 64, 5, padding="same"),
        relu1=ReLU(),
        pool1=_pool(24),
        norm1=_lrn(),
        conv2=Conv2d(64, 64, 5, padding="same"),
        relu2=ReLU(),
        norm2=_lrn(),
        pool2=_pool(12),
        **_classifier(64 * 6 * 6, classes, 3),
    )


def klein(variant: int, classes: int = 10, channels: int = 3) -> Sequential:
    """A variant of `cifar_tutorial` with other convolutions, each with its pooling and LRN.

    1: 5x5 64. 2: 5x5 256. 3: 7x7 128, 5x5 64, 3x3 64. 4: 5x5 256, 5x5 128, 3x3 64.
    """
    if variant not in _KLEIN:
        raise ValueError(f"klein: variant must be one of {tuple(_KLEIN)}, got {variant}")
    layers: dict[str, Layer] = {}
    inputs, size = channels, 24
    for number, (kernel, maps) in enumerate(_KLEIN[variant], 1):
        layers[f"conv{number}"] = Conv2d(inputs, maps, kernel, padding="same")
        layers[f"relu{number}"] = ReLU()
        layers[f"pool{number}"] = _pool(size)
        layers[f"norm{number}"] = _lrn()
        inputs, size = maps, (size + 1) // 2
    return Sequential(**layers, **_classifier(inputs * size * size, classes, number + 1))


def fast_cifar(
    classes: int = 10, channels: int = 3, widths: tuple[int, int, int] = (64, 256, 256)
) -> Sequential:
    """A small fast network for (N, channels, 32, 32), after airbench94.

    A 2x2 convolution whose weights whiten the images (`whitening` sets and freezes them), three
    blocks of conv, pool, norm, GELU, conv, norm, GELU, and a linear layer whose output is scaled.
    Source: K. Jordan, arXiv 2404.00498.
    """
    stem = 2 * channels * 4
    blocks: dict[str, Layer] = {}
    inputs = stem
    for number, width in enumerate(widths, 1):
        blocks[f"block{number}"] = Sequential(
            Conv2d(inputs, width, 3, padding=1, bias=False, init="dirac_uniform"),
            MaxPool2d(2),
            _shift_norm(width),
            GELU(),
            Conv2d(width, width, 3, padding=1, bias=False, init="dirac_uniform"),
            _shift_norm(width),
            GELU(),
        )
        inputs = width
    return Sequential(
        whiten=Conv2d(channels, stem, 2, bias=True),
        gelu=GELU(),
        **blocks,
        pool=MaxPool2d(3),
        flatten=Flatten(),
        output=Linear(inputs, classes, bias=False, init="glorot"),
        scale=Scale(1 / 9),
    )


def _shift_norm(channels: int) -> BatchNorm2d:
    """Batch norm that learns its shift only."""
    norm = BatchNorm2d(channels, eps=1e-12, momentum=0.4)
    norm.w.trainable = False
    return norm


def _pool(size: int) -> MaxPool2d:
    """3x3 windows with stride 2, where TensorFlow's "same" pads an even size: after it only."""
    return MaxPool2d(3, 2, 0 if size % 2 == 0 else 1, ceil_mode=size % 2 == 0)


def _lrn() -> LocalResponseNorm:
    return LocalResponseNorm(9, alpha=0.001, beta=0.75)


def _classifier(features: int, classes: int, first: int) -> dict[str, Layer]:
    return {
        "flatten": Flatten(),
        f"fc{first}": Linear(features, 384),
        f"relu{first}": ReLU(),
        f"fc{first + 1}": Linear(384, 192),
        f"relu{first + 1}": ReLU(),
        "output": Linear(192, classes, init="glorot"),
    }

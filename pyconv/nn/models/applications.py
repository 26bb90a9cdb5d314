"""Networks that drive, colour, listen, read and segment."""

from __future__ import annotations

from typing import Any

from pyconv.nn.activation import Flatten, ReLU
from pyconv.nn.containers import Sequential
from pyconv.nn.conv import Conv1d, Conv2d, ConvTranspose2d, Linear
from pyconv.nn.graph import Cat, Graph
from pyconv.nn.layer import Layer
from pyconv.nn.norm import BatchNorm2d, Dropout
from pyconv.nn.pool import MaxPool1d, MaxPool2d


def pilotnet(outputs: int = 1, channels: int = 3) -> Sequential:
    """The end-to-end driving network for (N, channels, 66, 200): one number, the steering.

    252,219 parameters and 27 million connections, as published (about 250,000 and 27 million).
    Source: M. Bojarski et al., arXiv 1604.07316.

    >>> from pyconv.nn import models
    >>> net = models.pilotnet()
    >>> sum(p.size for p in net.parameters().values())
    252219
    """
    layers: dict[str, Layer] = {}
    inputs = channels
    shapes = ((24, 5, 2), (36, 5, 2), (48, 5, 2), (64, 3, 1), (64, 3, 1))
    for number, (maps, size, stride) in enumerate(shapes, 1):
        layers[f"conv{number}"] = Conv2d(inputs, maps, size, stride)
        layers[f"relu{number}"] = ReLU()
        inputs = maps
    return Sequential(
        **layers,
        flatten=Flatten(),
        fc6=Linear(64 * 18, 100),
        relu6=ReLU(),
        fc7=Linear(100, 50),
        relu7=ReLU(),
        fc8=Linear(50, 10),
        relu8=ReLU(),
        output=Linear(10, outputs, init="glorot"),
    )


def colorization(bins: int = 313, channels: int = 1) -> Sequential:
    """Lightness (N, 1, H, W) to logits of colour bins (N, bins, H/4, W/4); 8 divides H and W.

    Eight blocks of convolutions, each closed by batch norm; blocks 5 and 6 are dilated, block 8
    doubles the size. Softmax cross-entropy over the bins is the loss.
    Source: R. Zhang et al., "Colorful image colorization", ECCV 2016.
    """
    # maps, convolutions, stride of the last one, dilation
    blocks = ((64, 2, 2, 1), (128, 2, 2, 1), (256, 3, 2, 1), (512, 3, 1, 1), (512, 3, 1, 2),
              (512, 3, 1, 2), (512, 3, 1, 1))  # fmt: skip
    layers: dict[str, Layer] = {}
    inputs = channels
    for number, (maps, count, stride, dilation) in enumerate(blocks, 1):
        for index in range(1, count + 1):
            step = stride if index == count else 1
            conv = Conv2d(inputs, maps, 3, step, padding=dilation, dilation=dilation)
            layers[f"conv{number}_{index}"] = conv
            layers[f"relu{number}_{index}"] = ReLU()
            inputs = maps
        layers[f"norm{number}"] = BatchNorm2d(maps)
    return Sequential(
        **layers,
        conv8_1=ConvTranspose2d(512, 256, 4, 2, 1),
        relu8_1=ReLU(),
        conv8_2=Conv2d(256, 256, 3, padding=1),
        relu8_2=ReLU(),
        conv8_3=Conv2d(256, 256, 3, padding=1),
        relu8_3=ReLU(),
        output=Conv2d(256, bins, 1, init="glorot"),
    )


def speech_emotion(classes: int = 7, channels: int = 1, filters: int = 1024) -> Sequential:
    """One wide convolution over a log-spectrogram patch of half a second: (N, channels, 64, 50).

    `filters` detectors of 8 bands by 8 frames, the strongest response of each region, and a linear
    classifier over 7 emotions. The source gives one layer of 1024 filters and 500 ms patches; the
    sizes of filters and pooling are chosen here.
    Source: N. Anand, P. Verma, "Convoluted feelings", Stanford CS231n report, 2015.
    """
    return Sequential(
        conv=Conv2d(channels, filters, 8, 2),
        relu=ReLU(),
        pool=MaxPool2d((7, 11)),
        flatten=Flatten(),
        drop=Dropout(0.5),
        output=Linear(filters * 4 * 2, classes, init="glorot"),
    )


def char_cnn(classes: int = 4, channels: int = 70, large: bool = False) -> Sequential:
    """Text as one-hot characters (N, channels, 1014): six 1-D convolutions, three linear layers.

    `channels` is the size of the alphabet. Source: X. Zhang et al., NIPS 2015, tables 1 and 2.

    >>> from pyconv.nn import models
    >>> models.char_cnn().output_shape((1, 70, 1014))
    (1, 4)
    """
    maps, hidden = (1024, 2048) if large else (256, 1024)
    layers: dict[str, Layer] = {}
    inputs = channels
    for number, size in enumerate((7, 7, 3, 3, 3, 3), 1):
        layers[f"conv{number}"] = Conv1d(inputs, maps, size)
        layers[f"relu{number}"] = ReLU()
        if number in (1, 2, 6):
            layers[f"pool{number}"] = MaxPool1d(3)
        inputs = maps
    return Sequential(
        **layers,
        flatten=Flatten(),
        fc7=Linear(maps * 34, hidden),
        relu7=ReLU(),
        drop7=Dropout(0.5),
        fc8=Linear(hidden, hidden),
        relu8=ReLU(),
        drop8=Dropout(0.5),
        output=Linear(hidden, classes, init="glorot"),
    )


def unet(classes: int = 2, channels: int = 1, width: int = 64, depth: int = 4) -> Graph:
    """U-Net: (N, channels, H, W) to (N, classes, H, W), H and W multiples of 2^depth.

    Padded convolutions, so that sizes stay; otherwise as published (31,030,658 parameters by
    default). Source: O. Ronneberger et al., MICCAI 2015.

    >>> from pyconv.nn import models
    >>> sum(p.size for p in models.unet().parameters().values())
    31030658
    """
    nodes: dict[str, tuple[Any, ...]] = {}
    inputs, last = channels, "input"
    for level in range(depth):
        nodes[f"down{level}"] = (_double(inputs, width << level), last)
        nodes[f"pool{level}"] = (MaxPool2d(2), f"down{level}")
        inputs, last = width << level, f"pool{level}"
    nodes["bottom"] = (_double(inputs, width << depth), last)
    last = "bottom"
    for level in reversed(range(depth)):
        maps = width << level
        nodes[f"up{level}"] = (ConvTranspose2d(2 * maps, maps, 2, 2), last)
        nodes[f"skip{level}"] = (Cat(), f"down{level}", f"up{level}")
        nodes[f"merge{level}"] = (_double(2 * maps, maps), f"skip{level}")
        last = f"merge{level}"
    nodes["output"] = (Conv2d(width, classes, 1, init="glorot"), last)
    return Graph(nodes, "output")


def _double(inputs: int, outputs: int) -> Sequential:
    return Sequential(
        Conv2d(inputs, outputs, 3, padding=1),
        ReLU(),
        Conv2d(outputs, outputs, 3, padding=1),
        ReLU(),
    )

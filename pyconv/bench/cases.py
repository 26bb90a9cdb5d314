"""The layers every speed is quoted for, in the classes that goals are set for."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pyconv as pc

Shape = tuple[int, ...]
Array = Any
Arrays = tuple[Array, Array, Array]  # x, w (None for a pooling), dy
Contestant = tuple[str, Callable[[], Array], bool]  # name, call, whether its result is NHWC
PASSES = ("fwd", "bwd_data", "bwd_weight")

# class -> what the best peer's time over ours shall be at least, geometric mean, for each pass.
GOALS: dict[str, tuple[float, ...]] = {
    "3x3": (2.0, 2.0, 1.5),
    "3x3, kept weights": (2.4, 2.4),
    "5x5": (1.5, 1.5, 1.2),
    "1x1": (1.1, 1.1, 1.1),
    "first layer": (1.0, 3.0, 1.0),
    "3x3/2, dilated": (1.0, 1.0, 1.0),
    "depthwise": (2.0, 2.0, 2.0),
    "depthwise 7x7": (1.5, 1.5, 2.0),
    "grouped": (1.8, 1.8, 1.8),
    "LeNet": (1.3, 3.0, 1.1),
    "kernels >= 11": (2.5, 2.5, 2.5),
    "conv1d": (1.3, 1.3, 1.3),
    "conv3d": (1.3, 1.3, 1.3),
    "transposed": (1.3, 1.3, 1.3),
    "pooling": (2.0, 2.0),
}
GOAL_AT_BATCH_1 = 1.2


@dataclass(frozen=True)
class Layer:
    """kind: "conv", "transposed" (w is C, K/groups, *kernel), "max" or "avg" (w is the window)."""

    kind: str
    label: str
    name: str
    x: Shape
    w: Shape
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    groups: int = 1
    output_padding: int = 0
    ceil_mode: bool = False
    times: int = 1  # how often a network has it

    @property
    def pools(self) -> bool:
        return self.kind in ("max", "avg")

    @property
    def axes(self) -> int:
        return len(self.x) - 2

    @property
    def kernel(self) -> Shape:
        return self.w[-self.axes :]

    @property
    def passes(self) -> tuple[str, ...]:
        return PASSES[:2] if self.pools else PASSES

    @property
    def y(self) -> Shape:
        if self.pools:
            window = (self.w, self.stride, self.padding)
            return pc.pool_output_shape(self.x, *window, ceil_mode=self.ceil_mode)
        return pc.conv_output_shape(
            self.x,
            self.w,
            *(self.stride, self.padding, self.dilation, self.groups),
            transposed=self.kind == "transposed",
            output_padding=self.output_padding,
        )

    @property
    def flops(self) -> int:
        """2 N K P Q C/G R S; a pooling's one operation for each element of a window."""
        if self.pools:
            return math.prod(self.y) * math.prod(self.w)
        small = self.x if self.kind == "transposed" else self.y
        return 2 * math.prod(small) * math.prod(self.w[1:])

    @property
    def bytes(self) -> int:
        """Each array of a pass read or written once."""
        return 4 * (math.prod(self.x) + math.prod(self.y) + (not self.pools) * math.prod(self.w))

    def at(self, batch: int) -> Layer:
        return replace(self, x=(batch, *self.x[1:]))


def conv(
    label: str, name: str, n: int, c: int, size: int | Shape, k: int, r: int, *more: int
) -> Layer:
    """more: stride, padding, dilation, groups, as far as they differ; size: of a square, or all."""
    spatial = (size, size) if isinstance(size, int) else size
    stride, padding, dilation, groups = (*more, *(1, 0, 1, 1)[len(more) :])
    w = (k, c // groups, *[r] * len(spatial))
    return Layer("conv", label, name, (n, c, *spatial), w, stride, padding, dilation, groups)


def transposed(
    name: str, n: int, c: int, size: int, k: int, r: int, padding: int, extra: int = 0
) -> Layer:
    w = (c, k, r, r)
    x = (n, c, size, size)
    return Layer("transposed", "transposed", name, x, w, 2, padding, output_padding=extra)


def pool(
    kind: str,
    name: str,
    n: int,
    c: int,
    size: int,
    r: int,
    stride: int,
    padding: int = 0,
    ceil_mode: bool = False,
) -> Layer:
    shape = (n, c, size, size)
    return Layer(kind, "pooling", name, shape, (r, r), stride, padding, ceil_mode=ceil_mode)


# class, name, N, C, size, K, kernel, stride, padding, dilation, groups
LAYERS = [
    conv("3x3", "vgg-112", 8, 64, 112, 64, 3, 1, 1),
    conv("3x3", "resnet-56", 16, 64, 56, 64, 3, 1, 1),
    conv("3x3", "resnet-28", 16, 128, 28, 128, 3, 1, 1),
    conv("3x3", "resnet-14", 16, 256, 14, 256, 3, 1, 1),
    conv("3x3", "resnet-7", 16, 512, 7, 512, 3, 1, 1),
    conv("5x5", "mnist-5x5", 32, 16, 28, 32, 5, 1, 2),
    conv("5x5", "cifar-5x5", 64, 64, 16, 64, 5, 1, 2),
    conv("5x5", "inception-5x5", 16, 32, 28, 96, 5, 1, 2),
    conv("1x1", "bottleneck-out-56", 16, 64, 56, 256, 1),
    conv("1x1", "bottleneck-in-14", 16, 1024, 14, 256, 1),
    conv("1x1", "mobilenet-expand-56", 8, 24, 56, 144, 1),
    conv("1x1", "shortcut-56", 16, 256, 56, 512, 1, 2),
    conv("first layer", "resnet-stem", 8, 3, 224, 64, 7, 2, 3),
    conv("first layer", "cifar-stem", 64, 3, 32, 64, 5, 1, 2),
    conv("first layer", "vgg-stem", 8, 3, 224, 64, 3, 1, 1),
    conv("first layer", "mobilenet-stem", 8, 3, 224, 32, 3, 2, 1),
    conv("first layer", "alexnet-stem", 16, 3, 224, 64, 11, 4, 2),
    conv("3x3/2, dilated", "resnet-down-56", 16, 128, 56, 128, 3, 2, 1),
    conv("3x3/2, dilated", "resnet-down-14", 16, 256, 14, 512, 3, 2, 1),
    conv("3x3/2, dilated", "dilated-28", 8, 256, 28, 256, 3, 1, 2, 2),
    conv("LeNet", "lenet-c1", 256, 1, 32, 6, 5),
    conv("LeNet", "lenet-c3", 256, 6, 14, 16, 5),
    conv("LeNet", "caffe-lenet-c2", 256, 20, 12, 50, 5),
    conv("depthwise", "depthwise-3x3", 8, 96, 112, 96, 3, 1, 1, 1, 96),
    conv("depthwise", "depthwise-3x3-14", 8, 576, 14, 576, 3, 1, 1, 1, 576),
    conv("depthwise", "depthwise-3x3-down", 8, 144, 56, 144, 3, 2, 1, 1, 144),
    conv("depthwise", "depthwise-5x5", 8, 240, 28, 240, 5, 1, 2, 1, 240),
    conv("depthwise", "depthwise-5x5-down", 8, 144, 56, 144, 5, 2, 2, 1, 144),
    conv("depthwise 7x7", "depthwise-7x7", 8, 96, 56, 96, 7, 1, 3, 1, 96),
    conv("depthwise 7x7", "depthwise-7x7-14", 8, 384, 14, 384, 7, 1, 3, 1, 384),
    conv("depthwise 7x7", "depthwise-7x7-down", 8, 96, 56, 96, 7, 2, 3, 1, 96),
    conv("grouped", "grouped-56", 8, 128, 56, 128, 3, 1, 1, 1, 32),
    conv("grouped", "resnext-28", 8, 256, 28, 256, 3, 1, 1, 1, 32),
    conv("grouped", "grouped-14", 8, 512, 14, 512, 3, 1, 1, 1, 32),
    conv("grouped", "grouped-7", 8, 1024, 7, 1024, 3, 1, 1, 1, 32),
    conv("kernels >= 11", "large-31x31", 4, 32, 64, 32, 31, 1, 15),
    conv("kernels >= 11", "large-15x15", 8, 64, 56, 64, 15, 1, 7),
    conv("kernels >= 11", "large-11x11", 8, 32, 64, 32, 11, 1, 5),
    conv("kernels >= 11", "depthwise-31x31", 4, 128, 56, 128, 31, 1, 15, 1, 128),
    conv("conv1d", "samples-4k-taps-3", 8, 64, (4096,), 64, 3, 1, 1),
    conv("conv1d", "samples-16k-taps-9", 8, 32, (16384,), 32, 9, 1, 4),
    conv("conv1d", "samples-16k-dilated", 4, 64, (16384,), 64, 3, 1, 16, 16),
    conv("conv1d", "samples-32k-taps-80", 8, 1, (32768,), 64, 80, 4, 38),
    conv("conv1d", "samples-16k-taps-65", 4, 16, (16384,), 16, 65, 1, 32),
    conv("conv1d", "samples-32k-taps-257", 4, 8, (32768,), 8, 257, 1, 128),
    conv("conv1d", "samples-64k-taps-1025", 2, 4, (65536,), 4, 1025, 1, 512),
    conv("conv3d", "video-28", 2, 64, (8, 28, 28), 64, 3, 1, 1),
    conv("conv3d", "volume-56", 1, 32, (16, 56, 56), 32, 3, 1, 1),
    conv("conv3d", "video-stem", 2, 3, (16, 56, 56), 64, 3, 1, 1),
    conv("conv3d", "video-down", 2, 64, (8, 28, 28), 128, 3, 2, 1),
    transposed("unet-up", 8, 128, 28, 64, 2, 0),
    transposed("dcgan-up", 16, 128, 16, 64, 4, 1),
    transposed("decoder-up", 8, 64, 28, 32, 3, 1, 1),
    pool("max", "vgg-pool", 8, 64, 112, 2, 2),
    pool("max", "resnet-pool", 8, 64, 112, 3, 2, 1),
    pool("max", "lenet-pool", 256, 6, 28, 2, 2),
    pool("max", "inception-pool", 8, 256, 28, 3, 1, 1),
    pool("max", "googlenet-pool", 8, 64, 112, 3, 2, ceil_mode=True),
    pool("avg", "densenet-pool", 8, 128, 56, 2, 2),
    pool("avg", "inception-mean", 8, 256, 28, 3, 1, 1),
    pool("avg", "resnet-mean", 16, 512, 7, 7, 1),
]

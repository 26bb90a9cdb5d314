"""The convolutions and poolings of known networks: each distinct layer once, with its number.

Linear layers on a vector, norms and activations are left out; ConvNeXt's pointwise layers are 1x1
convolutions. Sources: the papers named beside each network, in the form of torchvision's models.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from pyconv.bench.cases import Layer

Path = list[tuple[int, ...]]  # layers: filters, kernel, stride


class Walk:
    """Follows an image through a network, noting the layers it passes."""

    def __init__(self, network: str, batch: int, channels: int, size: int) -> None:
        self.network, self.batch, self.c, self.size = network, batch, channels, size
        self.found: Counter[Layer] = Counter()

    def _pass(self, layer: Layer) -> None:
        self.found[layer] += 1
        self.c, self.size = layer.y[1], layer.y[2]

    def _name(self, what: str, r: int, stride: int) -> str:
        return f"{self.network}: {self.c}x{self.size} {what} {r}x{r}{f'/{stride}' * (stride > 1)}"

    def conv(
        self, k: int, r: int, stride: int = 1, padding: int | None = None, groups: int = 1
    ) -> None:
        name = self._name("depthwise" if groups > 1 else f"to {k}", r, stride)
        x, w = (self.batch, self.c, self.size, self.size), (k, self.c // groups, r, r)
        pad = r // 2 if padding is None else padding
        self._pass(Layer("conv", self.network, name, x, w, stride, pad, groups=groups))

    def up(self, k: int) -> None:
        name = self._name(f"up to {k}", 2, 2)
        x = (self.batch, self.c, self.size, self.size)
        self._pass(Layer("transposed", self.network, name, x, (self.c, k, 2, 2), 2))

    def pool(
        self, r: int, stride: int, padding: int = 0, kind: str = "max", ceil_mode: bool = False
    ) -> None:
        name, x = self._name(kind, r, stride), (self.batch, self.c, self.size, self.size)
        window = (r, r)
        label = self.network
        self._pass(Layer(kind, label, name, x, window, stride, padding, ceil_mode=ceil_mode))

    def branches(self, *paths: Path) -> None:
        """All from here; the map afterwards is the last one's."""
        here = self.c, self.size
        for path in paths:
            self.c, self.size = here
            for layer in path:
                self.conv(*layer)


def lenet5() -> Walk:
    """LeCun et al. 1998."""
    net = Walk("LeNet-5", 256, 1, 32)
    for k in (6, 16):
        net.conv(k, 5, padding=0)
        net.pool(2, 2)
    net.conv(120, 5, padding=0)
    return net


def vgg16() -> Walk:
    """Simonyan and Zisserman 2014."""
    net = Walk("VGG-16", 8, 3, 224)
    for k, repeat in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(repeat):
            net.conv(k, 3)
        net.pool(2, 2)
    return net


def resnet18() -> Walk:
    """He et al. 2015."""
    net = Walk("ResNet-18", 8, 3, 224)
    net.conv(64, 7, 2)
    net.pool(3, 2, 1)
    for k in (64, 128, 256, 512):
        for block in range(2):
            stride = 2 if block == 0 and k > 64 else 1
            shortcut: list[Path] = [[(k, 1, stride)]] if stride == 2 else []
            net.branches(*shortcut, [(k, 3, stride), (k, 3)])
    return net


def resnet50() -> Walk:
    """He et al. 2015; the stride in the 3x3."""
    net = Walk("ResNet-50", 8, 3, 224)
    net.conv(64, 7, 2)
    net.pool(3, 2, 1)
    for k, repeat in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(repeat):
            stride = 2 if block == 0 and k > 64 else 1
            shortcut: list[Path] = [[(4 * k, 1, stride)]] if block == 0 else []
            net.branches(*shortcut, [(k, 1), (k, 3, stride), (4 * k, 1)])
    return net


# Szegedy et al. 2014, table 1: 1x1, before 3x3, 3x3, before 5x5, 5x5, behind the pooling.
_INCEPTION = (
    *((64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64), None),
    *((192, 96, 208, 16, 48, 64), (160, 112, 224, 24, 64, 64), (128, 128, 256, 24, 64, 64)),
    *((112, 144, 288, 32, 64, 64), (256, 160, 320, 32, 128, 128), None),
    *((256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128)),
)


def googlenet() -> Walk:
    """Szegedy et al. 2014, without the auxiliary classifiers."""
    net = Walk("GoogLeNet", 8, 3, 224)
    net.conv(64, 7, 2)
    net.pool(3, 2, ceil_mode=True)
    net.conv(64, 1)
    net.conv(192, 3)
    net.pool(3, 2, ceil_mode=True)
    for module in _INCEPTION:
        if module is None:
            net.pool(3, 2, ceil_mode=True)
            continue
        one, before3, three, before5, five, behind = module
        here = net.c
        net.branches([(one, 1)], [(before3, 1), (three, 3)], [(before5, 1), (five, 5)])
        net.c = here
        net.pool(3, 1, 1)
        net.conv(behind, 1)
        net.c = one + three + five + behind
    return net


def mobilenet_v2() -> Walk:
    """Sandler et al. 2018, table 2: expansion, channels, repeats, stride."""
    net = Walk("MobileNetV2", 8, 3, 224)
    net.conv(32, 3, 2)
    table = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1))
    for expansion, k, repeat, first in (*table, (6, 160, 3, 2), (6, 320, 1, 1)):
        for block in range(repeat):
            if expansion > 1:
                net.conv(expansion * net.c, 1)
            net.conv(net.c, 3, first if block == 0 else 1, groups=net.c)
            net.conv(k, 1)
    net.conv(1280, 1)
    return net


def convnext_t() -> Walk:
    """Liu et al. 2022."""
    net = Walk("ConvNeXt-T", 8, 3, 224)
    net.conv(96, 4, 4, 0)
    for k, repeat in ((96, 3), (192, 3), (384, 9), (768, 3)):
        if k > 96:
            net.conv(k, 2, 2, 0)
        for _ in range(repeat):
            net.conv(k, 7, groups=k)
            net.conv(4 * k, 1)
            net.conv(k, 1)
    return net


def unet() -> Walk:
    """Ronneberger et al. 2015, padded, at 256x256."""
    net = Walk("U-Net", 2, 1, 256)
    for k in (64, 128, 256, 512):
        net.conv(k, 3)
        net.conv(k, 3)
        net.pool(2, 2)
    net.conv(1024, 3)
    net.conv(1024, 3)
    for k in (512, 256, 128, 64):
        net.up(k)
        net.c = 2 * k  # beside what the way down left
        net.conv(k, 3)
        net.conv(k, 3)
    net.conv(2, 1)
    return net


def layers() -> Iterator[Layer]:
    networks = (lenet5, vgg16, resnet18, resnet50, googlenet, mobilenet_v2, convnext_t, unet)
    for network in networks:
        for layer, times in network().found.items():
            yield replace(layer, times=times)


LAYERS = list(layers())

"""Networks of the literature, each a function that returns fresh weights (see `nn.init.seed`)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from pyconv.nn.layer import Layer
from pyconv.nn.models.applications import char_cnn, colorization, pilotnet, speech_emotion, unet
from pyconv.nn.models.cifar import cifar_tutorial, fast_cifar, klein
from pyconv.nn.models.googlenet import googlenet, inception
from pyconv.nn.models.imagenet import alexnet, vgg, vgg16, zfnet
from pyconv.nn.models.lenet import lenet5, lenet5_modern
from pyconv.nn.models.resnet import resnet, resnet20

__all__ = [
    "CATALOGUE",
    "Model",
    "alexnet",
    "char_cnn",
    "cifar_tutorial",
    "colorization",
    "fast_cifar",
    "googlenet",
    "inception",
    "klein",
    "lenet5",
    "lenet5_modern",
    "pilotnet",
    "resnet",
    "resnet20",
    "speech_emotion",
    "unet",
    "vgg",
    "vgg16",
    "zfnet",
]


class Model(NamedTuple):
    """A network by name, for the command line: how to build it from (classes, channels) and the
    image size it expects.
    """

    build: Callable[[int, int], Layer]
    size: tuple[int, ...]


CATALOGUE: dict[str, Model] = {
    "lenet5": Model(lenet5, (32, 32)),
    "lenet5_modern": Model(lenet5_modern, (32, 32)),
    "cifar_tutorial": Model(cifar_tutorial, (24, 24)),
    "klein1": Model(partial(klein, 1), (24, 24)),
    "klein2": Model(partial(klein, 2), (24, 24)),
    "klein3": Model(partial(klein, 3), (24, 24)),
    "klein4": Model(partial(klein, 4), (24, 24)),
    "fast_cifar": Model(fast_cifar, (32, 32)),
    "fast_cifar_half": Model(partial(fast_cifar, widths=(32, 128, 128)), (32, 32)),
    "alexnet": Model(alexnet, (227, 227)),
    "zfnet": Model(zfnet, (224, 224)),
    "vgg16": Model(vgg16, (224, 224)),
    "googlenet": Model(googlenet, (224, 224)),
    "resnet18": Model(partial(resnet, 18), (224, 224)),
    "resnet34": Model(partial(resnet, 34), (224, 224)),
    "resnet50": Model(partial(resnet, 50), (224, 224)),
    "resnet18_small": Model(partial(resnet, 18, small_images=True), (32, 32)),
    "resnet20": Model(resnet20, (32, 32)),
    "resnet56": Model(partial(resnet, 56), (32, 32)),
    "pilotnet": Model(pilotnet, (66, 200)),
    "colorization": Model(colorization, (224, 224)),
    "speech_emotion": Model(speech_emotion, (64, 50)),
    "char_cnn": Model(char_cnn, (1014,)),
    "unet": Model(unet, (256, 256)),
}

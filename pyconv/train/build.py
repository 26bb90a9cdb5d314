"""From the settings of a run to its trainer: network, optimizer, schedule, augmentation."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Any

from pyconv import data, nn, optim
from pyconv.data import Augmentation, Dataset, Standardize, StandardizeEach, TarImages
from pyconv.nn.models import CATALOGUE
from pyconv.train.average import Average, Lookahead
from pyconv.train.config import Config
from pyconv.train.trainer import Loss, Trainer
from pyconv.train.whiten import whiten

WHITENED = 5000  # images whose patches give the principal components, as airbench


def criterion(label_smoothing: float) -> Loss:
    """The loss that a run trains and is judged with."""
    return partial(nn.softmax_cross_entropy, label_smoothing=label_smoothing)


def make_trainer(
    config: Config, train: Dataset, size: tuple[int, int], device: str = "cpu"
) -> Trainer:
    """The trainer of a run; images of `train` may be larger than `size`, which is then cut out."""
    nn.init.seed(config.seed)
    channels = train.x.shape[1]
    net = CATALOGUE[config.model].build(len(train.classes), channels)
    prepare = Standardize.of(train.x) if config.standardize == "channel" else StandardizeEach()
    if config.whiten:
        first = next(layer for _, layer in net.modules() if isinstance(layer, nn.Conv2d))
        whiten(first, prepare(data.centre(train.x[:WHITENED], size)))
    epoch = math.ceil(len(train) / config.batch_size)
    options: dict[str, Any] = {}
    if config.optimizer in ("sgd", "muon"):
        options["momentum"] = config.momentum
    if config.optimizer == "sgd":
        options["nesterov"] = config.nesterov
    optimizer = optim.OPTIMIZERS[config.optimizer](
        net.parameters(),
        _schedule(config, epoch),
        weight_decay=config.weight_decay,
        groups=config.groups(epoch),
        **options,
    )
    return Trainer(
        net,
        optimizer,
        loss=criterion(config.label_smoothing),
        batch_size=config.batch_size,
        seed=config.seed,
        device=device,
        prepare=prepare,
        augment=_augmentation(config, train, size),
        parts=config.parts,
        clip=config.clip or None,
        average=_average(config, epoch * config.epochs),
        channels_last=config.channels_last,
    )


def _schedule(config: Config, epoch: int) -> optim.Schedule:
    warm = round(config.warmup * epoch)
    steps = max(1, epoch * config.epochs - warm)
    every = round(config.every * epoch) or max(1, steps // 3)
    after = {
        "constant": optim.constant(config.lr),
        "step": optim.step(config.lr, every, config.factor),
        "cosine": optim.cosine(config.lr, steps, config.floor * config.lr),
        "one_cycle": optim.one_cycle(config.lr, steps, config.rise, config.start, config.floor),
    }[config.schedule]
    return optim.warmup(warm, after) if warm else after


def _average(config: Config, steps: int) -> Average | None:
    if config.lookahead:
        decay = config.average or Lookahead.decay
        return Lookahead(decay, steps=steps, every=config.lookahead)
    return Average(config.average) if config.average else None


def _augmentation(config: Config, train: Dataset, size: tuple[int, int]) -> Augmentation | None:
    mean = tuple(Standardize.of(train.x).mean) if config.cutout else 0.0
    flip = {
        "none": None,
        "random": data.Flip(),
        "alternating": data.AlternatingFlip(config.seed),
    }[config.flip]
    steps = [
        data.Shift(config.shift, config.border) if config.shift else None,
        data.Crop(size) if train.x.shape[2:] != size else None,
        flip,
        data.Brightness(config.brightness) if config.brightness else None,
        data.Contrast(1 - config.contrast, 1 + config.contrast) if config.contrast else None,
        data.Cutout(config.cutout, mean) if config.cutout else None,
        data.Mixup(config.mixup, len(train.classes)) if config.mixup else None,
    ]
    chosen = [step for step in steps if step is not None]
    return data.Chain(*chosen) if chosen else None


def sized(dataset: Dataset, size: tuple[int, int], cut: bool) -> Dataset:
    """Images of at least this size: smaller ones enlarged, larger ones with `cut` their middle."""
    h, w = dataset.x.shape[2:]
    if h < size[0] or w < size[1]:
        change = partial(data.fit_size, size=size)
    elif cut:
        change = partial(data.centre, size=size)
    else:
        return dataset
    x: Any = dataset.x
    return replace(dataset, x=x.mapped(change) if isinstance(x, TarImages) else change(x))

"""Every setting of a run: the options of `pyconv train`, the keys of its TOML file, config.json."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from pyconv._errors import FormatError
from pyconv.optim import OPTIMIZERS, Group

SCHEDULES = ("constant", "step", "cosine", "one_cycle")
FLIPS = ("none", "random", "alternating")


def _setting(
    default: Any, text: str, choices: tuple[str, ...] = (), low: float | None = None
) -> Any:
    return field(default=default, metadata={"help": text, "choices": choices, "low": low})


@dataclass(frozen=True)
class Config:
    """What determines a run's result; the rest (threads, directories, logs) must not."""

    model: str = _setting("lenet5", "a name in pyconv.models.CATALOGUE (cifar: resnet20)")
    data: str = _setting("digits", "digits, mnist, fashion, cifar10, cifar100, folder:PATH, ...")
    epochs: int = _setting(12, "passes over the training images", low=1)
    batch_size: int = _setting(32, "images a step", low=1)
    parts: int = _setting(1, "run each batch in so many parts: less memory", low=1)
    lr: float = _setting(2e-3, "learning rate at its highest", low=0)
    optimizer: str = _setting("adam", "sgd, adam, adamw or muon", tuple(OPTIMIZERS))
    momentum: float = _setting(0.9, "of sgd and muon", low=0)
    nesterov: bool = _setting(False, "sgd with Nesterov's correction")
    weight_decay: float = _setting(0.0, "L2 penalty; of adamw and muon decoupled", low=0)
    group: tuple[str, ...] = _setting(
        (), "'PATTERN lr=F weight_decay=F epochs=N': factors for parameters by name; repeatable"
    )
    clip: float = _setting(0.0, "largest norm of all gradients together; 0: any", low=0)
    schedule: str = _setting("one_cycle", "of the learning rate", SCHEDULES)
    warmup: float = _setting(0.0, "epochs of linear warm-up before the schedule", low=0)
    rise: float = _setting(0.3, "one_cycle: share of the steps in which the rate rises", low=0)
    start: float = _setting(0.04, "one_cycle: first rate / lr", low=0)
    floor: float = _setting(0.0, "one_cycle, cosine: last rate / lr", low=0)
    every: float = _setting(0.0, "step: epochs between decays; 0: a third of all", low=0)
    factor: float = _setting(0.1, "step: the decay", low=0)
    label_smoothing: float = _setting(0.0, "share of the target spread over all classes", low=0)
    average: float = _setting(0.0, "evaluate with this moving average of weights; 0: none", low=0)
    lookahead: int = _setting(0, "go on from the average every so many steps; 0: never", low=0)
    patience: int = _setting(0, "stop after so many epochs without a lower test loss; 0: go on",
                             low=0)  # fmt: skip
    shift: int = _setting(2, "augmentation: random shifts by up to so many pixels", low=0)
    border: str = _setting("zeros", "what comes in when shifted", ("zeros", "reflect"))
    flip: str = _setting("none", "augmentation: left to right", FLIPS)
    cutout: int = _setting(0, "augmentation: cover a square of so many pixels", low=0)
    brightness: float = _setting(0.0, "augmentation: add up to so much of 255", low=0)
    contrast: float = _setting(0.0, "augmentation: change contrast by up to this share", low=0)
    mixup: float = _setting(0.0, "augmentation: mix images by Beta(A, A)", low=0)
    standardize: str = _setting("channel", "to mean 0 and standard deviation 1: each channel of "
                                "the data set, or each image", ("channel", "image"))  # fmt: skip
    channels_last: bool = _setting(False, "keep the channels of a pixel side by side in memory")
    whiten: bool = _setting(False, "first layer: the data's principal components, frozen")
    views: int = _setting(0, "final test: 1 adds mirrored images, 2 also shifted ones", low=0)
    seed: int = _setting(0, "of weights, order and augmentation", low=0)

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            choices, low = one.metadata["choices"], one.metadata["low"]
            if choices and value not in choices:
                raise ValueError(f"{one.name} must be one of {', '.join(choices)}, got {value!r}")
            if low is not None and not value >= low:
                raise ValueError(f"{one.name} must be at least {low}, got {value!r}")
        self.groups(1)

    @classmethod
    def of(cls, given: dict[str, Any]) -> Config:
        """The given settings over the defaults for their data set."""
        defaults = DEFAULTS.get(given.get("data", cls.data), {})
        return cls(**(defaults | given))

    def groups(self, steps: int) -> list[Group]:
        """The parameter groups, in an epoch of so many steps."""
        return [_group(text, steps) for text in self.group]


_CIFAR = {"model": "resnet20", "epochs": 30, "batch_size": 128, "shift": 4, "flip": "random"}
DEFAULTS: dict[str, dict[str, Any]] = {
    "mnist": {"epochs": 5, "batch_size": 64, "shift": 1},
    "fashion": {"epochs": 10, "batch_size": 64, "shift": 1},
    "cifar10": _CIFAR,
    "cifar100": _CIFAR,
}


def read_config(directory: Path) -> Config:
    """The settings that a run was started with; those that came later have their defaults."""
    path = directory / "config.json"
    try:
        stored = json.loads(path.read_text())
        names = [one.name for one in fields(Config) if one.name in stored]
        given = {name: stored[name] for name in names}
        return Config(**(given | {"group": tuple(given.get("group", ()))}))
    except (ValueError, KeyError, TypeError) as error:
        raise FormatError(f"{path}: not the description of a run ({error!r})") from error


def _group(text: str, steps: int) -> Group:
    """A group from 'PATTERN lr=F weight_decay=F epochs=N'."""
    match, *pairs = text.split() or [""]
    found: dict[str, Any] = {}
    try:
        for pair in pairs:
            name, value = pair.split("=")
            if name == "epochs":
                found["steps"] = round(float(value) * steps)
            elif name in ("lr", "weight_decay"):
                found[name] = float(value)
            else:
                raise ValueError(name)
    except ValueError as error:
        raise ValueError(
            f"group must be 'PATTERN lr=F weight_decay=F epochs=N', got {text!r}"
        ) from error
    return Group(match, **found)

"""A whole run as the command line starts it: data, network, training, files in one directory."""

from __future__ import annotations

import json
import math
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from pyconv import data, nn, optim
from pyconv._arrays import Array
from pyconv._errors import FormatError
from pyconv.data import Dataset, Shift, Standardize
from pyconv.nn.files import replace as write_file
from pyconv.nn.layer import Layer
from pyconv.nn.models import CATALOGUE
from pyconv.train import plots
from pyconv.train.callbacks import Checkpoint, Progress
from pyconv.train.trainer import Trainer

OPTIMIZERS = {"sgd": optim.SGD, "adam": optim.Adam, "adamw": optim.AdamW}
SCHEDULES = ("constant", "step", "cosine", "one_cycle")


@dataclass(frozen=True)
class Config:
    """What determines a run's result; the rest (threads, directories) must not."""

    model: str = "lenet5"
    data: str = "digits"
    epochs: int = 12
    batch_size: int = 32
    lr: float = 2e-3
    optimizer: str = "adam"
    schedule: str = "one_cycle"
    seed: int = 0
    shift: int = 2

    @classmethod
    def of(cls, given: dict[str, Any]) -> Config:
        """The given settings over the defaults for their data set."""
        defaults = DEFAULTS.get(given.get("data", cls.data), {})
        return cls(**(defaults | given))


DEFAULTS: dict[str, dict[str, Any]] = {
    "mnist": {"epochs": 5, "batch_size": 64, "shift": 1},
    "fashion": {"epochs": 10, "batch_size": 64, "shift": 1},
    "cifar10": {"model": "resnet20", "epochs": 30, "batch_size": 128, "shift": 4},
}


class Interrupted(Exception):
    """A run that a signal ended, after its step and with its state saved."""

    def __init__(self, number: int, directory: Path) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}; state saved in {directory}")
        self.exit_code = 128 + number


def run(
    config: Config,
    directory: Path,
    *,
    data_dir: str | None = None,
    resume: bool = False,
) -> dict[str, float]:
    """Train, evaluate on the test split, and leave everything in `directory`.

    Raises Interrupted where SIGINT or SIGTERM came: the step in hand is finished and saved first.
    """
    size = _image_size(config.model)
    sets = [data.load(config.data, split, data_dir) for split in ("train", "test")]
    train, test = (Dataset(data.fit_size(s.x, size), s.y, s.classes) for s in sets)
    prepare = Standardize.of(train.x)
    trainer = _trainer(config, train, prepare)
    trainer.callbacks = (Progress(), Checkpoint(directory))
    checkpoint = directory / "checkpoint.safetensors"
    with _signals(trainer) as received:
        if resume:
            trainer.load(checkpoint)
        else:
            image = sets[0].x.shape[1:]
            _describe(directory, asdict(config), asdict(prepare), image, size, train.classes)
        trainer.fit(train, test, epochs=config.epochs - trainer.epoch)
        if received:
            trainer.save(checkpoint)
            raise Interrupted(received[0], directory)
    nn.save(trainer.net, directory / "model.safetensors")
    trainer.history.write(directory)
    _draw(trainer, test, directory)
    return trainer.evaluate(test)


def _describe(
    directory: Path,
    config: dict[str, Any],
    prepare: dict[str, Any],
    image: tuple[int, ...],
    size: tuple[int, int],
    classes: tuple[str, ...],
) -> None:
    """Make the run's directory, and config.json in it: settings, and what its images look like."""
    directory.mkdir(parents=True, exist_ok=True)
    for stale in directory.glob(".*.tmp"):
        stale.unlink()
    described = config | prepare | {"image": image, "size": size, "classes": classes}
    text = json.dumps(described, indent=1) + "\n"
    write_file(directory / "config.json", text.encode())


def evaluate(directory: Path, name: str | None, data_dir: str | None) -> dict[str, float]:
    """Loss and accuracy of a run's network on a test split, by default that of its own data."""
    trained = Trained(directory)
    test = data.load(name or trained.config["data"], "test", data_dir)
    if test.x.shape[1] != trained.image[0]:
        raise ValueError(
            f"{directory} was trained on {trained.image[0]} channels, {name} has {test.x.shape[1]}"
        )
    return trained.trainer.evaluate((data.fit_size(test.x, trained.size), test.y))


class Trained:
    """A finished run, read from its directory: the network, and what it expects of images."""

    def __init__(self, directory: Path) -> None:
        path = directory / "config.json"
        try:
            self.config: dict[str, Any] = json.loads(path.read_text())
            self.image = tuple(map(int, self.config["image"]))
            high, wide = self.config["size"]
            self.size = int(high), int(wide)
            self.classes: list[str] = list(map(str, self.config["classes"]))
            prepare = Standardize(tuple(self.config["mean"]), tuple(self.config["std"]))
        except (ValueError, KeyError, TypeError) as error:
            raise FormatError(f"{path}: not the description of a run ({error!r})") from error
        self.net = nn.load(directory / "model.safetensors")
        self.trainer = Trainer(self.net, optim.SGD({}, 0.0), prepare=prepare)

    def classify(self, files: list[str]) -> Array:
        """Class probabilities (len(files), classes) of image files, brought to the data's size."""
        channels, *size = self.image
        x = np.stack([data.read_image(file, channels, (size[0], size[1])) for file in files])
        return nn.Softmax()(self.trainer.predict(data.fit_size(x, self.size)))


def read_config(directory: Path) -> Config:
    """The settings that a run was started with."""
    path = directory / "config.json"
    try:
        stored = json.loads(path.read_text())
        return Config(**{field.name: stored[field.name] for field in fields(Config)})
    except (ValueError, KeyError, TypeError) as error:
        raise FormatError(f"{path}: not the description of a run ({error!r})") from error


def _image_size(model: str) -> tuple[int, int]:
    size = CATALOGUE[model].size
    if len(size) != 2:
        raise ValueError(f"{model} reads no images: train it with pyconv.Trainer")
    return size[0], size[1]


def _trainer(config: Config, train: Dataset, prepare: Standardize) -> Trainer:
    nn.init.seed(config.seed)
    net = CATALOGUE[config.model].build(len(train.classes), train.x.shape[1])
    steps = config.epochs * math.ceil(len(train) / config.batch_size)
    schedules = {
        "constant": optim.constant(config.lr),
        "step": optim.step(config.lr, max(1, steps // 3)),
        "cosine": optim.cosine(config.lr, steps),
        "one_cycle": optim.one_cycle(config.lr, steps),
    }
    options: dict[str, Any] = {"momentum": 0.9} if config.optimizer == "sgd" else {}
    optimizer = OPTIMIZERS[config.optimizer](
        net.parameters(), schedules[config.schedule], **options
    )
    return Trainer(
        net,
        optimizer,
        batch_size=config.batch_size,
        seed=config.seed,
        prepare=prepare,
        augment=Shift(config.shift) if config.shift else None,
    )


def _draw(trainer: Trainer, test: Dataset, directory: Path) -> None:
    found = trainer.predict(test.x).argmax(1)
    counts = np.zeros((len(test.classes),) * 2, np.int64)
    np.add.at(counts, (test.y, found), 1)
    try:
        plots.curves(trainer.history, directory / "curves.png")
        plots.confusion(counts, test.classes, directory / "confusion.png")
        plots.filters(_first_filters(trainer.net), directory / "filters.png")
    except ImportError as error:
        print(f"no plots: {error}", file=sys.stderr)


def _first_filters(net: Layer) -> Array:
    return next(layer.w.value for _, layer in net.modules() if isinstance(layer, nn.Conv2d))


@contextmanager
def _signals(trainer: Trainer) -> Iterator[list[int]]:
    """The first SIGINT or SIGTERM stops the trainer after its step, a second one at once."""
    received: list[int] = []

    def stop(number: int, frame: object) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)
        trainer.stop()

    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

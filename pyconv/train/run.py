"""A whole run as the command line starts it: data, network, training, files in one directory."""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from pyconv import data, nn, optim
from pyconv._arrays import Array
from pyconv._errors import FormatError
from pyconv.data import Dataset, Standardize, StandardizeEach
from pyconv.nn.files import replace as write_file
from pyconv.nn.layer import Layer
from pyconv.nn.models import CATALOGUE
from pyconv.train import plots
from pyconv.train.build import criterion, make_trainer, sized
from pyconv.train.callbacks import Checkpoint, EarlyStopping, Log, Progress, TensorBoard
from pyconv.train.config import Config
from pyconv.train.trainer import Trainer


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
    device: str = "cpu",
    resume: bool = False,
    tensorboard: bool = False,
) -> dict[str, float]:
    """Train, evaluate on the test split, and leave everything in `directory`.

    Raises Interrupted where SIGINT or SIGTERM came: the step in hand is finished and saved first.
    """
    size = _image_size(config.model)
    sets = [data.load(config.data, split, data_dir) for split in ("train", "test")]
    train, test = sized(sets[0], size, cut=False), sized(sets[1], size, cut=True)
    trainer = make_trainer(config, train, size, device)
    trainer.callbacks = (Progress(), Checkpoint(directory), Log(directory))
    if tensorboard:
        trainer.callbacks += (TensorBoard(directory),)
    if config.patience:
        trainer.callbacks += (EarlyStopping(config.patience),)
    checkpoint = directory / "checkpoint.safetensors"
    with _signals(trainer) as received:
        if resume:
            _resume(trainer, checkpoint)
        else:
            image = sets[0].x.shape[1:]
            _describe(directory, config, trainer.prepare, image, size, train.classes)
        trainer.fit(train, test, epochs=config.epochs - trainer.epoch)
        if received:
            trainer.save(checkpoint)
            raise Interrupted(received[0], directory)
    with trainer.averaged():
        nn.save(trainer.net, directory / "model.safetensors")
    trainer.history.write(directory)
    _draw(trainer, test, directory, config.views)
    return trainer.evaluate(test, config.views)


def _resume(trainer: Trainer, checkpoint: Path) -> None:
    """From the checkpoint, or from the one before it where the file was damaged."""
    try:
        trainer.load(checkpoint)
    except FormatError as error:
        previous = checkpoint.with_name("previous.safetensors")
        if not previous.exists():
            raise
        print(f"{error}; going on from {previous.name}", file=sys.stderr)
        previous.replace(checkpoint)  # or the next step would keep the damaged one as previous
        trainer.load(checkpoint)


def _describe(
    directory: Path,
    config: Config,
    prepare: Any,
    image: tuple[int, ...],
    size: tuple[int, int],
    classes: tuple[str, ...],
) -> None:
    """Make the run's directory, and config.json in it: settings, and what its images look like."""
    directory.mkdir(parents=True, exist_ok=True)
    described = asdict(config) | vars(prepare) | {"image": image, "size": size, "classes": classes}
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
    return trained.trainer.evaluate(sized(test, trained.size, cut=True), trained.views)


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
            prepare: Standardize | StandardizeEach = StandardizeEach()
            if self.config.get("standardize", "channel") == "channel":
                prepare = Standardize(tuple(self.config["mean"]), tuple(self.config["std"]))
            loss = criterion(float(self.config.get("label_smoothing", 0)))
            self.views = int(self.config.get("views", 0))
            turned = bool(self.config.get("channels_last", False))
        except (ValueError, KeyError, TypeError) as error:
            raise FormatError(f"{path}: not the description of a run ({error!r})") from error
        self.net = nn.load(directory / "model.safetensors")
        self.trainer = Trainer(
            self.net, optim.SGD({}, 0.0), loss=loss, prepare=prepare, channels_last=turned
        )

    def classify(self, files: list[str]) -> Array:
        """Class probabilities (len(files), classes) of image files, brought to the data's size."""
        channels, *size = self.image
        x = np.stack([data.read_image(file, channels, (size[0], size[1])) for file in files])
        images = sized(Dataset(x, np.zeros(len(x), np.int64), ()), self.size, cut=True)
        return nn.Softmax()(self.trainer.predict(images.x, self.views))


def _image_size(model: str) -> tuple[int, int]:
    size = CATALOGUE[model].size
    if len(size) != 2:
        raise ValueError(f"{model} reads no images: train it with pyconv.Trainer")
    return size[0], size[1]


def _draw(trainer: Trainer, test: Dataset, directory: Path, level: int) -> None:
    found = trainer.predict(test.x, level).argmax(1)
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

"""The training loop."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from pyconv._arrays import Array
from pyconv._errors import FormatError
from pyconv.data.dataset import Dataset
from pyconv.data.transform import Augmentation
from pyconv.nn.files import read, write
from pyconv.nn.layer import Layer, no_grad
from pyconv.nn.losses import softmax_cross_entropy
from pyconv.optim import Optimizer
from pyconv.train.callbacks import Callback
from pyconv.train.history import History

Loss = Callable[[Array, Array], tuple[float, Array]]
Examples = Dataset | tuple[Array, Array]

# What a random number is for; with the seed and the epoch or step it fixes the number, so that a
# resumed run needs no generator's state.
_ORDER, _AUGMENT, _LAYERS = 0, 1, 2


def scale_bytes(x: Array) -> Array:
    """Bytes as float32 in 0..1; floating-point arrays as they are."""
    return x.astype(np.float32) / 255 if x.dtype == np.uint8 else x


class Trainer:
    """Trains a network: the same seed gives the same bits, for any number of threads.

    loss(outputs, targets) gives (loss, gradient of the outputs). Each batch goes through
    augment(x, rng) in training, then through prepare(x), which makes it floating-point (by default
    bytes are divided by 255). Callbacks are told of steps and epochs. Only device "cpu" exists.

    >>> import pyconv as pc
    >>> net = pc.models.lenet5()
    >>> trainer = pc.Trainer(net, pc.optim.Adam(net.parameters()))
    """

    def __init__(
        self,
        net: Layer,
        optimizer: Optimizer,
        *,
        loss: Loss = softmax_cross_entropy,
        batch_size: int = 128,
        seed: int = 0,
        callbacks: Sequence[Callback] = (),
        device: str = "cpu",
        prepare: Callable[[Array], Array] = scale_bytes,
        augment: Augmentation | None = None,
    ) -> None:
        if device != "cpu":
            raise ValueError(f"Trainer: device must be 'cpu', got {device!r}")
        if batch_size < 1:
            raise ValueError(f"Trainer: batch_size must be at least 1, got {batch_size}")
        if seed < 0:
            raise ValueError(f"Trainer: seed must not be negative, got {seed}")
        self.net, self.optimizer, self.loss = net, optimizer, loss
        self.batch_size, self.seed = batch_size, seed
        self.callbacks = tuple(callbacks)
        self.prepare, self.augment = prepare, augment
        self.history = History()
        self.epoch = 0  # epochs finished
        self.position = 0  # steps finished within the next one
        self.stopped = False
        self._totals = [0.0, 0.0, 0.0]  # of that epoch: loss and hits summed over images, seconds

    def fit(self, train: Examples, validation: Examples | None = None, epochs: int = 1) -> History:
        """Train for so many epochs more and return the history.

        A loaded unfinished epoch is the first of them. Raises FloatingPointError, naming epoch,
        step and batch, before a non-finite loss changes any weight.
        """
        x, y = _arrays(train)
        if not len(x):
            raise ValueError("Trainer.fit: there is nothing to train on, the data set is empty")
        steps = math.ceil(len(x) / self.batch_size)
        last = self.epoch + epochs
        self.net.train()
        self.net.input_gradient = False
        for callback in self.callbacks:
            callback.on_begin(self, epochs, steps)
        try:
            while self.epoch < last and not self.stopped:
                self._run_epoch(x, y, steps, validation)
        finally:
            self.stopped = False
            self.net.input_gradient = True
            self.net.eval()
            for callback in self.callbacks:
                callback.on_end(self)
        return self.history

    def stop(self) -> None:
        """Ask fit() to return after the step it is in, or the next fit() at once."""
        self.stopped = True

    def evaluate(self, data: Examples) -> dict[str, float]:
        """Mean loss over the examples, and for integer labels the accuracy (0 to 1)."""
        x, y = _arrays(data)
        loss, hits = 0.0, 0
        for start in range(0, len(x), self.batch_size):
            batch = y[start : start + self.batch_size]
            outputs = self.predict(x[start : start + self.batch_size])
            loss += self.loss(outputs, batch)[0] * len(batch)
            hits += _hits(outputs, batch)
        found = {"loss": loss / max(1, len(x))}
        return found | {"accuracy": hits / max(1, len(x))} if _labelled(y) else found

    def predict(self, x: Array) -> Array:
        """The network's outputs (for a classifier the logits) for x, in inference mode."""
        training = self.net.training
        self.net.eval()
        try:
            with no_grad():
                outputs = [
                    self.net(self.prepare(x[start : start + self.batch_size]))
                    for start in range(0, max(1, len(x)), self.batch_size)
                ]
        finally:
            self.net.train(training)
        return np.concatenate(outputs)

    def _run_epoch(self, x: Array, y: Array, steps: int, validation: Examples | None) -> None:
        started = time.perf_counter()
        order = np.random.default_rng((self.seed, _ORDER, self.epoch)).permutation(len(x))
        while self.position < steps:
            chosen = order[self.position * self.batch_size :][: self.batch_size]
            loss, hits = self._step(x[chosen], y[chosen])
            self.position += 1
            self._totals[0] += loss * len(chosen)
            self._totals[1] += hits
            for callback in self.callbacks:
                callback.on_step(self, loss)
            if self.stopped and self.position < steps:
                self._totals[2] += time.perf_counter() - started
                return
        row = {"epoch": self.epoch + 1, "steps": self.optimizer.steps, "lr": self.optimizer.lr}
        row["loss"] = self._totals[0] / len(x)
        if _labelled(y):
            row["accuracy"] = self._totals[1] / len(x)
        if validation is not None:
            row |= {f"val_{name}": value for name, value in self.evaluate(validation).items()}
        row["seconds"] = round(self._totals[2] + time.perf_counter() - started, 3)
        self.history.rows.append(row)
        self.epoch, self.position, self._totals = self.epoch + 1, 0, [0.0, 0.0, 0.0]
        for callback in self.callbacks:
            callback.on_epoch(self, row)

    def _step(self, x: Array, y: Array) -> tuple[float, int]:
        steps = self.optimizer.steps
        if self.augment is not None:
            x = self.augment(x, np.random.default_rng((self.seed, _AUGMENT, steps)))
        self.net.reseed(self.seed, _LAYERS, steps)
        outputs = self.net(self.prepare(x))
        loss, gradient = self.loss(outputs, y)
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"loss is {loss} in epoch {self.epoch + 1}, step {steps + 1}, batch "
                f"{self.position + 1}; a smaller learning rate (now {self.optimizer.lr:g}) may help"
            )
        self.optimizer.zero_grad()
        self.net.backward(gradient)
        self.optimizer.step()
        return loss, _hits(outputs, y)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all that fit() needs to go on with the same bits, replacing `path` all at once."""
        tensors = {f"net.{name}": value for name, value in self.net.state_dict().items()}
        tensors |= {f"optimizer.{n}": value for n, value in self.optimizer.state_dict().items()}
        write(
            path,
            tensors,
            {
                "trainer": self._identity()
                | {
                    "epoch": self.epoch,
                    "position": self.position,
                    "totals": self._totals,
                    "history": self.history.rows,
                }
            },
        )

    def load(self, path: str | os.PathLike[str]) -> None:
        """Take over what save() wrote, so that fit() goes on as if it had never stopped.

        Raises pyconv.FormatError where the file is damaged or no such file, ValueError where it
        belongs to another network, optimizer, seed or batch size.
        """
        tensors, header = read(path)
        state = header.get("trainer")
        if not isinstance(state, dict):
            raise FormatError(f"{os.fspath(path)}: holds no training state")
        for name, value in self._identity().items():
            if state.get(name) != value:
                raise ValueError(
                    f"{os.fspath(path)}: {name} is {state.get(name)!r} there and {value!r} here"
                )
        try:
            progress = int(state["epoch"]), int(state["position"])
            totals = [float(value) for value in state["totals"]]
            history = History(list(state["history"]))
        except (KeyError, TypeError, ValueError) as error:
            raise FormatError(f"{os.fspath(path)}: not a training state ({error!r})") from error
        self.net.load_state_dict(_below("net.", tensors))
        self.optimizer.load_state_dict(_below("optimizer.", tensors))
        self.epoch, self.position = progress
        self._totals, self.history = totals, history

    def _identity(self) -> dict[str, Any]:
        return {
            "optimizer": type(self.optimizer).__name__,
            "seed": self.seed,
            "batch_size": self.batch_size,
        }


def _below(prefix: str, tensors: dict[str, Array]) -> dict[str, Array]:
    return {n.removeprefix(prefix): v for n, v in tensors.items() if n.startswith(prefix)}


def _arrays(data: Examples) -> tuple[Array, Array]:
    x, y = (data.x, data.y) if isinstance(data, Dataset) else data
    if len(x) != len(y):
        raise ValueError(f"Trainer: {len(x)} inputs but {len(y)} targets")
    return x, y


def _labelled(y: Array) -> bool:
    return y.dtype.kind in "iu"


def _hits(outputs: Array, y: Array) -> int:
    """How many rows of the outputs are largest at their label."""
    return int((outputs.argmax(1) == y).sum()) if _labelled(y) else 0

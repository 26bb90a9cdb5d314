"""The training loop."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from typing import Any

import numpy as np

from pyconv._arrays import Array
from pyconv._errors import FormatError
from pyconv._gpu import device_of, moved, namespace
from pyconv._memory import MemoryPool
from pyconv.data.augment import Augmentation, Batch
from pyconv.data.dataset import Dataset
from pyconv.data.prefetch import prefetch
from pyconv.data.transform import channels_last as in_channels_last
from pyconv.data.transform import views
from pyconv.nn.files import read, write
from pyconv.nn.layer import Layer, no_grad
from pyconv.nn.losses import softmax_cross_entropy
from pyconv.optim import Optimizer, clip_gradients
from pyconv.train.average import Average
from pyconv.train.callbacks import Callback
from pyconv.train.history import History
from pyconv.train.watch import first_not_finite

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

    loss(outputs, targets) gives (loss, gradient of the outputs). Each batch goes through `augment`
    in training, then through prepare(x), which makes it floating-point (by default bytes are
    divided by 255), both in a background thread. It runs in `parts` whose gradients are added,
    which takes that much less memory. `clip` limits the gradients' norm. With an `average` the
    network is evaluated with that. Callbacks are told of steps and epochs. `device` "cuda" or
    "cuda:1" moves the network there, and each prepared batch: see `Layer.to`. `channels_last` has
    the channels of a pixel side by side in memory: see `data.channels_last`.

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
        augment: Augmentation | Callable[[Array, np.random.Generator], Array] | None = None,
        parts: int = 1,
        clip: float | None = None,
        average: Average | None = None,
        channels_last: bool = False,
    ) -> None:
        self.device = device_of("Trainer", device)
        if batch_size < 1:
            raise ValueError(f"Trainer: batch_size must be at least 1, got {batch_size}")
        if not 1 <= parts <= batch_size:
            raise ValueError(f"Trainer: parts must be 1 to batch_size (={batch_size}), got {parts}")
        if seed < 0:
            raise ValueError(f"Trainer: seed must not be negative, got {seed}")
        self.net, self.optimizer, self.loss = net, optimizer, loss
        if self.device is not None:
            net.to(device)
        self.batch_size, self.seed = batch_size, seed
        self.callbacks = tuple(callbacks)
        self.prepare, self.augment = prepare, augment
        self.channels_last = channels_last
        self.parts, self.clip, self.average = parts, clip, average
        self._memory = MemoryPool()  # each step asks for the arrays of the one before
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
        if self.average is not None:
            self.average.begin(self.net)
        for callback in self.callbacks:
            callback.on_begin(self, epochs, steps)
        try:
            with self._memory:
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

    def averaged(self) -> AbstractContextManager[None]:
        """Inside, the network has the averaged weights, where there are any."""
        if self.average is None or not self.average.state:
            return nullcontext()
        return self.average.applied(self.net)

    def evaluate(self, data: Examples, level: int = 0) -> dict[str, float]:
        """Mean loss over the examples, and for integer labels the accuracy (0 to 1).

        `level` is that of `predict`.
        """
        x, y = _arrays(data)
        loss, hits, start = 0.0, 0, 0
        with self.averaged(), self._memory:
            for outputs in self._outputs(x, level):
                batch = y[start : start + len(outputs)]
                start += len(outputs)
                loss += self.loss(outputs, batch)[0] * len(batch)
                hits += _hits(outputs, batch)
        found = {"loss": loss / max(1, len(x))}
        return found | {"accuracy": hits / max(1, len(x))} if _labelled(y) else found

    def predict(self, x: Array, level: int = 0) -> Array:
        """The network's outputs (for a classifier the logits) for x, in inference mode.

        `level` of test-time augmentation: see `data.views`.
        """
        with self.averaged(), self._memory:
            return np.concatenate([moved(outputs, None) for outputs in self._outputs(x, level)])

    def _outputs(self, x: Array, level: int) -> Iterator[Array]:
        training = self.net.training
        self.net.eval()
        try:
            with no_grad():
                for start in range(0, max(1, len(x)), self.batch_size):
                    batch = self._prepared(x[start : start + self.batch_size])
                    first, *others = views(batch, level)
                    outputs = self.net(moved(first[1], self.device))
                    if others:
                        outputs = outputs * outputs.dtype.type(first[0])
                    for weight, view in others:
                        outputs += self.net(moved(view, self.device)) * outputs.dtype.type(weight)
                    yield outputs
        finally:
            self.net.train(training)

    def _batches(self, x: Array, y: Array, steps: int) -> Iterator[tuple[Array, Array, Array]]:
        """(prepared images, targets, labels) of the steps left in this epoch."""
        order = np.random.default_rng((self.seed, _ORDER, self.epoch)).permutation(len(x))
        first = self.optimizer.steps - self.position
        for position in range(self.position, steps):
            chosen = order[position * self.batch_size :][: self.batch_size]
            images, labels = x[chosen], y[chosen]
            targets = labels
            if self.augment is not None:
                rng = np.random.default_rng((self.seed, _AUGMENT, first + position))
                if isinstance(self.augment, Augmentation):
                    batch = Batch(images, labels, chosen, self.epoch, rng)
                    batch = self.augment.on_batch(batch)
                    images, targets = batch.x, batch.y
                else:
                    images = self.augment(images, rng)
            yield self._prepared(images), targets, labels

    def _prepared(self, x: Array) -> Array:
        prepared = self.prepare(x)
        return in_channels_last(prepared) if self.channels_last else prepared

    def _run_epoch(self, x: Array, y: Array, steps: int, validation: Examples | None) -> None:
        started = time.perf_counter()
        with closing(prefetch(self._batches(x, y, steps))) as batches:
            for images, targets, labels in batches:
                loss, hits = self._step(images, targets, labels)
                self.position += 1
                self._totals[0] += loss * len(labels)
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

    def _step(self, x: Array, targets: Array, labels: Array) -> tuple[float, int]:
        steps, total, hits = self.optimizer.steps, 0.0, 0
        self.optimizer.zero_grad()
        for part in range(self.parts):
            chosen = slice(len(x) * part // self.parts, len(x) * (part + 1) // self.parts)
            some = moved(x[chosen], self.device)
            if not len(some):
                continue
            seed = (self.seed, _LAYERS, steps, part)[: 3 if self.parts == 1 else 4]
            self.net.reseed(*seed)
            outputs = self.net(some)
            loss, gradient = self.loss(outputs, targets[chosen])
            if not math.isfinite(loss):
                self.net.reseed(*seed)
                self._refuse(f"loss is {loss}", first_not_finite(self.net, some))
            share = len(some) / len(x)
            self.net.backward(gradient if share == 1 else _scaled(gradient, share))
            total += loss * share
            hits += _hits(outputs, labels[chosen])
        if self.clip is not None:
            norm = clip_gradients(self.optimizer.parameters, self.clip)
            if not math.isfinite(norm):
                self._refuse(f"the gradients' norm is {norm}", _not_finite_gradient(self.net))
        self.optimizer.step()
        if self.average is not None:
            self.average.update(self.net, self.optimizer.steps)
        return total, hits

    def _refuse(self, what: str, where: str) -> None:
        raise FloatingPointError(
            f"{what} in epoch {self.epoch + 1}, step {self.optimizer.steps + 1}, batch "
            f"{self.position + 1}; not finite first: {where}; no weight was changed; a smaller "
            f"learning rate (now {self.optimizer.lr:g}) may help"
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all that fit() needs to go on with the same bits, replacing `path` all at once."""
        tensors = {f"net.{name}": value for name, value in self.net.state_dict().items()}
        tensors |= {f"optimizer.{n}": value for n, value in self.optimizer.state_dict().items()}
        if self.average is not None:
            tensors |= {f"average.{n}": value for n, value in self.average.state.items()}
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
        if self.average is not None:
            self.average.state = _below("average.", tensors)
        self.epoch, self.position = progress
        self._totals, self.history = totals, history

    def _identity(self) -> dict[str, Any]:
        return {
            "optimizer": type(self.optimizer).__name__,
            "seed": self.seed,
            "batch_size": self.batch_size,
            "parts": self.parts,
            "clip": self.clip,
            "average": repr(self.average),
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
    return int((outputs.argmax(1) == namespace(outputs).asarray(y)).sum()) if _labelled(y) else 0


def _scaled(gradient: Any, share: float) -> Any:
    if isinstance(gradient, tuple):  # of a network with several outputs
        return tuple(_scaled(one, share) for one in gradient)
    return None if gradient is None else gradient * gradient.dtype.type(share)


def _not_finite_gradient(net: Layer) -> str:
    """The gradient that comes first on the way back, that is of the last parameter."""
    for name, parameter in reversed(net.parameters().items()):
        if parameter.grad is not None and not np.isfinite(parameter.grad).all():
            return f"the gradient of {name}"
    return "the sum of squares, which overflows"

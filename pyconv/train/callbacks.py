"""What may be told of a training run while it runs."""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyconv.train.trainer import Trainer


class Callback:
    """Base of callbacks; each method is called at its moment and does nothing by default."""

    def on_begin(self, trainer: Trainer, epochs: int, steps: int) -> None:
        """Before the first of `epochs` epochs of `steps` steps each."""

    def on_step(self, trainer: Trainer, loss: float) -> None:
        """After each step, with the loss of its batch."""

    def on_epoch(self, trainer: Trainer, row: dict[str, Any]) -> None:
        """After each epoch, with its row of the history."""

    def on_end(self, trainer: Trainer) -> None:
        """After the last step, also when the training was stopped or failed."""


class Progress(Callback):
    """A progress bar with the time left where tqdm is installed, and a line for every epoch."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._epochs = 0

    def on_begin(self, trainer: Trainer, epochs: int, steps: int) -> None:
        self._epochs = trainer.epoch + epochs
        try:
            from tqdm import tqdm
        except ImportError:
            return
        self._bar = tqdm(
            total=epochs * steps,
            initial=trainer.position,
            unit="step",
            dynamic_ncols=True,
            leave=False,
            disable=None,  # not on a terminal: the lines alone
        )

    def on_step(self, trainer: Trainer, loss: float) -> None:
        if self._bar is not None:
            self._bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
            self._bar.update()

    def on_epoch(self, trainer: Trainer, row: dict[str, Any]) -> None:
        parts = [f"epoch {row['epoch']:>{len(str(self._epochs))}}/{self._epochs}"]
        parts.append(f"loss {row['loss']:.4f}")
        if "accuracy" in row:
            parts.append(f"accuracy {100 * row['accuracy']:6.2f} %")
        if "val_loss" in row:
            parts.append(f"test loss {row['val_loss']:.4f}")
        if "val_accuracy" in row:
            parts.append(f"test accuracy {100 * row['val_accuracy']:6.2f} %")
        parts.append(f"{row['seconds']:.1f} s")
        line = "  ".join(parts)
        if self._bar is not None:
            self._bar.clear()  # the line takes its place; the next step draws it again below
        print(line, flush=True)

    def on_end(self, trainer: Trainer) -> None:
        if self._bar is not None:
            self._bar.close()


class Checkpoint(Callback):
    """After every epoch, and in longer ones every `seconds`, everything that is needed to go on:
    checkpoint.safetensors, the one before it as previous.safetensors, history.csv, history.json.
    """

    def __init__(self, directory: Path, seconds: float = 600.0) -> None:
        self.directory, self.seconds = directory, seconds
        self._saved = 0.0

    def on_begin(self, trainer: Trainer, epochs: int, steps: int) -> None:
        self._saved = time.monotonic()
        for path in self.directory.glob(".*.tmp"):  # of a process that was killed while it wrote
            path.unlink(missing_ok=True)

    def on_step(self, trainer: Trainer, loss: float) -> None:
        if time.monotonic() - self._saved > self.seconds:
            self._save(trainer)

    def on_epoch(self, trainer: Trainer, row: dict[str, Any]) -> None:
        self._save(trainer)
        trainer.history.write(self.directory)

    def _save(self, trainer: Trainer) -> None:
        path = self.directory / "checkpoint.safetensors"
        spare = self.directory / f".previous.{os.getpid()}.tmp"
        # A link, so that there is a checkpoint at every moment; some file systems have none.
        with suppress(OSError):
            os.link(path, spare)
            os.replace(spare, self.directory / "previous.safetensors")
        trainer.save(path)
        self._saved = time.monotonic()


class EarlyStopping(Callback):
    """Stops when `column` of the history has not improved for `patience` epochs.

    Columns with "loss" in their name improve downwards, others upwards. The history is all it
    knows, so that a resumed run stops where an uninterrupted one does.
    """

    def __init__(self, patience: int, column: str = "val_loss") -> None:
        if patience < 1:
            raise ValueError(f"EarlyStopping: patience must be at least 1, got {patience}")
        self.patience, self.column = patience, column

    def on_begin(self, trainer: Trainer, epochs: int, steps: int) -> None:
        self._look(trainer)

    def on_epoch(self, trainer: Trainer, row: dict[str, Any]) -> None:
        self._look(trainer)

    def _look(self, trainer: Trainer) -> None:
        sign = 1 if "loss" in self.column else -1
        values = [sign * value for value in trainer.history[self.column]]
        if values and len(values) - 1 - values.index(min(values)) >= self.patience:
            trainer.stop()


class Log(Callback):
    """log.jsonl: a line for every `every`-th step and for every epoch, as they happen.

    A resumed run drops the lines of steps that it takes again.
    """

    def __init__(self, directory: Path, every: int = 10) -> None:
        self.path, self.every = directory / "log.jsonl", every
        self._file: Any = None

    def on_begin(self, trainer: Trainer, epochs: int, steps: int) -> None:
        kept = _lines_until(self.path, trainer.optimizer.steps)
        self._file = open(self.path, "w", encoding="utf-8")  # noqa: SIM115
        self._file.writelines(kept)

    def on_step(self, trainer: Trainer, loss: float) -> None:
        if trainer.optimizer.steps % self.every == 0:
            lr = trainer.optimizer.schedule(trainer.optimizer.steps - 1)
            self._write({"step": trainer.optimizer.steps, "loss": loss, "lr": lr})

    def on_epoch(self, trainer: Trainer, row: dict[str, Any]) -> None:
        self._write({"step": trainer.optimizer.steps} | row)

    def on_end(self, trainer: Trainer) -> None:
        self._file.close()

    def _write(self, row: dict[str, Any]) -> None:
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()


class TensorBoard(Callback):
    """Event files for TensorBoard. Needs tensorboardX: the extra [tensorboard]."""

    def __init__(self, directory: Path, every: int = 10) -> None:
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            raise ImportError(
                "TensorBoard logs need tensorboardX: pip install 'pyconv-engine[tensorboard]'"
            ) from error
        self.directory, self.every = directory, every
        self._open: Any = SummaryWriter
        self._writer: Any = None

    def on_begin(self, trainer: Trainer, epochs: int, steps: int) -> None:
        after = trainer.optimizer.steps + 1  # what a resumed run writes again is dropped
        self._writer = self._open(str(self.directory), purge_step=after if after > 1 else None)

    def on_step(self, trainer: Trainer, loss: float) -> None:
        if trainer.optimizer.steps % self.every == 0:
            self._writer.add_scalar("step/loss", loss, trainer.optimizer.steps)

    def on_epoch(self, trainer: Trainer, row: dict[str, Any]) -> None:
        for name, value in row.items():
            self._writer.add_scalar(f"epoch/{name}", value, trainer.optimizer.steps)

    def on_end(self, trainer: Trainer) -> None:
        self._writer.close()


def _lines_until(path: Path, step: int) -> list[str]:
    """The lines of a log up to this step; what a killed process left half written is dropped."""
    kept = []
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line)
            except (ValueError, KeyError, TypeError):
                continue
    return kept

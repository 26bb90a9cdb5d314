"""What may be told of a training run while it runs."""

from __future__ import annotations

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
    """After every epoch, everything that is needed to go on: checkpoint.safetensors, history.*."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def on_epoch(self, trainer: Trainer, row: dict[str, Any]) -> None:
        trainer.save(self.directory / "checkpoint.safetensors")
        trainer.history.write(self.directory)

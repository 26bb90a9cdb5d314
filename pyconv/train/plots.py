"""Pictures of a training run, as PNG files. Needs matplotlib."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from pyconv._arrays import Array
from pyconv.train.history import History


def curves(history: History, path: Path | BinaryIO) -> None:
    """Loss, and where there is one accuracy, over the epochs."""
    epochs = history["epoch"]
    shown = [name for name in ("loss", "accuracy") if name in history.rows[0]]
    figure = _figure((5 * len(shown), 4))
    for place, name in enumerate(shown, 1):
        axes = figure.add_subplot(1, len(shown), place)
        axes.plot(epochs, history[name], marker=".", label="training")
        if f"val_{name}" in history.rows[0]:
            axes.plot(epochs, history[f"val_{name}"], marker=".", label="test")
        axes.set_xlabel("epoch")
        axes.set_ylabel(name)
        axes.set_yscale("log" if name == "loss" else "linear")
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=120)


def confusion(counts: Array, classes: tuple[str, ...], path: Path | BinaryIO) -> None:
    """How many images of each class (rows) were taken for each class (columns)."""
    size = max(4.0, 0.5 * len(classes))
    figure = _figure((size + 1, size))
    axes = figure.add_subplot()
    # Colours follow the rows' shares and the text is the count, so that rare classes show as well.
    shares = counts / np.maximum(1, counts.sum(1, keepdims=True))
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if len(classes) <= 20:
        for (row, column), count in np.ndenumerate(counts):
            if count:
                colour = "white" if shares[row, column] > 0.5 else "black"
                axes.text(column, row, str(count), ha="center", va="center", color=colour)
        axes.set_xticks(
            range(len(classes)), classes, rotation=90 if max(map(len, classes)) > 3 else 0
        )
        axes.set_yticks(range(len(classes)), classes)
    axes.set_xlabel("recognised as")
    axes.set_ylabel("is")
    right = int(np.trace(counts))
    axes.set_title(f"{right} of {int(counts.sum())} right")
    figure.savefig(path, dpi=120)


def filters(w: Array, path: Path | BinaryIO) -> None:
    """The filters w (K, C, R, S): in colour for three channels, else one picture a channel."""
    tiles: Any = w.transpose(0, 2, 3, 1) if w.shape[1] == 3 else w.reshape(-1, *w.shape[2:])
    across = min(len(tiles), max(6, math.ceil(math.sqrt(len(tiles)))))
    down = math.ceil(len(tiles) / across)
    figure = _figure((across, down + 0.4))
    limit = float(np.abs(w).max()) or 1.0
    for place, tile in enumerate(tiles, 1):
        axes = figure.add_subplot(down, across, place)
        if tile.ndim == 3:
            axes.imshow(0.5 + 0.5 * tile / limit)
        else:
            axes.imshow(tile, cmap="RdBu_r", vmin=-limit, vmax=limit)
        axes.set_axis_off()
    figure.suptitle("first-layer filters")
    figure.savefig(path, dpi=120)


def _figure(size: tuple[float, float]) -> Any:
    try:
        from matplotlib.figure import Figure  # not pyplot: no window system, no global state
    except ImportError as error:
        raise ImportError("plots need matplotlib: pip install 'pyconv-engine[plot]'") from error
    return Figure(figsize=size, layout="constrained")

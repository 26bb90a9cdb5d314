"""CIFAR-10 in its binary layout: rows of a label and 3 x 32 x 32 bytes.

Source: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009;
https://www.cs.toronto.edu/~kriz/cifar.html
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pyconv._errors import FormatError

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FILES = {
    "train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
    "test": ("test_batch.bin",),
}
Array = npt.NDArray[Any]
_ROW = 1 + 3 * 32 * 32
_ROWS = 10_000


def read_cifar10(directory: str | os.PathLike[str], split: str) -> tuple[Array, Array]:
    """(x uint8 (N, 3, 32, 32), y int64 (N,)); FormatError for a file of another size or label."""
    rows = np.concatenate([_read(Path(directory) / name) for name in FILES[split]])
    return rows[:, 1:].reshape(-1, 3, 32, 32), rows[:, 0].astype(np.int64)


def _read(path: Path) -> npt.NDArray[np.uint8]:
    size = path.stat().st_size
    if size == 0 or size % _ROW or size > _ROWS * _ROW:
        raise FormatError(
            f"{path}: {size} bytes; expected 1 to {_ROWS} rows of {_ROW} (label and 3x32x32 pixels)"
        )
    rows = np.fromfile(path, np.uint8).reshape(-1, _ROW)
    wrong = np.flatnonzero(rows[:, 0] >= len(CLASSES))
    if wrong.size:
        raise FormatError(
            f"{path}: byte {int(wrong[0]) * _ROW}, label: {rows[wrong[0], 0]} is not in 0..9"
        )
    return rows

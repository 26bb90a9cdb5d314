"""CIFAR-10 and CIFAR-100, in their binary and their Python layout.

Binary: rows of one label (CIFAR-100: coarse, then fine) and 3 x 32 x 32 bytes. Python: pickled
dictionaries, of which only numbers, strings, lists and the bytes of an array are taken.
Source: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009;
https://www.cs.toronto.edu/~kriz/cifar.html
"""

from __future__ import annotations

import math
import os
import pickle
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pyconv._errors import FormatError

Array = npt.NDArray[Any]
_IMAGE = 3 * 32 * 32
_LIMIT = 2**28  # bytes of a pickled file; the largest has 155 MB


class Layout(NamedTuple):
    """The files of both splits, labels in a row (the last counts), and the pickled labels' key."""

    train: tuple[str, ...]
    test: tuple[str, ...]
    labels: int
    key: bytes
    classes: int
    rows: int  # images in the largest file


_BATCHES = tuple(f"data_batch_{i}" for i in range(1, 6))
LAYOUTS = {
    "cifar10": Layout(_BATCHES, ("test_batch",), 1, b"labels", 10, 10_000),
    "cifar100": Layout(("train",), ("test",), 2, b"fine_labels", 100, 50_000),
}
_CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck"
_CIFAR100 = """apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge
bus butterfly camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab
crocodile cup dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard
lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom
oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider
squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train trout
tulip turtle wardrobe whale willow_tree wolf woman worm"""
CLASSES = {"cifar10": tuple(_CIFAR10.split()), "cifar100": tuple(_CIFAR100.split())}


def files(name: str, split: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The files of a split in the binary and in the Python layout."""
    layout = LAYOUTS[name]
    pickled = layout.train if split == "train" else layout.test
    return tuple(f"{file}.bin" for file in pickled), pickled


def read_cifar(name: str, paths: list[Path]) -> tuple[Array, Array]:
    """(x uint8 (N, 3, 32, 32), y int64 (N,)) from files of either layout, told by their suffix.

    Raises FormatError for a file of another size, a label out of range, and a pickle of anything
    else.
    """
    layout = LAYOUTS[name]
    parts = [
        _read_rows(path, layout) if path.suffix == ".bin" else _read_pickle(path, layout)
        for path in paths
    ]
    x = np.concatenate([images for images, _ in parts]).reshape(-1, 3, 32, 32)
    return x, np.concatenate([labels for _, labels in parts]).astype(np.int64)


def _read_rows(path: Path, layout: Layout) -> tuple[Array, Array]:
    row, size = layout.labels + _IMAGE, path.stat().st_size
    if size == 0 or size % row or size > layout.rows * row:
        raise FormatError(
            f"{path}: {size} bytes; expected 1 to {layout.rows} rows of {row} (label and "
            "3x32x32 pixels)"
        )
    rows = np.fromfile(path, np.uint8).reshape(-1, row)
    y = rows[:, layout.labels - 1]
    if wrong := _wrong(y, layout):
        place = wrong[0] * row + layout.labels - 1
        raise FormatError(f"{path}: byte {place}, label: {wrong[1]} is not in 0..{wrong[2]}")
    return rows[:, layout.labels :], y


def _wrong(y: Array, layout: Layout) -> tuple[int, int, int] | None:
    """The first label out of range: its place, itself, and the largest allowed."""
    wrong = np.flatnonzero((y < 0) | (y >= layout.classes))
    return (int(wrong[0]), int(y[wrong[0]]), layout.classes - 1) if wrong.size else None


class _Parts:
    """Stands for whatever a pickle wants to call: keeps what it is given and does nothing."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


# The interpreter written in Python: its memo is a dictionary, where the one in C allocates a table
# as large as a file says.
class _Reader(pickle._Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        return _Parts

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("a persistent object")


def _read_pickle(path: Path, layout: Layout) -> tuple[Array, Array]:
    if path.stat().st_size > _LIMIT:
        raise FormatError(f"{path}: larger than {_LIMIT} bytes")
    try:
        with open(path, "rb") as file:
            found = _Reader(file, encoding="bytes").load()
        y = np.array([int(label) for label in found[layout.key]], np.int64)
        # An array's state: version, shape, dtype, whether in Fortran's order, bytes.
        _, shape, _, fortran, content = found[b"data"].state
        if tuple(shape) != (len(y), _IMAGE) or fortran or len(content) != math.prod(shape):
            raise ValueError(f"data {shape} for {len(y)} labels")
        x = np.frombuffer(content, np.uint8).reshape(shape)
    except OSError:
        raise
    except Exception as error:  # a pickle can fail in any way
        raise FormatError(f"{os.fspath(path)}: not a CIFAR batch ({error!r})") from error
    if wrong := _wrong(y, layout):
        raise FormatError(f"{path}: label {wrong[0]}: {wrong[1]} is not in 0..{wrong[2]}")
    return x, y

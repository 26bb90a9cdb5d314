"""Data sets by name, all in one form: images as bytes, labels as integers, class names."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pyconv._errors import FormatError
from pyconv.data.cifar import CLASSES, FILES, read_cifar10
from pyconv.data.folder import list_folder, read_images
from pyconv.data.idx import read_idx

Array = npt.NDArray[Any]

_DIGITS = tuple("0123456789")
_FASHION = (
    *("T-shirt", "trouser", "pullover", "dress", "coat"),
    *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
)
_MNIST_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
# Folders looked into below the data directory: ours, torchvision's, as unpacked, the directory.
_FOLDERS = {
    "mnist": ("mnist", "MNIST/raw", "."),
    "fashion": ("fashion", "fashion-mnist", "FashionMNIST/raw", "."),
    "cifar10": ("cifar10", "cifar-10-batches-bin", "cifar10/cifar-10-batches-bin", "."),
}
_SOURCES = {
    "mnist": "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "fashion": "https://github.com/zalandoresearch/fashion-mnist",
    "cifar10": "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
}


@dataclass(frozen=True)
class Dataset:
    """Images x (N, C, H, W), uint8 as `load` gives them; labels y (N,), int64; class names."""

    x: Array
    y: Array
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.x) != len(self.y):
            raise ValueError(f"Dataset: {len(self.x)} images but {len(self.y)} labels")

    def __len__(self) -> int:
        return len(self.x)


def load(
    name: str, split: str = "train", data_dir: str | os.PathLike[str] | None = None
) -> Dataset:
    """A data set by name: "digits", "mnist", "fashion", "cifar10" or "folder:PATH".

    "digits" comes with the package: 1,797 grey 8x8 images, of which every fifth of each class is
    the test split; a folder without train/ and test/ is divided likewise. The others are read from
    `data_dir`, by default the environment variable PYCONV_DATA. Raises ValueError for an unknown
    name or split, FileNotFoundError where the files are not there (the text says where it looked),
    pyconv.FormatError where one is damaged.

    >>> from pyconv import data
    >>> test = data.load("digits", "test")
    >>> test.x.shape, test.x.dtype, test.classes[3]
    ((359, 1, 8, 8), dtype('uint8'), '3')
    """
    if split not in ("train", "test"):
        raise ValueError(f"data.load: split must be 'train' or 'test', got {split!r}")
    if name == "digits":
        return _digits(split)
    if name.startswith("folder:"):
        return _folder(Path(name.removeprefix("folder:")), split)
    if name in ("mnist", "fashion"):
        return _mnist(name, split, data_dir)
    if name == "cifar10":
        paths = _find(name, FILES[split], data_dir)
        x, y = read_cifar10(paths[0].parent, split)
        return Dataset(x, y, CLASSES)
    raise ValueError(
        f"data.load: name must be digits, mnist, fashion, cifar10 or folder:PATH, got {name!r}"
    )


def _digits(split: str) -> Dataset:
    here = Path(__file__).parent
    counts = read_idx(here / "digits-images-idx3-ubyte.gz")  # 0 to 16 set pixels of each 4x4 block
    y = read_idx(here / "digits-labels-idx1-ubyte.gz").astype(np.int64)
    x = np.minimum(counts.astype(np.int64) * 16, 255).astype(np.uint8)[:, None]
    chosen = _every_fifth(y) == (split == "test")
    return Dataset(x[chosen], y[chosen], _DIGITS)


def _folder(directory: Path, split: str) -> Dataset:
    if not directory.is_dir():
        raise FileNotFoundError(f"data.load: {directory} is not a directory")
    if (directory / split).is_dir():
        files, labels, classes = list_folder(directory / split)
        y = np.array(labels, np.int64)
    else:
        files, labels, classes = list_folder(directory)
        y = np.array(labels, np.int64)
        chosen = np.flatnonzero(_every_fifth(y) == (split == "test"))
        files, y = [files[i] for i in chosen], y[chosen]
    return Dataset(read_images(files), y, classes)


def _mnist(name: str, split: str, data_dir: str | os.PathLike[str] | None) -> Dataset:
    images, labels = _find(name, _MNIST_FILES[split], data_dir)
    x, y = read_idx(images), read_idx(labels)
    if x.ndim != 3:
        raise FormatError(f"{images}: byte 3, axes: expected 3 for images, got {x.ndim}")
    if y.ndim != 1 or len(y) != len(x):
        raise FormatError(f"{labels}: byte 4, sizes: {y.shape} labels for {len(x)} images")
    if len(y) and y.max() > 9:
        place = int(np.argmax(y > 9))
        raise FormatError(f"{labels}: byte {8 + place}, label: {y[place]} is not in 0..9")
    return Dataset(x[:, None], y.astype(np.int64), _DIGITS if name == "mnist" else _FASHION)


def _find(name: str, files: tuple[str, ...], data_dir: str | os.PathLike[str] | None) -> list[Path]:
    """The paths of the files, all in one folder, each plain or with .gz."""
    chosen = data_dir or os.environ.get("PYCONV_DATA")
    looked = [Path(chosen) / folder for folder in _FOLDERS[name]] if chosen else []
    for folder in looked:
        found = [
            next((p for p in (folder / file, folder / f"{file}.gz") if p.is_file()), None)
            for file in files
        ]
        paths = [path for path in found if path is not None]
        if len(paths) == len(files):
            return paths
    where = (
        f"not found in {', '.join(map(str, looked))}"
        if looked
        else "no data directory is given: set PYCONV_DATA, data_dir= or --data-dir"
    )
    raise FileNotFoundError(
        f"data.load: {name} needs {', '.join(files)} ({where}); they are published at "
        f"{_SOURCES[name]}"
    )


def _every_fifth(y: Array) -> Array:
    """True at every fifth item of each class: a stratified split that no seed can change."""
    test = np.zeros(len(y), bool)
    for label in np.unique(y):
        test[np.flatnonzero(y == label)[2::5]] = True
    return test

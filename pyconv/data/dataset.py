"""Data sets by name, all in one form: images as bytes, labels as integers, class names."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pyconv._errors import FormatError
from pyconv.data import cifar
from pyconv.data.download import SOURCES, download
from pyconv.data.folder import list_folder, read_images
from pyconv.data.idx import read_idx
from pyconv.data.npz import read_npz
from pyconv.data.tar import TarImages, list_tar

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
    "cifar10": (
        *("cifar10", "cifar-10-batches-bin", "cifar10/cifar-10-batches-bin"),
        *("cifar-10-batches-py", "."),
    ),
    "cifar100": ("cifar100", "cifar-100-binary", "cifar-100-python", "."),
}


@dataclass(frozen=True)
class Dataset:
    """Images x (N, C, H, W), uint8 as `load` gives them; labels y (N,), int64; class names."""

    x: Any  # an array, or TarImages, which are read when they are indexed
    y: Array
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.x) != len(self.y):
            raise ValueError(f"Dataset: {len(self.x)} images but {len(self.y)} labels")

    def __len__(self) -> int:
        return len(self.x)

    def shard(self, index: int, count: int) -> Dataset:
        """Every count-th example from number `index` on: the shards of all indices are the whole.

        >>> from pyconv import data
        >>> [len(data.load("digits").shard(i, 4)) for i in range(4)]
        [360, 360, 359, 359]
        """
        if not 0 <= index < count:
            raise ValueError(f"Dataset.shard: index must be in 0..{count - 1}, got {index}")
        return Dataset(self.x[index::count], self.y[index::count], self.classes)


def load(
    name: str,
    split: str = "train",
    data_dir: str | os.PathLike[str] | None = None,
    fetch: bool = False,
) -> Dataset:
    """A data set by name: "digits", "mnist", "fashion", "cifar10", "cifar100", "folder:PATH",
    "npz:PATH" or "tar:PATH" (an uncompressed tar of images, or a folder of such shards).

    "digits" comes with the package: 1,797 grey 8x8 images, of which every fifth of each class is
    the test split; a folder without train/ and test/ is divided likewise, and so are archives.
    The others are read from `data_dir`, by default the environment variable PYCONV_DATA; with
    `fetch` they are downloaded where they are not there. Images in tars stay there: x reads them
    when it is indexed. Raises ValueError for an unknown
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
    if name.startswith("npz:"):
        return _npz(Path(name.removeprefix("npz:")), split)
    if name.startswith("tar:"):
        return _tar(Path(name.removeprefix("tar:")), split)
    if name not in SOURCES:
        raise ValueError(
            f"data.load: name must be digits, {', '.join(SOURCES)}, folder:PATH, npz:PATH or "
            f"tar:PATH, got {name!r}"
        )
    try:
        return _published(name, split, data_dir)
    except FileNotFoundError:
        if not fetch:
            raise
        download(name, data_dir)
        return _published(name, split, data_dir)


def _published(name: str, split: str, data_dir: str | os.PathLike[str] | None) -> Dataset:
    if name in ("mnist", "fashion"):
        return _mnist(name, split, data_dir)
    x, y = cifar.read_cifar(name, _find(name, cifar.files(name, split), data_dir))
    return Dataset(x, y, cifar.CLASSES[name])


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


def _npz(path: Path, split: str) -> Dataset:
    x, y, divided = read_npz(path, split)
    classes = tuple(map(str, range(int(y.max(initial=0)) + 1)))
    if not divided:
        chosen = _every_fifth(y) == (split == "test")
        x, y = x[chosen], y[chosen]
    return Dataset(x, y, classes)


def _tar(path: Path, split: str) -> Dataset:
    images = list_tar(path)
    classes = tuple(sorted({label for _, label, _, _ in images}))
    y = np.array([classes.index(label) for _, label, _, _ in images], np.int64)
    if any(part for part, *_ in images):
        chosen = np.array([part == split for part, *_ in images])
    else:
        chosen = _every_fifth(y) == (split == "test")
    places = [image[3] for image, one in zip(images, chosen, strict=True) if one]
    if not places:
        raise FileNotFoundError(f"{path}: no images of the {split} split")
    return Dataset(TarImages(places), y[chosen], classes)


def _mnist(name: str, split: str, data_dir: str | os.PathLike[str] | None) -> Dataset:
    images, labels = _find(name, (_MNIST_FILES[split],), data_dir)
    x, y = read_idx(images), read_idx(labels)
    if x.ndim != 3:
        raise FormatError(f"{images}: byte 3, axes: expected 3 for images, got {x.ndim}")
    if y.ndim != 1 or len(y) != len(x):
        raise FormatError(f"{labels}: byte 4, sizes: {y.shape} labels for {len(x)} images")
    if len(y) and y.max() > 9:
        place = int(np.argmax(y > 9))
        raise FormatError(f"{labels}: byte {8 + place}, label: {y[place]} is not in 0..9")
    return Dataset(x[:, None], y.astype(np.int64), _DIGITS if name == "mnist" else _FASHION)


def _find(
    name: str, layouts: tuple[tuple[str, ...], ...], data_dir: str | os.PathLike[str] | None
) -> list[Path]:
    """The paths of the files of one layout, all in one folder, each plain or with .gz."""
    chosen = data_dir or os.environ.get("PYCONV_DATA")
    looked = [Path(chosen) / folder for folder in _FOLDERS[name]] if chosen else []
    for folder in looked:
        for files in layouts:
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
        f"data.load: {name} needs {', '.join(layouts[0])} ({where}); `pyconv download {name}` "
        f"fetches them from {SOURCES[name][0].url}"
    )


def _every_fifth(y: Array) -> Array:
    """True at every fifth item of each class: a stratified split that no seed can change."""
    test = np.zeros(len(y), bool)
    for label in np.unique(y):
        test[np.flatnonzero(y == label)[2::5]] = True
    return test

"""Images in tar archives, read where they lie: CLASS/NAME or train/CLASS/NAME, in any shards."""

from __future__ import annotations

import os
import tarfile
import threading
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pyconv._errors import FormatError
from pyconv.data.folder import SUFFIXES, read_image

Array = npt.NDArray[Any]
Place = tuple[Path, int, int]  # file, offset, bytes
Change = Callable[[Array], Array]


class TarImages:
    """Images (N, C, H, W) of uncompressed tar files as an array to read from: `images[indices]`.

    Only the place of each image is in memory: an epoch in random order reads each image once, with
    one seek, and nothing is unpacked. Images of another size than the first are refused.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, places: list[Place], change: Change | None = None) -> None:
        self.places, self.change = places, change
        self._files: dict[Path, int] = {}
        self._lock = threading.Lock()
        self._image = self._read(0).shape
        self.shape = (len(places), *self[:1].shape[1:])
        self.ndim = 4

    def mapped(self, change: Change) -> TarImages:
        """The same images, changed by change(x) whenever some are read."""
        return TarImages(self.places, change)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, key: Any) -> Array:
        chosen = np.arange(len(self.places))[key]
        if not np.ndim(chosen):
            first: Array = self[chosen[None]][0]
            return first
        x = np.empty((len(chosen), *self._image), np.uint8)
        for row, index in zip(x, chosen, strict=True):
            row[...] = self._read(int(index), self._image)
        return x if self.change is None else self.change(x)

    def _read(self, index: int, expected: tuple[int, ...] | None = None) -> Array:
        path, offset, size = self.places[index]
        with self._lock:
            if path not in self._files:
                self._files[path] = os.open(path, os.O_RDONLY)
        content = os.pread(self._files[path], size, offset)
        try:
            image = read_image(BytesIO(content), expected[0] if expected else None)
        except FormatError as error:
            raise FormatError(f"{path}: byte {offset}: not a readable image") from error
        if expected is not None and image.shape != expected:
            raise ValueError(
                f"{path}: the image at byte {offset} is {image.shape}, the first {expected}"
            )
        return image

    def __del__(self) -> None:
        for descriptor in self._files.values():
            os.close(descriptor)


def list_tar(path: Path) -> list[tuple[str, str, str, Place]]:
    """(split or "", class, name, place) of every image in a tar file or in a folder's *.tar.

    Raises FileNotFoundError where there is none, FormatError for a compressed or damaged archive.
    """
    shards = sorted(path.glob("*.tar")) if path.is_dir() else [path]
    found = []
    for shard in shards:
        try:
            with tarfile.open(shard, "r:") as archive:
                for member in archive:
                    parts = [part for part in member.name.split("/") if part not in ("", ".")]
                    if not member.isreg() or Path(member.name).suffix.lower() not in SUFFIXES:
                        continue
                    if len(parts) < 2:
                        raise FormatError(f"{shard}: {member.name} has no class: CLASS/NAME")
                    split = parts[-3] if len(parts) > 2 and parts[-3] in ("train", "test") else ""
                    place = (shard, member.offset_data, member.size)
                    found.append((split, parts[-2], parts[-1], place))
        except (tarfile.TarError, EOFError) as error:
            raise FormatError(
                f"{shard}: not an uncompressed tar ({error}); a compressed one has no places to "
                "read single images from"
            ) from error
    if not found:
        raise FileNotFoundError(f"{path}: no images CLASS/NAME in it")
    return found

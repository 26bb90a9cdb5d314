"""Images in folders, one folder a class: DIR/CLASS/*.png, or DIR/train/CLASS and DIR/test/CLASS."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from pyconv._errors import FormatError

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".pgm", ".ppm", ".webp"}


def list_folder(directory: str | os.PathLike[str]) -> tuple[list[Path], list[int], tuple[str, ...]]:
    """(files, labels, classes) in sorted order. Raises FileNotFoundError where there are none."""
    folders = sorted(path for path in Path(directory).iterdir() if path.is_dir())
    files: list[Path] = []
    labels: list[int] = []
    for label, folder in enumerate(folders):
        found = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
        files += found
        labels += [label] * len(found)
    if not files:
        raise FileNotFoundError(f"{os.fspath(directory)}: no images in CLASS/*{{.png,.jpg,...}}")
    return files, labels, tuple(folder.name for folder in folders)


def read_image(
    path: str | os.PathLike[str] | BinaryIO,
    channels: int | None = None,
    size: tuple[int, int] | None = None,
) -> npt.NDArray[np.uint8]:
    """One image as (C, H, W): grey (1 channel) or RGB (3), by default as the file has it.

    With `size` (H, W), an image of another size is resampled to it. Raises FormatError where the
    file is no image or too large to be one, ImportError without Pillow.
    """
    Image = _pillow()
    try:
        with Image.open(path) as image:
            mode = {None: "L" if image.mode in ("1", "L", "I;16") else "RGB", 1: "L", 3: "RGB"}
            image = image.convert(mode[channels])
            if size is not None and image.size != size[::-1]:
                image = image.resize(
                    size[::-1],
                    Image.Resampling.BOX if _shrinks(image, size) else Image.Resampling.BILINEAR,
                )
            pixels = np.asarray(image, np.uint8)
    except FileNotFoundError:
        raise
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise FormatError(f"{path}: not a readable image ({error})") from error
    return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def read_images(files: list[Path]) -> npt.NDArray[np.uint8]:
    """Images of one common size and kind as (N, C, H, W)."""
    first = read_image(files[0])
    x = np.empty((len(files), *first.shape), np.uint8)
    for i, path in enumerate(files):
        image = read_image(path, channels=first.shape[0])
        if image.shape != first.shape:
            raise ValueError(
                f"{path}: {image.shape}, but {files[0]} is {first.shape}; "
                "images of a folder must have one size"
            )
        x[i] = image
    return x


def _shrinks(image: Any, size: tuple[int, int]) -> bool:
    return bool(image.size[0] > size[1] or image.size[1] > size[0])


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError(
            "reading images needs Pillow: pip install 'pyconv-engine[train]'"
        ) from error
    return Image

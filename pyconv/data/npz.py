"""NPZ archives: x_train, y_train, x_test, y_test as Keras has them, or x and y."""

from __future__ import annotations

import math
import os
import zipfile
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy

from pyconv._errors import FormatError
from pyconv.data.idx import LIMIT

Array = npt.NDArray[Any]


def read_npz(path: str | os.PathLike[str], split: str) -> tuple[Array, Array, bool]:
    """(x uint8 (N, C, H, W), y int64 (N,), whether the file itself has the two splits).

    Images may be (N, H, W), (N, H, W, C) or (N, C, H, W) with 1 or 3 channels. Raises FormatError
    where the file is damaged, claims more than it holds, or has other arrays.
    """
    name = os.fspath(path)
    try:
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
            own = f"x_{split}.npy" in names
            x, y = (_read(archive, f"{a}_{split}.npy" if own else f"{a}.npy", name) for a in "xy")
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, ValueError, SyntaxError,
            OverflowError, NotImplementedError, RuntimeError) as error:  # fmt: skip
        raise FormatError(f"{name}: not such an archive ({error})") from error
    if x.ndim == 3:
        x = x[:, None]
    elif x.ndim == 4 and x.shape[3] in (1, 3) and x.shape[1] not in (1, 3):
        x = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    y = y.reshape(-1) if y.ndim == 2 and y.shape[1] == 1 else y
    if x.dtype != np.uint8 or x.ndim != 4 or x.shape[1] not in (1, 3):
        raise FormatError(f"{name}: images must be bytes (N, C, H, W), got {x.dtype} {x.shape}")
    if y.dtype.kind not in "iu" or y.shape != x.shape[:1] or (y.size and y.min() < 0):
        raise FormatError(f"{name}: labels must be {x.shape[:1]} from 0, got {y.dtype} {y.shape}")
    return x, y.astype(np.int64), own


def _read(archive: zipfile.ZipFile, member: str, name: str) -> Array:
    """One array, after its header has been compared with the size of the member."""
    info = archive.getinfo(member)
    with archive.open(info) as file:
        version = npy.read_magic(file)
        header: Any = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = header(file)
        size = math.prod(shape) * dtype.itemsize
        if dtype.hasobject or size > LIMIT or file.tell() + size != info.file_size:
            raise FormatError(
                f"{name}: {member} claims {dtype} {shape}, the file has {info.file_size} bytes"
            )
    with archive.open(info) as file:
        array: Array = npy.read_array(file, allow_pickle=False)
    return array

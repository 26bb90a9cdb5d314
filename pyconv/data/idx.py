"""IDX, the format of MNIST: magic, sizes (big-endian), bytes; plain or compressed with gzip.

Source: Y. LeCun, C. Cortes, C. Burges, THE MNIST DATABASE, "FILE FORMATS".
"""

from __future__ import annotations

import gzip
import math
import os
import struct
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt

from pyconv._errors import FormatError

LIMIT = 2**31  # bytes of data accepted in one file; EMNIST, the largest in use, has 0.55e9
_CHUNK = 2**20


def read_idx(path: str | os.PathLike[str]) -> npt.NDArray[np.uint8]:
    """The array of unsigned bytes in an IDX file; gzip is recognised by its first two bytes.

    Memory grows with the data that is really there, never with what the header claims. Raises
    pyconv.FormatError, with byte offset and field, where the file is damaged or something else.
    """
    with open(path, "rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
    try:
        with gzip.open(path, "rb") if compressed else open(path, "rb") as stream:
            return _parse(stream, os.fspath(path))
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise FormatError(f"{os.fspath(path)}: damaged gzip data ({error})") from error


def _parse(stream: Any, path: str) -> npt.NDArray[np.uint8]:
    magic = stream.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0":
        raise FormatError(f"{path}: byte 0, magic: expected 00 00, got {magic[:2].hex(' ')!r}")
    if magic[2] != 0x08:
        raise FormatError(f"{path}: byte 2, type: expected 08 (unsigned byte), got {magic[2]:02x}")
    axes = magic[3]
    if not 1 <= axes <= 8:
        raise FormatError(f"{path}: byte 3, axes: expected 1 to 8, got {axes}")
    sizes = stream.read(4 * axes)
    if len(sizes) < 4 * axes:
        raise FormatError(f"{path}: byte {4 + len(sizes)}, sizes: the file ends inside them")
    shape = struct.unpack(f">{axes}I", sizes)
    count = math.prod(shape)
    if count > LIMIT:
        raise FormatError(f"{path}: byte 4, sizes: {shape} is beyond the limit of {LIMIT} bytes")
    data = bytearray()
    while len(data) <= count and (chunk := stream.read(min(_CHUNK, count + 1 - len(data)))):
        data += chunk
    if len(data) != count:
        found = f"{len(data)}" if len(data) < count else "more"
        raise FormatError(
            f"{path}: byte {4 + 4 * axes}, data: {shape} means {count} bytes, found {found}"
        )
    return np.frombuffer(data, np.uint8).reshape(shape)

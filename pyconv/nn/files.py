"""Networks and training states as files: tensors in safetensors, the rest as JSON in its header.

The header's single metadata entry "pyconv" holds {"format", "sha256", ...}: the digest is of the
whole file with the digest's own 64 characters written as zeros, so any changed byte is found.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from pyconv._arrays import Array
from pyconv._errors import FormatError
from pyconv._gpu import moved
from pyconv.nn import init
from pyconv.nn.layer import Layer, from_architecture

FORMAT = 1
_UNSIGNED = "0" * 64


def save(net: Layer, path: str | os.PathLike[str]) -> None:
    """Write architecture and weights to one safetensors file, replacing `path` all at once.

    A crash at any moment leaves the file that was there before. Raises OSError where the file
    cannot be written, ImportError without safetensors (`pip install 'pyconv-engine[train]'`).
    """
    write(path, net.state_dict(), {"architecture": net.architecture()})


def load(path: str | os.PathLike[str]) -> Layer:
    """The network that `save` wrote, in inference mode. Nothing in the file is ever executed.

    Layer classes of your own must be imported before. Raises OSError where the file cannot be read
    and pyconv.FormatError, with the reason, where it is damaged or not such a file.
    """
    tensors, header = read(path)
    if "architecture" not in header:
        raise FormatError(f"{os.fspath(path)}: holds no network (header has no architecture)")
    try:
        with init.blank():
            net = from_architecture(header["architecture"])
        dtypes = {value.dtype for value in tensors.values()} or {np.dtype(np.float32)}
        if len(dtypes) != 1 or not dtypes <= {np.dtype(np.float32), np.dtype(np.float64)}:
            raise ValueError("tensors must be all float32 or all float64")
        net.load_state_dict(tensors, dtypes.pop())
    except (ValueError, TypeError, MemoryError, OverflowError, RecursionError) as error:
        raise FormatError(f"{os.fspath(path)}: {error}") from error
    return net.eval()


def write(
    path: str | os.PathLike[str], tensors: Mapping[str, Array], header: dict[str, Any]
) -> None:
    """Write tensors and a JSON-able header to a file that `read` verifies."""
    from_numpy = safetensors_module().save
    signed = {"format": FORMAT, "sha256": _UNSIGNED} | header
    data = from_numpy(
        {name: np.asarray(moved(value, None), order="C") for name, value in tensors.items()},
        metadata={"pyconv": json.dumps(signed)},
    )
    digest = hashlib.sha256(data).hexdigest()
    replace(path, data.replace(_UNSIGNED.encode(), digest.encode(), 1))


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Array], dict[str, Any]]:
    """Tensors and header of a file that `write` made; FormatError where a byte has changed."""
    to_numpy = safetensors_module().load
    name = os.fspath(path)
    data = Path(path).read_bytes()
    try:
        tensors = to_numpy(data)
        size = int.from_bytes(data[:8], "little")
        metadata = json.loads(data[8 : 8 + size])["__metadata__"]["pyconv"]
        header = json.loads(metadata)
        digest = header.pop("sha256")
        version = header.pop("format")
    except Exception as error:  # safetensors has its own exceptions, and lets others through
        raise FormatError(f"{name}: not a pyconv file ({error})") from error
    if version != FORMAT:
        raise FormatError(f"{name}: format {version!r}; this version of pyconv reads {FORMAT}")
    unsigned = data.replace(str(digest).encode(), _UNSIGNED.encode(), 1)
    if hashlib.sha256(unsigned).hexdigest() != digest:
        raise FormatError(f"{name}: damaged, the SHA-256 of its contents is not the recorded one")
    return tensors, header


def replace(path: str | os.PathLike[str], data: bytes) -> None:
    """Put data at path by temporary file, fsync and rename: readers see the old or the new file."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)  # the rename itself must survive a power loss
    finally:
        os.close(directory)


def safetensors_module() -> ModuleType:
    try:
        import safetensors.numpy
    except ImportError as error:
        raise ImportError(
            "saving and loading need safetensors: pip install 'pyconv-engine[train]'"
        ) from error
    return safetensors.numpy

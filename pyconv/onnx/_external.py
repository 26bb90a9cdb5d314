"""Tensors whose values lie in a file beside the model: read without ever leaving its folder."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

_KEYS = frozenset({"location", "offset", "length", "checksum"})
_STEP = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # a pipe must not block


class External:
    """The files of one folder; None: there are none."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._read: dict[tuple[str, int, int], bytes] = {}  # tensors may share their values

    def read(self, what: str, entries: Iterable[Any], wanted: int) -> bytes:
        """The `wanted` bytes that the entries name; ValueError where they are not all there."""
        keys: dict[str, str] = {}
        for entry in entries:
            if not isinstance(entry.key, str) or not isinstance(entry.value, str):
                raise ValueError(f"{what}: external_data is no text")
            if entry.key not in _KEYS:
                raise ValueError(f"{what}: external_data has the unknown key {entry.key[:40]!r}")
            if entry.key in keys:
                raise ValueError(f"{what}: external_data has {entry.key} twice")
            keys[entry.key] = entry.value
        location = keys.get("location", "")
        if self.folder is None:
            raise ValueError(
                f"{what} lies in {location!r}, but a model in memory has no folder; load the file"
            )
        offset = _number(what, "offset", keys.get("offset", "0"))
        length = _number(what, "length", keys.get("length", str(wanted)))
        if length != wanted:
            raise ValueError(f"{what} needs {wanted} bytes, its external data has {length}")
        if (location, offset, length) in self._read:
            return self._read[location, offset, length]
        parts = PurePosixPath(location).parts
        if not parts or location.startswith("/") or ".." in parts or "\0" in location:
            raise ValueError(f"{what}: location {location!r} leaves the model's folder")
        there = self._open(what, location, parts)
        try:
            found = os.fstat(there)
            if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
                raise ValueError(f"{what}: {location!r} must be a plain file with a single name")
            if offset + length > found.st_size:
                raise ValueError(
                    f"{what}: {location!r} has {found.st_size} bytes, but the tensor ends at "
                    f"{offset + length}"
                )
            before = sum(size for file_name, _, size in self._read if file_name == location)
            if before + length > found.st_size:
                raise ValueError(f"{what}: its part of {location!r} is another's too")
            with open(there, "rb", closefd=False) as file:
                file.seek(offset)
                data = self._read[location, offset, length] = file.read(length)
        finally:
            os.close(there)
        return data

    def _open(self, what: str, location: str, parts: tuple[str, ...]) -> int:
        """Step by step, so that no link anywhere on the way is followed."""
        assert self.folder is not None
        here = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        for index, part in enumerate(parts):
            flags = _STEP | (os.O_DIRECTORY if index < len(parts) - 1 else 0)
            try:
                there = os.open(part, flags, dir_fd=here)
            except OSError as error:
                raise ValueError(
                    f"{what}: {location!r} cannot be read without following links "
                    f"({error.strerror})"
                ) from error
            finally:
                os.close(here)
            here = there
        return here


def _number(what: str, key: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 19):
        raise ValueError(f"{what}: external_data has the {key} {text[:40]!r}")
    return int(text)

"""Memory of large arrays that is kept for the next ones."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

from . import _core


class MemoryPool:
    """In its `with` blocks, NumPy's new arrays of 1 MB and more use the memory of earlier ones.

    Large arrays otherwise come from the operating system, which clears each of their pages: in
    training a fifth of the time. The pool holds little more than was in use at once (each array
    takes the lowest gap it fits in) and is emptied at the end of the outermost block. Arrays may
    outlive it. It counts for the thread (context) that enters it, and for all of NumPy there, so
    also for results of other libraries.

    Source: NumPy enhancement proposal 49.

    >>> import numpy as np, pyconv as pc
    >>> with pc.MemoryPool():
    ...     for _ in range(3):  # the second and third y lie where the one before lay
    ...         y = pc.conv2d(np.ones((8, 16, 64, 64), "f4"), np.ones((16, 16, 3, 3), "f4"))
    """

    def __init__(self) -> None:
        self._handler = _core.memory_pool()
        self._before = threading.local()  # of each thread, the handlers outside its blocks

    def __enter__(self) -> Self:
        outer = self._before.__dict__.setdefault("handlers", [])
        outer.append(_core.set_memory_handler(self._handler))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        _core.set_memory_handler(self._before.handlers.pop())
        if not self._before.handlers:
            _core.trim_memory_pool(self._handler)

    @property
    def idle_bytes(self) -> int:
        """What is kept and used by no array."""
        return _core.idle_bytes(self._handler)

"""Work done ahead in a background thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterable
from typing import TypeVar

T = TypeVar("T")
_CHECK = 0.1  # seconds after which a waiting producer looks whether it is still wanted


def prefetch(items: Iterable[T], depth: int = 2) -> Generator[T, None, None]:
    """The same items in the same order, made up to `depth` ahead by a thread.

    NumPy, Pillow and reading release the GIL, so that the next batches are made while the kernels
    run. What the thread raises is raised here; closing the iterator ends the thread.

    >>> from pyconv import data
    >>> list(data.prefetch(range(3)))
    [0, 1, 2]
    """
    ready: queue.Queue[Callable[[], T] | None] = queue.Queue(depth)
    closed = threading.Event()

    def put(item: Callable[[], T] | None) -> bool:
        while not closed.is_set():
            try:
                ready.put(item, timeout=_CHECK)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for item in items:
                if not put(lambda item=item: item):  # type: ignore[misc]
                    return
            put(None)
        except BaseException as error:
            put(lambda error=error: _raise(error))  # type: ignore[misc]

    thread = threading.Thread(target=work, name="pyconv-prefetch", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            yield item()
    finally:
        closed.set()
        while not ready.empty():
            ready.get_nowait()  # frees a producer that waits for room
        thread.join()


def _raise(error: BaseException) -> T:  # type: ignore[type-var]
    raise error

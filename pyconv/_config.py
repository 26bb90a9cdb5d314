"""Settings a plan depends on beside its arguments: precision, preferred algorithm, threads."""

import threading
import weakref
from collections.abc import Callable
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self, overload

import numpy as np

from . import _core

PRECISIONS = ("default", "strict", "tf32", "3xtf32")  # as pyconv_precision counts


class Settings(NamedTuple):
    precision: str = "default"
    algorithm: str = "auto"
    batch_invariant: bool = False


_default = Settings()
_scopes: ContextVar[tuple[Settings, ...]] = ContextVar("pyconv.config", default=())
_lock = threading.RLock()
# By thread, the last config() that may yet turn out to be the head of a `with`. Until that is
# known the other threads must not see it, or a `with` here would change bits over there.
_undecided: dict[int, "weakref.ref[config]"] = {}


def current() -> Settings:
    """The settings of this thread."""
    if _undecided:
        _decide()
    scopes = _scopes.get()
    return scopes[-1] if scopes else _default


def _decide() -> None:
    """Called and not entered: it was a plain call."""
    reference = _undecided.pop(threading.get_ident(), None)
    if reference is not None and (undecided := reference()) is not None:
        undecided._make_default()


class config:
    """Choose how results may be computed: for a `with` block, or for the whole process.

    As a context manager the settings hold in this thread (context) and end with the block; called
    plainly they become the process default. What is not given stays as it is.

    precision : "default" (within the float32 contract), "strict" (direct and GEMM in plain float32
        only); on CUDA also "tf32" (a GEMM's products on tensor cores, from numbers of 10 bits) and
        "3xtf32" (three of them for each, float32's accuracy), which are "default" on the CPU.
    algorithm : a preference: used where it can serve, and "auto" where it cannot.
    batch_invariant : a plan never looks at N, so an image's result does not depend on its batch.

    Raises ValueError for an unknown name, TypeError for a wrong type.

    >>> import pyconv as pc
    >>> with pc.config(precision="strict", batch_invariant=True):
    ...     pc.conv_output_shape((8, 3, 32, 32), (16, 3, 5, 5))
    (8, 16, 28, 28)
    """

    _decided = True  # nothing to make default should construction fail

    def __init__(
        self,
        *,
        precision: str | None = None,
        algorithm: str | None = None,
        batch_invariant: bool | None = None,
    ) -> None:
        for name, value in (("precision", precision), ("algorithm", algorithm)):
            if value is not None and not isinstance(value, str):
                raise TypeError(f"config: {name} must be a string, got {value!r}")
        if precision is not None and precision not in PRECISIONS:
            raise ValueError(f"config: precision must be one of {PRECISIONS}, got {precision!r}")
        if algorithm is not None:
            _require_known(algorithm)
        if batch_invariant is not None and not isinstance(batch_invariant, bool):
            raise TypeError(f"config: batch_invariant must be a bool, got {batch_invariant!r}")
        given = {
            "precision": precision,
            "algorithm": algorithm,
            "batch_invariant": batch_invariant,
        }
        self._changes: dict[str, Any] = {k: v for k, v in given.items() if v is not None}
        _decide()
        self._decided = False
        self._thread = threading.get_ident()
        _undecided[self._thread] = weakref.ref(self)

    def _make_default(self) -> None:
        global _default
        with _lock:
            self._decided = True
            _default = _default._replace(**self._changes)

    def __del__(self) -> None:
        if not self._decided:
            _undecided.pop(self._thread, None)
            self._make_default()

    def __enter__(self) -> Self:
        if not self._decided:
            self._decided = True
            _undecided.pop(self._thread, None)
        _scopes.set((*_scopes.get(), current()._replace(**self._changes)))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        _scopes.set(_scopes.get()[:-1])


def _require_known(algorithm: str) -> None:
    """ValueError for an unknown name: no algorithm refuses one channel and a 3x3 filter."""
    plan: Callable[..., object] = _core.plan_conv
    shapes = ((1, 1, 8, 8), (1, 1, 3, 3), None, None, None)
    options = (1, 0, 1, 1, "zeros", False, None, algorithm, 0, None, False, False)
    plan("config", 2, "fwd", False, "float32", "NCHW", *shapes, *options)


def set_num_threads(n: int) -> None:
    """Run every operation on `n` threads (1 to 1024); 0 goes back to what OpenMP says.

    Raises TypeError where n is no integer and ValueError outside the range. Results do not depend
    on it: the same bits for every number of threads.
    """
    if isinstance(n, bool) or not isinstance(n, int | np.integer):
        raise TypeError(f"set_num_threads: n must be an integer, got {n!r}")
    if not 0 <= n <= 1024:
        raise ValueError(f"set_num_threads: n (={n}) must be from 0 to 1024")
    _core.set_num_threads(int(n))
    from ._plan import forget_plans  # which needs this module's settings

    forget_plans()


def get_num_threads() -> int:
    """How many threads an operation started now would use at most."""
    return _core.get_num_threads()


@overload
def show_config(mode: Literal["print"] = "print") -> None: ...
@overload
def show_config(mode: Literal["dict"]) -> dict[str, Any]: ...
def show_config(mode: str = "print") -> dict[str, Any] | None:
    """Print what was built and what was chosen on this machine; "dict" returns it instead.

    Raises ValueError for another mode.
    """
    if mode not in ("print", "dict"):
        raise ValueError(f"show_config: mode must be 'print' or 'dict', got {mode!r}")
    import platform
    from importlib.util import find_spec

    import pyconv

    found = {
        "version": pyconv.__version__,
        "targets": _core.targets(),
        "target": _core.get_target(),
        "threads": get_num_threads(),
        "openmp": _core.openmp,
        "cuda": find_spec("pyconv._cuda") is not None,
        "compiler": _core.compiler,
        "abi_version": _core.abi_version,
        "python": platform.python_version(),
        "numpy": np.__version__,
        **current()._asdict(),
    }
    if mode == "dict":
        return found
    for name, value in found.items():
        print(f"{name:16}{', '.join(value) if isinstance(value, list) else value}")
    return None

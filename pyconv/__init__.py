"""Batched, channelled, differentiable convolution and pooling for arrays.

Operations on arrays are here; networks are in `pyconv.nn`, optimisers in `pyconv.optim`, training
in `pyconv.Trainer`, data in `pyconv.data`. Those load when first used: importing pyconv imports
NumPy and the compiled core.
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._config import config, get_num_threads, set_num_threads, show_config
from ._errors import FormatError
from ._memory import MemoryPool
from ._plan import Plan, plan_conv
from .functional import *  # noqa: F403
from .functional import __all__ as _operations

if TYPE_CHECKING:
    from . import data, functional, nn, optim, reference, train
    from .nn import load, models, save
    from .train import Trainer

    __version__: str

_LAZY = {
    "data": ("pyconv.data", None),
    "models": ("pyconv.nn.models", None),
    "nn": ("pyconv.nn", None),
    "optim": ("pyconv.optim", None),
    "reference": ("pyconv.reference", None),
    "train": ("pyconv.train", None),
    "Trainer": ("pyconv.train", "Trainer"),
    "load": ("pyconv.nn", "load"),
    "save": ("pyconv.nn", "save"),
}

__all__ = [
    "FormatError",
    "MemoryPool",
    "Plan",
    "Trainer",
    "__version__",
    "config",
    "data",
    "functional",
    "get_cmake_dir",
    "get_include",
    "get_num_threads",
    "load",
    "models",
    "nn",
    "optim",
    "plan_conv",
    "reference",
    "save",
    "set_num_threads",
    "show_config",
    "train",
]
__all__ += _operations


def get_include() -> str:
    """The folder to compile with, as in #include <pyconv/pyconv.h>."""
    return str(Path(__file__).parent / "include")


def get_cmake_dir() -> str:
    """What to set PyConv_DIR to, so that CMake's find_package(PyConv) finds this package."""
    return str(Path(__file__).parent / "cmake")


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            value: Any = version("pyconv-engine")
        except PackageNotFoundError:  # run from a build folder
            value = "0+unknown"
    elif name in _LAZY:
        module, attribute = _LAZY[name]
        value = import_module(module)
        value = value if attribute is None else getattr(value, attribute)
    else:
        raise AttributeError(f"module 'pyconv' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

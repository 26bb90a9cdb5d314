"""handler.cpp, compiled on first use by the machine's compiler and kept in the user's cache."""

import ctypes
import hashlib
import os
import shutil
import subprocess
import warnings
from functools import cache
from pathlib import Path

import jax

from .. import _core, get_include

TARGET = "pyconv_conv"
_SOURCE = Path(__file__).with_name("handler.cpp")


@cache
def registered() -> bool:
    """Whether XLA can call the kernels by itself; False, after one warning, if only by Python."""
    try:
        library = ctypes.CDLL(str(_compiled()))
    except (OSError, subprocess.SubprocessError) as error:
        reason = getattr(error, "stderr", None) or error
        warnings.warn(
            "pyconv.jax: no XLA handler, so every convolution goes through Python "
            f"(jax.pure_callback); a C++17 compiler in PATH or CXX makes one: {reason}",
            RuntimeWarning,
            stacklevel=2,
        )
        return False
    handler = jax.ffi.pycapsule(library.pyconv_xla_conv)
    jax.ffi.register_ffi_target(TARGET, handler, platform="cpu")
    return True


def _compiled() -> Path:
    compiler = os.environ.get("CXX") or next(filter(shutil.which, ("c++", "g++", "clang++")), None)
    if compiler is None:
        raise OSError("no C++ compiler found")
    package = Path(_core.__file__).parent
    [library] = [path for path in package.glob("libpyconv.*") if path.suffix in (".so", ".dylib")]
    headers = Path(get_include())
    if not headers.is_dir():  # run from a build in the source tree
        headers = Path(__file__).parents[2] / "csrc" / "include"
    command = [*compiler.split(), "-std=c++17", "-O2", "-fPIC", "-shared"]
    command += [f"-I{jax.ffi.include_dir()}", f"-I{headers}", str(_SOURCE), str(library)]
    command += [f"-Wl,-rpath,{package}"]
    key = hashlib.sha256(repr((command, jax.__version__)).encode())
    for path in (_SOURCE, headers / "pyconv" / "pyconv.h"):
        key.update(path.read_bytes())
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pyconv"
    target = folder / f"xla-{key.hexdigest()[:20]}.so"
    if not target.exists():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        unfinished = target.with_suffix(f".{os.getpid()}")
        try:
            subprocess.run(
                [*command, "-o", str(unfinished)],
                check=True,
                capture_output=True,
                text=True,
                timeout=300,
            )
            unfinished.replace(target)
        finally:
            unfinished.unlink(missing_ok=True)
    return target

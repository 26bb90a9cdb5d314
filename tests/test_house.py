"""The house rules that a tool can check: format, lint, types, file sizes, stubs, and the promises
about what the compiled library contains."""

import pathlib
import re
import shutil
import subprocess
import sys

import pytest

import pyconv

ROOT = pathlib.Path(__file__).parents[1]


def files(*folders, kinds):
    return sorted(p for f in folders for p in (ROOT / f).rglob("*") if p.suffix in kinds)


SOURCES = files("csrc", "cuda", "pyconv", "tests", kinds={".h", ".cpp", ".cu", ".cuh"})
PYTHON = files("pyconv", "tests", "benchmarks", kinds={".py"})


def run(*command):
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def test_ruff_lint():
    run(sys.executable, "-m", "ruff", "check", ".")


def test_ruff_format():
    run(sys.executable, "-m", "ruff", "format", "--check", ".")


def test_mypy():
    run(sys.executable, "-m", "mypy", "--cache-dir=/dev/null")


def test_clang_format():
    tool = shutil.which("clang-format", path=str(pathlib.Path(sys.executable).parent))
    assert tool, "the [test] extra installs clang-format"
    run(tool, "--dry-run", "-Werror", *map(str, SOURCES))


@pytest.mark.parametrize("path", SOURCES + PYTHON, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_are_readable_in_one_sitting(path):
    lines = path.read_text().splitlines()
    assert len(lines) <= 450
    assert max(map(len, lines), default=0) <= 100


def test_every_portable_cuda_file_has_its_cpu_twin():
    stems = {p.stem for p in (ROOT / "cuda").glob("*.cu")} - {"kernels"}
    assert stems <= {p.stem for p in (ROOT / "csrc" / "cpu").glob("*.h")}


def test_no_flag_that_changes_numbers_or_needs_this_machine():
    text = (ROOT / "CMakeLists.txt").read_text()
    for flag in ("-ffast-math", "-Ofast", "-march=native", "-funsafe-math", "-ffinite-math"):
        assert flag not in text


def test_kernels_use_no_inline_function_with_external_linkage():
    # The linker could keep the copy compiled for AVX-512 for everybody; see csrc/cpu/vec.h.
    allowed = {"cstddef", "cstdint", "immintrin.h", "omp.h", "utility"}
    for path in (ROOT / "csrc" / "cpu").iterdir():
        for header in re.findall(r"#include <([^>]+)>", path.read_text()):
            assert header in allowed, f"{path.name} includes <{header}>"
        assert not re.search(
            r"\bstd::(?!size_t|uintptr_t|int\d|uint\d|(make_)?integer_sequence)", path.read_text()
        ), path.name


def test_version_is_the_distributions():
    text = (ROOT / "pyproject.toml").read_text()
    assert f'version = "{pyconv.__version__}"' in text

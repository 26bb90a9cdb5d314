"""C and C++ from the installed package: header, library, CMake package, build backend."""

import importlib.metadata
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

import pyconv as pc
from pyconv import _core

PACKAGE = pathlib.Path(pc.__file__).parent
HEADER = pathlib.Path(pc.get_include(), "pyconv", "pyconv.h")
installed = pytest.mark.skipif(
    not HEADER.exists(), reason="runs on an installed package: pip install ."
)

C = r"""
#include <pyconv/pyconv.h>
#include <stdio.h>
int main(void) {
  if (pyconv_abi_version() != PYCONV_ABI_VERSION) return 2;
  const int64_t x_shape[] = {1, 1, 3, 3}, w_shape[] = {1, 1, 2, 2}, one = 1, none = 0;
  pyconv_conv_desc d = {.struct_size = sizeof d, .op = "conv2d", .axes = 2, .groups = 1};
  d.x = (pyconv_ints){x_shape, 4}, d.w = (pyconv_ints){w_shape, 4};
  d.stride = d.dilation = (pyconv_ints){&one, 1}, d.padding = (pyconv_ints){&none, 1};
  float x[9] = {0, 1, 2, 3, 4, 5, 6, 7, 8}, w[4] = {1, 1, 1, 1}, y[4];
  char workspace[1 << 16];
  pyconv_plan* plan;
  if (pyconv_plan_conv(&d, &plan) || pyconv_plan_workspace(plan, 0) > sizeof workspace) return 3;
  pyconv_buffers b = {.a = x, .b = w, .out = y, .workspace = workspace};
  b.workspace_bytes = sizeof workspace;
  if (pyconv_run(plan, &b)) return 4;
  pyconv_plan_free(plan);
  d.groups = 2;
  if (pyconv_plan_conv(&d, &plan) != PYCONV_VALUE_ERROR) return 5;
  printf("%g %g %g %g; %s\n", y[0], y[1], y[2], y[3], pyconv_last_error());
}
"""
ANSWER = "8 12 20 24; conv2d: "

CMAKE = """
cmake_minimum_required(VERSION 3.24)
project(demo LANGUAGES C)
find_package(PyConv CONFIG REQUIRED)
add_executable(demo demo.c)
target_link_libraries(demo PRIVATE PyConv::pyconv)
install(TARGETS demo DESTINATION demo)
"""
PROJECT = """
[build-system]
requires = ["scikit-build-core", "pyconv-engine"]
build-backend = "scikit_build_core.build"
[project]
name = "demo"
version = "1"
"""


def run(*command, **options):
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, check=False, **options
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def tool(name):
    return shutil.which(name) or pytest.skip(f"needs {name}")


def test_the_paths_on_the_command_line():
    python = (sys.executable, "-P", "-m", "pyconv")
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    assert run(*python, "--includes", env=environment).strip() == f"-I{pc.get_include()}"
    assert run(*python, "--cmakedir", env=environment).strip() == pc.get_cmake_dir()


def test_the_abi_is_the_one_documented():
    header = HEADER if HEADER.exists() else PACKAGE.parent / "csrc/include/pyconv/pyconv.h"
    assert f"#define PYCONV_ABI_VERSION {_core.abi_version}\n" in header.read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="reads ELF symbols")
def test_no_cpp_type_crosses_the_abi():
    symbols = run(
        tool("nm"), "-D", "--defined-only", "--format=just-symbols", PACKAGE / "libpyconv.so"
    )
    ours = [name for name in symbols.split() if "pyconv" in name]
    assert len(ours) > 20
    assert all(name.startswith("pyconv_") for name in ours)


@installed
def test_a_c_program(tmp_path):
    (tmp_path / "demo.c").write_text(C)
    run(
        tool("cc"), "-std=c11", "-Wall", "-Wextra", "-Werror", "-pedantic", "demo.c", "-o", "demo",
        f"-I{pc.get_include()}", f"-L{PACKAGE}", "-lpyconv", f"-Wl,-rpath,{PACKAGE}", cwd=tmp_path,
    )  # fmt: skip
    assert run(tmp_path / "demo").startswith(ANSWER)


@installed
def test_cmake_finds_the_package(tmp_path):
    (tmp_path / "demo.c").write_text(C)
    (tmp_path / "CMakeLists.txt").write_text(CMAKE)
    cmake = tool("cmake")
    run(cmake, "-S", ".", "-B", "build", f"-DPyConv_DIR={pc.get_cmake_dir()}", cwd=tmp_path)
    run(cmake, "--build", "build", cwd=tmp_path)
    assert run(tmp_path / "build" / "demo").startswith(ANSWER)


@installed
def test_a_project_built_by_scikit_build_core(tmp_path):
    """The entry point cmake.root tells it where the package is."""
    pytest.importorskip("scikit_build_core", reason="pip install scikit-build-core")
    if not any(e.name == "PyConv" for e in importlib.metadata.entry_points(group="cmake.root")):
        pytest.skip("the installed package has no entry points")
    (tmp_path / "demo.c").write_text(C)
    (tmp_path / "CMakeLists.txt").write_text(CMAKE)
    (tmp_path / "pyproject.toml").write_text(PROJECT)
    run(
        sys.executable, "-m", "pip", "install", "--no-build-isolation", "--no-deps", "--no-index",
        "--target", "out", ".", cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    environment = {**os.environ, "LD_LIBRARY_PATH": str(PACKAGE)}  # pip strips build rpaths
    assert run(tmp_path / "out" / "demo" / "demo", env=environment).startswith(ANSWER)

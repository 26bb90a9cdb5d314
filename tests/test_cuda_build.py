"""What can be told of the CUDA module without a GPU: one architecture compiles without spills or
warnings, tensor-core kernels hold HMMA, nothing needs a library of the driver or the toolkit, and
it imports without them. Minutes of nvcc, so with --slow only; .ci/run builds all architectures.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(*command, **options):
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def build(request, tmp_path_factory):
    """The folder of a build, and what the compiler said."""
    if not request.config.getoption("--slow"):
        pytest.skip("minutes of nvcc: --slow")
    for tool in ("nvcc", "cmake"):
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool}")
    pybind11 = pytest.importorskip("pybind11", reason="pip install pybind11")
    folder = tmp_path_factory.mktemp("cuda_build")
    run(
        *("cmake", "-S", ROOT, "-B", folder, "-DPYCONV_CUDA=ON", "-DCMAKE_BUILD_TYPE=Release"),
        *("-DCMAKE_CUDA_ARCHITECTURES=80-real", "-DCMAKE_CUDA_FLAGS=-Xptxas -v"),
        *(f"-Dpybind11_DIR={pybind11.get_cmake_dir()}", f"-DPython_EXECUTABLE={sys.executable}"),
    )
    said = run("cmake", "--build", folder, "--target", "_cuda", "-j", 2)
    (module,) = folder.rglob("_cuda*.so")
    return module, said


def test_no_kernel_spills(build):
    _, said = build
    assert "warning" not in said.lower()
    kernels = re.findall(r"Compiling entry function '(\w+)'", said)
    numbers = r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads"
    found = re.findall(rf"Function properties for (\w+)\s+(?:ptxas info\s*:)?\s*{numbers}", said)
    assert set(kernels) <= {name for name, *_ in found}
    assert len(set(kernels)) > 50
    spilt = {name: sizes for name, *sizes in found if sizes != ["0", "0", "0"]}
    assert not spilt, spilt


def test_tensor_core_kernels_hold_their_instructions(build):
    module, _ = build
    tools = {name: shutil.which(name) for name in ("cuobjdump", "nvdisasm")}
    if None in tools.values():
        pytest.skip("pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm, and put them in PATH")
    found, kernel = {}, ""
    for line in run("cuobjdump", "-sass", module).splitlines():
        if "Function :" in line:
            kernel = line.split()[-1]
            found[kernel] = set()
        found.get(kernel, set()).update(re.findall(r"\b(HMMA|LDGSTS|LDL|STL)\b", line))
    tensor = [name for name in found if "mma_tile" in name]
    assert len(tensor) == 6
    for name in tensor:
        assert {"HMMA", "LDGSTS"} <= found[name], name
    for name, instructions in found.items():
        assert not instructions & {"LDL", "STL"}, name


def test_nothing_of_cuda_is_linked(build):
    if shutil.which("readelf") is None:
        pytest.skip("needs readelf")
    needed = re.findall(r"\(NEEDED\).*\[(.*)\]", run("readelf", "-d", build[0]))
    assert needed
    assert not [name for name in needed if re.search("cuda|cudnn|cublas|nvrtc", name)]


def test_import_without_a_driver(build):
    program = "import _cuda; print(_cuda.device_count(), _cuda.runtime_version >= 12080)"
    environment = {**os.environ, "PYTHONPATH": str(build[0].parent), "CUDA_VISIBLE_DEVICES": ""}
    assert run(sys.executable, "-c", program, env=environment).split() == ["0", "True"]

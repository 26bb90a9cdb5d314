"""The CUDA kernels on the CPU: cuda/*.cu compiled as plain C++ against the header in cuda_host/,
under AddressSanitizer, with the threads of a block in shuffled orders.

The result is a module pyconv._cuda that computes on the CPU's memory. With cuda_host/fake_cupy.py
in CuPy's place the tests of the CPU kernels run on it as they are, through the same Python code as
on a GPU (cuda_host/on_device.py); only large shapes are left out.
"""

import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor

import cases
import pytest

TESTS = pathlib.Path(__file__).parent
ROOT = TESTS.parent
HOST = TESTS / "cuda_host"
FLAGS = ["-std=c++20", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror"]
FLAGS += ["-Wno-unknown-pragmas", f"-I{HOST}", f"-I{ROOT / 'csrc' / 'include'}"]  # nvcc's pragmas
ASAN = ["-O1", "-g1", "-fsanitize=address"]

CORE = ["capi", "check", "check_pool", "layer", "plan", "problem"]

# "auto" is one of the others; the rest would take minutes.
LEFT_OUT = ["auto", "million", "2_to_the_31", "every_algorithm", "winograd", "fft"]
LEFT_OUT += [case.name for case in cases.BENCH]
LEFT_OUT += ["the_suite", "without_cupy", "kernel-31", "1d-blocks", "1d-long", "3d-large"]
LEFT_OUT += ["tiles-deep", "kernel-13-depthwise"]  # blocks of the CPU: half of the time


def run(*command, **options):
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=1800, **options
    )
    assert done.returncode == 0, done.stdout[-20000:] + done.stderr[-5000:]
    return done.stdout


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """Of processes with the host build: where it is, and AddressSanitizer's library first."""
    pybind11 = pytest.importorskip("pybind11", reason="pip install pybind11")
    if sys.platform != "linux":
        pytest.skip("needs LD_PRELOAD")
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("needs g++")
    # libstdc++ as well: AddressSanitizer looks for what throws when the process starts.
    libraries = ["libasan.so", "libstdc++.so.6"]
    preload = [run(compiler, f"-print-file-name={name}").strip() for name in libraries]
    if not pathlib.Path(preload[0]).is_absolute():
        pytest.skip("g++ has no AddressSanitizer")
    folder = tmp_path_factory.mktemp("cuda_host")
    plans = [ROOT / "csrc" / f"{p}.cpp" for p in CORE]
    bind = ROOT / "cuda" / "bind.cpp"
    python = [f"-I{pybind11.get_include()}", f"-I{sysconfig.get_path('include')}", "-O1"]
    python += ['-DPYCONV_COMPILER="g++"', '-DPYCONV_ARCHITECTURES="host"']
    kernels = sorted((ROOT / "cuda").glob("*.cu"), key=lambda p: -p.stat().st_size)

    def compiled(source):
        to = folder / f"{source.stem}.o"
        how = python if source == bind else ["-O2"] if source.parent == HOST else ASAN
        run(compiler, *FLAGS, *how, "-c", "-x", "c++", source, "-o", to)
        return to

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compiled, [bind, *kernels, *plans, HOST / "scheduler.cpp"]))
    module = folder / f"_cuda{sysconfig.get_config_var('EXT_SUFFIX')}"
    run(compiler, "-shared", "-fsanitize=address", *objects, "-o", module)
    paths = [HOST, TESTS, os.environ.get("PYTHONPATH")]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(str(path) for path in paths if path),
        "LD_PRELOAD": " ".join(preload),
        "PYCONV_CUDA_HOST": str(module),
        "ASAN_OPTIONS": "detect_leaks=0",
    }


@pytest.mark.parametrize(
    ("seed", "files"),
    [
        (1, ["test_conv.py"]),
        (2, ["test_conv_backward.py"]),
        (3, ["test_conv_transpose.py", "test_pool.py", "test_im2col.py", "test_activation.py"]),
        (4, ["test_gpu_arrays.py", "test_bad_input.py", "test_layer_kernels.py"]),
        (5, ["test_tensor_cores.py", "test_gpu_training.py"]),
    ],
)
def test_kernels(environment, seed, files):
    chosen = " and ".join(f"not {name}" for name in LEFT_OUT)
    options = ["-q", "-x", "-p", "on_device", "-p", "no:cacheprovider", "-k", chosen]
    paths = [TESTS / name for name in files]
    seeded = environment | {"CUDA_HOST_SEED": str(seed)}
    run(sys.executable, "-P", "-m", "pytest", *options, *paths, cwd=ROOT, env=seeded)

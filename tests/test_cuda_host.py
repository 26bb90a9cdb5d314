"""The CUDA kernels on the CPU: cuda/*.cu compiled as plain C++ against the header in cuda_host/,
under AddressSanitizer, with the threads of a block in shuffled orders.

The result has the C ABI of libpyconv and is preloaded in its place, so the tests of the CPU kernels
run on it as they are; only large shapes are left out.
"""

import os
import pathlib
import shutil
import subprocess
import sys
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
LEFT_OUT += ["kernel-31", "1d-blocks", "1d-long", "3d-large"]


def run(*command, **options):
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=600, **options
    )
    assert done.returncode == 0, done.stdout[-20000:] + done.stderr[-5000:]
    return done.stdout


@pytest.fixture(scope="module")
def preload(tmp_path_factory):
    """What stands in for libpyconv, and AddressSanitizer's library, which must come first."""
    if sys.platform != "linux":
        pytest.skip("needs LD_PRELOAD")
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("needs g++")
    asan = pathlib.Path(run(compiler, "-print-file-name=libasan.so").strip())
    if not asan.is_absolute():
        pytest.skip("g++ has no AddressSanitizer")
    folder = tmp_path_factory.mktemp("cuda_host")
    plans = [ROOT / "csrc" / f"{p}.cpp" for p in CORE]
    kernels = sorted((ROOT / "cuda").glob("*.cu"), key=lambda p: -p.stat().st_size)

    def compiled(source):
        to = folder / f"{source.stem}.o"
        how = ["-O2"] if source.parent == HOST else ASAN
        run(compiler, *FLAGS, *how, "-c", "-x", "c++", source, "-o", to)
        return to

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compiled, [*kernels, *plans, HOST / "scheduler.cpp"]))
    library = folder / "libcuda_host.so"
    run(compiler, "-shared", "-fsanitize=address", *objects, "-o", library)
    return f"{asan} {library}"


@pytest.mark.parametrize(
    ("seed", "files"),
    [
        (1, ["test_conv.py"]),
        (2, ["test_conv_backward.py", "test_conv_transpose.py"]),
        (3, ["test_pool.py", "test_im2col.py", "test_activation.py"]),
    ],
)
def test_kernels(preload, seed, files):
    environment = {
        **os.environ,
        "LD_PRELOAD": preload,
        "PYCONV_TARGET": "cuda",  # without the preloaded library this fails
        "CUDA_HOST_SEED": str(seed),
        "ASAN_OPTIONS": "detect_leaks=0",
    }
    chosen = " and ".join(f"not {name}" for name in LEFT_OUT)
    pytest_options = ["-q", "-x", "-p", "no:cacheprovider", "-k", chosen]
    paths = [TESTS / name for name in files]
    run(sys.executable, "-P", "-m", "pytest", *pytest_options, *paths, cwd=ROOT, env=environment)

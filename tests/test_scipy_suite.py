"""SciPy's own tests of what `pyconv.signal` and `pyconv.ndimage` offer, run against them."""

import importlib.util
import os
import pathlib
import subprocess
import sys

import pytest

scipy = pytest.importorskip("scipy", reason="pip install 'pyconv-engine[test]'")

HERE = pathlib.Path(__file__).parent
# Of these modules, the tests whose names hold one of these words; LONG, 10,000 shapes that take two
# minutes, runs with --slow.
SUITES = {
    "scipy.ndimage.tests.test_filters": "",
    "scipy.signal.tests.test_signaltools": "onvolve or orrelate or choose or OA",
}
LONG = "manylens or (OAConvolve and 2d)"


@pytest.mark.parametrize("module", SUITES)
def test_scipys_own_tests_pass(module, tmp_path, request):
    # EXCEPTIONS were read from this version; the others' tests are not where these are.
    if tuple(map(int, scipy.__version__.split(".")[:2])) < (1, 17):
        pytest.skip("pip install 'scipy>=1.17'")
    if importlib.util.find_spec(module) is None:
        pytest.skip("this build of SciPy carries no tests")
    chosen = SUITES[module]
    if chosen and not request.config.getoption("--slow"):
        chosen = f"({chosen}) and not ({LONG})"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "scipy_suite", "-p", "no:cacheprovider",
         "-c", os.devnull, "--rootdir", scipy.__path__[0], "-k", chosen,
         "--pyargs", module],
        cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path]),
             "HYPOTHESIS_STORAGE_DIRECTORY": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert int(done.stdout.rsplit(" passed", 1)[0].split()[-1]) > 1000

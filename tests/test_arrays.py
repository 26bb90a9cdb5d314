"""Arrays of other libraries: read without a copy, answered in kind, whoever was imported first."""

import subprocess
import sys
import textwrap

import contract
import numpy as np
import pytest

import pyconv as pc
from pyconv import ndimage, signal

F32 = np.float32
X, W = contract.random("arrays", (2, 3, 8, 9), (4, 3, 3, 3))


def test_array_api_strict():
    xp = pytest.importorskip("array_api_strict", reason="pip install array-api-strict")
    x, w = xp.asarray(X), xp.asarray(W)
    y = pc.conv2d(x, w, padding=1, activation="relu")
    assert y.__array_namespace__() is xp
    contract.assert_same_bits(np.from_dlpack(y), pc.conv2d(X, W, padding=1, activation="relu"))
    dx, dw, db = pc.conv2d_backward(y, x, w, padding=1)
    for gradient, shape in ((dx, x.shape), (dw, w.shape), (db, (4,))):
        assert gradient.__array_namespace__() is xp
        assert gradient.shape == shape
    top, where = pc.max_pool2d(x, 2, return_indices=True)
    assert where.dtype == xp.int64
    assert pc.max_pool2d_backward(top, where, x.shape).__array_namespace__() is xp
    for result in (signal.convolve(x, w, "same"), ndimage.sobel(x), ndimage.maximum_filter(x, 3)):
        assert result.__array_namespace__() is xp


class Interface:
    """An array known by __array_interface__ alone."""

    def __init__(self, array):
        self.array, self.__array_interface__ = array, array.__array_interface__


def test_array_interface():
    want = pc.conv2d(X, W)
    contract.assert_same_bits(pc.conv2d(Interface(X), Interface(W)), want)
    out = np.zeros_like(want)
    holder = Interface(out)
    assert pc.conv2d(X, W, out=holder) is holder
    contract.assert_same_bits(out, want)


def test_cuda_array_interface_is_refused_clearly():
    class OnGpu:
        def __init__(self):
            self.__cuda_array_interface__ = {"shape": (1, 1, 3, 3), "typestr": "<f4", "version": 3}

    with pytest.raises(RuntimeError, match="CUDA"):
        pc.conv2d(OnGpu(), W)


def test_torch_tensors_in_and_out():
    torch = pytest.importorskip("torch", reason="pip install torch==2.13.0")
    image = torch.arange(30.0).reshape(5, 6)
    for result in (
        pc.max_pool2d(image[None, None], 2),
        signal.convolve(image, torch.ones(3, 3)),
        ndimage.gaussian_filter(image, 1.0),
    ):
        assert isinstance(result, torch.Tensor)
    output = torch.zeros(5, 6)
    assert ndimage.sobel(image, output=output) is output
    assert np.array_equal(output.numpy(), ndimage.sobel(image.numpy()))


BITS = """
    import hashlib
    import numpy as np
    {before}
    import pyconv as pc
    {after}
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal(s, dtype="f4") for s in ((8, 16, 40, 40), (32, 16, 3, 3)))
    digest = hashlib.sha256()
    for algorithm in ("auto", "direct", "gemm", "winograd"):
        y = pc.conv2d(x, w, padding=1, algorithm=algorithm)
        for array in (y, *pc.conv2d_backward(y, x, w, padding=1)):
            digest.update(array.tobytes())
    print(digest.hexdigest())
"""


@pytest.mark.parametrize("other", ["torch", "sklearn.ensemble", "scipy.signal", "jax"])
def test_who_is_imported_first_changes_no_bit(other):
    pytest.importorskip(other.split(".")[0], reason="pip install 'pyconv-engine[test-all]'")
    load = f"import {other}"
    if other == "torch":
        load += "; torch.nn.functional.conv2d(torch.ones(1, 1, 99, 99), torch.ones(1, 1, 3, 3))"

    def bits(before, after):
        program = textwrap.dedent(BITS).format(before=before, after=after)
        done = subprocess.run(
            [sys.executable, "-P", "-c", program],
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.split()[-1]

    assert len({bits("", ""), bits(load, ""), bits("", load)}) == 1

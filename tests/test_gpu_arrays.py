"""CUDA arrays: what is told of them without a CUDA module, and, with the host build of the kernels
(test_cuda_host.py) in a GPU's place, that results, workspaces and streams are the caller's.
"""

import importlib
import os
import pathlib
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

import pyconv as pc
from pyconv import _gpu, ndimage

F32 = np.float32
X, W, DY = np.ones((2, 3, 6, 7), F32), np.ones((4, 3, 3, 3), F32), np.ones((2, 4, 4, 5), F32)


ON_DEVICE = ["gpu_arrays", "bad_input", "activation", "im2col", "pool", "layer_kernels"]
ON_DEVICE += ["tensor_cores", "gpu_training", "conv", "conv_backward", "conv_transpose"]


@pytest.mark.parametrize("name", ON_DEVICE)
def test_the_suite_on_a_gpu(name):
    """The tests of the CPU with CuPy arrays in and out; see cuda_host/on_device.py."""
    pytest.importorskip("cupy", reason="needs CuPy and a GPU: pip install 'pyconv-engine[cuda13]'")
    try:
        _gpu.module()
    except RuntimeError as error:
        pytest.skip(str(error))
    tests = pathlib.Path(__file__).parent
    paths = [tests / "cuda_host", tests, os.environ.get("PYTHONPATH")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(str(p) for p in paths if p)}
    command = [sys.executable, "-P", "-m", "pytest", "-q", "-x", "-p", "on_device"]
    command += ["-p", "no:cacheprovider", tests / f"test_{name}.py", "-k", "not the_suite"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout[-20000:]


class OnDevice:
    """What an array of any library says of itself."""

    def __init__(self, device=2):
        self.device = device

    def __dlpack__(self, **options):
        raise AssertionError("nothing here can be read")

    def __dlpack_device__(self):
        return self.device, 0


@pytest.fixture
def without_module(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyconv._cuda", None)
    _gpu.module.cache_clear()
    yield
    _gpu.module.cache_clear()


@pytest.mark.parametrize("device", [2, 13])
def test_without_the_module_the_build_option_is_named(without_module, device):
    with pytest.raises(RuntimeError, match=r"conv2d: x is on a CUDA device.*PYCONV_CUDA=ON"):
        pc.conv2d(OnDevice(device), W)


def with_module(monkeypatch, **attributes):
    module = SimpleNamespace(abi_version=pc._core.abi_version, device_count=lambda: 1)
    vars(module).update(attributes)
    monkeypatch.setitem(sys.modules, "pyconv._cuda", module)
    _gpu.module.cache_clear()


def test_without_a_driver(without_module, monkeypatch):
    with_module(monkeypatch, device_count=lambda: 0)
    with pytest.raises(RuntimeError, match=r"conv2d: x is on a CUDA device, but the CUDA driver"):
        pc.conv2d(OnDevice(), W)


def test_a_module_of_another_version_is_refused(without_module, monkeypatch):
    with_module(monkeypatch, abi_version=-1)
    with pytest.raises(RuntimeError, match="rebuild"):
        pc.conv2d(OnDevice(), W)


def test_without_cupy_the_extra_is_named(without_module, monkeypatch):
    with_module(monkeypatch)
    monkeypatch.setitem(sys.modules, "cupy", None)
    _gpu._cupy.cache_clear()
    with pytest.raises(RuntimeError, match=r"conv2d: x is a OnDevice.*pyconv-engine\[cuda12\]"):
        pc.conv2d(OnDevice(), W)


def test_what_takes_host_arrays_only_says_so():
    with pytest.raises(TypeError, match=r"conv_matrix: w is on a CUDA device"):
        pc.conv_matrix(OnDevice(), (3, 6, 7))
    with pytest.raises(TypeError, match=r"sobel: input is on a CUDA device"):
        ndimage.sobel(OnDevice())


@pytest.fixture
def cupy():
    """CuPy, or what stands in for it; see cuda_host/on_device.py."""
    if "on_device" not in sys.modules:
        pytest.skip("runs inside test_cuda_host.py, or with -p on_device on a GPU")
    return importlib.import_module("cupy")


def raw(function):
    """The function itself, where on_device.py put a bridge for NumPy arrays in its place."""
    return getattr(function, "__wrapped__", function)


def test_results_are_the_callers_kind(cupy):
    x, w, dy = map(cupy.asarray, (X, W, DY))
    y = raw(pc.conv2d)(x, w)
    assert isinstance(y, cupy.ndarray)
    assert np.array_equal(cupy.asnumpy(y), pc.conv2d(X, W))
    top, where = raw(pc.max_pool2d)(x, 2, return_indices=True)
    assert isinstance(where, cupy.ndarray)
    assert where.dtype == np.int64
    for result in (
        *raw(pc.conv2d_backward)(dy, x, w),
        raw(pc.max_pool2d_backward)(top, where, x.shape),
        raw(pc.avg_pool2d)(x, 2, weights=cupy.asarray(np.ones((2, 2), F32))),
        raw(pc.im2col)(x, 3),
        raw(pc.activation_backward)(dy, dy, "relu"),
    ):
        assert isinstance(result, cupy.ndarray)
    out = cupy.asarray(np.zeros(DY.shape, F32))
    assert raw(pc.conv2d)(x, w, out=out) is out
    assert np.array_equal(cupy.asnumpy(out), cupy.asnumpy(y))


def test_plans_keep_weights_on_the_device(cupy):
    plan = pc.plan_conv(X.shape, W.shape, activation="relu")
    raw(type(plan).set_weights)(plan, cupy.asarray(W), cupy.asarray(np.ones(4, F32)))
    call = raw(type(plan).__call__)
    y = call(plan, cupy.asarray(X), residual=cupy.asarray(DY))
    assert np.array_equal(cupy.asnumpy(y), pc.conv2d(X, W, np.ones(4, F32), residual=DY))
    assert "on cuda" in plan.explain()
    with pytest.raises(TypeError, match=r"x is on the CPU but the weights are on CUDA device 0"):
        call(plan, X)
    raw(type(plan).set_weights)(plan, W)
    with pytest.raises(TypeError, match=r"x is on CUDA device 0 but the weights are on the CPU"):
        call(plan, cupy.asarray(X))


def test_arrays_must_be_on_one_device(cupy):
    x = cupy.asarray(X)
    with pytest.raises(TypeError, match=r"x is on CUDA device 0 but w is on the CPU"):
        raw(pc.conv2d)(x, W)
    with pytest.raises(TypeError, match=r"x is on the CPU but w is on CUDA device 0"):
        raw(pc.conv2d)(X, cupy.asarray(W))
    with pytest.raises(TypeError, match=r"x is on CUDA device 0 but out is on the CPU"):
        raw(pc.max_pool2d)(x, 2, out=np.empty((2, 3, 3, 3), F32))


def test_misaligned_memory_is_refused(cupy):
    if not hasattr(cupy, "FAKE"):
        pytest.skip("CuPy aligns its memory")
    memory = np.zeros(X.nbytes + 4, np.uint8)[1 : X.nbytes + 1]
    with pytest.raises(ValueError, match=r"conv2d: x must be aligned to 4 bytes; it lies at 0x"):
        raw(pc.conv2d)(cupy.asarray(memory.view(F32).reshape(X.shape)), cupy.asarray(W))


def test_layouts_and_views_of_device_memory(cupy):
    """A turned view runs in the order it has in memory; another is copied by the library."""
    turned = cupy.asarray(np.ascontiguousarray(X.transpose(0, 2, 3, 1))).transpose((0, 3, 1, 2))
    y = raw(pc.conv2d)(turned, cupy.asarray(W))
    assert y.shape == DY.shape
    assert y.strides[1] == 4
    wide = np.arange(X.size * 2, dtype=F32).reshape(2, 3, 6, 14)
    y = raw(pc.conv2d)(cupy.asarray(wide)[..., ::-2], cupy.asarray(W))
    assert np.array_equal(cupy.asnumpy(y), pc.conv2d(wide[..., ::-2], W))


def test_torch_tensors(cupy, monkeypatch):
    torch = pytest.importorskip("torch", reason="pip install torch==2.13.0")
    device = "cuda"
    if hasattr(cupy, "FAKE"):  # CPU tensors whose device is said to be the first GPU
        device = "cpu"
        monkeypatch.setattr(torch.Tensor, "__dlpack_device__", lambda tensor: (2, 0))
        stream = SimpleNamespace(cuda_stream=0)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    x, w, dy = (torch.from_numpy(a.copy()).to(device) for a in (X, W, DY))
    y = raw(pc.conv2d)(x, w)
    assert isinstance(y, torch.Tensor)
    assert np.array_equal(y.cpu().numpy(), pc.conv2d(X, W))
    last = x.to(memory_format=torch.channels_last)
    y = raw(pc.conv2d)(last, w, out=None)
    assert y.is_contiguous(memory_format=torch.channels_last)
    half = raw(pc.avg_pool2d)(x[:, :, ::2], 2, weights=torch.ones(2, 2, device=device))
    assert np.array_equal(half.cpu().numpy(), pc.avg_pool2d(X[:, :, ::2].copy(), 2))
    dx, _, db = raw(pc.conv2d_backward)(dy, x, w)
    assert dx.shape == x.shape
    assert db.tolist() == [40.0] * 4


def test_torch_operations(cupy, monkeypatch):
    """pyconv.torch's, with gradients, in both orders of memory."""
    torch = pytest.importorskip("torch", reason="pip install torch==2.13.0")
    functional = importlib.import_module("pyconv.torch")
    rng = np.random.default_rng(0)
    shapes = (X.shape, W.shape, (4,))
    tensors = [torch.from_numpy(rng.standard_normal(shape, F32)) for shape in shapes]
    stream = SimpleNamespace(cuda_stream=0)
    results = {}
    for device in ("cpu", "cuda"):
        for form in (torch.contiguous_format, torch.channels_last):
            moved = [a.clone() for a in tensors]
            if device == "cuda" and hasattr(cupy, "FAKE"):
                monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
                monkeypatch.setattr(torch.Tensor, "is_cpu", False)
                monkeypatch.setattr(torch.Tensor, "is_cuda", True)
            else:
                moved = [a.to(device) for a in moved]
            x, w, b = moved
            x = x.to(memory_format=form)
            for a in (x, w, b):
                a.requires_grad_()
            y = functional.conv2d(x, w, b, padding=1)
            y = functional.max_pool2d(y, 2) + functional.avg_pool2d(y, 2)
            y.square().sum().backward()
            results[device, form] = [a.detach().cpu().numpy() for a in (y, x.grad, w.grad, b.grad)]
    expected = results["cpu", torch.contiguous_format]
    for found in results.values():
        for a, b in zip(found, expected):
            np.testing.assert_allclose(a, b, 1e-5, 1e-3)
    with pytest.raises(ValueError, match="requires grad"):
        raw(pc.conv2d)(x.requires_grad_(), w)
    with pytest.raises(TypeError, match=r"w is bool, but must be float32 or float64"):
        raw(pc.conv2d)(x.detach(), w.bool())

"""The kernels between convolutions on a device, against those of the CPU, which test_nn.py holds to
their formulas. They run inside test_cuda_host.py, or with -p on_device on a GPU.
"""

import importlib
import sys

import contract
import numpy as np
import pytest
from contract import LAYOUTS, VARIANTS, to_layout

from pyconv import _core, _gpu

if "on_device" not in sys.modules:
    pytest.skip(
        "runs inside test_cuda_host.py, or with -p on_device on a GPU", allow_module_level=True
    )
cupy = importlib.import_module("cupy")

# n, c and the axes of the pixels: one value a channel more than enough, and runs that are split.
SHAPES = [(2, 3, 1), (1, 1, 2), (3, 40, 5, 7), (5, 33, 9), (70, 2, 3, 50), (1, 2, 130, 130)]


def both(kind, arrays, layout, n, c, pixels, numbers, **options):
    """What `_core.run_layer` leaves in copies of `arrays`, and what the device does."""
    options = {"layout": layout, "n": n, "c": c, "pixels": pixels, "numbers": numbers} | options
    on_cpu = tuple(None if a is None else a.copy() for a in arrays)
    _core.run_layer(kind, on_cpu, **options)

    def on_device():
        sent = [None if a is None else cupy.asarray(a.copy()) for a in arrays]
        views = tuple(a if a is None else _gpu.view("test", "array", a) for a in sent)
        _gpu.run_layer(kind, views, **options)
        return tuple(None if a is None else cupy.asnumpy(a) for a in sent)

    found = on_device()
    for first, second in zip(found, on_device()):
        if first is not None:
            contract.assert_same_bits(first, second)
    return on_cpu, found


def assert_close(on_cpu, found, units=16):
    for want, got in zip(on_cpu, found):
        if want is not None:
            scale = max(1.0, float(np.max(abs(want), initial=0)))
            error = np.max(abs(got.astype("f8") - want.astype("f8")), initial=0)
            assert error <= units * contract.UNIT[got.dtype] * scale, (error, scale)


def planes(name, shape, count, dtype, layout, offset=0.0):
    found = contract.random(name, *[shape] * count)
    return [to_layout(a + offset, layout).astype(dtype) for a in found]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("training", [True, False])
def test_batch_norm(shape, training):
    n, c, pixels = shape[0], shape[1], int(np.prod(shape[2:]))
    for layout, dtype in VARIANTS:
        x, residual, dy = planes(f"norm {shape}", shape, 3, dtype, layout, offset=3.0)
        w, b, mean, spread = (a.astype(dtype) for a in contract.random("w", *[(c,)] * 4))
        y, saved = np.full_like(x, np.nan), np.full(2 * c, np.nan, dtype)
        head = (layout, n, c, pixels)
        for extra, activation in ((residual, "relu"), (None, None)):
            arrays = (x, w, b, mean, abs(spread), extra, y, saved)
            cpu, gpu = both("batch_norm", arrays, *head, (1e-5, 0.1), training=training,
                            activation=activation)  # fmt: skip
            # Two values a channel may differ by little: their 1 / std magnifies rounding.
            assert_close(cpu, gpu, 16 if n * pixels > 2 else 4096)
        dx, slopes = np.full_like(x, np.nan), np.full(c, np.nan, dtype)
        arrays = (dy, x, w, cpu[7], dx, slopes, slopes)
        options = {"backward": True, "training": training}
        cpu, gpu = both("batch_norm", arrays, *head, (1e-5, 0.1), **options)
        assert_close(cpu, gpu, 64 if n * pixels > 2 else 4096)


def test_batch_norm_of_a_large_mean():
    """Where sums of squares would have lost every digit."""
    x, *_ = planes("mean", (16, 2, 40, 40), 1, np.float32, "NCHW", offset=1e4)
    one, zero = np.ones(2, np.float32), np.zeros(2, np.float32)
    y, saved = np.empty_like(x), np.empty(4, np.float32)
    arrays = (x, one, zero, zero, one, None, y, saved)
    _, gpu = both("batch_norm", arrays, "NCHW", 16, 2, 1600, (1e-5, 0.1), training=True)
    spread = x.astype("f8").std((0, 2, 3))
    assert np.allclose(1 / gpu[7][2:], spread, rtol=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", [1, 4, 5, 9])
def test_local_response_norm(layout, size):
    shape = (2, 7, 3, 5)
    for dtype in contract.DTYPES:
        x, dy = planes("lrn", shape, 2, dtype, layout)
        for beta in (0.75, 0.6):
            numbers = (1e-2 / size, beta, 2.0)
            empty = np.full_like(x, np.nan)
            head = (layout, 2, 7, 15, numbers)
            cpu, gpu = both("local_response_norm", (x, empty, empty), *head, size=size)
            assert_close(cpu, gpu)
            arrays = (dy, x, cpu[2], empty)
            options = {"size": size, "backward": True}
            cpu, gpu = both("local_response_norm", arrays, *head, **options)
            assert_close((cpu[3],), (gpu[3],))


@pytest.mark.parametrize("p", [0.0, 0.3, 0.9])
def test_dropout_drops_what_the_cpu_drops(p):
    for dtype in contract.DTYPES:
        x, *_ = planes("dropout", (1, 3001), 1, dtype, "NCHW")
        arrays = (x, np.full_like(x, np.nan))
        cpu, gpu = both("dropout", arrays, "NCHW", x.size, 1, 1, (p,), seed=2**63 + 12345)
        contract.assert_same_bits(cpu[1], gpu[1])


@pytest.mark.parametrize("kind", ["relu", "leaky_relu", "tanh", "sigmoid", "gelu", "silu", "relu6"])
def test_activations(kind):
    for dtype in contract.DTYPES:
        x = np.concatenate([np.linspace(-20, 20, 999), [0.0, -0.0, np.inf]]).astype(dtype)
        arrays = (x, np.full_like(x, 7))
        cpu, gpu = both("activation", arrays, "NCHW", x.size, 1, 1, (), activation=kind)
        finite = np.isfinite(cpu[1])
        assert np.array_equal(finite, np.isfinite(gpu[1]))
        assert_close((cpu[1][finite],), (gpu[1][finite],))


@pytest.mark.parametrize("nesterov", [0.0, 1.0])
def test_sgd(nesterov):
    for dtype in contract.DTYPES:
        w, grad, velocity = (a.astype(dtype) for a in contract.random("sgd", *[(777,)] * 3))
        for own in (velocity, None):
            numbers = (0.1, 0.9, 1e-2, nesterov)
            assert_close(*both("sgd", (w, grad, own), "NCHW", 777, 1, 1, numbers))


def test_adam():
    for dtype in contract.DTYPES:
        arrays = [a.astype(dtype) for a in contract.random("adam", *[(777,)] * 4)]
        arrays[3] = abs(arrays[3])
        numbers = (0.01, 0.9, 0.999, 1.5, 1e-8, 1e-2, 0.99)
        assert_close(*both("adam", tuple(arrays), "NCHW", 777, 1, 1, numbers))

"""The transforms behind algorithm="fft", seen through convolutions that NumPy's can do as well."""

import contract
import numpy as np
import pytest
from contract import DTYPES, to_layout

import pyconv as pc
from pyconv import reference

CONV = {1: pc.conv1d, 2: pc.conv2d, 3: pc.conv3d}
BACKWARD = {1: pc.conv1d_backward, 2: pc.conv2d_backward, 3: pc.conv3d_backward}

# (image, filter): each needs another tile, of 2 n1 x n2 points or a line of them.
SHAPES = [
    ((32, 16), (3, 3)),
    ((32, 32), (7, 9)),
    ((30, 64), (5, 40)),
    ((64, 16), (40, 5)),
    ((64, 32), (40, 17)),
    ((64, 64), (40, 40)),
    ((128, 16), (70, 3)),
    ((128, 32), (70, 20)),
    ((512,), (17,)),
    ((1024,), (300,)),
    ((2048,), (700,)),
    ((4096,), (1500,)),
    ((9000,), (4000,)),
]


def by_numpy(x, w):
    """Valid cross-correlation of planes."""
    axes = tuple(range(-len(w.shape), 0))
    transforms = np.fft.rfftn(x, axes=axes) * np.fft.rfftn(w, x.shape[axes[0] :], axes).conj()
    y = np.fft.irfftn(transforms, x.shape[axes[0] :], axes)
    return y[tuple(slice(0, i - k + 1) for i, k in zip(x.shape[axes[0] :], w.shape, strict=True))]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("image", "kernel"), SHAPES)
def test_as_numpy(image, kernel, dtype, target):
    x, w = contract.random(f"{image}", image, kernel)
    want = by_numpy(x, w)
    call = CONV[len(image)]
    y = call(x[None, None].astype(dtype), w[None, None].astype(dtype), algorithm="fft")
    contract.assert_transformed(y[0, 0], want, want.std())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("image", "kernel"), SHAPES)
def test_a_filter_of_one_tap_shifts(image, kernel, dtype, target):
    """Whatever the tap: each meets other roots of unity."""
    [x] = contract.random(f"{image}", image)
    call = CONV[len(image)]
    generator = np.random.default_rng(0)
    for _ in range(4):
        at = tuple(int(generator.integers(k)) for k in kernel)
        w = np.zeros((1, 1, *kernel), dtype)
        w[(0, 0, *at)] = 1
        y = call(x[None, None].astype(dtype), w, algorithm="fft")[0, 0]
        want = x[tuple(slice(a, a + size) for a, size in zip(at, y.shape, strict=True))]
        assert np.max(abs(y - want)) <= 16 * contract.UNIT[np.dtype(dtype)] * np.max(abs(x))


@pytest.mark.parametrize("layout", contract.LAYOUTS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("image", "kernel"), [((90, 40), (31, 17)), ((5000,), (257,))])
def test_non_finite_values_stay_in_their_field(image, kernel, bad, layout, target):
    """Several tiles: the ones beside it, and the results of its own tile that do not read it."""
    n, c, k = 2, 3, 2
    x, w = contract.random("field", (n, c, *image), (k, c, *kernel))
    y = CONV[len(image)](x, w, algorithm="direct")
    [dy] = contract.random("field dy", y.shape)
    call, backward = CONV[len(image)], BACKWARD[len(image)]
    place = tuple(size // 2 for size in image)
    x[(1, 2, *place)] = bad
    _, dw, _ = backward(dy, x, w, algorithm="direct", needs="w")
    with np.errstate(invalid="ignore"):
        wants = [reference.conv(x, w), dw]
    x32, w32, dy32 = (np.asarray(a, np.float32) for a in (x, w, dy))
    options = {"algorithm": "fft", "layout": layout}
    x32, dy32 = to_layout(x32, layout), to_layout(dy32, layout)
    got = [contract.from_layout(call(x32, w32, **options), layout)]
    got.append(backward(dy32, x32, w32, needs="w", **options)[1])
    for a, want in zip(got, wants, strict=True):
        finite = np.isfinite(want)
        assert (~finite).any()
        assert (np.isfinite(a) == finite).all()
        error = abs(a[finite] - want[finite]).max(initial=0)
        assert error <= 4e-6 * np.abs(want[finite]).max(initial=1)


def test_refusals_say_why():
    with pytest.raises(ValueError, match="cannot serve: the filter does not fit a tile"):
        pc.plan_conv((1, 1, 9000), (1, 1, 4097), algorithm="fft")
    with pytest.raises(ValueError, match="cannot serve: its weights would take over 1 GB"):
        pc.plan_conv((1, 4096, 64, 64), (4096, 4096, 11, 11), algorithm="fft")
    plan = pc.plan_conv((4, 32, 64, 64), (32, 32, 31, 31), padding=15)
    assert plan.algorithm == "fft"
    with pc.config(precision="strict"):
        assert pc.plan_conv((4, 32, 64, 64), (32, 32, 31, 31), padding=15).algorithm == "direct"

"""`pyconv.signal` against SciPy: modes, dtypes, shapes, and the axes that SciPy does not have."""

import inspect
import itertools
import sys

import numpy as np
import pytest

from pyconv import _fft, signal

theirs = pytest.importorskip("scipy.signal", reason="pip install 'pyconv-engine[test]'")

DTYPES = ["u1", "i1", "i2", "i4", "i8", "u8", "f4", "f8", "F", "D"]
SHAPES = [((9,), (4,)), ((3,), (8,)), ((6, 7), (3, 2)), ((4, 5), (4, 5)), ((4, 5, 6), (2, 3, 1))]
SHAPES += [((3, 4, 2, 5), (2, 2, 2, 2)), ((300,), (41,)), ((70, 40), (1, 11))]


def array(shape, dtype, seed=0):
    rng = np.random.default_rng(seed)
    kind = np.dtype(dtype).kind
    if kind in "biu":
        return rng.integers(0, 2 if kind == "b" else 120, shape).astype(dtype)
    x = rng.standard_normal(shape)
    return (x + 1j * rng.standard_normal(shape) if kind == "c" else x).astype(dtype)


def assert_same(got, want, taps):
    assert got.dtype == want.dtype
    assert got.shape == want.shape
    if want.dtype.kind in "biu":
        assert np.array_equal(got, want)
    else:
        bound = 16 * taps**0.5 * np.finfo(want.dtype).eps * np.max(abs(want), initial=1)
        assert np.max(abs(got - want), initial=0) <= bound


@pytest.mark.parametrize("pair", [*zip(DTYPES, DTYPES), ("i4", "f8")])
@pytest.mark.parametrize("method", ["direct", "fft", "auto"])
def test_convolve_and_correlate(pair, method):
    for shapes, mode in itertools.product(SHAPES, ("full", "same", "valid")):
        x, w = (array(shape, dtype, i) for i, (shape, dtype) in enumerate(zip(shapes, pair)))
        if method == "fft" and x.dtype.kind in "iu" and x.dtype.itemsize < 4:
            x, w = x.astype("i4"), w.astype("i4")  # beyond their size SciPy's results are undefined
        for name in ("convolve", "correlate"):
            got = getattr(signal, name)(x, w, mode, method)
            assert_same(got, getattr(theirs, name)(x, w, mode, method), w.size)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("boundary", ["fill", "wrap", "symm"])
def test_2d(boundary, dtype):
    for shapes, mode in itertools.product(SHAPES, ("full", "same", "valid")):
        if len(shapes[0]) != 2:
            continue
        x, w = array(shapes[0], dtype), array(shapes[1], dtype, 1)
        for name in ("convolve2d", "correlate2d"):
            options = (mode, boundary, 3)
            got = getattr(signal, name)(x, w, *options)
            assert_same(got, getattr(theirs, name)(x, w, *options), w.size)


def test_booleans():
    """SciPy has them in one dimension alone, where they are NumPy's."""
    x, w = array((20,), "?"), array((4,), "?", 1)
    for mode in ("full", "same", "valid"):
        assert_same(signal.convolve(x, w, mode), np.convolve(x, w, mode), 4)
        assert_same(signal.correlate(x, w, mode), np.correlate(x, w, mode), 4)


def test_large_integers_wrap_exactly():
    rng = np.random.default_rng(0)
    for dtype in ("i8", "u8"):
        info = np.iinfo(dtype)
        x, w = (rng.integers(info.min, info.max, n, dtype, endpoint=True) for n in (50, 7))
        for mode in ("full", "same", "valid"):
            assert np.array_equal(signal.convolve(x, w, mode), np.convolve(x, w, mode))


@pytest.mark.parametrize("method", ["direct", "fft"])
@pytest.mark.parametrize("mode", ["full", "same", "valid"])
@pytest.mark.parametrize("dtype", ["f8", "D", "i4"])
def test_axes(dtype, mode, method):
    """Batches, banks and groups: each is a loop over the plain function."""
    for x_shape, w_shape, axes in [
        ((5, 20), (1, 4), 1),
        ((1, 20), (3, 4), 1),
        ((20, 1, 2), (4, 3, 2), 0),
        ((2, 9, 1, 3, 8), (1, 3, 4, 3, 2), (1, -1)),
        ((2, 2, 3, 4, 5), (2, 1, 2, 2, 2), (2, 3, 4)),
    ]:
        x, w = array(x_shape, dtype), array(w_shape, dtype, 1)
        along = [axis % x.ndim for axis in np.atleast_1d(axes)]
        outer = [max(a, b) for a, b in zip(x_shape, w_shape)]
        whole = tuple(outer[i] for i in range(x.ndim) if i not in along)
        moved = tuple(range(-len(along), 0))
        many = [
            np.broadcast_to(np.moveaxis(a, along, moved), whole + tuple(a.shape[i] for i in along))
            for a in (x, w)
        ]
        want = np.stack(
            [theirs.convolve(*(a[i] for a in many), mode, "direct") for i in np.ndindex(whole)]
        )
        want = np.moveaxis(want.reshape(whole + want.shape[1:]), moved, along)
        assert_same(signal.convolve(x, w, mode, method, axes=axes), want, w.size)


@pytest.mark.parametrize("name", ["fftconvolve", "oaconvolve"])
def test_blocks_of_transforms(name):
    for x_shape, w_shape, axes in [
        ((5000,), (17,), None),
        ((17,), (5000,), None),
        ((900, 800), (5, 6), None),
        ((3, 4000), (1, 30), 1),
        ((4000, 3), (30, 3), 0),
        ((2, 700, 3, 600), (2, 4, 1, 7), (1, 3)),
    ]:
        x, w = array(x_shape, "f8"), array(w_shape, "f8", 1)
        for mode in ("full", "same", "valid"):
            got = getattr(signal, name)(x, w, mode, axes)
            assert_same(got, theirs.fftconvolve(x, w, mode, axes), w.size)


def test_numpys_transforms_do_as_well(monkeypatch):
    monkeypatch.setattr(_fft, "_module", lambda: np.fft)
    for dtype in ("f4", "f8", "F"):
        x, w = array((60, 50), dtype), array((9, 8), dtype, 1)
        assert_same(signal.fftconvolve(x, w), theirs.fftconvolve(x, w), w.size)


def test_next_fast_length():
    for size in (1, 2, 7, 11, 13, 97, 1000, 1025, 4097):
        length = _fft.next_fast(size)
        rest = length
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        assert rest == 1
        assert size <= length < 1.2 * size + 1


def test_choice():
    assert signal.choose_conv_method(np.ones(100), np.ones(5)) == "direct"
    assert signal.choose_conv_method(np.ones((500, 500)), np.ones((400, 400))) == "fft"
    assert signal.choose_conv_method(np.full(9, 2**50), np.arange(9)) == "direct"
    long, wide = (np.ones(shape, np.float32) for shape in (1 << 17, (500, 500)))
    assert signal.choose_conv_method(long, long[:2049]) == "direct"  # by tiles
    assert signal.choose_conv_method(wide, wide[:33, :33]) == "direct"
    assert signal.choose_conv_method(wide, wide[:60, :60]) == "fft"
    method, times = signal.choose_conv_method(np.ones(50), np.ones(5), measure=True)
    assert times[method] == min(times.values())


def test_without_scipy(monkeypatch):
    """Plain arrays need NumPy alone; the others say what to install."""
    for name in [*sys.modules]:
        if name.partition(".")[0] == "scipy":
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "scipy", None)
    signal.scipy_function.cache_clear()
    assert signal.convolve([1, 2], [3, 4]).tolist() == [3, 10, 8]
    with pytest.raises(ImportError, match="pip install 'pyconv-engine\\[scipy\\]'"):
        signal.convolve(np.ones(3, np.longdouble), np.ones(2))


@pytest.mark.parametrize("name", signal.__all__)
def test_signature(name):
    ours, original = (inspect.signature(getattr(module, name)) for module in (signal, theirs))

    def arguments(signature):
        own = [p for p in signature.parameters.values() if p.kind is not p.KEYWORD_ONLY]
        return [(p.name, p.default) for p in own]

    assert arguments(ours) == arguments(original)

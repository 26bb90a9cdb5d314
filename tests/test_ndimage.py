"""`pyconv.ndimage` against SciPy: every mode, dtype, axis and form of `output`."""

import inspect

import numpy as np
import pytest

from pyconv import _filtering, ndimage

theirs = pytest.importorskip("scipy.ndimage", reason="pip install 'pyconv-engine[test]'")

MODES = ["reflect", "mirror", "nearest", "wrap", "constant", "grid-mirror"]
DTYPES = ["?", "u1", "i1", "u2", "i4", "i8", "u8", "f4", "f8", "F", "D"]


def image(shape, dtype, seed=0):
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind in "?biu":
        return rng.integers(0, 2 if dtype == "?" else 100, shape).astype(dtype)
    x = rng.standard_normal(shape)
    return (x + 1j * rng.standard_normal(shape) if dtype in "FD" else x).astype(dtype)


def assert_same(got, want):
    assert got.dtype == want.dtype
    assert got.shape == want.shape
    if want.dtype.kind in "biu":
        assert np.array_equal(got, want)
    else:  # both are rounded float64 sums
        u = np.finfo(want.dtype).eps
        scale = np.max(abs(want), initial=1)
        assert np.max(abs(got - want), initial=0) <= 8 * u * scale


def same(name, *arguments, **options):
    got = getattr(ndimage, name)(*arguments, **options)
    assert_same(got, getattr(theirs, name)(*arguments, **options))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mode", MODES)
def test_weights(mode, dtype):
    cval = 0 if dtype == "?" else 3
    for shape, size in [((7,), (3,)), ((6, 9), (3, 4)), ((4, 5, 6), (2, 3, 1)), ((3, 4), (9, 7))]:
        x, w = image(shape, dtype), image(size, "i8", 1) - 50
        if dtype == "?":
            w = abs(w) % 2
        for weights in (w, w * (1 + 2j), w.astype("f8")):
            for origin in (0, -1) if min(size) > 1 else (0,):
                options = {"mode": mode, "cval": cval, "origin": origin}
                wide = "c16" if np.iscomplexobj(weights) or dtype == "D" else "f8"
                output = "c8" if dtype == "F" else wide  # as SciPy's partial sums
                same("correlate", x, weights, output, **options)
                same("convolve", x, weights, output, **options)
        same("correlate", x, w, mode=mode, cval=cval)
        for axis in range(-len(shape), len(shape)):
            same("correlate1d", x, w.reshape(-1)[:4], axis, mode=mode, cval=cval)
            same("convolve1d", x, w.reshape(-1)[:3], axis, mode=mode, cval=cval, origin=1)


@pytest.mark.parametrize("axes", [(0, 2), (1,), (-1, 0), (3, 1, 2), (0, 1, 2, 3)])
def test_axes_not_filtered_are_a_batch(axes):
    x = image((4, 5, 3, 6), "f8")
    w = image((3, 2, 3, 2)[: len(axes)], "f8", 1)
    same("correlate", x, w, axes=axes, mode="mirror")
    same("convolve", x, w, axes=axes, mode="constant", cval=2.5)
    same("gaussian_filter", x, 0.8, axes=axes)
    same("uniform_filter", x, 3, axes=axes)
    same("maximum_filter", x, 3, axes=axes)


@pytest.mark.parametrize("mode", MODES)
def test_blocks_of_lines(mode, monkeypatch):
    """What a large image goes through: blocks that begin and end within it."""
    monkeypatch.setattr(_filtering, "_BLOCK", 24)
    for shape, size, axes in [
        ((13, 11), (3, 4), (0, 1)),
        ((13, 11), (29, 2), (0, 1)),
        ((9, 5, 7), (3, 2), (0, 2)),
        ((9, 5, 7), (3,), (1,)),
        ((6, 2, 3), (5, 1), (1, 2)),
        ((50,), (7,), (0,)),
    ]:
        for dtype in ("u1", "i8", "f4", "f8", "F"):
            x = image(shape, dtype)
            for w in (image(size, "i8", 1) - 50, image(size, "f8", 2)):
                output = "c8" if dtype == "F" else "f4"
                same("correlate", x, w, output, mode, 2, axes=axes)
        same("uniform_filter", image(shape, "u1"), size, mode=mode, axes=axes)


def test_five_filtered_axes():
    same("correlate", image((3, 4, 3, 4, 5), "f8"), image((2, 2, 3, 1, 2), "f8", 1))


@pytest.mark.parametrize("dtype", ["u1", "i2", "i8", "f4", "f8"])
@pytest.mark.parametrize("mode", MODES)
def test_derivatives_and_smoothing(mode, dtype):
    x = image((23, 17), dtype)
    for axis in (0, -1):
        same("sobel", x, axis, mode=mode)
        same("prewitt", x, axis, mode=mode, cval=7)
        same("uniform_filter1d", x, 4, axis, mode=mode, cval=7, origin=-1)
    same("laplace", x, mode=mode, cval=1)
    same("uniform_filter", x, (3, 5), mode=mode)
    for output in ("f4", "f8"):  # as integers the last digit may differ
        same("gaussian_filter", x, (1.5, 0.7), output=output, mode=mode, cval=2)
        same("gaussian_filter", x, 1.5, (0, 2), output=output, mode=mode, truncate=3)
        same("gaussian_filter", x, 1.5, output=output, mode=mode, radius=(2, 40))
        same("gaussian_filter1d", x, 2, 0, 1, output=output, mode=mode)
        same("gaussian_laplace", x, 1.2, output=output, mode=mode)
        same("gaussian_gradient_magnitude", x, (1, 2), output=output, mode=mode)


@pytest.mark.parametrize("dtype", [d for d in DTYPES if d not in "FD"])
@pytest.mark.parametrize("mode", MODES)
def test_extrema(mode, dtype):
    x = image((19, 90), dtype)
    cval = 1 if dtype in ("?", "u1", "u2", "u8") else -3
    for name in ("minimum_filter", "maximum_filter"):
        for size in (2, 3, (4, 5), (7, 83), (1, 34)):
            same(name, x, size, mode=mode, cval=cval)
            same(name, x, size, mode=mode, cval=cval, origin=(0, -1) if size != 2 else (-1, 0))
        same(name + "1d", x, 5, 0, mode=mode, cval=cval, origin=2)
        same(name, x, footprint=np.ones((3, 4)), mode=mode)
        same(name, x, footprint=[[0, 1, 0], [1, 1, 1]], mode=mode)


def test_large_integers_are_passed_on():
    x = np.array([2**62 + 1, 2**62, 5, -(2**63)])
    same("maximum_filter1d", x, 2)
    same("minimum_filter", x, 3)


@pytest.mark.parametrize("view", ["strided", "reversed", "fortran", "swapped", "unaligned"])
def test_any_memory(view):
    x = image((12, 14), "f8")
    x = {
        "strided": x[::2, 1::3],
        "reversed": x[::-1, ::-1],
        "fortran": np.asfortranarray(x),
        "swapped": x.astype(">f8"),
        "unaligned": np.frombuffer(b"." + x.tobytes(), "u1")[1:].view("f8").reshape(x.shape),
    }[view]
    want = theirs.correlate(x.astype("f8"), np.ones((3, 2)))
    assert_same(ndimage.correlate(x, np.ones((3, 2))), want)
    want = theirs.maximum_filter(x.astype("f8"), (3, 2))
    assert_same(ndimage.maximum_filter(x, (3, 2)), want)


def test_output():
    x, w = image((5, 6), "f4"), np.ones((3, 3))
    for output in (np.float64, "f8", np.dtype("i2"), int):
        same("correlate", x, w, output)
    for memory in (np.zeros((5, 6)), np.zeros((5, 6), "i4"), np.zeros((6, 5), "f4").T):
        want = theirs.correlate(x, w, memory.copy())
        assert ndimage.correlate(x, w, output=memory) is memory
        assert_same(memory, want)
    want = theirs.gaussian_filter(x, 1)
    ndimage.gaussian_filter(x, 1, output=x)  # in place
    assert_same(x, want)
    with pytest.raises(RuntimeError, match="output shape"):
        ndimage.sobel(x, output=np.zeros(3))


def test_arguments_that_scipy_refuses():
    x = image((5, 6), "f8")
    for name, arguments, options in [
        ("correlate", [x, np.ones(3)], {}),
        ("correlate", [x, np.ones((3, 3))], {"mode": "zeros"}),
        ("correlate", [x, np.ones((3, 3))], {"mode": ["wrap", "wrap"]}),
        ("correlate", [x, np.ones((3, 3))], {"origin": 2}),
        ("correlate1d", [x, []], {}),
        ("correlate1d", [x, [1, 2]], {"axis": 2}),
        ("gaussian_filter", [x, 1], {"order": -1}),
        ("gaussian_filter", [x, (1, 2, 3)], {}),
        ("gaussian_filter", [x, 1], {"radius": 1.5}),
        ("maximum_filter", [x], {}),
        ("maximum_filter", [x * 1j, 3], {}),
        ("maximum_filter1d", [x, 0], {}),
        ("uniform_filter", [x, 3], {"origin": 5}),
        ("laplace", [x], {"axes": (0, 0)}),
    ]:
        with pytest.raises((ValueError, TypeError, RuntimeError)) as error:
            getattr(theirs, name)(*arguments, **options)
        with pytest.raises(error.type):
            getattr(ndimage, name)(*arguments, **options)


def test_other_dtypes_are_scipys():
    x = image((5, 6), "f8").astype(np.longdouble)
    for call in (
        lambda module: module.correlate(x, np.ones((3, 3))),
        lambda module: module.gaussian_filter(x, 1),
        lambda module: module.maximum_filter(x.astype("f2"), 3),
    ):
        with pytest.raises(RuntimeError) as error:
            call(theirs)
        with pytest.raises(RuntimeError, match=str(error.value)[:10]):
            call(ndimage)


def test_empty():
    for name in ("sobel", "laplace"):
        same(name, np.zeros((0, 4)))
    same("maximum_filter", np.zeros((3, 0)), 3)


@pytest.mark.parametrize("name", ndimage.__all__)
def test_signature(name):
    ours, original = (inspect.signature(getattr(module, name)) for module in (ndimage, theirs))

    def arguments(signature):
        return [(p.name, p.kind, p.default) for p in signature.parameters.values()]

    assert arguments(ours) == arguments(original)

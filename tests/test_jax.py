"""pyconv.jax.conv_general_dilated against lax's own, over random arguments and transformations."""

import concurrent.futures
import doctest
import os
import pathlib
import subprocess
import sys

import contract
import numpy as np
import pytest

import pyconv as pc

jax = pytest.importorskip("jax", reason="pip install 'pyconv-engine[jax]'")
from jax import lax  # noqa: E402  (needs jax)
from jax import numpy as jnp  # noqa: E402

import pyconv.jax  # noqa: E402
from pyconv.jax import _convolution, _primitives  # noqa: E402

OURS, THEIRS = pyconv.jax.conv_general_dilated, lax.conv_general_dilated


@pytest.fixture(autouse=True)
def float64():
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)


def assert_same(got, want, tolerance=1e-12):
    for mine, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert mine.shape == theirs.shape
        assert mine.dtype == theirs.dtype
        scale = max(1, np.abs(theirs).max(initial=0))
        assert np.abs(mine - theirs).max(initial=0) <= tolerance * scale


def spec(rng, letters):
    return "".join(rng.permutation(list(letters)))


def arranged(a, canonical, order):
    return np.transpose(a, [canonical.index(letter) for letter in order])


def random_call(seed):
    """Arrays and arguments that lax accepts: every layout, padding, dilation and kind of groups."""
    rng = np.random.default_rng(seed)
    axes = int(rng.integers(1, 4))
    draw = lambda low, high: tuple(int(n) for n in rng.integers(low, high, axes))  # noqa: E731
    kernel, stride, spread, dilation = draw(1, 4), draw(1, 4), draw(1, 4), draw(1, 3)
    if rng.random() < 0.4:
        stride = (1,) * axes
    if rng.random() < 0.5:
        spread = (1,) * axes
    size = tuple(d * (k - 1) + 1 + int(rng.integers(2, 6)) for d, k in zip(dilation, kernel))
    groups, batch_groups = [(1, 1), (int(rng.integers(2, 4)), 1), (1, 2)][rng.integers(3)]
    n, c, k = batch_groups * int(rng.integers(1, 3)), groups * int(rng.integers(1, 4)), 6
    padding = [tuple(int(p) for p in rng.integers(-1, 5, 2)) for _ in range(axes)]
    if rng.random() < 0.4 and max(spread) == 1:  # lax has no names where the input is spread
        padding = str(rng.choice(["SAME", "VALID", "SAME_LOWER"]))
    numbers = None
    x, w = rng.standard_normal((n, c, *size)), rng.standard_normal((k, c // groups, *kernel))
    if rng.random() < 0.7:
        axis = "DHW"[3 - axes :]
        numbers = spec(rng, "NC" + axis), spec(rng, "OI" + axis), spec(rng, "NC" + axis)
        if rng.random() < 0.5:
            numbers = f"N{axis}C", f"{axis}IO", f"N{axis}C"
        x, w = arranged(x, "NC" + axis, numbers[0]), arranged(w, "OI" + axis, numbers[1])
    return x, w, (stride, padding, spread, dilation, numbers, groups, batch_groups)


@pytest.mark.parametrize("seed", range(80))
def test_values_and_gradients(seed):
    x, w, arguments = random_call(seed)

    def loss(convolve):
        return lambda x, w: jnp.sin(convolve(x, w, *arguments)).sum()

    assert_same(OURS(x, w, *arguments), THEIRS(x, w, *arguments))
    if seed % 4 == 0:
        assert_same(*(jax.jit(jax.grad(loss(f), (0, 1)))(x, w) for f in (OURS, THEIRS)))


@pytest.mark.parametrize("seed", range(0, 12, 3))
def test_forward_mode_and_second_order(seed):
    x, w, arguments = random_call(seed)

    def everything(convolve):
        loss = lambda x, w: jnp.sin(convolve(x, w, *arguments)).sum()  # noqa: E731
        gradient = lambda x, w: jax.grad(loss, (0, 1))(x, w)  # noqa: E731
        tangent = (jnp.cos(x), jnp.cos(w))
        remat = jax.grad(jax.checkpoint(loss), 1)(x, w)
        return jax.jvp(loss, (x, w), tangent), jax.jvp(gradient, (x, w), tangent), remat

    assert_same(everything(OURS), everything(THEIRS), 1e-11)


@pytest.mark.parametrize("dims", [(0, None), (None, 0), (0, 0), (2, 1)], ids=str)
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_vmap(dims, groups, layout):
    numbers = (layout, "OIHW", layout)
    rng = np.random.default_rng(1)
    x, w = rng.standard_normal((3, 6, 5, 4)), rng.standard_normal((4, 4 // groups, 2, 3))
    x = arranged(x, "NHWC", layout)
    rows = [a if d is None else np.stack([a, a + 1, a * a], d) for a, d in zip((x, w), dims)]

    def everything(convolve):
        def value(x, w):
            return convolve(x, w, (2, 1), "SAME", None, (1, 2), numbers, groups)

        def gradients(x, w):
            return jax.grad(lambda x, w: jnp.sin(value(x, w)).sum(), (0, 1))(x, w)

        return [jax.vmap(f, dims)(*rows) for f in (value, gradients)]

    assert_same(everything(OURS), everything(THEIRS))


def test_nested_vmap_and_per_image_gradients():
    rng = np.random.default_rng(3)
    x, w = rng.standard_normal((3, 2, 4, 7)), rng.standard_normal((5, 4, 3))

    def everything(convolve):
        def loss(x, w):
            return (convolve(x[None], w, (1,), [(1, 1)], (2,)) ** 2).sum()

        return jax.vmap(jax.vmap(jax.grad(loss, (0, 1)), (0, None)), (0, None))(x, w)

    assert_same(everything(OURS), everything(THEIRS))
    none = jax.vmap(lambda x: OURS(x, w, (1,), "SAME"))(jnp.zeros((0, 2, 4, 7)))
    assert none.shape == (0, 2, 5, 7)


@pytest.mark.parametrize(
    "dtype", [jnp.int32, jnp.bfloat16, jnp.float16, jnp.complex64], ids=lambda d: d.__name__
)
def test_what_is_not_served_goes_on_to_lax(dtype):
    x, w = jnp.ones((2, 3, 6), dtype), jnp.ones((4, 3, 2), dtype)
    assert_same(OURS(x, w, (1,), "SAME"), THEIRS(x, w, (1,), "SAME"))
    a, b = jnp.ones((2, 3)), jnp.ones((4, 3))  # no spatial axis
    assert_same(OURS(a, b, (), ()), THEIRS(a, b, (), ()))
    x, w = jnp.ones((2, 3, 4, 4, 4, 4)), jnp.ones((4, 3, 2, 2, 2, 2))
    assert_same(OURS(x, w, (1,) * 4, "VALID"), THEIRS(x, w, (1,) * 4, "VALID"))
    x, w = jnp.ones((2, 3, 6), jnp.float32), jnp.ones((4, 3, 9), jnp.float32)
    assert OURS(x, w, (1,), "VALID").shape == (2, 4, 0)
    wide = [f(x, w, (1,), "SAME", preferred_element_type=jnp.float64) for f in (OURS, THEIRS)]
    assert_same(*wide)


def test_errors_are_those_of_lax():
    x, w = jnp.ones((2, 4, 6, 6)), jnp.ones((4, 3, 2, 2))
    for arguments in [((1, 1), "SAME"), ((1,), "SAME"), ((1, 1), "SOME")]:
        errors = []
        for convolve in (OURS, THEIRS):
            with pytest.raises((TypeError, ValueError, RuntimeError)) as caught:
                convolve(x, w, *arguments)
            errors.append((type(caught.value), str(caught.value).partition("\n")[0]))
        assert errors[0] == errors[1]


def test_settings_and_eager_evaluation():
    x, w = (np.random.default_rng(5).standard_normal(s) for s in ((2, 8, 9, 9), (8, 8, 3, 3)))
    x, w = x.astype(np.float32), w.astype(np.float32)
    with pc.config(precision="strict"):
        strict = OURS(x, w, (1, 1), "SAME")
        np.testing.assert_array_equal(strict, pc.conv2d(x, w, padding=1))
    with pc.config(algorithm="gemm"):
        np.testing.assert_array_equal(OURS(x, w, (1, 1), "SAME"), pc.conv2d(x, w, padding=1))
    with jax.disable_jit():
        gradients = jax.grad(lambda w: OURS(x, w, (1, 1), "SAME").sum())(w)
    assert_same(gradients, jax.grad(lambda w: THEIRS(x, w, (1, 1), "SAME").sum())(w), 1e-5)


FALLBACK = """
import warnings, numpy as np
from jax import lax, numpy as jnp
import jax, pyconv.jax
x, w = (np.random.default_rng(0).standard_normal(s).astype("f4") for s in ((2, 4, 9), (6, 4, 3)))
def loss(convolve):
    return lambda x, w: jnp.sin(convolve(x, w, (1,), [(1, 2)], (2,))).sum()
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    got = jax.grad(loss(pyconv.jax.conv_general_dilated), (0, 1))(x, w)
    jax.vmap(lambda x: pyconv.jax.conv_general_dilated(x[None], w, (1,), "SAME"))(x)
for mine, theirs in zip(got, jax.grad(loss(lax.conv_general_dilated), (0, 1))(x, w)):
    np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)
print([str(w.message) for w in caught if "pure_callback" in str(w.message)])
"""


def child(code, environment, **more):
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env={**environment, "JAX_PLATFORMS": "cpu", **more},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_without_a_compiler_python_is_called_and_says_so_once(child_environment, tmp_path):
    told = eval(child(FALLBACK, child_environment, CXX="false", XDG_CACHE_HOME=str(tmp_path)))
    assert len(told) == 1
    assert "C++17 compiler" in told[0]


def test_the_handler_is_compiled_once_and_whole(child_environment, tmp_path):
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        at_once = [
            pool.submit(child, FALLBACK, child_environment, XDG_CACHE_HOME=str(tmp_path))
            for _ in range(2)
        ]
    assert [future.result() for future in at_once] == ["[]\n"] * 2
    [library] = tmp_path.rglob("*.*")
    assert library.name.startswith("xla-")
    before = os.stat(library).st_mtime_ns
    assert child(FALLBACK, child_environment, XDG_CACHE_HOME=str(tmp_path)) == "[]\n"
    assert os.stat(library).st_mtime_ns == before


def test_without_jax_the_pip_line_is_told():
    code = "import sys; sys.modules['jax'] = None\nimport pyconv.jax"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert "pip install 'pyconv-engine[jax]'" in done.stderr.splitlines()[-1]


def test_the_example_in_the_docs():
    assert doctest.testmod(_convolution, optionflags=doctest.ELLIPSIS) == (0, 3)


def test_every_algorithm_is_known_to_the_handler():
    assert list(_primitives._ALGORITHMS) == contract.ALGORITHMS
    assert pathlib.Path(_primitives.__file__).with_name("handler.cpp").is_file()

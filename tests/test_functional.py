"""What operations share: arrays in and out, layouts, out=, plans, settings, docs, the import."""

import ast
import doctest
import functools
import importlib
import inspect
import pickle
import pkgutil
import re
import subprocess
import sys
import threading
from pathlib import Path

import contract
import numpy as np
import pytest

import pyconv as pc
from pyconv import _core, reference

X, W, B = contract.random("functional", (2, 3, 7, 8), (4, 3, 3, 2), (4,))


# Layouts and views -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", contract.DTYPES)
def test_a_transposed_view_comes_back_as_one(dtype):
    x = contract.to_layout(X.astype(dtype), "NHWC")
    view = np.moveaxis(x, -1, 1)  # NCHW by shape, NHWC in memory
    y = pc.conv2d(view, W.astype(dtype))
    assert y.shape == (2, 4, 5, 7)
    assert np.moveaxis(y, 1, -1).flags.c_contiguous
    contract.assert_same_bits(np.moveaxis(y, 1, -1), pc.conv2d(x, W.astype(dtype), layout="NHWC"))
    pooled = pc.max_pool2d(view, 2)
    assert np.moveaxis(pooled, 1, -1).flags.c_contiguous
    dx, dw, _ = pc.conv2d_backward(y, view, W.astype(dtype))
    assert np.moveaxis(dx, 1, -1).flags.c_contiguous
    assert dw.flags.c_contiguous


@pytest.mark.parametrize("view", [np.s_[::-1], np.s_[:, :, ::-1, ::2], np.s_[:, 1:, 2:]])
def test_results_are_contiguous_and_do_not_touch_the_input(view):
    x = X[view]
    before = X.copy()
    y = pc.conv2d(x, W[:, : x.shape[1]])
    assert y.flags.c_contiguous
    contract.assert_same_bits(X, before)
    contract.assert_same_bits(y, pc.conv2d(x.copy(), W[:, : x.shape[1]].copy()))


def test_big_endian_in_native_out():
    y = pc.conv2d(X.astype(">f8"), W.astype(">f8"), B.astype(">f8"))
    assert y.dtype.isnative
    contract.assert_same_bits(y, pc.conv2d(X, W, B))


def test_subclasses_are_arrays():
    class Tagged(np.ndarray):
        pass

    contract.assert_same_bits(np.asarray(pc.conv2d(X.view(Tagged), W)), pc.conv2d(X, W))


def test_names_and_positions():
    y = pc.conv2d(X, W, B, 2, 1, 1, 1)
    again = pc.conv2d(w=W, b=B, x=X, groups=1, dilation=1, padding=1, stride=2)
    contract.assert_same_bits(again, y)


class Exporter:
    """An array known by DLPack alone."""

    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()

    def __array_namespace__(self):
        return Namespace


class Namespace:
    @staticmethod
    def from_dlpack(array):
        return Exporter(np.from_dlpack(array))


def test_dlpack_in_the_same_kind_out():
    y = pc.conv2d(Exporter(X), W, B)
    assert isinstance(y, Exporter)
    contract.assert_same_bits(y.array, pc.conv2d(X, W, B))
    dx, dw, db = pc.conv2d_backward(Exporter(np.array(y.array)), X, W)
    assert all(isinstance(a, Exporter) for a in (dx, dw, db))
    top, indices = pc.max_pool2d(Exporter(X), 2, return_indices=True)
    assert isinstance(top, Exporter)
    assert isinstance(indices, Exporter)


# out= --------------------------------------------------------------------------------------------


def test_out_may_be_a_view():
    y = pc.conv2d(X, W)
    wide = np.full((2, 4, 5, 14), np.nan)
    out = wide[..., 1::2]
    assert pc.conv2d(X, W, out=out) is out
    contract.assert_same_bits(out, y)
    assert np.isnan(wide[..., ::2]).all()


def test_out_may_be_in_the_other_layout():
    out = np.full((2, 5, 7, 4), np.nan)
    view = np.moveaxis(out, -1, 1)
    assert pc.conv2d(X, W, out=view) is view
    contract.assert_same_bits(view, pc.conv2d(X, W))


def test_out_of_gradients():
    dy = pc.conv2d(X, W)
    wants = pc.conv2d_backward(dy, X, W)
    dw = np.full_like(W, np.nan)
    got = pc.conv2d_backward(dy, X, W, out=(None, dw, None))
    assert got[1] is dw
    for mine, want in zip(got, wants, strict=True):
        contract.assert_same_bits(mine, want)
    with pytest.raises(TypeError, match="out must be a triple"):
        pc.conv2d_backward(dy, X, W, out=dw)
    with pytest.raises(ValueError, match=r"conv2d_backward: out.*\(4, 3, 3, 2\)"):
        pc.conv2d_backward(dy, X, W, out=(None, dw[:2], None))
    with pytest.raises(ValueError, match="share memory"):
        pc.conv2d_backward(dy, X, W, out=(X, None, None))


# Plans -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", contract.ALGORITHMS)
@pytest.mark.parametrize("dtype", contract.DTYPES)
def test_plans_give_what_the_functions_give(dtype, algorithm, target):
    x, w, b = contract.random("plans", (1, 16, 18, 20), (24, 16, 3, 3), (24,))
    x, w, b = (a.astype(dtype) for a in (x, w, b))
    options = {"padding": 1, "algorithm": algorithm}
    plan = functools.partial(pc.plan_conv, x.shape, w.shape, padding=1, dtype=dtype)
    forward = contract.forced(plan, algorithm=algorithm)
    if forward is None:
        return
    y = contract.forced(pc.conv2d, x, w, b, **options)
    forward.set_weights(w, b)
    contract.assert_same_bits(forward(x), y)
    out = np.full_like(y, np.nan)
    assert forward(x, None, out) is out
    contract.assert_same_bits(out, y)
    contract.assert_same_bits(
        forward(x, y), contract.forced(pc.conv2d, x, w, b, residual=y, **options)
    )

    for need, direction in (("x", "bwd_data"), ("w", "bwd_weight")):
        backward = contract.forced(plan, direction=direction, algorithm=algorithm)
        if backward is None:
            continue
        gradients = contract.forced(pc.conv2d_backward, y, x, w, needs=need, **options)
        if need == "x":
            backward.set_weights(w)
        got = backward(y) if need == "x" else backward(y, x)
        contract.assert_same_bits(got, gradients["xw".index(need)])


def test_plan_copies_its_weights():
    w = W.copy()
    plan = pc.plan_conv(X.shape, W.shape, dtype=np.float64)
    plan.set_weights(w)
    want = plan(X)
    w[...] = 0
    contract.assert_same_bits(plan(X), want)
    plan.set_weights(w)
    assert (plan(X) == 0).all()


def test_plan_says_what_it_does():
    plan = pc.plan_conv((8, 64, 56, 56), (64, 64, 3, 3), padding=1)
    assert plan.algorithm in contract.ALGORITHMS
    assert plan.algorithm != "auto"
    assert plan.flops == 2 * 8 * 64 * 64 * 56 * 56 * 9
    assert plan.bytes == 4 * (2 * 8 * 64 * 56 * 56 + 64 * 64 * 9)
    assert plan.workspace_bytes <= pc.get_num_threads() * 16 * 2**20
    text = plan.explain()
    assert plan.algorithm in text
    assert _core.get_target() in text
    assert "(8, 64, 56, 56)" in text


def test_plan_pickles_with_its_weights():
    plan = pc.plan_conv(X.shape, W.shape, padding="same", activation="relu", dtype="float64")
    plan.set_weights(W, B)
    again = pickle.loads(pickle.dumps(plan))
    contract.assert_same_bits(again(X), plan(X))
    assert again.algorithm == plan.algorithm


def test_plan_refuses_what_it_was_not_made_for():
    plan = pc.plan_conv(X.shape, W.shape, dtype=np.float64)
    with pytest.raises(ValueError, match="set_weights"):
        plan(X)
    with pytest.raises(ValueError, match=r"w is .*\(4, 3, 3, 2\)"):
        plan.set_weights(W[:2])
    with pytest.raises(TypeError, match="float32"):
        plan.set_weights(W.astype(np.float32))
    plan.set_weights(W)
    with pytest.raises(ValueError, match=r"x is \(1, 3, 7, 8\).*\(2, 3, 7, 8\)"):
        plan(X[:1])
    with pytest.raises(TypeError, match="float32"):
        plan(X.astype(np.float32))
    with pytest.raises(ValueError, match="direction"):
        pc.plan_conv(X.shape, W.shape, direction="sideways")


# Settings ----------------------------------------------------------------------------------------


def chosen(**options):
    with pc.config(**options):
        return pc.plan_conv((1, 16, 20, 20), (16, 16, 3, 3)).algorithm


@pytest.mark.parametrize("algorithm", ["direct", "gemm"])
def test_config_prefers_an_algorithm(algorithm):
    before = pc.plan_conv((1, 16, 20, 20), (16, 16, 3, 3)).algorithm
    assert chosen(algorithm=algorithm) == algorithm
    assert pc.plan_conv((1, 16, 20, 20), (16, 16, 3, 3)).algorithm == before


def test_config_nests_and_ends_with_the_block():
    with pc.config(algorithm="direct"):
        assert chosen(precision="strict") == "direct"
        with pc.config(algorithm="gemm"):
            assert pc.plan_conv((1, 16, 20, 20), (16, 16, 3, 3)).algorithm == "gemm"
        assert pc.plan_conv((1, 16, 20, 20), (16, 16, 3, 3)).algorithm == "direct"


def test_config_is_of_one_thread_in_a_block_and_of_the_process_in_a_call():
    seen = []

    def look():
        seen.append(pc.plan_conv((1, 16, 20, 20), (16, 16, 3, 3)).algorithm)

    def in_thread():
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
        return seen[-1]

    plain = in_thread()
    other = "direct" if plain == "gemm" else "gemm"
    with pc.config(algorithm=other):
        assert in_thread() == plain
    pc.config(algorithm=other)
    try:
        assert in_thread() == other
    finally:
        pc.config(algorithm="auto")
    assert in_thread() == plain


@pytest.mark.parametrize("precision", ["default", "strict", "tf32"])
def test_precision(precision):
    with pc.config(precision=precision):
        y = pc.conv2d(X.astype(np.float32), W.astype(np.float32))
    scale = reference.conv(abs(X), abs(W))
    contract.assert_transformed(y, reference.conv(X, W), scale)


def test_config_checks():
    with pytest.raises(ValueError, match=r"config: precision .*fast"):
        pc.config(precision="fast")
    with pytest.raises(TypeError, match="batch_invariant"):
        pc.config(batch_invariant=1)
    with pytest.raises(TypeError):
        pc.config(speed="ludicrous")


def test_show_config(capsys):
    shown = pc.show_config() or ""
    text = f"{shown}{capsys.readouterr().out}"
    for word in (pc.__version__, _core.get_target(), "thread"):
        assert word in text


@pytest.mark.parametrize("target", _core.targets())
def test_targets(target):
    program = "from pyconv import _core; print(_core.get_target())"
    assert python(program, PYCONV_TARGET=target) == target


def test_unknown_target():
    with pytest.raises(ValueError, match=r'"abacus".*baseline'):
        _core.set_target("abacus")
    with pytest.raises(AssertionError, match=r"PYCONV_TARGET.*abacus"):
        python("import pyconv", PYCONV_TARGET="abacus")


# The package -------------------------------------------------------------------------------------


def python(program, **environment):
    import os

    done = subprocess.run(
        [sys.executable, "-P", "-c", program], env={**os.environ, **environment},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_import_is_light():
    """Under 120 ms over NumPy's own, the best of five, and none of the extras."""
    program = """
import sys, time
import numpy
start = time.perf_counter()
import pyconv
print(time.perf_counter() - start)
extras = "scipy torch jax matplotlib onnx sklearn safetensors tqdm PIL cupy rich".split()
assert not set(extras) & set(sys.modules), set(extras) & set(sys.modules)
"""
    assert min(float(python(program)) for _ in range(5)) < 0.120


OPERATIONS = [name for name in pc.functional.__all__ if inspect.isfunction(getattr(pc, name))]


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_is_documented(name):
    text = inspect.getdoc(getattr(pc, name))
    assert text
    assert len(text.splitlines()[0]) <= 100
    assert text.splitlines()[0].endswith(".")


MODULES = ["pyconv"] + [
    module.name
    for module in pkgutil.walk_packages(pc.__path__, "pyconv.")
    if not re.match(r"pyconv\.(__main__|_core|_cuda|lib)", module.name)
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_the_docs(name):
    try:
        module = importlib.import_module(name)
    except ImportError as error:  # of a framework that is not here; it says what to install
        pytest.skip(str(error))
    results = doctest.testmod(module, verbose=False)
    assert results.failed == 0


def test_the_public_operations_have_examples():
    finder = doctest.DocTestFinder()
    examples = sum(
        bool(test.examples)
        for name in ("conv2d", "conv2d_backward", "conv_transpose2d", "max_pool2d", "im2col")
        for test in finder.find(getattr(pc, name), name)
    )
    assert examples == 5


def test_type_stubs_name_what_is_there():
    stub = ast.parse((Path(pc.__file__).parent / "_core.pyi").read_text())
    stubbed = {}
    for node in stub.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            stubbed[node.name] = node
        elif isinstance(node, ast.AnnAssign):
            stubbed[node.target.id] = node
    assert set(stubbed) == {name for name in vars(_core) if not name.startswith("_")}
    plan = {node.name for node in stubbed["Plan"].body if isinstance(node, ast.FunctionDef)}
    assert plan == {name for name in vars(_core.Plan) if not name.startswith("_")}


def test_the_c_header_is_installed():
    header = Path(pc.get_include()) / "pyconv" / "pyconv.h"
    assert f"PYCONV_ABI_VERSION {_core.abi_version}" in header.read_text()
    assert list(Path(pc.get_cmake_dir()).glob("*onfig.cmake"))

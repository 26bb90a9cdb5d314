"""Forward convolution: every case, algorithm, instruction set, layout and dtype."""

import functools
import os
import pathlib
import signal
import subprocess
import sys

import cases
import contract
import numpy as np
import pytest
from contract import ALGORITHMS, FLOAT32, LAYOUTS, VARIANTS, from_layout, to_layout

import pyconv as pc
from pyconv import reference

THIN = [case.thin() for case in cases.BENCH]
CONV = {1: pc.conv1d, 2: pc.conv2d, 3: pc.conv3d}


@functools.cache
def problem(case, make):
    """x, w, b, then y and S in float64, and the number of products."""
    x, w, b = make(case.name, case.x, case.w, case.w[:1])
    y = reference.conv(x, w, b, **case.window)
    scale = reference.conv(abs(x), abs(w), abs(b), **case.window)
    return x, w, b, y, scale, int(np.prod(case.w[1:]))


def run(case, x, w, b, dtype, layout, **options):
    """The public call, into NaN between canaries; None if the forced algorithm refuses."""
    x, w, b = to_layout(x.astype(dtype), layout), w.astype(dtype), b.astype(dtype)
    shape = pc.conv_output_shape(x.shape, w.shape, layout=layout, **sizes(case))
    with contract.guarded(shape, dtype) as out:
        options |= {**case.window, "layout": layout, "out": out}
        y = contract.forced(CONV[case.axes], x, w, b, **options)
        assert y is None or y is out
    return None if y is None else from_layout(y, layout)


def sizes(case):
    return {name: case.window[name] for name in ("stride", "padding", "dilation", "groups")}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("case", cases.EDGE + THIN, ids=cases.case_id)
def test_accuracy(case, algorithm, target):
    x, w, b, want, scale, products = problem(case, contract.random)
    for layout, dtype in VARIANTS if "edge" in case.tags else FLOAT32:
        y = run(case, x, w, b, dtype, layout, algorithm=algorithm)
        if y is not None:
            contract.assert_accurate(y, want, scale, products, layout, algorithm)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_serves_some_case(algorithm):
    """So that one which refuses everything does not pass for tested."""
    for case in cases.BENCH:
        options = {**sizes(case), "algorithm": algorithm}
        if contract.forced(pc.plan_conv, case.x, case.w, **options) is not None:
            return
    pytest.fail(f"{algorithm} serves no layer")


@pytest.mark.parametrize("case", cases.EDGE + THIN, ids=cases.case_id)
def test_accuracy_by_default(case, target):
    """What "auto" chooses where it may choose anything."""
    x, w, b, want, scale, _ = problem(case, contract.random)
    for layout, dtype in FLOAT32:
        y = CONV[case.axes](
            to_layout(x.astype(dtype), layout), w.astype(dtype), b.astype(dtype),
            **case.window, layout=layout,
        )  # fmt: skip
        contract.assert_transformed(from_layout(y, layout), want, scale, layout)


@pytest.mark.parametrize("algorithm", ["direct", "gemm"])
@pytest.mark.parametrize("case", cases.EDGE + THIN, ids=cases.case_id)
def test_integers_are_exact(case, algorithm, target):
    x, w, b, want, *_ = problem(case, contract.integers)
    for layout, dtype in FLOAT32:
        y = run(case, x, w, b, dtype, layout, algorithm=algorithm)
        contract.assert_same_bits(y, want.astype(dtype))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize(
    "activation", [None, "relu", "leaky_relu", "tanh", "sigmoid", "gelu", "silu", "relu6"]
)
def test_fused_ending(activation, with_residual, algorithm, target):
    case = cases.Case("ending", (2, 5, 6, 7), (19, 5, 3, 3), 1, 1)
    x, w, b, z, scale, products = problem(case, contract.random)
    [residual] = contract.random("residual", z.shape)
    residual *= with_residual
    for layout, dtype in VARIANTS:
        ending = {"activation": activation, "algorithm": algorithm}
        if with_residual:
            ending["residual"] = to_layout(residual.astype(dtype), layout)
        y = run(case, x, w, b, dtype, layout, **ending)
        if y is None:
            continue
        total, u, steps = z + residual, contract.UNIT[np.dtype(dtype)], products + 4
        # No activation has a slope above 1.13; the functions themselves are good to a few units.
        before = 2 * steps * u * (scale + abs(residual))
        if algorithm not in contract.PLAIN:
            before = 4e-6 * np.max(scale)
        bound = 1.13 * before + 8 * u * np.maximum(1, abs(total))
        assert (abs(y - reference.activation(total, activation)) <= bound).all()


@pytest.mark.parametrize(
    "case",
    [
        cases.Case("smear", (2, 17, 19, 20), (18, 17, 3, 3), padding=1),
        cases.Case("smear-groups", (2, 32, 9, 10), (32, 8, 3, 3), padding=1, groups=4),
    ],
    ids=cases.case_id,
)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_pixel_reaches_its_receptive_field_only(bad, algorithm, layout, case, target):
    x, w, b, want, scale, products = problem(case, contract.random)
    x = x.copy()
    x[1, 4, 5, 6] = bad
    y = run(case, x, w, b, np.float32, layout, algorithm=algorithm)
    if y is None:
        return
    field = np.zeros(y.shape, bool)
    field[1, : case.w[0] // case.groups, 4:7, 5:8] = True  # of the group of channel 4
    assert not np.isfinite(y[field]).any()
    outside = (a[~field] for a in (y, want, scale))
    contract.assert_accurate(*outside, products, algorithm=algorithm)


@pytest.mark.parametrize("algorithm", ["direct", "gemm"])
def test_columns_above_2_to_the_31(algorithm):
    """im2col of this has 2.3e9 elements; scratch must stay in tiles, indices in 64 bits."""
    x = np.ones((1, 1, 6007, 6007), np.float32)
    plan = pc.plan_conv(x.shape, (1, 1, 8, 8), dtype=np.float32)
    assert plan.workspace_bytes <= pc.get_num_threads() * 16 * 2**20
    y = pc.conv2d(x, np.ones((1, 1, 8, 8), np.float32), algorithm=algorithm)
    assert y.shape == (1, 1, 6000, 6000)
    assert (y == 64).all()


@pytest.mark.parametrize("case", [*cases.EDGE[::4], *THIN], ids=cases.case_id)
def test_kept_weights_give_the_bits_of_a_plain_call(case):
    x, w, b, *_ = (np.asarray(a, np.float32) for a in problem(case, contract.random)[:3])
    for layout in LAYOUTS:
        options = {**case.window, "layout": layout}
        with pc.config(batch_invariant=True):
            y = CONV[case.axes](to_layout(x, layout), w, b, **options)
        plan = pc.plan_conv(to_layout(x, layout).shape, w.shape, **options, dtype=np.float32)
        plan.set_weights(w, b)
        contract.assert_same_bits(plan(to_layout(x, layout)), y)


@pytest.mark.parametrize("case", [*cases.EDGE, *THIN], ids=cases.case_id)
def test_output_shape(case):
    want = problem(case, contract.random)[3].shape
    assert pc.conv_output_shape(case.x, case.w, **sizes(case)) == want


@pytest.mark.parametrize("case", cases.EDGE, ids=cases.case_id)
def test_the_fast_reference_is_the_obvious_one(case):
    x, w, b, *_ = problem(case, contract.integers)
    if case.padding_mode == "zeros" and not case.flip:
        got = reference.conv_im2col(x, w, b, **sizes(case))
        contract.assert_same_bits(got, reference.conv(x, w, b, **sizes(case)))
    else:  # what it has no option for is the same as preparing the arrays
        _, pairs = reference.conv_size(
            x.shape[2:], w.shape[2:], case.stride, case.padding, case.dilation
        )
        x = reference.pad(x, pairs, case.padding_mode)
        w = reference.reverse(w) if case.flip else w
        got = reference.conv_im2col(x, w, b, case.stride, 0, case.dilation, case.groups)
        contract.assert_same_bits(got, problem(case, contract.integers)[3])


@pytest.mark.parametrize("algorithm", ["direct", "gemm"])
@pytest.mark.parametrize("case", [*cases.EDGE[::5], *THIN[::4]], ids=cases.case_id)
@pytest.mark.parametrize("direction", ["fwd", "bwd_data", "bwd_weight"])
def test_workspace_is_neither_read_before_written_nor_overrun(case, direction, algorithm, target):
    """The core on buffers of our own: scratch full of NaN between canaries."""
    x, w, _, y, *_ = (np.asarray(a, np.float32) for a in problem(case, contract.integers)[:4])
    plan = pc._core.plan_conv(
        "conv", case.axes, direction, False, "float32", "NCHW", x.shape, w.shape,
        y.shape, None, None, case.stride, case.padding, case.dilation, case.groups,
        case.padding_mode, case.flip, None, algorithm, 0, None, False, False,
    )  # fmt: skip
    y = reference.conv(x, w, None, **case.window)
    wants = (y, *reference.conv_backward(y, x, w, **case.window)[:2])
    want = wants[["fwd", "bwd_data", "bwd_weight"].index(direction)]
    a, b = {"fwd": (x, w), "bwd_data": (y, w), "bwd_weight": (y, x)}[direction]
    got = contract.run_guarded(pc._core.Plan.run, plan, a, b, None, None, None, None)
    contract.assert_same_bits(got, want)


@pytest.mark.skipif("LD_PRELOAD" in os.environ, reason="AddressSanitizer takes the signal")
@pytest.mark.parametrize("at", ["8", "-1"])  # behind the first copy, before the second
def test_walls_cannot_be_read(at):
    """What the guard of inputs rests on."""
    code = f"""if True:
        import ctypes, numpy as np, contract
        wall = contract.Walled(1 << 16)
        copies = [wall.copy(np.ones(8, np.uint8)) for _ in range(2)]
        first, last = sorted(copies, key=lambda copy: copy.ctypes.data)
        print(first.sum() + last.sum(), flush=True)
        address = last.ctypes.data + 8 if {at} > 0 else first.ctypes.data - 1
        ctypes.string_at(address, 1)"""
    paths = [str(pathlib.Path(__file__).parent), os.environ.get("PYTHONPATH")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    command = [sys.executable, "-P", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.stdout == "16\n", done.stderr
    assert done.returncode in (-signal.SIGSEGV, -signal.SIGBUS)

"""Transposed convolutions and their gradients: every case, algorithm and instruction set."""

import functools

import cases
import contract
import numpy as np
import pytest
from contract import ALGORITHMS, FLOAT32, VARIANTS, from_layout, to_layout

import pyconv as pc
from pyconv import reference

pytestmark = pytest.mark.usefixtures("canaries")
TRANSPOSE = {1: pc.conv_transpose1d, 2: pc.conv_transpose2d, 3: pc.conv_transpose3d}
BACKWARD = {
    1: pc.conv_transpose1d_backward,
    2: pc.conv_transpose2d_backward,
    3: pc.conv_transpose3d_backward,
}


def gradients_of(case, dy, x, w):
    window = {name: v for name, v in case.window.items() if name != "output_padding"}
    return reference.conv_transpose_backward(dy, x, w, **window)


@functools.cache
def problem(case, make):
    """x, w, b, dy, then (value, S, products) for y, dx, dw, db."""
    x, w, b = make(case.name, case.x, case.w, (case.w[1] * case.groups,))
    y = reference.conv_transpose(x, w, b, **case.window)
    [dy] = make(case.name + " dy", y.shape)
    scale = reference.conv_transpose(abs(x), abs(w), abs(b), **case.window)
    scales = gradients_of(case, abs(dy), abs(x), abs(w))
    taps, pixels = int(np.prod(case.w[2:])), int(np.prod(case.x[2:]))
    products = (
        case.x[1] // case.groups * taps,
        case.w[1] * taps,
        case.x[0] * pixels,
        dy.size // max(1, b.size),
    )
    values = (y, *gradients_of(case, dy, x, w))
    return x, w, b, dy, list(zip(values, (scale, *scales), products, strict=True))


def run(case, dtype, layout, make, **options):
    x, w, b, dy, wants = problem(case, make)
    x, dy = (to_layout(a.astype(dtype), layout) for a in (x, dy))
    w, b = w.astype(dtype), b.astype(dtype)
    options = {**case.window, "layout": layout, **options}
    with (
        contract.guarded(dy.shape, dtype) as y,
        contract.guarded(x.shape, dtype) as dx,
        contract.guarded(w.shape, dtype) as dw,
        contract.guarded(b.shape, dtype) as db,
    ):
        forward = contract.forced(TRANSPOSE[case.axes], x, w, b, **options, out=y)
        backward = contract.forced(BACKWARD[case.axes], dy, x, w, **options, out=(dx, dw, db))
    got = [] if forward is None else [(from_layout(y, layout), wants[0])]
    if backward is not None:
        got += zip((from_layout(dx, layout), dw, db), wants[1:], strict=True)
    return got


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("case", cases.TRANSPOSED, ids=cases.case_id)
def test_accuracy(case, algorithm, target):
    for layout, dtype in VARIANTS:
        for got, want in run(case, dtype, layout, contract.random, algorithm=algorithm):
            contract.assert_accurate(got, *want, layout, algorithm)


@pytest.mark.parametrize("algorithm", ["direct", "gemm"])
@pytest.mark.parametrize("case", cases.TRANSPOSED, ids=cases.case_id)
def test_integers_are_exact(case, algorithm, target):
    for layout, dtype in FLOAT32:
        for got, (want, *_) in run(case, dtype, layout, contract.integers, algorithm=algorithm):
            contract.assert_same_bits(got, want.astype(dtype))


@pytest.mark.parametrize("case", cases.TRANSPOSED, ids=cases.case_id)
def test_adjoint(case):
    x, w, _, dy, _ = problem(case, contract.random)
    y = TRANSPOSE[case.axes](x, w, **case.window)
    dx, dw, db = BACKWARD[case.axes](dy, x, w, **case.window)
    scale = np.sum(abs(dy) * reference.conv_transpose(abs(x), abs(w), **case.window))
    assert abs(np.sum(dy * y) - np.sum(dx * x)) <= 1e-12 * scale
    assert abs(np.sum(dy * y) - np.sum(dw * w)) <= 1e-12 * scale
    assert np.allclose(db, dy.sum((0, *range(2, dy.ndim))), rtol=0, atol=1e-12)


@pytest.mark.parametrize("algorithm", contract.PLAIN)
def test_is_the_input_gradient_of_a_convolution(algorithm):
    x, w = contract.random("dual", (2, 6, 5, 4), (6, 2, 3, 3))
    y = pc.conv_transpose2d(x, w, None, 2, 1, (1, 0), 3, algorithm=algorithm)
    dx, _, _ = pc.conv2d_backward(x, y.shape, w, 2, 1, 1, 3, needs=("x",), algorithm=algorithm)
    contract.assert_same_bits(y, dx)


@pytest.mark.parametrize("size", [(9, 13), (10, 14), (10, 15)])
def test_output_size(size):
    x, w = contract.integers("output size", (1, 3, 5, 5), (3, 2, 3, 3))
    y = pc.conv_transpose2d(x, w, stride=(2, 3), padding=1, output_size=size)
    assert y.shape == (1, 2, *size)
    want = reference.conv_transpose(x, w, None, (2, 3), 1, output_size=size)
    contract.assert_same_bits(y, want)


@pytest.mark.parametrize("size", [8, 11, (9, 16), (9, 12)])
def test_output_size_out_of_reach(size):
    with pytest.raises(ValueError, match=r"conv_transpose2d: output_size.*at least 9|13"):
        pc.conv_transpose2d(
            np.ones((1, 3, 5, 5)), np.ones((3, 2, 3, 3)), None, (2, 3), 1, output_size=size
        )


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_activation(activation):
    x, w, b = contract.random("transposed activation", (2, 3, 4, 5), (3, 2, 3, 3), (2,))
    y = pc.conv_transpose2d(x, w, b, 2, activation=activation)
    want = reference.conv_transpose(x, w, b, 2, activation=activation)
    assert np.allclose(y, want, rtol=0, atol=1e-13)

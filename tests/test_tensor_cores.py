"""Convolutions on tensor cores, precision="tf32" and "3xtf32": every pass, layout and edge case.
They run inside test_cuda_host.py, or with -p on_device on a GPU.
"""

import sys

import cases
import contract
import numpy as np
import pytest
from contract import LAYOUTS, from_layout, to_layout

import pyconv as pc
from pyconv import reference

if "on_device" not in sys.modules:
    pytest.skip(
        "runs inside test_cuda_host.py, or with -p on_device on a GPU", allow_module_level=True
    )

F32 = np.float32
# A tile of 128 x 128 and beyond it in both directions; sums of many steps.
TILES = [
    cases.Case("tiles", (3, 20, 9, 11), (140, 20, 3, 3), padding=1),
    cases.Case("tiles-of-groups", (2, 16, 8, 9), (24, 4, 3, 2), groups=4),
    cases.Case("tiles-deep", (1, 260, 4, 5), (7, 260, 3, 3)),
    cases.Case("tiles-stride", (2, 12, 13, 10), (9, 12, 3, 3), 2, 1),
]
# On the CPU a fibre takes about 1 us for a product on a tensor core.
SMALL = [case for case in cases.EDGE if np.prod(case.x) * np.prod(case.w[2:]) < 8000]
CASES = SMALL + TILES


def results(case, make, layout):
    """(ours, float64's, S, products) of y, dx and dw."""
    name = {1: "conv1d", 2: "conv2d", 3: "conv3d"}[case.axes]
    x, w = make(case.name, case.x, case.w)
    y = reference.conv(x, w, None, **case.window)
    dy, *_ = make(case.name + " dy", y.shape)
    sent = [to_layout(x.astype(F32), layout), w.astype(F32), to_layout(dy.astype(F32), layout)]
    options = {**case.window, "layout": layout, "algorithm": "gemm"}
    ours = getattr(pc, name)(*sent[:2], **options)
    dx, dw, _ = getattr(pc, f"{name}_backward")(sent[2], *sent[:2], **options, needs=("x", "w"))
    want_dx, want_dw, _ = reference.conv_backward(dy, x, w, **case.window)
    sizes = reference.conv_backward(abs(dy), abs(x), abs(w), **case.window)
    taps = int(np.prod(case.w[2:]))
    yield (
        from_layout(ours, layout),
        y,
        reference.conv(abs(x), abs(w), None, **case.window),
        w[0].size,
    )
    yield from_layout(dx, layout), want_dx, sizes[0], taps * case.w[0]
    yield dw, want_dw, sizes[1], y.size // max(1, case.w[0])


@pytest.mark.parametrize("case", CASES, ids=cases.case_id)
def test_three_products_are_as_good_as_float32(case):
    layout = LAYOUTS[len(case.name) % 2]  # both have half of the cases
    with pc.config(precision="3xtf32"):
        for got, want, scale, products in results(case, contract.random, layout):
            # Twice the bound of float32's own sums, as each mma rounds toward zero.
            bound = 2 * max(4, np.sqrt(products)) * 2.0**-24 * scale
            assert (abs(got - want) <= bound).all()


@pytest.mark.parametrize("case", CASES, ids=cases.case_id)
def test_integers_are_exact(case):
    with pc.config(precision="tf32"):
        for layout in LAYOUTS:
            for got, want, *_ in results(case, contract.integers, layout):
                contract.assert_same_bits(got, want.astype(F32))


@pytest.mark.parametrize("case", TILES, ids=cases.case_id)
def test_one_product_is_as_good_as_its_numbers(case):
    with pc.config(precision="tf32"):
        for got, want, scale, _ in results(case, contract.random, "NHWC"):
            assert (abs(got - want) <= 2.0**-9.9 * scale).all()


def test_the_epilogue_and_what_was_chosen():
    x, w, b, residual = contract.random("mma", (2, 8, 6, 7), (5, 8, 3, 3), (5,), (2, 5, 4, 5))
    arrays = [a.astype(F32) for a in (x, w, b)]
    want = np.maximum(reference.conv(x, w, b) + residual, 0)
    errors = {}
    for precision in ("default", "tf32", "3xtf32"):
        with pc.config(precision=precision):
            y = pc.conv2d(*arrays, residual=residual.astype(F32), activation="relu",
                          algorithm="gemm")  # fmt: skip
        errors[precision] = np.max(abs(y - want))
    assert errors["3xtf32"] < 1e-5
    assert 1e-5 < errors["tf32"] < 1e-1  # else float32 was used
    assert errors["default"] < 1e-5

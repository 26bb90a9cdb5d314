"""Gradients of convolutions: every case, algorithm, instruction set, layout and dtype."""

import functools

import cases
import contract
import numpy as np
import pytest
from contract import ALGORITHMS, FLOAT32, VARIANTS, from_layout, to_layout
from test_conv import CONV, THIN

import pyconv as pc
from pyconv import reference

BACKWARD = {1: pc.conv1d_backward, 2: pc.conv2d_backward, 3: pc.conv3d_backward}


@functools.cache
def problem(case, make):
    """dy, x, w, then (gradient, S, products) for each of "x", "w", "b"."""
    x, w = make(case.name, case.x, case.w)
    y = reference.conv(x, w, **case.window)
    [dy] = make(case.name + " dy", y.shape)
    gradients = reference.conv_backward(dy, x, w, **case.window)
    scales = reference.conv_backward(abs(dy), abs(x), abs(w), **case.window)
    outputs = dy.size // max(1, w.shape[0])
    ones = [np.ones_like(a) for a in (dy, x, w)]  # counting: a border adds products to a pixel
    most = int(reference.conv_backward(*ones, **case.window)[0].max(initial=0))
    wants = zip(gradients, scales, (most, outputs, outputs), strict=True)
    return dy, x, w, dict(zip("xwb", wants, strict=True))


def run(case, dy, x, w, dtype, layout, **options):
    """{"x": dx, "w": dw, "b": db} of the public call, into NaN between canaries.

    An algorithm that serves only some of the passes is asked for each gradient by itself.
    """
    dy, x = (to_layout(a.astype(dtype), layout) for a in (dy, x))
    w = w.astype(dtype)
    options |= {**case.window, "layout": layout}
    backward = BACKWARD[case.axes]
    with (
        contract.guarded(x.shape, dtype) as dx,
        contract.guarded(w.shape, dtype) as dw,
        contract.guarded(w.shape[:1], dtype) as db,
    ):
        outs = {"x": dx, "w": dw, "b": db}
        got = contract.forced(backward, dy, x, w, **options, out=(dx, dw, db))
        if got is not None:
            assert all(a is b for a, b in zip(got, outs.values(), strict=True))
        else:
            for name in list(outs):
                only = tuple(outs[n] if n == name else None for n in "xwb")
                if contract.forced(backward, dy, x, w, **options, needs=name, out=only) is None:
                    del outs[name]
    return {name: from_layout(a, layout) if name == "x" else a for name, a in outs.items()}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("case", cases.EDGE + THIN, ids=cases.case_id)
def test_accuracy(case, algorithm, target):
    dy, x, w, wants = problem(case, contract.random)
    for layout, dtype in VARIANTS if "edge" in case.tags else FLOAT32:
        gradients = run(case, dy, x, w, dtype, layout, algorithm=algorithm)
        for name, got in gradients.items():
            contract.assert_accurate(got, *wants[name], f"d{name} {layout}", algorithm)


@pytest.mark.parametrize("case", cases.EDGE + THIN, ids=cases.case_id)
def test_accuracy_by_default(case, target):
    """What "auto" chooses where it may choose anything."""
    dy, x, w, wants = problem(case, contract.random)
    for layout, dtype in FLOAT32:
        dx, dw, db = BACKWARD[case.axes](
            to_layout(dy.astype(dtype), layout), to_layout(x.astype(dtype), layout),
            w.astype(dtype), **case.window, layout=layout,
        )  # fmt: skip
        for name, got in zip("xwb", (from_layout(dx, layout), dw, db), strict=True):
            contract.assert_transformed(got, *wants[name][:2], f"d{name} {layout}")


@pytest.mark.parametrize("algorithm", ["direct", "gemm"])
@pytest.mark.parametrize("case", cases.EDGE + THIN, ids=cases.case_id)
def test_integers_are_exact(case, algorithm, target):
    dy, x, w, wants = problem(case, contract.integers)
    for layout, dtype in FLOAT32:
        gradients = run(case, dy, x, w, dtype, layout, algorithm=algorithm)
        for name, (want, *_) in wants.items():
            contract.assert_same_bits(gradients[name], want.astype(dtype))


@pytest.mark.parametrize("algorithm", contract.PLAIN)
@pytest.mark.parametrize("case", cases.EDGE, ids=cases.case_id)
def test_adjoint(case, algorithm, target):
    """<dy, conv(x, w)> = <dx, x> = <dw, w>: conv is linear in each of its arguments."""
    dy, x, w, _ = problem(case, contract.random)
    y = CONV[case.axes](x, w, **case.window, algorithm=algorithm)
    gradients = run(case, dy, x, w, np.float64, "NCHW", algorithm=algorithm)
    scale = np.sum(abs(dy) * reference.conv(abs(x), abs(w), **case.window))
    assert abs(np.sum(dy * y) - np.sum(gradients["x"] * x)) <= 1e-12 * scale
    assert abs(np.sum(dy * y) - np.sum(gradients["w"] * w)) <= 1e-12 * scale


@pytest.mark.parametrize("name", ["unequal", "groups-stride", "flip-groups-dilation", "reflect"])
def test_differences_with_step_one(name):
    """conv is linear in each argument, so a difference quotient with step 1 is the derivative."""
    [case] = [case for case in cases.EDGE if case.name == name]
    dy, x, w, _ = problem(case, contract.random)
    gradients = run(case, dy, x, w, np.float64, "NCHW")
    call = functools.partial(CONV[case.axes], **case.window)
    y = call(x, w)
    scale = np.sum(abs(dy) * reference.conv(abs(x) + 1, abs(w) + 1, **case.window))
    for name, array, at in (("x", x, lambda a: call(a, w)), ("w", w, lambda a: call(x, a))):
        for flat in range(0, array.size, 1 + array.size // 40):
            moved = array.copy()
            moved.flat[flat] += 1
            slope = np.sum(dy * (at(moved) - y))
            assert abs(slope - gradients[name].flat[flat]) <= 1e-11 * scale


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_non_finite_pixel_reaches_its_taps_only(bad, algorithm, target):
    """A corner pixel meets one tap of its channel's filters under padding 1, others meet them."""
    case = cases.Case("smear", (2, 17, 11, 12), (18, 17, 3, 3), padding=1)
    dy, x, w, wants = problem(case, contract.random)
    x = x.copy()
    x[1, 4, 0, 0] = x[0, 7, 5, 5] = bad
    want = reference.conv_backward(dy, x, w, **case.window)[1]
    finite = np.isfinite(want)
    for layout, dtype in FLOAT32:
        got = run(case, dy, x, w, dtype, layout, algorithm=algorithm)["w"]
        assert (np.isfinite(got) == finite).all()
        others = (a[finite] for a in (got, want, wants["w"][1]))
        contract.assert_accurate(*others, wants["w"][2], layout, algorithm)


@pytest.mark.parametrize("needs", [(), ("x",), ("w",), ("b",), ("x", "b"), ("w", "x")])
def test_needs(needs):
    dy, x, w = contract.random("needs", (2, 4, 5, 6), (2, 3, 7, 8), (4, 3, 3, 3))
    got = pc.conv2d_backward(dy, x, w, needs=needs)
    for name, gradient, want in zip("xwb", got, reference.conv_backward(dy, x, w), strict=True):
        assert (gradient is not None) == (name in needs)
        assert gradient is None or np.allclose(gradient, want, rtol=0, atol=1e-12)


def test_a_shape_will_do_where_values_are_not_needed():
    dy, x, w = contract.random("shapes", (2, 4, 5, 6), (2, 3, 7, 8), (4, 3, 3, 3))
    dx, dw, db = pc.conv2d_backward(dy, x, w)
    contract.assert_same_bits(pc.conv2d_backward(dy, x.shape, w, needs=("x",))[0], dx)
    contract.assert_same_bits(pc.conv2d_backward(dy, x, w.shape, needs=("w",))[1], dw)
    contract.assert_same_bits(pc.conv2d_backward(dy, x.shape, w.shape, needs=("b",))[2], db)


@pytest.mark.parametrize(("needs", "x", "w"), [(("w",), "shape", "w"), (("x",), "x", "shape")])
def test_a_shape_will_not_do_where_values_are_needed(needs, x, w):
    dy, *arrays = contract.random("shapes", (2, 4, 5, 6), (2, 3, 7, 8), (4, 3, 3, 3))
    x, w = (a.shape if use == "shape" else a for a, use in zip(arrays, (x, w), strict=True))
    with pytest.raises((TypeError, ValueError), match=r"conv2d_backward: .*(x|w)"):
        pc.conv2d_backward(dy, x, w, needs=needs)


def test_empty_batch_gives_zero_weight_gradients():
    dx, dw, db = pc.conv2d_backward(
        np.ones((0, 4, 5, 6)), np.ones((0, 3, 7, 8)), np.ones((4, 3, 3, 3))
    )
    assert dx.shape == (0, 3, 7, 8)
    assert (dw == 0).all()
    assert (db == 0).all()


def test_weight_gradient_over_a_million_outputs_keeps_its_digits():
    """A plain float32 sum of 2.6 million products would be off by far more than sqrt(K) u."""
    x, dy = contract.random("long sum", (40, 1, 256, 256), (40, 2, 256, 256))
    want = reference.weight_gradient(dy, reference.pad(x, [(1, 1)] * 2), (2, 1, 3, 3), 1, 1, 1)
    scale = reference.weight_gradient(
        abs(dy), reference.pad(abs(x), [(1, 1)] * 2), (2, 1, 3, 3), 1, 1, 1
    )
    for algorithm in ("direct", "gemm"):
        dw = pc.conv2d_backward(
            dy.astype(np.float32), x.astype(np.float32), (2, 1, 3, 3), padding=1,
            needs=("w",), algorithm=algorithm,
        )[1]  # fmt: skip
        contract.assert_accurate(dw, want, scale, dy.size // 2)

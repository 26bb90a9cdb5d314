"""Pooling of every kind, forward and backward, on every instruction set and in both layouts."""

import functools

import cases
import contract
import numpy as np
import pytest
from contract import LAYOUTS, VARIANTS, from_layout, to_layout

import pyconv as pc
from pyconv import reference

UNDILATED = [case for case in cases.POOL if case.dilation == 1]


def op(name, axes):
    """The public function: # stands for the number of axes."""
    return getattr(pc, name.replace("#", f"{axes}d"))


def call(name, axes, x, *arguments, layout, **options):
    """The public function on x in that layout; the result as NCHW."""
    y = op(name, axes)(to_layout(x, layout), *arguments, layout=layout, **options)
    return from_layout(y, layout)


@functools.cache
def problem(case, make=contract.random):
    [x] = make(case.name, case.x)
    y, indices = reference.max_pool(x, case.kernel_size, **case.window, dilation=case.dilation)
    [dy] = make(case.name + " dy", y.shape)
    return x, y, indices, dy


@pytest.mark.parametrize("make", [contract.random, contract.integers])  # integers: many ties
@pytest.mark.parametrize("case", cases.POOL, ids=cases.case_id)
def test_max(case, make, target):
    for layout, dtype in VARIANTS:
        x, want, want_indices, dy = problem(case, make)
        x, window = to_layout(x.astype(dtype), layout), {**case.window, "dilation": case.dilation}
        with contract.guarded(to_layout(want, layout).shape, dtype) as out:
            pool = functools.partial(op("max_pool#", case.axes), layout=layout, **window)
            y, indices = pool(x, case.kernel_size, return_indices=True, out=out)
        assert y is out
        assert indices.dtype == np.int64
        contract.assert_same_bits(from_layout(y, layout), want.astype(dtype))
        contract.assert_same_bits(from_layout(indices, layout), want_indices)
        contract.assert_same_bits(pool(x, case.kernel_size), y)

        dy = to_layout(dy.astype(dtype), layout)
        with contract.guarded(x.shape, dtype) as out:
            op("max_pool#_backward", case.axes)(dy, indices, x.shape, layout=layout, out=out)
        want_dx = reference.max_pool_backward(problem(case, make)[3], want_indices, case.x)
        scale = reference.max_pool_backward(abs(problem(case, make)[3]), want_indices, case.x)
        taps = int(np.prod(reference.per_axis(case.kernel_size, case.axes)))
        contract.assert_accurate(from_layout(out, layout), want_dx, scale, taps)


AVERAGES = [
    {},
    {"count_include_pad": False},
    {"divisor_override": 3},
    {"count_include_pad": False, "divisor_override": 7},
]


@pytest.mark.parametrize("options", AVERAGES, ids=lambda o: "-".join(o) or "plain")
@pytest.mark.parametrize("case", UNDILATED, ids=cases.case_id)
def test_average(case, options, target):
    for layout, dtype in VARIANTS:
        x, _, _, dy = problem(case)
        window, k = {**case.window, **options}, case.kernel_size
        taps = int(np.prod(reference.per_axis(k, case.axes)))
        want = reference.avg_pool(x, k, **window)
        with contract.guarded(to_layout(want, layout).shape, dtype) as out:
            op("avg_pool#", case.axes)(
                to_layout(x.astype(dtype), layout), k, layout=layout, out=out, **window
            )
        scale = reference.avg_pool(abs(x), k, **window)
        contract.assert_accurate(from_layout(out, layout), want, scale, taps)

        shape = to_layout(x, layout).shape
        with contract.guarded(shape, dtype) as out:
            op("avg_pool#_backward", case.axes)(
                to_layout(dy.astype(dtype), layout), shape, k, layout=layout, out=out, **window
            )
        want = reference.avg_pool_backward(dy, x.shape, k, **window)
        scale = reference.avg_pool_backward(abs(dy), x.shape, k, **window)
        contract.assert_accurate(from_layout(out, layout), want, scale, taps)


@pytest.mark.parametrize("count_include_pad", [True, False])
@pytest.mark.parametrize("case", UNDILATED, ids=cases.case_id)
def test_weighted_average(case, count_include_pad, target):
    for layout, dtype in VARIANTS:
        x, _, _, dy = problem(case)
        k = tuple(reference.per_axis(case.kernel_size, case.axes))
        [weights] = contract.random(case.name + " weights", k)
        weights = abs(weights) + 0.25
        window = {**case.window, "count_include_pad": count_include_pad}
        call = functools.partial(op("avg_pool#", case.axes), layout=layout, **window)
        got = call(to_layout(x.astype(dtype), layout), k, weights=weights.astype(dtype))
        want = reference.avg_pool(x, k, **window, weights=weights)
        scale = reference.avg_pool(abs(x), k, **window, weights=weights)
        # Rounding the weights and their sum adds as many roundings again.
        contract.assert_accurate(from_layout(got, layout), want, scale, 2 * weights.size + 4)

        shape = to_layout(x, layout).shape
        got = op("avg_pool#_backward", case.axes)(
            to_layout(dy.astype(dtype), layout), shape, k, **window, layout=layout,
            weights=weights.astype(dtype),
        )  # fmt: skip
        want = reference.avg_pool_backward(dy, x.shape, k, **window, weights=weights)
        scale = reference.avg_pool_backward(abs(dy), x.shape, k, **window, weights=weights)
        contract.assert_accurate(from_layout(got, layout), want, scale, 2 * weights.size + 4)


def test_equal_weights_are_the_plain_average():
    [x] = contract.random("equal weights", (2, 3, 6, 7))
    for window in ({}, {"padding": 1}, {"padding": 1, "count_include_pad": False, "stride": 2}):
        got = pc.avg_pool2d(x, 3, weights=np.full((3, 3), 5.0), **window)
        assert np.allclose(got, pc.avg_pool2d(x, 3, **window), rtol=0, atol=1e-14)


@pytest.mark.parametrize("norm", [1, 2, 3, 2.5, np.inf])
@pytest.mark.parametrize("case", UNDILATED, ids=cases.case_id)
def test_lp(case, norm, target):
    for layout, dtype in VARIANTS:
        x, _, _, dy = problem(case)
        k, window = case.kernel_size, case.window
        x_run, dy_run = (to_layout(a.astype(dtype), layout) for a in (x, dy))
        y = op("lp_pool#", case.axes)(x_run, norm, k, layout=layout, **window)
        want = reference.lp_pool(x, norm, k, **window)
        taps = int(np.prod(reference.per_axis(k, case.axes)))
        relative = (taps + 16) * contract.UNIT[np.dtype(dtype)]  # the sum, and two powers
        assert (abs(from_layout(y, layout) - want) <= relative * want).all()

        got = op("lp_pool#_backward", case.axes)(dy_run, x_run, y, norm, k, layout=layout, **window)
        want_dx = reference.lp_pool_backward(dy, x, want, norm, k, **window)
        scale = reference.lp_pool_backward(abs(dy), abs(x), want, norm, k, **window)
        assert (
            abs(from_layout(got, layout) - want_dx) <= 2 * min(norm, 3) * relative * scale
        ).all()


@pytest.mark.parametrize(("shape", "size"), cases.ADAPTIVE)
def test_adaptive(shape, size, target):
    for layout, dtype in VARIANTS:
        [x] = contract.random(f"adaptive {shape}", shape)
        axes = len(size)
        run = functools.partial(call, layout=layout)
        got = run("adaptive_avg_pool#", axes, x.astype(dtype), size)
        want = reference.avg_pool(x, size, adaptive=True)
        scale = reference.avg_pool(abs(x), size, adaptive=True)
        contract.assert_accurate(got, want, scale, int(np.prod(shape[2:])))

        want, indices = reference.max_pool(x, size, adaptive=True)
        contract.assert_same_bits(
            run("adaptive_max_pool#", axes, x.astype(dtype), size), want.astype(dtype)
        )
        [dy] = contract.random("adaptive dy", want.shape)
        dy_run, x_shape = to_layout(dy.astype(dtype), layout), to_layout(x, layout).shape
        got = op("adaptive_avg_pool#_backward", axes)(dy_run, x_shape, layout=layout)
        want = reference.avg_pool_backward(dy, x.shape, size, adaptive=True)
        scale = reference.avg_pool_backward(abs(dy), x.shape, size, adaptive=True)
        contract.assert_accurate(from_layout(got, layout), want, scale, dy.size)
        got = op("max_pool#_backward", axes)(
            dy_run, to_layout(indices, layout), x_shape, layout=layout
        )
        want = reference.max_pool_backward(dy, indices, x.shape)
        scale = reference.max_pool_backward(abs(dy), indices, x.shape)
        contract.assert_accurate(from_layout(got, layout), want, scale, dy.size)


@pytest.mark.parametrize("shape", [(2, 3, 5), (2, 3, 5, 7), (1, 2, 3, 4, 5)])
def test_global(shape):
    [x] = contract.random("global", shape)
    axes = tuple(range(2, len(shape)))
    contract.assert_same_bits(pc.global_max_pool(x), x.max(axes, keepdims=True))
    assert np.allclose(pc.global_avg_pool(x), x.mean(axes, keepdims=True), rtol=0, atol=1e-15)


@pytest.mark.parametrize("name", ["2x2", "2x3-unequal", "kernel-fills-input", "1d", "3d"])
def test_unpool_puts_maxima_back(name, target):
    for layout, dtype in VARIANTS:
        [case] = [case for case in cases.POOL if case.name == name]
        _, y, indices, _ = problem(case)
        k, stride = case.kernel_size, case.stride
        size = case.x[2:]
        got = op("max_unpool#", case.axes)(
            to_layout(y.astype(dtype), layout), to_layout(indices, layout), k, stride, case.padding,
            output_size=size, layout=layout,
        )  # fmt: skip
        contract.assert_same_bits(
            from_layout(got, layout), reference.max_unpool(y, indices, size).astype(dtype)
        )


def test_unpool_default_size():
    x = np.array([[[[1.0, 2.0], [3.0, 4.0]]]])
    y = pc.max_unpool2d(x, np.array([[[[0, 3], [8, 15]]]]), 2)
    want = np.zeros((1, 1, 4, 4))
    want.flat[[0, 3, 8, 15]] = 1, 2, 3, 4
    contract.assert_same_bits(y, want)
    assert pc.max_unpool2d(x, np.zeros((1, 1, 2, 2), np.int64), 3, 2, 1).shape == (1, 1, 3, 3)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", [2, 3])
def test_nan_wins_and_the_first_is_named(size, layout, target):
    x = np.zeros((1, 1, 6, 36), np.float32)
    x[0, 0, 1, 1::2] = np.nan
    x[0, 0, 0, 5] = np.inf
    want, want_indices = reference.max_pool(x, size)
    y, indices = op("max_pool#", 2)(to_layout(x, layout), size, return_indices=True, layout=layout)
    assert np.array_equal(from_layout(y, layout), want, equal_nan=True)
    contract.assert_same_bits(from_layout(indices, layout), want_indices)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("value", [-np.inf, np.nan, np.inf, 0.0])
def test_constant_windows_have_indices_inside(value, layout, target):
    x = np.full((2, 3, 5, 7), value, np.float32)
    y, indices = pc.max_pool2d(to_layout(x, layout), 3, 2, 1, return_indices=True, layout=layout)
    want, want_indices = reference.max_pool(x, 3, 2, 1)
    assert np.array_equal(from_layout(y, layout), want, equal_nan=True)
    contract.assert_same_bits(from_layout(indices, layout), want_indices)


@pytest.mark.parametrize("case", cases.POOL, ids=cases.case_id)
def test_output_shape(case):
    want = problem(case)[1].shape
    window = {**case.window, "dilation": case.dilation}
    assert pc.pool_output_shape(case.x, case.kernel_size, **window) == want

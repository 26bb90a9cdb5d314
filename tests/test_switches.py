"""Max pooling that keeps which tap won in a byte, as layers on the CPU do."""

import functools

import cases
import contract
import numpy as np
import pytest
from contract import VARIANTS, to_layout
from test_pool import op, problem

from pyconv import _pool


def special(name, *shapes):
    """Infinities and NaN among small whole numbers."""
    arrays = contract.integers(name, *shapes)
    for array in arrays:
        for number, value in enumerate((np.nan, np.inf, -np.inf, -np.inf)):
            array.reshape(-1)[number::7] = value
    return arrays


WIDE = [  # rows of several vectors, and one that no stack holds
    cases.PoolCase("wide-2x2", (2, 3, 6, 75), 2),
    cases.PoolCase("wide-3x3/2", (1, 3, 9, 131), 3, 2, 1),
    cases.PoolCase("wide-overlapping", (1, 2, 5, 70), 3, 1, 1),
    cases.PoolCase("wide-3x5/3", (1, 2, 8, 100), (3, 5), 3, (1, 2), 1, True),
    cases.PoolCase("wide-dilated", (1, 2, 9, 90), 3, 2, 1, 3),
    cases.PoolCase("wider", (1, 1, 4, 9000), 3, 2, 1),
]


@pytest.mark.parametrize("make", [contract.random, contract.integers, special])
@pytest.mark.parametrize("case", cases.POOL + WIDE, ids=cases.case_id)
def test_switches_carry_what_indices_carry(case, make, target, canaries):
    """The layers' way: the tap that won in a byte. Same maxima, same gradients, to the bit."""
    for layout, dtype in VARIANTS:
        x, _, _, dy = problem(case, make)
        x, dy = (to_layout(a.astype(dtype), layout) for a in (x, dy))
        window = {**case.window, "dilation": case.dilation}
        head = op("max_pool#", case.axes)
        y, indices = head(x, case.kernel_size, layout=layout, return_indices=True, **window)
        sizes = (case.kernel_size, case.stride, case.padding, case.dilation)
        options = (*sizes, None, False, case.ceil_mode, True, None, 2.0)
        rest = (case.axes, "switches")
        got, switches = _pool.pool("max", *rest, x, layout, options, return_indices=True)
        assert switches.dtype == np.uint8
        np.testing.assert_array_equal(got, y)
        want = op("max_pool#_backward", case.axes)(dy, indices, x.shape, layout=layout)
        arrays = {"dy": dy, "switches": switches}
        dx = _pool.pool_backward("max_backward", *rest, arrays, x.shape, layout, options)
        np.testing.assert_array_equal(dx, want)


def test_switches_count_at_most_256_taps():
    x = np.zeros((1, 1, 17, 17), np.float32)
    options = (None, 0, 1, None, False, False, True, None, 2.0)
    for kernel, fits in (((16, 16), True), ((17, 16), False), ((16, 17), False)):
        run = functools.partial(
            _pool.pool, "max", 2, "switches", x, "NCHW", (kernel, *options), return_indices=True
        )
        if fits:
            assert run()[1].shape == (1, 1, 1, 1)
            continue
        with pytest.raises(ValueError, match="at most 256 taps"):
            run()
    switches = np.zeros((1, 1, 8, 8), np.uint8)
    arrays = {"dy": np.zeros((1, 1, 8, 8), np.float32), "switches": switches}
    window = (2, *options)
    backward = functools.partial(_pool.pool_backward, "max", 2, "switches")
    backward(arrays, (1, 1, 16, 17), "NCHW", window)
    arrays["switches"] = switches[:, :, 1:]
    with pytest.raises(ValueError, match="switches"):
        backward(arrays, (1, 1, 16, 17), "NCHW", window)
    arrays["switches"] = switches.astype(np.int64)
    with pytest.raises(TypeError, match="switches must be uint8, got int64"):
        backward(arrays, (1, 1, 16, 17), "NCHW", window)

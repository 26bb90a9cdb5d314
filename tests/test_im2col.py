"""Windows as columns, their adjoint, index matrices, and convolutions as sparse matrices."""

import cases
import contract
import numpy as np
import pytest
from contract import DTYPES

import pyconv as pc
from pyconv import reference

PLAIN = [
    case
    for case in cases.EDGE
    if case.padding_mode == "zeros" and not case.flip and np.prod(case.x) < 2000
]


def window_of(case):
    return {"stride": case.stride, "padding": case.padding, "dilation": case.dilation}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", PLAIN, ids=cases.case_id)
def test_im2col(case, dtype, target):
    [x] = contract.random(case.name, case.x)
    got = pc.im2col(x.astype(dtype), case.w[2:], **window_of(case))
    contract.assert_same_bits(got, reference.im2col(x.astype(dtype), case.w[2:], **window_of(case)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", PLAIN, ids=cases.case_id)
def test_col2im(case, dtype, target):
    kernel, window = case.w[2:], window_of(case)
    shape = reference.im2col(np.zeros(case.x), kernel, **window).shape
    [columns] = contract.integers(case.name, shape)
    got = pc.col2im(columns.astype(dtype), case.x, kernel, **window)
    want = reference.col2im(columns, case.x, kernel, **window)
    contract.assert_same_bits(got, want.astype(dtype))


@pytest.mark.parametrize("case", PLAIN, ids=cases.case_id)
def test_adjoint(case):
    kernel, window = case.w[2:], window_of(case)
    [x] = contract.random(case.name, case.x)
    columns = pc.im2col(x, kernel, **window)
    [dy] = contract.random(case.name + " columns", columns.shape)
    left, right = np.sum(columns * dy), np.sum(x * pc.col2im(dy, case.x, kernel, **window))
    assert abs(left - right) <= 1e-12 * np.sum(abs(columns * dy))


@pytest.mark.parametrize("case", [c for c in PLAIN if c.axes == 2], ids=cases.case_id)
def test_index_matrix(case):
    got = pc.im2col_indices(case.x[2:], case.w[2:], **window_of(case))
    contract.assert_same_bits(
        got, reference.im2col_indices(case.x[2:], case.w[2:], **window_of(case))
    )


@pytest.mark.parametrize("case", [c for c in PLAIN if c.axes == 2 and c.x[0]], ids=cases.case_id)
def test_matrix_of_a_convolution(case):
    pytest.importorskip("scipy", reason="pip install 'pyconv-engine[scipy]'")
    x, w = contract.integers(case.name, (1, *case.x[1:]), case.w)
    matrix = pc.conv_matrix(w, case.x[1:], **window_of(case), groups=case.groups)
    y = pc.conv2d(x, w, **window_of(case), groups=case.groups)
    assert matrix.shape == (y.size, x.size)
    assert matrix.format == "csr"
    contract.assert_same_bits(matrix @ x.ravel(), y.ravel())


def test_the_matrix_is_doubly_blocked_toeplitz():
    """One channel, stride 1: constant along diagonals of blocks, and inside each block."""
    pytest.importorskip("scipy", reason="pip install 'pyconv-engine[scipy]'")
    w = np.arange(1.0, 7.0).reshape(1, 1, 2, 3)
    matrix = pc.conv_matrix(w, (1, 4, 5)).toarray().reshape(3, 3, 4, 5)  # p, q, h, w
    for p in range(3):
        for q in range(3):
            want = np.zeros((4, 5))
            want[p : p + 2, q : q + 3] = w[0, 0]
            contract.assert_same_bits(matrix[p, q], want)

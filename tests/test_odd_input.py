"""Odd but legal input: the rows of test_bad_input's list whose answer is a result.

Or MemoryError, which says how much memory was asked for.
"""

import contract
import numpy as np
import pytest

import pyconv as pc
from pyconv import _core, reference

F32 = np.float32
X, W = np.ones((1, 2, 6, 7), F32), np.ones((4, 2, 3, 2), F32)
DY = np.ones((1, 4, 4, 6), F32)
X3, W3 = np.ones((1, 2, 4, 5, 6), F32), np.ones((3, 2, 2, 2, 2), F32)
WT = np.ones((2, 3, 3, 3), F32)  # transposed: (C, K, R, S)


@pytest.mark.parametrize("step", [2**31 - 1, 2**31, 2**32, 2**32 + 1, 2**62, 2**63 - 1])
@pytest.mark.parametrize("algorithm", ["direct", "gemm"])
def test_row_3_and_17_huge_stride_gives_one_output(step, algorithm):
    y = pc.conv2d(X, W, stride=step, algorithm=algorithm)
    contract.assert_same_bits(y, np.full((1, 4, 1, 1), 12, F32))
    dx, dw, db = pc.conv2d_backward(np.ones_like(y), X, W, stride=step, algorithm=algorithm)
    assert dx.sum() == dx[:, :, :3, :2].sum() == 48
    assert (dw == 1).all()
    assert (db == 1).all()
    assert pc.max_pool2d(X, 2, step).shape == (1, 2, 1, 1)
    assert pc.max_pool2d(X, 2, step, ceil_mode=True).shape == (1, 2, 1, 1)
    assert pc.avg_pool2d(X, 2, step).shape == (1, 2, 1, 1)
    assert pc.conv_transpose2d(X[:, :, :1, :1], WT, stride=step).shape == (1, 3, 3, 3)
    assert pc.im2col(X, 2, stride=step).shape == (1, 8, 1)


@pytest.mark.parametrize("stride", [2**31 + 5, 2**62])
def test_row_17_strides_into_the_padding(stride):
    """The second output lies 2^31 or more pixels away, all of it padding."""
    x, w = np.ones((1, 2, 7), F32), np.ones((4, 2, 2), F32)
    y = pc.conv1d(x, w, stride=stride, padding=((0, stride),))
    contract.assert_same_bits(y, np.array([[[4, 0]] * 4], F32))


@pytest.mark.parametrize("algorithm", ["direct", "gemm"])
@pytest.mark.parametrize("padding", [2**31, 2**32, 2**61])
def test_row_17_huge_stride_and_padding(padding, algorithm):
    """One output, which lies in the padding: clipping its window must not add the stride."""
    x, w = np.ones((1, 2, 7), F32), np.ones((4, 2, 2), F32)
    y = pc.conv1d(x, w, stride=2**63 - 1, padding=padding, algorithm=algorithm)
    contract.assert_same_bits(y, np.zeros((1, 4, 1), F32))
    dx, dw, db = pc.conv1d_backward(y + 1, x, w, stride=2**63 - 1, padding=padding)
    assert not dx.any()
    assert not dw.any()
    assert db.tolist() == [1, 1, 1, 1]
    columns = pc.im2col(x, 2, stride=2**63 - 1, padding=padding)
    contract.assert_same_bits(columns, np.zeros((1, 4, 1), F32))


@pytest.mark.parametrize("algorithm", ["auto", "direct", "gemm"])
def test_row_6_and_43_empty_batch(algorithm):
    x, dy = X[:0], DY[:0]
    assert pc.conv2d(x, W, algorithm=algorithm).shape == (0, 4, 4, 6)
    dx, dw, db = pc.conv2d_backward(dy, x, W, algorithm=algorithm)
    assert dx.shape == x.shape
    assert (dw == 0).all()
    assert (db == 0).all()
    assert dw.shape == W.shape
    dx, dw, db = pc.conv3d_backward(np.ones((0, 3, 3, 4, 5), F32), X3[:0], W3)  # row 23
    assert dx.shape == (0, 2, 4, 5, 6)
    assert (dw == 0).all()
    assert pc.conv_transpose2d(x, WT).shape == (0, 3, 8, 9)
    y, indices = pc.max_pool2d(x, 2, return_indices=True)
    assert y.shape == indices.shape == (0, 2, 3, 3)
    assert pc.max_pool2d_backward(y, indices, x.shape).shape == x.shape
    assert pc.avg_pool2d_backward(y, x.shape, 2).shape == x.shape
    assert pc.lp_pool2d(x, 2, 2).shape == (0, 2, 3, 3)
    assert pc.lp_pool2d_backward(y, x, y, 2, 2).shape == x.shape
    assert pc.adaptive_avg_pool2d(x, 3).shape == (0, 2, 3, 3)
    assert pc.adaptive_avg_pool2d_backward(y, x.shape).shape == x.shape
    assert pc.global_max_pool(x).shape == (0, 2, 1, 1)
    assert pc.max_unpool2d(y, indices, 2).shape == (0, 2, 6, 6)
    assert pc.im2col(x, 2).shape == (0, 8, 30)


def test_row_14_more_memory_than_there_is_says_how_much():
    x = np.ones((1, 1, 2, 2), F32)
    with pytest.raises(MemoryError, match=r"\d+(\.\d*)? ?([KMGTPE]i?B|bytes)"):
        pc.conv2d(x, np.ones((1, 1, 1, 1), F32), padding=2**22)  # 2^46 pixels
    with pytest.raises(MemoryError, match=r"\d+(\.\d*)? ?([KMGTPE]i?B|bytes)"):
        pc.adaptive_avg_pool2d(x, 2**22)  # row 36


def test_row_15_columns_beyond_2_to_the_31_are_counted_in_64_bits():
    plan = _core.plan_conv(
        "im2col", 2, "im2col", False, "float32", "NCHW", (1, 1, 60007, 60007), (1, 1, 8, 8), None,
        None, None, 1, 0, 1, 1, "zeros", False, None, "auto", 0, None, False, False,
    )  # fmt: skip
    assert plan.output_shape == (1, 64, 60000 * 60000)


def test_row_16_tensors_beyond_2_to_the_31_elements():
    """Sizes only; the values are checked where there is memory for them (--slow)."""
    assert pc.conv_output_shape((70000, 3, 224, 224), (64, 3, 3, 3), padding=1) == (
        70000, 64, 224, 224,
    )  # fmt: skip
    assert pc.pool_output_shape((70000, 64, 224, 224), 2) == (70000, 64, 112, 112)


def test_row_16_values_beyond_2_to_the_31_elements(request):
    if not request.config.getoption("--slow"):
        pytest.skip("needs 18 GB and --slow; on a GPU it needs the CUDA module")
    try:
        x = np.zeros((2, 1, 32768, 32769), F32)
    except MemoryError:
        pytest.skip("needs 18 GB of memory")
    x[1, 0, -1, -5:] = 1, 2, 3, 4, 5
    y = pc.max_pool2d(x, (1, 1))
    contract.assert_same_bits(y[1, 0, -1, -5:], x[1, 0, -1, -5:])
    del y
    y = pc.conv2d(x, np.ones((1, 1, 1, 3), F32))
    assert y[1, 0, -1, -3:].tolist() == [6, 9, 12]


@pytest.mark.parametrize("algorithm", ["direct", "gemm"])
def test_row_18_large_padding(algorithm):
    x, w = contract.integers("row 18", (2, 3, 2, 3), (5, 3, 3, 3))
    y = pc.conv2d(x.astype(F32), w.astype(F32), padding=(100, 300), algorithm=algorithm)
    contract.assert_same_bits(y, reference.conv(x, w, None, 1, (100, 300)).astype(F32))


@pytest.mark.parametrize("algorithm", ["direct", "gemm"])
def test_row_19_and_54_views_give_what_their_copies_give(algorithm):
    x, w = contract.random("row 19", (2, 6, 9, 8), (8, 6, 4, 4))
    for x_view, w_view in [
        (x[:, ::2], w[::2, ::-2, ::-1]),
        (x[::-1, :3, ::-1, ::-1], w[:, :3].transpose(0, 1, 3, 2)),
        (np.broadcast_to(x[:1, :1], x.shape), np.broadcast_to(w[:, :1], w.shape)),
        (x.astype(">f8"), w.astype(">f8")),
        (np.asfortranarray(x), np.asfortranarray(w)),
    ]:
        want = pc.conv2d(np.array(x_view, "f8"), np.array(w_view, "f8"), algorithm=algorithm)
        contract.assert_same_bits(pc.conv2d(x_view, w_view, algorithm=algorithm), want)


def test_row_29_output_padding_below_dilation():
    x, w = contract.integers("row 29", (1, 2, 4, 5), (2, 3, 3, 3))
    y = pc.conv_transpose2d(x, w, output_padding=2, dilation=3)
    contract.assert_same_bits(y, reference.conv_transpose(x, w, None, 1, 0, 2, 1, 3))


def test_row_34_dilation_of_a_window_of_one():
    contract.assert_same_bits(pc.max_pool2d(X, 1, dilation=2**31 - 1), X)
    contract.assert_same_bits(pc.max_pool2d(X, 1, dilation=2**63 - 1), X)


def test_row_37_uneven_ordinary_sizes():
    [x] = contract.random("row 37", (1, 1, 5877, 3697))
    x = x.astype(F32)
    y = pc.adaptive_avg_pool2d(x, (2855, 1))
    top = pc.adaptive_max_pool2d(x, (2855, 1))
    for o in (0, 1, 1427, 2853, 2854):
        rows = x[0, 0, o * 5877 // 2855 : -(-(o + 1) * 5877 // 2855)]
        assert abs(y[0, 0, o, 0] - rows.mean(dtype=float)) < 1e-5
        assert top[0, 0, o, 0] == rows.max()


def test_row_38_and_39_windows_of_infinities_and_nans():
    x = np.full((1, 1, 4, 6), -np.inf, F32)
    x[..., 2:4] = np.nan
    x[..., 4:] = 3
    x[0, 0, 1, 5] = np.nan
    y, indices = pc.max_pool2d(x, 2, return_indices=True)
    assert np.array_equal(
        y[0, 0], [[-np.inf, np.nan, np.nan], [-np.inf, np.nan, 3]], equal_nan=True
    )
    assert indices[0, 0].tolist() == [[0, 2, 11], [12, 14, 16]]


def test_row_53_touching_is_not_overlapping():
    memory = np.ones(84 + 96, F32)
    x, out = memory[:84].reshape(X.shape), memory[84:].reshape(DY.shape)
    contract.assert_same_bits(pc.conv2d(x, W, out=out), pc.conv2d(X, W))


def test_row_54_unaligned():
    memory = np.zeros(X.nbytes + 1, np.uint8)
    x = memory[1:].view(F32).reshape(X.shape)
    x[...] = X
    assert not x.flags.aligned
    contract.assert_same_bits(pc.conv2d(x, W), pc.conv2d(X, W))


@pytest.mark.parametrize("integer", [np.int64(2), np.uint8(2), np.int32(2)])
def test_row_55_numpy_integers_are_integers(integer):
    contract.assert_same_bits(pc.conv2d(X, W, stride=integer), pc.conv2d(X, W, stride=2))
    contract.assert_same_bits(pc.max_pool2d(X, integer), pc.max_pool2d(X, 2))

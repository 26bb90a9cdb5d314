"""Rows 1 to 55 of the list of inputs that crashed other libraries: each is an error here, or right.

The row's number starts the id. An error is ValueError for a number or shape, TypeError for a type,
and its text names the operation, the argument, the value, and the shapes.
"""

import numpy as np
import pytest

import pyconv as pc
from pyconv import _core

F32 = np.float32
X, W = np.ones((1, 2, 6, 7), F32), np.ones((4, 2, 3, 2), F32)
DY = np.ones((1, 4, 4, 6), F32)
X3, W3 = np.ones((1, 2, 4, 5, 6), F32), np.ones((3, 2, 2, 2, 2), F32)
WT = np.ones((2, 3, 3, 3), F32)  # transposed: (C, K, R, S)
SHAPES = ("(1, 2, 6, 7)", "(4, 2, 3, 2)")
HUGE = 2**62


def bad(row, what, error, call, *words):
    return pytest.param(call, error, words, id=f"row {row}: {what}")


CONVOLUTION = [
    bad(1, "stride 0", ValueError, lambda: pc.conv2d(X, W, stride=0), "stride (=0)", *SHAPES),
    bad(1, "stride 0 on one axis", ValueError, lambda: pc.conv2d(X, W, stride=(1, 0)),
        "stride[1] (=0)", *SHAPES),
    bad(2, "stride -1", ValueError, lambda: pc.conv2d(X, W, stride=-1), "stride (=-1)", *SHAPES),
    bad(4, "empty filter", ValueError, lambda: pc.conv2d(X, W[:, :, :0]), "w.shape[2] (=0)",
        "(4, 2, 0, 2)"),
    bad(4, "no filters", ValueError, lambda: pc.conv2d(X, W[:0]), "w.shape[0] (=0)"),
    bad(5, "empty H", ValueError, lambda: pc.conv2d(X[:, :, :0], W), "(1, 2, 0, 7)"),
    bad(5, "empty W, valid", ValueError,
        lambda: pc.conv2d(X[:, :, :, :0], W, padding="valid"), "(1, 2, 6, 0)"),
    bad(5, "empty W, padded", ValueError, lambda: pc.conv2d(X[:, :, :, :0], W, padding=3),
        "(1, 2, 6, 0)"),
    bad(5, "no channels", ValueError, lambda: pc.conv2d(X[:, :0], W), "in_channels (=0)"),
    bad(7, "kernel exceeds input", ValueError, lambda: pc.conv2d(X, np.ones((4, 2, 7, 2), F32)),
        "extent 7", "(6)", "(4, 2, 7, 2)"),
    bad(7, "kernel exceeds padded input", ValueError,
        lambda: pc.conv2d(X, np.ones((4, 2, 9, 2), F32), padding=1), "extent 9", "(8)"),
    bad(8, "2-D weight", ValueError, lambda: pc.conv2d(X, W[0, 0]), "w must have 4 dimensions",
        "got 2", "(3, 2)"),
    bad(8, "3-D input", ValueError, lambda: pc.conv2d(X[0], W), "x must have 4 dimensions",
        "got 3", "batched"),
    bad(8, "5-D input", ValueError, lambda: pc.conv2d(X3, W), "x must have 4 dimensions", "got 5"),
    bad(9, "x None", TypeError, lambda: pc.conv2d(None, W), "x must be an array", "None"),
    bad(9, "w None", TypeError, lambda: pc.conv2d(X, None), "w must be an array", "None"),
    bad(10, "groups 0", ValueError, lambda: pc.conv2d(X, W, groups=0), "groups (=0)", *SHAPES),
    bad(10, "groups -1", ValueError, lambda: pc.conv2d(X, W, groups=-1), "groups (=-1)"),
    bad(10, "in_channels not divisible", ValueError,
        lambda: pc.conv2d(np.ones((1, 6, 8, 8), F32), np.ones((4, 2, 3, 3), F32), groups=4),
        "in_channels (=6) must be divisible by groups (=4)", "(1, 6, 8, 8)", "(4, 2, 3, 3)"),
    bad(10, "out_channels not divisible", ValueError,
        lambda: pc.conv2d(X, np.ones((3, 1, 3, 3), F32), groups=2),
        "out_channels (=3) must be divisible by groups (=2)"),
    bad(10, "channels disagree", ValueError, lambda: pc.conv2d(X, np.ones((4, 3, 3, 3), F32)),
        "w.shape[1] (=3)", "in_channels / groups"),
    bad(11, "filter without channels", ValueError, lambda: pc.conv2d(X, W[:, :0]),
        "w.shape[1] (=0)"),
    bad(12, "dilation 2^29", ValueError, lambda: pc.conv2d(X, W, dilation=2**29), "extent",
        f"{2**29}", *SHAPES),
    bad(12, "dilation 2^62", ValueError, lambda: pc.conv2d(X, W, dilation=HUGE), f"{HUGE}"),
    bad(12, "dilation 0", ValueError, lambda: pc.conv2d(X, W, dilation=0), "dilation (=0)"),
    bad(13, "padding 2^62", ValueError, lambda: pc.conv2d(X, W, padding=HUGE), "overflows"),
    bad(13, "padding 2^62, kernel 2^32", ValueError,
        lambda: pc.conv_output_shape((1, 1, 4, 4, 4), (1, 1, 2**32, 2**32, 2**32), padding=HUGE),
        "overflows"),
    bad(13, "padding -1", ValueError, lambda: pc.conv2d(X, W, padding=-1), "padding", "(=-1)"),
    bad(14, "1879048192 squared", ValueError,
        lambda: pc.plan_conv((1, 1, 1879048192, 1879048192), (1, 1, 3, 3)), "overflows"),
    bad(14, "one dimension of 2^63 - 1", ValueError,
        lambda: pc.plan_conv((1, 1, 2, 2**63 - 1), (1, 1, 1, 1)), "overflows"),
    bad(14, "a dimension beyond 64 bits", ValueError,
        lambda: pc.plan_conv((1, 1, 2, 2**64), (1, 1, 1, 1)), "x", "64 bits"),
    bad(17, "an empty batch hides nothing", ValueError,
        lambda: pc.plan_conv((0, 2**40, 2**20, 2**20), (1, 2**40, 1, 1)), "overflows"),
    bad(18, "reflect beyond the input", ValueError,
        lambda: pc.conv2d(X, W, padding=6, padding_mode="reflect"), "padding[0] (=6)", "reflect"),
    bad(18, "a pair of integers in 1-D", ValueError,
        lambda: pc.conv1d(np.ones((1, 2, 5), F32), np.ones((1, 2, 3), F32), padding=(1, 2)),
        "((1, 2),)"),
    bad(18, "triples", ValueError, lambda: pc.conv2d(X, W, padding=((1, 2, 3), (1, 2, 3))),
        "(before, after)"),
    bad(18, "ints among pairs", ValueError, lambda: pc.conv2d(X, W, padding=(1, (1, 2))),
        "padding"),
    bad(18, "unknown padding", ValueError, lambda: pc.conv2d(X, W, padding="half"), "padding",
        "half", "same_lower"),
    bad(18, "unknown padding_mode", ValueError, lambda: pc.conv2d(X, W, padding_mode="mirror"),
        "padding_mode", "mirror", "symmetric"),
    bad(18, "unknown layout", ValueError, lambda: pc.conv2d(X, W, layout="CHWN"), "layout", "CHWN"),
    bad(18, "unknown activation", ValueError, lambda: pc.conv2d(X, W, activation="softmax"),
        "activation", "softmax", "relu"),
    bad(18, "unknown algorithm", ValueError, lambda: pc.conv2d(X, W, algorithm="magic"),
        "algorithm", "magic", "direct"),
]  # fmt: skip

GRADIENTS = [
    bad(21, "empty dy", ValueError, lambda: pc.conv2d_backward(DY[:, :0], X, W),
        "dy must have shape (1, 4, 4, 6)", *SHAPES),
    bad(21, "empty batch of dy", ValueError, lambda: pc.conv2d_backward(DY[:0], X, W),
        "dy must have shape (1, 4, 4, 6)", "(0, 4, 4, 6)"),
    bad(22, "dy too large", ValueError,
        lambda: pc.conv2d_backward(np.ones((1, 4, 5, 6), F32), X, W),
        "dy must have shape (1, 4, 4, 6)", "(1, 4, 5, 6)"),
    bad(22, "x and w disagree", ValueError,
        lambda: pc.conv2d_backward(DY, X, np.ones((4, 3, 3, 2), F32)), "w.shape[1] (=3)"),
    bad(22, "dy of other rank", ValueError, lambda: pc.conv2d_backward(DY[0], X, W), "dy"),
    bad(23, "empty 3-D", ValueError,
        lambda: pc.conv3d_backward(np.ones((1, 3, 0, 4, 5), F32), X3[:, :, :0], W3),
        "(1, 2, 0, 5, 6)"),
    bad(24, "input_sizes against filter", ValueError,
        lambda: pc.conv2d_backward(DY, (1, 3, 6, 7), W, needs=("x",)), "w.shape[1] (=2)",
        "(1, 3, 6, 7)"),
    bad(24, "input_sizes against dy", ValueError,
        lambda: pc.conv2d_backward(DY, (1, 2, 60, 7), W, needs=("x",)), "dy must have shape"),
    bad(24, "input_sizes negative", ValueError,
        lambda: pc.conv2d_backward(DY, (1, 2, -6, 7), W, needs=("x",)), "(=-6)"),
    bad(24, "input_sizes overflow", ValueError,
        lambda: pc.conv2d_backward(DY, (1, 2, HUGE, HUGE), W, needs=("x",)), "overflows"),
    bad(25, "dilation of length 5", ValueError,
        lambda: pc.conv2d_backward(DY, X, W, dilation=(1, 1, 1, 1, 1)), "dilation", "length 5"),
    bad(25, "stride 0, depthwise", ValueError,
        lambda: pc.conv2d_backward(DY[:, :2], X, W[:2, :1], stride=0, groups=2), "stride (=0)"),
    bad(26, "filter_sizes of wrong rank", ValueError,
        lambda: pc.conv2d_backward(DY, X, (4, 2, 3), needs=("w",)), "w must have 4 dimensions"),
    bad(26, "filter_sizes negative", ValueError,
        lambda: pc.conv2d_backward(DY, X, (4, 2, -3, 2), needs=("w",)), "w.shape[2] (=-3)"),
    bad(26, "needs something else", ValueError,
        lambda: pc.conv2d_backward(DY, X, W, needs=("dx",)), "needs", "dx"),
    bad(27, "zero dimension, transposed 3-D", ValueError,
        lambda: pc.conv_transpose3d(X3[:, :, :0], np.ones((2, 3, 2, 2, 2), F32)),
        "(1, 2, 0, 5, 6)"),
    bad(27, "zero filter, transposed 3-D", ValueError,
        lambda: pc.conv_transpose3d(X3, np.ones((2, 3, 0, 2, 2), F32)), "w.shape[2] (=0)"),
    bad(27, "padding eats the output", ValueError,
        lambda: pc.conv_transpose2d(X, WT, padding=9), "output size", "(1, 2, 6, 7)"),
    bad(28, "transposed, stride 0", ValueError, lambda: pc.conv_transpose2d(X, WT, stride=0),
        "stride (=0)", "(1, 2, 6, 7)", "(2, 3, 3, 3)"),
    bad(29, "output_padding is stride", ValueError,
        lambda: pc.conv_transpose2d(X, WT, stride=2, output_padding=2), "output_padding", "(=2)",
        "stride (=2)"),
    bad(29, "output_padding huge", ValueError,
        lambda: pc.conv_transpose2d(X, WT, output_padding=HUGE), "output_padding"),
    bad(29, "output_padding huge, dilation huge", ValueError,
        lambda: pc.conv_transpose2d(X, WT, output_padding=HUGE, dilation=HUGE + 1), "overflows"),
    bad(29, "output_padding -1", ValueError,
        lambda: pc.conv_transpose2d(X, WT, output_padding=-1), "output_padding", "(=-1)"),
    bad(29, "channels of a transposed filter", ValueError,
        lambda: pc.conv_transpose2d(X, W), "w.shape[0] (=4)", "in_channels (=2)"),
]  # fmt: skip

P = np.ones((1, 2, 6, 7), F32)
INDICES = np.zeros((1, 2, 3, 3), np.int64)
DP = np.ones((1, 2, 3, 3), F32)
K_PT73190 = 1250999896764

POOLING = [
    bad(31, "window 0", ValueError, lambda: pc.max_pool2d(P, 0), "kernel_size (=0)",
        "(1, 2, 6, 7)"),
    bad(31, "window 0 on one axis", ValueError, lambda: pc.avg_pool2d(P, (2, 0)),
        "kernel_size[1] (=0)"),
    bad(31, "window -2", ValueError, lambda: pc.max_pool2d(P, -2), "kernel_size (=-2)"),
    bad(32, "stride 0", ValueError, lambda: pc.max_pool2d(P, 2, 0), "stride (=0)", "(1, 2, 6, 7)"),
    bad(32, "stride 0, average", ValueError, lambda: pc.avg_pool2d(P, 2, (0, 1)), "stride[0] (=0)"),
    bad(32, "stride 0, lp", ValueError, lambda: pc.lp_pool2d(P, 2, 2, 0), "stride (=0)"),
    bad(33, "kernel = dilation = 1.25e12", ValueError,
        lambda: pc.max_pool1d(P[0], K_PT73190, dilation=K_PT73190), "overflows", str(K_PT73190)),
    bad(34, "dilation 2^31 - 1", ValueError,
        lambda: pc.max_pool2d(P, 2, dilation=2**31 - 1), str(2**31)),
    bad(34, "dilation 0", ValueError, lambda: pc.max_pool2d(P, 2, dilation=0), "dilation (=0)"),
    bad(35, "a dimension of 4.6e18 beside a zero", ValueError,
        lambda: pc.pool_output_shape((1, 2, 0, 4611686018427387904), 1), "shape[2] (=0)"),
    bad(35, "empty batch, dimensions of 4.6e18", ValueError,
        lambda: pc.pool_output_shape((0, 2, 4611686018427387904, 8), 1), "overflows"),
    bad(36, "adaptive output 2^62", ValueError, lambda: pc.adaptive_avg_pool2d(P, HUGE),
        "overflows"),
    bad(36, "adaptive output 0", ValueError, lambda: pc.adaptive_max_pool2d(P, (0, 2)),
        "output_size[0] (=0)"),
    bad(40, "padding beyond half the window", ValueError, lambda: pc.max_pool2d(P, 3, padding=2),
        "padding", "(=2)", "half the window"),
    bad(40, "padding beyond half the window, average", ValueError,
        lambda: pc.avg_pool2d(P, 2, padding=(0, 2)), "padding[1] (=2)", "half the window"),
    bad(40, "a dilated window wholly in the padding", ValueError,
        lambda: pc.max_pool2d(P[:, :, :1], 2, padding=(1, 0), dilation=2), "dilation"),
    bad(40, "window exceeds input", ValueError, lambda: pc.max_pool2d(P, 8), "kernel_size",
        "(=8)"),
    bad(40, "divisor 0", ValueError, lambda: pc.avg_pool2d(P, 2, divisor_override=0),
        "divisor_override (=0)"),
    bad(40, "norm 0", ValueError, lambda: pc.lp_pool2d(P, 0, 2), "norm_type (=0)"),
    bad(40, "norm NaN", ValueError, lambda: pc.lp_pool2d(P, float("nan"), 2), "norm_type"),
    bad(40, "weights of another shape", ValueError,
        lambda: pc.avg_pool2d(P, 2, weights=np.ones((2, 3), F32)), "weights must have shape (2, 2)",
        "(2, 3)"),
    bad(40, "weights that sum to zero", ValueError,
        lambda: pc.avg_pool2d(P, (1, 2), weights=np.array([[1, -1]], F32)), "weights"),
]  # fmt: skip


def indices_with(value):
    indices = INDICES.copy()
    indices[0, 1, 2, 1] = value
    return indices


POOLING_GRADIENTS = [
    *[
        bad(41, f"index {value}", ValueError,
            lambda value=value: pc.max_pool2d_backward(DP, indices_with(value), P.shape),
            f"{value}", "42")
        for value in (-1, 42, 2**31, -(2**63), 2**63 - 1)
    ],
    *[
        bad(41, f"index {value}, unpooling", ValueError,
            lambda value=value: pc.max_unpool2d(DP, indices_with(value), 2),
            f"{value}", "36")
        for value in (-1, 36, 2**62)
    ],
    bad(42, "indices and dy differ", ValueError,
        lambda: pc.max_pool2d_backward(DP, INDICES[:, :, :2], P.shape), "indices",
        "(1, 2, 3, 3)", "(1, 2, 2, 3)"),
    bad(42, "indices of unpooling differ", ValueError,
        lambda: pc.max_unpool2d(DP, INDICES[:, :1], 2), "indices", "(1, 1, 3, 3)"),
    bad(42, "dy of an average differs", ValueError,
        lambda: pc.avg_pool2d_backward(DP, (1, 2, 6, 9), 2), "dy must have shape (1, 2, 3, 4)"),
    bad(44, "N differs", ValueError,
        lambda: pc.max_pool2d_backward(DP, INDICES, (2, 2, 6, 7)), "batch", "(2, 2, 6, 7)"),
    bad(44, "C differs", ValueError,
        lambda: pc.max_pool2d_backward(DP, INDICES, (1, 3, 6, 7)), "channels", "(1, 3, 6, 7)"),
    bad(44, "C differs, average", ValueError,
        lambda: pc.avg_pool2d_backward(DP, (1, 3, 6, 6), 2), "dy must have shape (1, 3, 3, 3)"),
    bad(44, "y of lp differs", ValueError,
        lambda: pc.lp_pool2d_backward(DP, P[..., :6], DP[..., :2], 2, 2), "y"),
    bad(45, "empty dy", ValueError,
        lambda: pc.max_pool2d_backward(DP[:, :, :0], INDICES[:, :, :0], P.shape), "(1, 2, 0, 3)"),
    bad(45, "empty input_shape", ValueError,
        lambda: pc.max_pool2d_backward(DP, INDICES, (1, 2, 0, 7)), "(1, 2, 0, 7)"),
    bad(45, "empty input_shape, average", ValueError,
        lambda: pc.avg_pool2d_backward(DP, (1, 2, 6, 0), 2), "(1, 2, 6, 0)"),
    bad(47, "window 0", ValueError, lambda: pc.avg_pool2d_backward(DP, P.shape, 0),
        "kernel_size (=0)"),
    bad(47, "stride 0", ValueError, lambda: pc.avg_pool2d_backward(DP, P.shape, 2, 0),
        "stride (=0)"),
    bad(48, "input_shape overflows", ValueError,
        lambda: pc.max_pool2d_backward(DP, INDICES, (1, 2, HUGE, HUGE)), "overflows"),
    bad(48, "input_shape overflows, adaptive", ValueError,
        lambda: pc.adaptive_avg_pool2d_backward(DP, (1, 2, HUGE, HUGE)), "overflows"),
    bad(48, "input_shape of wrong rank", ValueError,
        lambda: pc.max_pool2d_backward(DP, INDICES, (2, 6, 7)), "dimensions", "(2, 6, 7)"),
    bad(49, "a fractional window", TypeError, lambda: pc.avg_pool2d(P, 1.5), "kernel_size", "1.5"),
    bad(49, "a fractional output", TypeError, lambda: pc.adaptive_avg_pool2d(P, 2.5),
        "output_size", "2.5"),
    bad(50, "unpool, negative size", ValueError,
        lambda: pc.max_unpool2d(DP, INDICES, 2, output_size=(-5, 6)), "output_size[0] (=-5)"),
    bad(50, "unpool, a size no pooling comes from", ValueError,
        lambda: pc.max_unpool2d(DP, INDICES, 2, output_size=(9, 6)), "output_size[0] (=9)"),
    bad(50, "unpool, default size below one", ValueError,
        lambda: pc.max_unpool2d(DP[:, :, :1], INDICES[:, :, :1], 2, padding=1), "output_size",
        "(=0)"),
]  # fmt: skip


class OnDevice:
    """An array of a device of the given DLPack kind."""

    shape, dtype = (1, 2, 6, 7), np.dtype(F32)

    def __init__(self, device):
        self.device = device

    def __dlpack_device__(self):
        return self.device, 0

    def __dlpack__(self, **_):
        raise BufferError("not on the host")


class Used(OnDevice):
    """An array whose DLPack capsule has been taken already."""

    def __init__(self):
        super().__init__(1)
        self.capsule = X.__dlpack__()
        np.from_dlpack(self)

    def __dlpack__(self, **_):
        return self.capsule


def overlapping():
    memory = np.ones(100 * 84, F32)
    return memory[:84].reshape(X.shape), memory[83 : 83 + 96].reshape(DY.shape)


def readonly(shape):
    out = np.zeros(shape, F32)
    out.flags.writeable = False
    return out


B = np.ones(4, F32)
NO_INTEGERS = [  # and what the text says of it
    (True, "True"), (1.0, "1.0"), (float("nan"), "nan"), (None, "None"), (1j, "1j"), (int, "int"),
    ((2, True), "True"), ((2.0, 1), "2.0"), ((None, 1), "None"), ([1, "2"], "'2'"),
]  # fmt: skip
INTEROP = [
    bad(51, "empty bias", ValueError, lambda: pc.conv2d(X, W, B[:0]), "b must have shape (4,)",
        "(0,)", *SHAPES),
    bad(51, "bias of rank 0", ValueError, lambda: pc.conv2d(X, W, np.array(1, F32)),
        "b must have shape (4,)"),
    bad(51, "bias of rank 2", ValueError, lambda: pc.conv2d(X, W, B[None]),
        "b must have shape (4,)", "(1, 4)"),
    bad(51, "bias too long", ValueError, lambda: pc.conv2d(X, W, np.ones(5, F32)),
        "b must have shape (4,)", "(5,)"),
    bad(51, "bias of a transposed convolution", ValueError,
        lambda: pc.conv_transpose2d(X, WT, np.ones(2, F32)), "b must have shape (3,)"),
    bad(51, "residual of another shape", ValueError, lambda: pc.conv2d(X, W, residual=X),
        "residual must have shape (1, 4, 4, 6)"),
    bad(52, "a bare capsule", TypeError, lambda: pc.conv2d(X.__dlpack__(), W), "x", "PyCapsule"),
    bad(52, "a used capsule", (TypeError, ValueError), lambda: pc.conv2d(Used(), W), ""),
    bad(52, "an unknown device", TypeError, lambda: pc.conv2d(OnDevice(10), W), "x", "device 10"),
    bad(53, "read-only out", ValueError, lambda: pc.conv2d(X, W, out=readonly(DY.shape)),
        "out", "writable"),
    bad(53, "out of another shape", ValueError, lambda: pc.conv2d(X, W, out=np.zeros((1,), F32)),
        "out", "(1,)", "(1, 4, 4, 6)"),
    bad(53, "out is x", ValueError, lambda: pc.max_pool2d(X, 1, out=X), "out", "share memory"),
    bad(53, "out overlaps x", ValueError,
        lambda: (lambda x, out: pc.conv2d(x, W, out=out))(*overlapping()), "out", "share memory"),
    bad(53, "out of another dtype", TypeError, lambda: pc.conv2d(X, W, out=DY.astype("f8")), "out",
        "float64"),
    *[
        bad(55, f"x of dtype {dtype}", TypeError, lambda dtype=dtype: pc.conv2d(X.astype(dtype), W),
            "x", "float32 or float64")
        for dtype in ("O", "U4", "i4", "u1", "?", "c8", "f2", "M8[s]")
    ],
    bad(55, "w of another dtype", TypeError, lambda: pc.conv2d(X, W.astype("f8")), "x is float32",
        "w is float64"),
    bad(55, "b of another dtype", TypeError, lambda: pc.conv2d(X, W, B.astype("f8")),
        "b is float64"),
    bad(55, "a list", TypeError, lambda: pc.conv2d(X.tolist(), W), "x must be an array", "list"),
    bad(55, "a string", TypeError, lambda: pc.conv2d("x", W), "x must be an array", "str"),
    bad(55, "indices of int32", TypeError,
        lambda: pc.max_pool2d_backward(DP, INDICES.astype(np.int32), P.shape), "indices", "int32"),
    *[
        bad(55, f"{name} {value!r}", TypeError,
            lambda name=name, value=value: pc.conv2d(X, W, **{name: value}), name, got)
        for name in ("stride", "padding", "dilation", "groups")
        for value, got in NO_INTEGERS
        if not (name == "groups" and isinstance(value, tuple))
    ],
    *[
        bad(55, f"pooling {name} {value!r}", TypeError,
            lambda name=name, value=value: pc.max_pool2d(P, **{"kernel_size": 2, name: value}),
            name, got)
        for name in ("kernel_size", "stride", "padding", "dilation")
        for value, got in NO_INTEGERS
        if not (name == "stride" and value is None)
    ],
    bad(55, "stride as a string", TypeError, lambda: pc.conv2d(X, W, stride="1"), "stride", "'1'"),
    bad(55, "groups as a tuple", TypeError, lambda: pc.conv2d(X, W, groups=(1, 1)), "groups"),
    bad(55, "flip as an int", TypeError, lambda: pc.conv2d(X, W, flip=1), "flip"),
    bad(55, "ceil_mode as a string", TypeError, lambda: pc.max_pool2d(P, 2, ceil_mode="no"),
        "ceil_mode"),
    bad(55, "return_indices as a string", TypeError,
        lambda: pc.max_pool2d(P, 2, return_indices="no"), "return_indices"),
    bad(55, "layout as None", TypeError, lambda: pc.conv2d(X, W, layout=None), "layout"),
    bad(55, "activation as a function", TypeError, lambda: pc.conv2d(X, W, activation=np.tanh),
        "activation"),
    bad(55, "algorithm as None", TypeError, lambda: pc.conv2d(X, W, algorithm=None), "algorithm"),
    *[
        bad(55, f"{name} beyond 64 bits", ValueError,
            lambda name=name: pc.conv2d(X, W, **{name: 2**64}), name, str(2**64))
        for name in ("stride", "padding", "dilation", "groups")
    ],
]  # fmt: skip


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [*CONVOLUTION, *GRADIENTS, *POOLING, *POOLING_GRADIENTS, *INTEROP],
)
def test_error(call, error, words):
    with pytest.raises(error) as caught:
        call()
    text = str(caught.value)
    assert type(caught.value) in (ValueError, TypeError)
    for word in words:
        assert word in text, f"{word!r} is not in: {text}"
    if words != ("",):  # the array library's own text, not ours
        assert text.split(":")[0] in [name for name in dir(pc) if not name.startswith("_")], text


def test_row_30_the_core_checks_what_it_is_given():
    """Calling it directly: same validator for shapes, and buffers must be what the plan needs."""
    arguments = [
        "conv2d", 2, "fwd", False, "float32", "NCHW", X.shape, W.shape, None, None, None, 1, 0, 1,
        1, "zeros", False, None, "auto", 0, None, False, False,
    ]  # fmt: skip
    plan = _core.plan_conv(*arguments)
    with pytest.raises(ValueError, match="stride"):
        _core.plan_conv(*arguments[:11], 0, *arguments[12:])
    with pytest.raises(ValueError, match="w must have 4 dimensions"):
        _core.plan_conv(*arguments[:7], (4, 2), *arguments[8:])
    y = np.zeros(plan.output_shape, F32)
    workspace = np.zeros(plan.workspace_bytes, np.uint8)
    plan.run(X, W, None, None, y, None, workspace)
    assert (y == 12).all()
    for buffers in [
        (X[:, :1], W, None, None, y, None, workspace),
        (X, W[:1], None, None, y, None, workspace),
        (X, None, None, None, y, None, workspace),
        (X, W, None, None, y[:, :1], None, workspace),
        (X.astype("f8"), W, None, None, y, None, workspace),
    ]:
        with pytest.raises((ValueError, TypeError)):
            plan.run(*buffers)


def test_row_46_a_failed_check_leaves_everything_as_it_was():
    out = np.full(P.shape, 7, F32)
    dy, indices = DP.copy(), indices_with(99)
    with pytest.raises(ValueError, match="99"):
        pc.max_pool2d_backward(dy, indices, P.shape, out=out)
    with pytest.raises(ValueError, match="dy"):
        pc.conv2d_backward(DY, X, W, padding=1, out=(out, None, None))
    assert (out == 7).all()
    assert (dy == 1).all()


def test_row_52_cuda_arrays_need_the_cuda_module():
    with pytest.raises((RuntimeError, TypeError), match=r"conv2d: x .*CUDA"):
        pc.conv2d(OnDevice(2), W)

"""Convolution as matrix multiplication: im2col and its adjoint, its index matrix, and the sparse
matrix of a whole convolution.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from . import _core
from ._arrays import Array, Call, Dense, Shape, dtype_name, host_view, run, shape_tuple
from ._plan import Ints, Padding, axes_of, conv_plan


def _lower(
    direction: str,
    array: Array,
    x: Shape | None,
    kernel_size: Ints,
    stride: Ints,
    padding: Padding,
    dilation: Ints,
) -> Array:
    """im2col of `array`, or col2im of it into the shape x."""
    op, name = direction, "columns" if x else "x"
    call = Call(op, "NCHW", {name: array}, may_turn=False)
    columns = call.shape("columns", "NCHW")
    x = x or call.shape("x", "NCHW") or ()
    axes = axes_of(x)
    kernel = tuple(kernel_size) if isinstance(kernel_size, tuple | list) else (kernel_size,) * axes
    w = (1, x[1] if len(x) > 1 else 1, *kernel)

    def plan_in(layout: str) -> _core.Plan:
        head = (op, axes, direction, False, dtype_name(call.dtype), layout, x, w, columns, None)
        options = (stride, padding, dilation, 1, "zeros", False, None, "auto", 0, None)
        return conv_plan(*head, None, *options)

    def kernel_run(plan: _core.Plan, result: Dense) -> None:
        run(plan, call.dense(name), None, None, None, result, None)

    return call.job(plan_in, kernel_run)()


def im2col(
    x: Array,
    kernel_size: Ints,
    *,
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
) -> Array:
    """The pixels under each position of a window, a column per position.

    x : (N, C, H, W), also with one or three spatial axes. Returns (N, C*R*S, P*Q), so that
    conv2d(x, w) is w.reshape(K, -1) @ im2col(x, (R, S)), reshaped. The window, stride, padding and
    dilation are conv2d's, and so are the errors.

    Source: Chellapilla, Puri and Simard, "High performance convolutional neural networks for
    document processing", 2006.

    >>> import numpy as np, pyconv as pc
    >>> pc.im2col(np.arange(9.0).reshape(1, 1, 3, 3), 2)
    array([[[0., 1., 3., 4.],
            [1., 2., 4., 5.],
            [3., 4., 6., 7.],
            [4., 5., 7., 8.]]])
    """
    return _lower("im2col", x, None, kernel_size, stride, padding, dilation)


def col2im(
    columns: Array,
    input_shape: Sequence[int],
    kernel_size: Ints,
    *,
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
) -> Array:
    """The adjoint of im2col: adds every entry of `columns` to the pixel it was taken from.

    columns : (N, C*R*S, P*Q); input_shape : (N, C, H, W), which the result has. Raises as im2col.

    >>> import numpy as np, pyconv as pc
    >>> pc.col2im(np.ones((1, 4, 4)), (1, 1, 3, 3), 2)  # how many windows hold each pixel
    array([[[[1., 2., 1.],
             [2., 4., 2.],
             [1., 2., 1.]]]])
    """
    shape = shape_tuple("col2im", "input_shape", input_shape)
    return _lower("col2im", columns, shape, kernel_size, stride, padding, dilation)


def im2col_indices(
    input_size: Sequence[int],
    kernel_size: Ints,
    *,
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Which pixel each entry of im2col comes from, as flat positions; -1 in the padding.

    input_size : (H, W), or one or three sizes. Returns int64 (R*S, P*Q). Raises as im2col.

    >>> import pyconv as pc
    >>> pc.im2col_indices((3, 4), 2)
    array([[ 0,  1,  2,  4,  5,  6],
           [ 1,  2,  3,  5,  6,  7],
           [ 4,  5,  6,  8,  9, 10],
           [ 5,  6,  7,  9, 10, 11]])
    """
    op = "im2col_indices"
    size = shape_tuple(op, "input_size", input_size)
    _check(op, (1, 1, *size), kernel_size, stride, padding, dilation)
    # im2col itself says which: of an image that holds every pixel's position, counted from 1 so
    # that the padding's zeros stand out; float64 is exact beyond any size that has memory
    positions = np.arange(1.0, 1.0 + np.prod(size)).reshape(1, 1, *size)
    columns = im2col(positions, kernel_size, stride=stride, padding=padding, dilation=dilation)
    return columns[0].astype(np.int64) - 1  # type: ignore[no-any-return]

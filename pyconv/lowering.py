"""Convolution as matrix multiplication: im2col and its adjoint, its index matrix, and the sparse
matrix of a whole convolution.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from . import _core
from ._arrays import Array, Call, Shape, View, dtype_name, host_view, shape_tuple
from ._plan import Ints, Padding, axes_of, conv_plan

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Geometry = tuple[Ints, Padding, Ints]  # stride, padding, dilation


def _plan(
    op: str,
    direction: str,
    dtype: str,
    x: Shape,
    columns: Shape | None,
    kernel_size: Ints,
    geometry: Geometry,
    device: int | None = None,
) -> _core.Plan:
    axes = axes_of(x)
    kernel = kernel_size if isinstance(kernel_size, tuple | list) else (kernel_size,) * axes
    w = (1, x[1] if len(x) > 1 else 1, *kernel)
    head = (op, axes, direction, False, dtype, "NCHW", x, w, columns, None, None)
    options = (*geometry, 1, "zeros", False, None, "auto", 0, None)
    return conv_plan(*head, options, device=device)


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
    call = Call("im2col", "NCHW", {"x": x}, may_turn=False)
    geometry = (stride, padding, dilation)

    def plan_in(_: str) -> _core.Plan:
        shape = call.shape("x", "NCHW") or ()
        head = ("im2col", "im2col", dtype_name(call.dtype), shape, None)
        return _plan(*head, kernel_size, geometry, call.device)

    def kernel(plan: _core.Plan, columns: View) -> None:
        plan.run(call.dense("x"), None, None, None, columns, None)

    return call.job(plan_in, kernel)()


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
    call = Call("col2im", "NCHW", {"columns": columns}, may_turn=False)
    geometry = (stride, padding, dilation)

    def plan_in(_: str) -> _core.Plan:
        given = call.shape("columns", "NCHW")
        head = ("col2im", "col2im", dtype_name(call.dtype), shape, given)
        return _plan(*head, kernel_size, geometry, call.device)

    def kernel(plan: _core.Plan, dx: View) -> None:
        plan.run(call.dense("columns"), None, None, None, dx, None)

    return call.job(plan_in, kernel)()


def im2col_indices(
    input_size: Sequence[int],
    kernel_size: Ints,
    *,
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
) -> npt.NDArray[np.int64]:
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
    geometry = (stride, padding, dilation)
    plan = _plan(op, "im2col", "float64", (1, 1, *size), None, kernel_size, geometry)
    # The columns of an image that holds its own positions, counted from 1 so that the padding's
    # zeros stand out; float64 counts further than any memory reaches.
    positions = np.arange(1.0, 1.0 + np.prod(size))
    columns = np.empty(plan.output_shape)
    plan.run(positions, None, None, None, columns, None)
    indices: npt.NDArray[np.int64] = columns[0].astype(np.int64) - 1
    return indices


def conv_matrix(
    w: Array,
    input_shape: Sequence[int],
    *,
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
    groups: int = 1,
) -> "csr_array":
    """The sparse matrix M of a convolution: conv2d(x, w, ...).ravel() = M @ x.ravel().

    w : (K, C/groups, R, S), also with one or three spatial axes; input_shape : (C, H, W) of one
    image. M is a scipy.sparse.csr_array (K*P*Q, C*H*W), doubly block circulant (Toeplitz) for
    stride 1. Needs SciPy: ImportError says how to install it. Raises as conv2d.

    Source: Jain, "Fundamentals of digital image processing", 1989, section 2.8.

    >>> import numpy as np, pyconv as pc
    >>> pc.conv_matrix(np.array([[[1.0, 2.0]]]), (1, 4)).toarray()
    array([[1., 2., 0., 0.],
           [0., 1., 2., 0.],
           [0., 0., 1., 2.]])
    """
    try:
        from scipy.sparse import csr_array
    except ImportError as error:
        raise ImportError("conv_matrix needs SciPy: pip install 'pyconv-engine[scipy]'") from error
    op = "conv_matrix"
    x = (1, *shape_tuple(op, "input_shape", input_shape))
    call = Call(op, "NCHW", {"w": host_view(op, "w", w)}, may_turn=False)
    weights = call.dense("w")
    head = (op, axes_of(x), "fwd", False, dtype_name(call.dtype), "NCHW", x, weights.shape)
    options = (stride, padding, dilation, groups, "zeros", False, None, "auto", 0, None)
    y = conv_plan(*head, None, None, None, options).output_shape

    kernel, plane = weights.shape[2:], int(np.prod(x[2:]))
    taps = im2col_indices(x[2:], kernel, stride=stride, padding=padding, dilation=dilation).T
    # One row per (k, output position), one entry per (input channel of k's group, tap).
    k, depth = weights.shape[:2]
    channels = (np.arange(k) // (k // groups) * depth)[:, None] + np.arange(depth)
    columns = channels[:, None, :, None] * plane + taps[:, None, :]
    values = np.broadcast_to(weights.reshape(k, 1, depth, -1), columns.shape)
    inside = np.broadcast_to((taps >= 0)[:, None, :], columns.shape)
    row_ends = np.cumsum(inside.sum(axis=(2, 3)))
    entries = (values[inside], columns[inside], np.concatenate(([0], row_ends)))
    return csr_array(entries, shape=(int(np.prod(y)), x[1] * plane))

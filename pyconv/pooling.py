"""Pooling in one, two and three dimensions and max unpooling; gradients: `pooling_backward.py`."""

from collections.abc import Sequence
from typing import Any

from ._arrays import Array, Shape, shape_tuple
from ._plan import Ints, axes_of, pool_plan
from ._pool import average_options, pool, rank, spatial


def max_pool1d(
    x: Array,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    dilation: Ints = 1,
    ceil_mode: bool = False,
    *,
    return_indices: bool = False,
    layout: str = "NCHW",
    out: Array = None,
) -> Any:
    """As max_pool2d, with x (N, C, L).

    >>> import numpy as np, pyconv as pc
    >>> pc.max_pool1d(np.array([[[1.0, 3.0, 2.0, 2.0]]]), 2, return_indices=True)
    (array([[[3., 2.]]]), array([[[1, 2]]]))
    """
    options = (kernel_size, stride, padding, dilation, None, False, ceil_mode, True, None, 2.0)
    op = "max_pool1d"
    return pool(op, 1, "max", x, layout, options, return_indices=return_indices, out=out)


def max_pool2d(
    x: Array,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    dilation: Ints = 1,
    ceil_mode: bool = False,
    *,
    return_indices: bool = False,
    layout: str = "NCHW",
    out: Array = None,
) -> Any:
    """The largest value of each window.

    x : (N, C, H, W), or (N, H, W, C) with layout="NHWC"; float32 or float64.
    kernel_size : the window (R, S), an int or one per axis; stride : None is kernel_size.
    padding : at most half the window, on both sides; the padding never wins.
    dilation : distance of the window's pixels. ceil_mode : round the output size up, so that the
        last window may hang over; it must still begin inside the input or the padding before it.

    Returns y (N, C, P, Q) with P = floor((H + 2*padding - dilation*(R - 1) - 1) / stride) + 1; with
    return_indices (y, indices), the int64 flat positions h*W + w of the winners. NaN wins; among
    equals, and among NaNs, the first in row-major order does.

    Raises ValueError for shapes and numbers that break a rule and for an unfit `out`, TypeError for
    what is no array, another dtype, or a number that is no integer.

    Source: Boureau, Ponce and LeCun, "A theoretical analysis of feature pooling", ICML 2010.

    >>> import numpy as np, pyconv as pc
    >>> x = np.array([[[[1.0, 3, 6, 2], [3, 8, 1, 1], [2, 9, 2, 1], [5, 1, 3, 1]]]])
    >>> pc.max_pool2d(x, 2)
    array([[[[8., 6.],
             [9., 3.]]]])
    """
    options = (kernel_size, stride, padding, dilation, None, False, ceil_mode, True, None, 2.0)
    op = "max_pool2d"
    return pool(op, 2, "max", x, layout, options, return_indices=return_indices, out=out)


def max_pool3d(
    x: Array,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    dilation: Ints = 1,
    ceil_mode: bool = False,
    *,
    return_indices: bool = False,
    layout: str = "NCHW",
    out: Array = None,
) -> Any:
    """As max_pool2d, with x (N, C, D, H, W); indices count d*H*W + h*W + w.

    >>> import numpy as np, pyconv as pc
    >>> pc.max_pool3d(np.arange(64.0).reshape(1, 1, 4, 4, 4), 2).ravel()
    array([21., 23., 29., 31., 53., 55., 61., 63.])
    """
    options = (kernel_size, stride, padding, dilation, None, False, ceil_mode, True, None, 2.0)
    op = "max_pool3d"
    return pool(op, 3, "max", x, layout, options, return_indices=return_indices, out=out)


def avg_pool1d(
    x: Array,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    weights: Array = None,
    layout: str = "NCHW",
    out: Array = None,
) -> Array:
    """As avg_pool2d, with x (N, C, L).

    >>> import numpy as np, pyconv as pc
    >>> pc.avg_pool1d(np.array([[[0.0, 4.0, 8.0]]]), 3, weights=np.array([1.0, 2.0, 1.0]))
    array([[[4.]]])
    """
    sizes = (kernel_size, stride, padding, ceil_mode)
    options = average_options("avg_pool1d", *sizes, count_include_pad, divisor_override, weights)
    return pool("avg_pool1d", 1, "avg", x, layout, options, weights=weights, out=out)


def avg_pool2d(
    x: Array,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    weights: Array = None,
    layout: str = "NCHW",
    out: Array = None,
) -> Array:
    """The mean of each window.

    x, kernel_size, stride, padding, ceil_mode and the output size are those of max_pool2d.
    count_include_pad : whether padded pixels count, as zeros.
    divisor_override : what to divide every sum by instead.
    weights : an array (R, S) of x's dtype for a weighted mean; it is divided by its sum.

    Raises as max_pool2d; ValueError also for weights that are not finite, sum to zero, or are
    combined with divisor_override.

    Source: LeCun et al., "Gradient-based learning applied to document recognition", 1998.

    >>> import numpy as np, pyconv as pc
    >>> pc.avg_pool2d(np.arange(16.0).reshape(1, 1, 4, 4), 2)
    array([[[[ 2.5,  4.5],
             [10.5, 12.5]]]])
    """
    sizes = (kernel_size, stride, padding, ceil_mode)
    options = average_options("avg_pool2d", *sizes, count_include_pad, divisor_override, weights)
    return pool("avg_pool2d", 2, "avg", x, layout, options, weights=weights, out=out)


def avg_pool3d(
    x: Array,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    weights: Array = None,
    layout: str = "NCHW",
    out: Array = None,
) -> Array:
    """As avg_pool2d, with x (N, C, D, H, W).

    >>> import numpy as np, pyconv as pc
    >>> pc.avg_pool3d(np.arange(8.0).reshape(1, 1, 2, 2, 2), 2)
    array([[[[[3.5]]]]])
    """
    sizes = (kernel_size, stride, padding, ceil_mode)
    options = average_options("avg_pool3d", *sizes, count_include_pad, divisor_override, weights)
    return pool("avg_pool3d", 3, "avg", x, layout, options, weights=weights, out=out)


def lp_pool1d(
    x: Array,
    norm_type: float,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    ceil_mode: bool = False,
    *,
    layout: str = "NCHW",
    out: Array = None,
) -> Array:
    """As lp_pool2d, with x (N, C, L).

    >>> import numpy as np, pyconv as pc
    >>> pc.lp_pool1d(np.array([[[1.0, -2.0, 4.0, 5.0]]]), 1, 2)
    array([[[3., 9.]]])
    """
    options = (kernel_size, stride, padding, 1, None, False, ceil_mode, True, None, norm_type)
    return pool("lp_pool1d", 1, "lp", x, layout, options, out=out)


def lp_pool2d(
    x: Array,
    norm_type: float,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    ceil_mode: bool = False,
    *,
    layout: str = "NCHW",
    out: Array = None,
) -> Array:
    """The p-norm of each window: (sum |x|^p)^(1/p), with p = norm_type > 0 (infinity allowed).

    The other arguments and the output size are those of max_pool2d; padding counts as zeros.

    Raises as max_pool2d; ValueError also for a norm_type that is not positive.

    Source: Sermanet, Chintala and LeCun, "Convolutional neural networks applied to house numbers
    digit classification", ICPR 2012.

    >>> import numpy as np, pyconv as pc
    >>> pc.lp_pool2d(np.array([[[[3.0, 4.0]]]]), 2, (1, 2))
    array([[[[5.]]]])
    """
    options = (kernel_size, stride, padding, 1, None, False, ceil_mode, True, None, norm_type)
    return pool("lp_pool2d", 2, "lp", x, layout, options, out=out)


def lp_pool3d(
    x: Array,
    norm_type: float,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    ceil_mode: bool = False,
    *,
    layout: str = "NCHW",
    out: Array = None,
) -> Array:
    """As lp_pool2d, with x (N, C, D, H, W).

    >>> import numpy as np, pyconv as pc
    >>> pc.lp_pool3d(np.ones((1, 1, 2, 2, 4)), 1, 2)
    array([[[[[8., 8.]]]]])
    """
    options = (kernel_size, stride, padding, 1, None, False, ceil_mode, True, None, norm_type)
    return pool("lp_pool3d", 3, "lp", x, layout, options, out=out)


def max_unpool1d(
    x: Array,
    indices: Array,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    output_size: Sequence[int] | None = None,
    *,
    layout: str = "NCHW",
    out: Array = None,
) -> Array:
    """As max_unpool2d, with x (N, C, Q).

    >>> import numpy as np, pyconv as pc
    >>> pc.max_unpool1d(np.array([[[3.0, 2.0]]]), np.array([[[1, 2]]]), 2)
    array([[[0., 3., 2., 0.]]])
    """
    size = spatial(output_size, layout) if rank(output_size) == 3 else output_size
    options = (kernel_size, stride, padding, 1, size, False, False, True, None, 2.0)
    return pool("max_unpool1d", 1, "unpool", x, layout, options, indices=indices, out=out)


def max_unpool2d(
    x: Array,
    indices: Array,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    output_size: Sequence[int] | None = None,
    *,
    layout: str = "NCHW",
    out: Array = None,
) -> Array:
    """Put every value of `x` back where max_pool2d took it from; zero elsewhere.

    x, indices : (N, C, P, Q), as max_pool2d(..., return_indices=True) gave them. kernel_size,
    stride, padding : what was pooled with. Where windows overlap and two values go to one place,
    the later one in row-major order stays.
    output_size : (H, W) or the whole shape, for sizes other than (P - 1)*stride - 2*padding + R.

    Raises as max_pool2d; ValueError also for an index outside the plane, TypeError for indices that
    are not int64.

    Source: Zeiler and Fergus, "Visualizing and understanding convolutional networks", ECCV 2014.

    >>> import numpy as np, pyconv as pc
    >>> pc.max_unpool2d(np.array([[[[8.0]]]]), np.array([[[[3]]]]), 2)
    array([[[[0., 0.],
             [0., 8.]]]])
    """
    size = spatial(output_size, layout) if rank(output_size) == 4 else output_size
    options = (kernel_size, stride, padding, 1, size, False, False, True, None, 2.0)
    return pool("max_unpool2d", 2, "unpool", x, layout, options, indices=indices, out=out)


def max_unpool3d(
    x: Array,
    indices: Array,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    output_size: Sequence[int] | None = None,
    *,
    layout: str = "NCHW",
    out: Array = None,
) -> Array:
    """As max_unpool2d, with x (N, C, Z, P, Q).

    >>> import numpy as np, pyconv as pc
    >>> y, indices = pc.max_pool3d(np.ones((1, 1, 4, 4, 4)), 2, return_indices=True)
    >>> pc.max_unpool3d(y, indices, 2).sum()
    np.float64(8.0)
    """
    size = spatial(output_size, layout) if rank(output_size) == 5 else output_size
    options = (kernel_size, stride, padding, 1, size, False, False, True, None, 2.0)
    return pool("max_unpool3d", 3, "unpool", x, layout, options, indices=indices, out=out)


def pool_output_shape(
    x_shape: Sequence[int],
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    dilation: Ints = 1,
    ceil_mode: bool = False,
    *,
    layout: str = "NCHW",
) -> Shape:
    """The shape of a pooling of x_shape, in one, two or three dimensions.

    Nothing is computed; raises what max pooling itself would.

    >>> import pyconv as pc
    >>> pc.pool_output_shape((1, 64, 112, 112), 3, stride=2, padding=1)
    (1, 64, 56, 56)
    """
    op = "pool_output_shape"
    x = shape_tuple(op, "x_shape", x_shape)
    head = (op, axes_of(x), "max", "fwd", "float32", layout, x, None, None, None)
    options = (kernel_size, stride, padding, dilation, None, False, ceil_mode, True, None, 2.0)
    return pool_plan(*head, options).output_shape

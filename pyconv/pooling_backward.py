"""Gradients of the poolings of `pooling.py` with respect to their input."""

from collections.abc import Sequence

from ._arrays import Array, shape_tuple
from ._plan import Ints
from ._pool import average_options, pool_backward


def max_pool1d_backward(
    dy: Array,
    indices: Array,
    input_shape: Sequence[int],
    *,
    layout: str = "NCHW",
    out: Array = None,
) -> Array:
    """As max_pool2d_backward, for max_pool1d."""
    op = "max_pool1d_backward"
    shape = shape_tuple(op, "input_shape", input_shape)
    options = (None, None, 0, 1, None, False, False, True, None, 2.0)
    return pool_backward(op, 1, "max", {"dy": dy, "indices": indices}, shape, layout, options, out)


def max_pool2d_backward(
    dy: Array,
    indices: Array,
    input_shape: Sequence[int],
    *,
    layout: str = "NCHW",
    out: Array = None,
) -> Array:
    """Gradient of max_pool2d: dx is dy at the winners' places, added up where windows overlap.

    dy, indices : (N, C, P, Q), indices from max_pool2d(..., return_indices=True) or from adaptive
    or global max pooling; input_shape : of x.

    Raises ValueError for shapes that disagree, an index outside the plane, and an unfit `out`;
    TypeError for indices that are not int64.

    >>> import numpy as np, pyconv as pc
    >>> pc.max_pool2d_backward(np.array([[[[5.0]]]]), np.array([[[[2]]]]), (1, 1, 2, 2))
    array([[[[0., 0.],
             [5., 0.]]]])
    """
    op = "max_pool2d_backward"
    shape = shape_tuple(op, "input_shape", input_shape)
    options = (None, None, 0, 1, None, False, False, True, None, 2.0)
    return pool_backward(op, 2, "max", {"dy": dy, "indices": indices}, shape, layout, options, out)


def max_pool3d_backward(
    dy: Array,
    indices: Array,
    input_shape: Sequence[int],
    *,
    layout: str = "NCHW",
    out: Array = None,
) -> Array:
    """As max_pool2d_backward, for max_pool3d."""
    op = "max_pool3d_backward"
    shape = shape_tuple(op, "input_shape", input_shape)
    options = (None, None, 0, 1, None, False, False, True, None, 2.0)
    return pool_backward(op, 3, "max", {"dy": dy, "indices": indices}, shape, layout, options, out)


def avg_pool1d_backward(
    dy: Array,
    input_shape: Sequence[int],
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
    """As avg_pool2d_backward, for avg_pool1d."""
    op = "avg_pool1d_backward"
    shape = shape_tuple(op, "input_shape", input_shape)
    sizes = (kernel_size, stride, padding, ceil_mode)
    options = average_options(op, *sizes, count_include_pad, divisor_override, weights)
    return pool_backward(op, 1, "avg", {"dy": dy, "weights": weights}, shape, layout, options, out)


def avg_pool2d_backward(
    dy: Array,
    input_shape: Sequence[int],
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
    """Gradient of avg_pool2d: every pixel gets its share of each dy whose window it was in.

    dy : (N, C, P, Q); input_shape : of x. The other arguments are those of the forward call.

    Raises as avg_pool2d.

    >>> import numpy as np, pyconv as pc
    >>> pc.avg_pool2d_backward(np.array([[[[4.0]]]]), (1, 1, 2, 2), 2)
    array([[[[1., 1.],
             [1., 1.]]]])
    """
    op = "avg_pool2d_backward"
    shape = shape_tuple(op, "input_shape", input_shape)
    sizes = (kernel_size, stride, padding, ceil_mode)
    options = average_options(op, *sizes, count_include_pad, divisor_override, weights)
    return pool_backward(op, 2, "avg", {"dy": dy, "weights": weights}, shape, layout, options, out)


def avg_pool3d_backward(
    dy: Array,
    input_shape: Sequence[int],
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
    """As avg_pool2d_backward, for avg_pool3d."""
    op = "avg_pool3d_backward"
    shape = shape_tuple(op, "input_shape", input_shape)
    sizes = (kernel_size, stride, padding, ceil_mode)
    options = average_options(op, *sizes, count_include_pad, divisor_override, weights)
    return pool_backward(op, 3, "avg", {"dy": dy, "weights": weights}, shape, layout, options, out)


def lp_pool1d_backward(
    dy: Array,
    x: Array,
    y: Array,
    norm_type: float,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    ceil_mode: bool = False,
    *,
    layout: str = "NCHW",
    out: Array = None,
) -> Array:
    """As lp_pool2d_backward, for lp_pool1d."""
    options = (kernel_size, stride, padding, 1, None, False, ceil_mode, True, None, norm_type)
    arrays = {"dy": dy, "x": x, "y": y}
    return pool_backward("lp_pool1d_backward", 1, "lp", arrays, None, layout, options, out)


def lp_pool2d_backward(
    dy: Array,
    x: Array,
    y: Array,
    norm_type: float,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    ceil_mode: bool = False,
    *,
    layout: str = "NCHW",
    out: Array = None,
) -> Array:
    """Gradient of lp_pool2d: dx = sum over windows of dy * sign(x) * (|x| / y)^(p - 1).

    dy, y : (N, C, P, Q), y the result of the forward call on x; the rest are its arguments. Where
    y is 0, dx is 0.

    Raises as lp_pool2d.

    >>> import numpy as np, pyconv as pc
    >>> x, y = np.array([[[[3.0, -4.0]]]]), np.array([[[[5.0]]]])
    >>> pc.lp_pool2d_backward(np.ones((1, 1, 1, 1)), x, y, 2, (1, 2))
    array([[[[ 0.6, -0.8]]]])
    """
    options = (kernel_size, stride, padding, 1, None, False, ceil_mode, True, None, norm_type)
    arrays = {"dy": dy, "x": x, "y": y}
    return pool_backward("lp_pool2d_backward", 2, "lp", arrays, None, layout, options, out)


def lp_pool3d_backward(
    dy: Array,
    x: Array,
    y: Array,
    norm_type: float,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    ceil_mode: bool = False,
    *,
    layout: str = "NCHW",
    out: Array = None,
) -> Array:
    """As lp_pool2d_backward, for lp_pool3d."""
    options = (kernel_size, stride, padding, 1, None, False, ceil_mode, True, None, norm_type)
    arrays = {"dy": dy, "x": x, "y": y}
    return pool_backward("lp_pool3d_backward", 3, "lp", arrays, None, layout, options, out)

"""Adaptive pooling, whose windows follow from the output size, and global pooling, whose window is
the whole image.
"""

from collections.abc import Sequence
from typing import Any

from ._arrays import Array, shape_tuple
from ._plan import Options, axes_of
from ._pool import pool, pool_backward, spatial

OutputSize = int | Sequence[int | None] | None


def _options(size: Any) -> Options:
    return (None, None, 0, 1, size, True, False, True, None, 2.0)


def _sizes(x: Array, output_size: OutputSize, axes: int, layout: str) -> Any:
    """output_size with the input's sizes for None; what is wrong with it is the core's to tell."""
    wanted = [None] * axes if output_size is None else output_size
    if not isinstance(wanted, tuple | list) or None not in wanted:
        return wanted
    kept = spatial(getattr(x, "shape", ()), layout)
    if len(wanted) != len(kept):
        return tuple(1 if size is None else size for size in wanted)
    return tuple(have if size is None else size for size, have in zip(wanted, kept))


def _adaptive_backward(
    op: str, axes: int, dy: Array, input_shape: Sequence[int], layout: str, out: Array
) -> Array:
    shape = shape_tuple(op, "input_shape", input_shape)
    options = _options(spatial(getattr(dy, "shape", ()), layout))
    return pool_backward(op, axes, "avg", {"dy": dy}, shape, layout, options, out)


def adaptive_max_pool1d(
    x: Array,
    output_size: OutputSize,
    *,
    return_indices: bool = False,
    layout: str = "NCHW",
    out: Array = None,
) -> Any:
    """As adaptive_max_pool2d, with x (N, C, L)."""
    op = "adaptive_max_pool1d"
    options = _options(_sizes(x, output_size, 1, layout))
    return pool(op, 1, "max", x, layout, options, return_indices=return_indices, out=out)


def adaptive_max_pool2d(
    x: Array,
    output_size: OutputSize,
    *,
    return_indices: bool = False,
    layout: str = "NCHW",
    out: Array = None,
) -> Any:
    """The largest value of each of (P, Q) windows that cover the image evenly.

    Output p takes the rows from floor(p*H/P) up to ceil((p + 1)*H/P). output_size : an int or one
    per axis; None keeps the input's size. Returns and raises as max_pool2d.

    >>> import numpy as np, pyconv as pc
    >>> pc.adaptive_max_pool2d(np.arange(12.0).reshape(1, 1, 3, 4), (2, None))
    array([[[[ 4.,  5.,  6.,  7.],
             [ 8.,  9., 10., 11.]]]])
    """
    op = "adaptive_max_pool2d"
    options = _options(_sizes(x, output_size, 2, layout))
    return pool(op, 2, "max", x, layout, options, return_indices=return_indices, out=out)


def adaptive_max_pool3d(
    x: Array,
    output_size: OutputSize,
    *,
    return_indices: bool = False,
    layout: str = "NCHW",
    out: Array = None,
) -> Any:
    """As adaptive_max_pool2d, with x (N, C, D, H, W)."""
    op = "adaptive_max_pool3d"
    options = _options(_sizes(x, output_size, 3, layout))
    return pool(op, 3, "max", x, layout, options, return_indices=return_indices, out=out)


def adaptive_avg_pool1d(
    x: Array, output_size: OutputSize, *, layout: str = "NCHW", out: Array = None
) -> Array:
    """As adaptive_avg_pool2d, with x (N, C, L)."""
    options = _options(_sizes(x, output_size, 1, layout))
    return pool("adaptive_avg_pool1d", 1, "avg", x, layout, options, out=out)


def adaptive_avg_pool2d(
    x: Array, output_size: OutputSize, *, layout: str = "NCHW", out: Array = None
) -> Array:
    """The mean of each of (P, Q) windows that cover the image evenly; as adaptive_max_pool2d.

    Source: He et al., "Spatial pyramid pooling in deep convolutional networks", ECCV 2014.

    >>> import numpy as np, pyconv as pc
    >>> pc.adaptive_avg_pool2d(np.arange(12.0).reshape(1, 1, 3, 4), (1, 2))
    array([[[[4.5, 6.5]]]])
    """
    options = _options(_sizes(x, output_size, 2, layout))
    return pool("adaptive_avg_pool2d", 2, "avg", x, layout, options, out=out)


def adaptive_avg_pool3d(
    x: Array, output_size: OutputSize, *, layout: str = "NCHW", out: Array = None
) -> Array:
    """As adaptive_avg_pool2d, with x (N, C, D, H, W)."""
    options = _options(_sizes(x, output_size, 3, layout))
    return pool("adaptive_avg_pool3d", 3, "avg", x, layout, options, out=out)


def adaptive_avg_pool1d_backward(
    dy: Array, input_shape: Sequence[int], *, layout: str = "NCHW", out: Array = None
) -> Array:
    """As adaptive_avg_pool2d_backward, for adaptive_avg_pool1d."""
    return _adaptive_backward("adaptive_avg_pool1d_backward", 1, dy, input_shape, layout, out)


def adaptive_avg_pool2d_backward(
    dy: Array, input_shape: Sequence[int], *, layout: str = "NCHW", out: Array = None
) -> Array:
    """Gradient of adaptive_avg_pool2d: dy (N, C, P, Q), input_shape that of x.

    >>> import numpy as np, pyconv as pc
    >>> pc.adaptive_avg_pool2d_backward(np.array([[[[4.0]]]]), (1, 1, 2, 2))
    array([[[[1., 1.],
             [1., 1.]]]])
    """
    return _adaptive_backward("adaptive_avg_pool2d_backward", 2, dy, input_shape, layout, out)


def adaptive_avg_pool3d_backward(
    dy: Array, input_shape: Sequence[int], *, layout: str = "NCHW", out: Array = None
) -> Array:
    """As adaptive_avg_pool2d_backward, for adaptive_avg_pool3d."""
    return _adaptive_backward("adaptive_avg_pool3d_backward", 3, dy, input_shape, layout, out)


def global_max_pool(
    x: Array, *, return_indices: bool = False, layout: str = "NCHW", out: Array = None
) -> Any:
    """The largest value of each channel; the spatial axes stay, with size 1.

    x : (N, C, L), (N, C, H, W) or (N, C, D, H, W). Returns and raises as max_pool2d.

    >>> import numpy as np, pyconv as pc
    >>> pc.global_max_pool(np.arange(8.0).reshape(1, 2, 2, 2))
    array([[[[3.]],
    <BLANKLINE>
            [[7.]]]])
    """
    op, axes = "global_max_pool", axes_of(getattr(x, "shape", ()))
    options = _options((1,) * axes)
    return pool(op, axes, "max", x, layout, options, return_indices=return_indices, out=out)


def global_avg_pool(x: Array, *, layout: str = "NCHW", out: Array = None) -> Array:
    """The mean of each channel; the spatial axes stay, with size 1. x as for global_max_pool.

    Source: Lin, Chen and Yan, "Network in network", ICLR 2014.

    >>> import numpy as np, pyconv as pc
    >>> pc.global_avg_pool(np.arange(8.0).reshape(1, 2, 4))
    array([[[1.5],
            [5.5]]])
    """
    axes = axes_of(getattr(x, "shape", ()))
    return pool("global_avg_pool", axes, "avg", x, layout, _options((1,) * axes), out=out)


def global_avg_pool_backward(
    dy: Array, input_shape: Sequence[int], *, layout: str = "NCHW", out: Array = None
) -> Array:
    """Gradient of global_avg_pool: dy shared out evenly over each channel of input_shape."""
    op, axes = "global_avg_pool_backward", axes_of(getattr(dy, "shape", ()))
    return _adaptive_backward(op, axes, dy, input_shape, layout, out)

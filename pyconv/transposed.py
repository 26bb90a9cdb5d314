"""Transposed convolution in one, two and three dimensions: the gradient of a convolution with
respect to its input, made an operation of its own, with gradients of its own.
"""

from collections.abc import Iterable, Sequence

from ._arrays import Array, Shape
from ._conv import Gradients, backward, forward
from ._plan import Ints, Padding


def conv_transpose1d(
    x: Array,
    w: Array,
    b: Array = None,
    stride: Ints = 1,
    padding: Padding = 0,
    output_padding: Ints = 0,
    groups: int = 1,
    dilation: Ints = 1,
    *,
    output_size: Sequence[int] | None = None,
    layout: str = "NCHW",
    activation: str | None = None,
    algorithm: str = "auto",
    out: Array = None,
) -> Array:
    """As conv_transpose2d, with x (N, C, L), w (C, K/groups, S) and y (N, K, Q).

    >>> import numpy as np, pyconv as pc
    >>> pc.conv_transpose1d(np.array([[[1.0, 2.0]]]), np.array([[[1.0, 10.0]]]), stride=2)
    array([[[ 1., 10.,  2., 20.]]])
    """
    rest = ("zeros", False, activation, algorithm, output_padding, output_size)
    options = (stride, padding, dilation, groups, *rest)
    return forward("conv_transpose1d", 1, True, x, w, b, None, layout, options, out)


def conv_transpose2d(
    x: Array,
    w: Array,
    b: Array = None,
    stride: Ints = 1,
    padding: Padding = 0,
    output_padding: Ints = 0,
    groups: int = 1,
    dilation: Ints = 1,
    *,
    output_size: Sequence[int] | None = None,
    layout: str = "NCHW",
    activation: str | None = None,
    algorithm: str = "auto",
    out: Array = None,
) -> Array:
    """Spread every pixel of `x` over the output as the filters `w`: conv2d's adjoint.

    y[n,k, h*stride - pad + r*dilation, ...] += x[n,c,h,w] * w[c,k,r,s], then b and the activation.

    x : (N, C, H, W); w : (C, K/groups, R, S), as in PyTorch; b : (K,).
    output_padding : rows and columns added after, to tell apart the sizes that a strided
        convolution maps to the same one; smaller than stride or dilation.
    output_size : those spatial sizes themselves, instead of output_padding.
    padding : pixels cut from every side; also "valid" (none) and "same" (output = input * stride).
    The other arguments are those of conv2d.

    Returns y (N, K, P, Q) with P = (H - 1)*stride - pads + dilation*(R - 1) + output_padding + 1.

    Raises as conv2d.

    Source: Zeiler et al., "Deconvolutional networks", CVPR 2010.

    >>> import numpy as np, pyconv as pc
    >>> pc.conv_transpose2d(np.array([[[[1.0, 2.0]]]]), np.ones((1, 1, 2, 2)), stride=2)
    array([[[[1., 1., 2., 2.],
             [1., 1., 2., 2.]]]])
    """
    rest = ("zeros", False, activation, algorithm, output_padding, output_size)
    options = (stride, padding, dilation, groups, *rest)
    return forward("conv_transpose2d", 2, True, x, w, b, None, layout, options, out)


def conv_transpose3d(
    x: Array,
    w: Array,
    b: Array = None,
    stride: Ints = 1,
    padding: Padding = 0,
    output_padding: Ints = 0,
    groups: int = 1,
    dilation: Ints = 1,
    *,
    output_size: Sequence[int] | None = None,
    layout: str = "NCHW",
    activation: str | None = None,
    algorithm: str = "auto",
    out: Array = None,
) -> Array:
    """As conv_transpose2d, with x (N, C, D, H, W), w (C, K/groups, T, R, S), y (N, K, Z, P, Q).

    >>> import numpy as np, pyconv as pc
    >>> pc.conv_transpose3d(np.ones((1, 1, 2, 2, 2)), np.ones((1, 4, 3, 3, 3)), stride=2).shape
    (1, 4, 5, 5, 5)
    """
    rest = ("zeros", False, activation, algorithm, output_padding, output_size)
    options = (stride, padding, dilation, groups, *rest)
    return forward("conv_transpose3d", 3, True, x, w, b, None, layout, options, out)


def conv_transpose1d_backward(
    dy: Array,
    x: Array | Shape,
    w: Array | Shape,
    stride: Ints = 1,
    padding: Padding = 0,
    output_padding: Ints = 0,
    groups: int = 1,
    dilation: Ints = 1,
    *,
    output_size: Sequence[int] | None = None,
    layout: str = "NCHW",
    needs: Iterable[str] = ("x", "w", "b"),
    algorithm: str = "auto",
    out: tuple[Array, Array, Array] | None = None,
) -> Gradients:
    """As conv_transpose2d_backward, for conv_transpose1d.

    >>> import numpy as np, pyconv as pc
    >>> w = np.array([[[1.0, 10.0]]])
    >>> pc.conv_transpose1d_backward(np.ones((1, 1, 4)), (1, 1, 2), w, stride=2, needs="x")
    (array([[[11., 11.]]]), None, None)
    """
    rest = ("zeros", False, None, algorithm, output_padding, output_size)
    options = (stride, padding, dilation, groups, *rest)
    op = "conv_transpose1d_backward"
    return backward(op, 1, True, dy, x, w, layout, options, needs, out)


def conv_transpose2d_backward(
    dy: Array,
    x: Array | Shape,
    w: Array | Shape,
    stride: Ints = 1,
    padding: Padding = 0,
    output_padding: Ints = 0,
    groups: int = 1,
    dilation: Ints = 1,
    *,
    output_size: Sequence[int] | None = None,
    layout: str = "NCHW",
    needs: Iterable[str] = ("x", "w", "b"),
    algorithm: str = "auto",
    out: tuple[Array, Array, Array] | None = None,
) -> Gradients:
    """Gradients (dx, dw, db) of sum(dy * conv_transpose2d(x, w, b, ...)).

    dx is conv2d(dy, w); dw[c,k,r,s] = sum over n,h,w of x[n,c,h,w] * dy[n,k, h*stride - pad +
    r*dilation, ...]; db[k] the sum of dy over all but k. An entry not in `needs` is None; x or w
    may be a shape tuple where its values are not needed (dx reads w, dw reads x).

    Raises as conv2d_backward.

    >>> import numpy as np, pyconv as pc
    >>> dx, _, _ = pc.conv_transpose2d_backward(
    ...     np.ones((1, 1, 4, 4)), (1, 1, 2, 2), np.ones((1, 1, 2, 2)), stride=2, needs="x")
    >>> dx
    array([[[[4., 4.],
             [4., 4.]]]])
    """
    rest = ("zeros", False, None, algorithm, output_padding, output_size)
    options = (stride, padding, dilation, groups, *rest)
    op = "conv_transpose2d_backward"
    return backward(op, 2, True, dy, x, w, layout, options, needs, out)


def conv_transpose3d_backward(
    dy: Array,
    x: Array | Shape,
    w: Array | Shape,
    stride: Ints = 1,
    padding: Padding = 0,
    output_padding: Ints = 0,
    groups: int = 1,
    dilation: Ints = 1,
    *,
    output_size: Sequence[int] | None = None,
    layout: str = "NCHW",
    needs: Iterable[str] = ("x", "w", "b"),
    algorithm: str = "auto",
    out: tuple[Array, Array, Array] | None = None,
) -> Gradients:
    """As conv_transpose2d_backward, for conv_transpose3d.

    >>> import numpy as np, pyconv as pc
    >>> x, dy = np.ones((1, 1, 2, 2, 2)), np.ones((1, 1, 3, 3, 3))
    >>> pc.conv_transpose3d_backward(dy, x, (1, 1, 2, 2, 2), needs="w")[1].ravel()
    array([8., 8., 8., 8., 8., 8., 8., 8.])
    """
    rest = ("zeros", False, None, algorithm, output_padding, output_size)
    options = (stride, padding, dilation, groups, *rest)
    op = "conv_transpose3d_backward"
    return backward(op, 3, True, dy, x, w, layout, options, needs, out)

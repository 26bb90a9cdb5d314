"""Convolution in one, two and three dimensions, its gradients, and what belongs to it."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from . import _core, _gpu
from ._arrays import Array, Call, Shape, shape_tuple
from ._conv import Gradients, backward, forward
from ._core import ready
from ._plan import Ints, Padding, axes_of, conv_plan


def conv1d(
    x: Array,
    w: Array,
    b: Array = None,
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
    groups: int = 1,
    *,
    padding_mode: str = "zeros",
    layout: str = "NCHW",
    flip: bool = False,
    activation: str | None = None,
    residual: Array = None,
    algorithm: str = "auto",
    out: Array = None,
) -> Array:
    """As conv2d, with x (N, C, L), w (K, C/groups, S) and y (N, K, Q).

    A (before, after) padding is a pair for the one axis: ((1, 2),); a bare (1, 2) is an error.

    >>> import numpy as np, pyconv as pc
    >>> pc.conv1d(np.arange(5.0).reshape(1, 1, 5), np.array([[[1.0, -1.0]]]), padding=((1, 0),))
    array([[[ 0., -1., -1., -1., -1.]]])
    """
    given = (stride, padding, dilation, groups, padding_mode, flip, activation, algorithm, 0, None)
    return forward("conv1d", 1, False, x, w, b, residual, layout, given, out)


def conv2d(
    x: Array,
    w: Array,
    b: Array = None,
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
    groups: int = 1,
    *,
    padding_mode: str = "zeros",
    layout: str = "NCHW",
    flip: bool = False,
    activation: str | None = None,
    residual: Array = None,
    algorithm: str = "auto",
    out: Array = None,
) -> Array:
    """Convolve a batch of images `x` with the filters `w`.

    y[n,k,p,q] = act(b[k] + residual[n,k,p,q]
                     + sum over c,r,s of x[n,c, p*stride - pad + r*dilation, ...] * w[k,c,r,s])

    x : (N, C, H, W), float32 or float64; every array of a call has the same dtype.
    w : (K, C/groups, R, S); b : (K,), added to every pixel of its channel.
    stride, dilation : an int, or one per axis.
    padding : pixels added on every side: an int, one int per axis, or a (before, after) pair per
        axis; "valid" (none), "same" (output = ceil(size/stride), the odd pixel after),
        "same_lower" (the odd pixel before), "full" (every position where filter and image meet).
    groups : channels are split into so many independent convolutions; groups = C is depthwise.
    padding_mode : what the added pixels hold: "zeros", "reflect", "replicate", "circular" or
        "symmetric".
    layout : "NHWC" takes x, residual and y as (N, H, W, C); w keeps its shape. A transposed view
        runs in the order that it has in memory, without a copy.
    flip : False is cross-correlation, which learning frameworks call convolution; True is
        sum over m,n of I(m,n) K(i-m, j-n).
    activation : "relu", "leaky_relu" (slope 0.01), "tanh", "sigmoid", "gelu" (exact), "silu" or
        "relu6", applied last; residual, shaped like y, is added before it.
    algorithm : "auto", or "direct" or "gemm" by force.
    out : an array to write y to, which is then returned.

    Returns y (N, K, P, Q) with P = floor((H + pads - dilation*(R - 1) - 1) / stride) + 1, and so Q,
    of x's kind: NumPy for NumPy, otherwise what its `from_dlpack` makes.

    Raises ValueError for shapes and numbers that break a rule, for an unknown name, and for an
    `out` that is read-only, of another shape, or shares memory with an input; TypeError for what is
    no array, another dtype, or a number that is no integer. The text has the value and all shapes.

    Source: Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", 2016.

    >>> import numpy as np, pyconv as pc
    >>> x = np.array([[[[1.0, 3, -1], [2, 1, 0], [0, 2, -1]]]])
    >>> w = np.array([[[[1.0, 0], [2, -1]]]])
    >>> pc.conv2d(x, w)
    array([[[[4., 5.],
             [0., 6.]]]])
    """
    given = (stride, padding, dilation, groups, padding_mode, flip, activation, algorithm, 0, None)
    return forward("conv2d", 2, False, x, w, b, residual, layout, given, out)


def conv3d(
    x: Array,
    w: Array,
    b: Array = None,
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
    groups: int = 1,
    *,
    padding_mode: str = "zeros",
    layout: str = "NCHW",
    flip: bool = False,
    activation: str | None = None,
    residual: Array = None,
    algorithm: str = "auto",
    out: Array = None,
) -> Array:
    """As conv2d, with x (N, C, D, H, W), w (K, C/groups, T, R, S) and y (N, K, Z, P, Q).

    >>> import numpy as np, pyconv as pc
    >>> pc.conv3d(np.ones((1, 2, 4, 5, 6)), np.ones((3, 2, 2, 2, 2)), stride=(2, 1, 1)).shape
    (1, 3, 2, 4, 5)
    """
    given = (stride, padding, dilation, groups, padding_mode, flip, activation, algorithm, 0, None)
    return forward("conv3d", 3, False, x, w, b, residual, layout, given, out)


def conv1d_backward(
    dy: Array,
    x: Array | Shape,
    w: Array | Shape,
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
    groups: int = 1,
    *,
    padding_mode: str = "zeros",
    layout: str = "NCHW",
    flip: bool = False,
    needs: Iterable[str] = ("x", "w", "b"),
    algorithm: str = "auto",
    out: tuple[Array, Array, Array] | None = None,
) -> Gradients:
    """As conv2d_backward, for conv1d.

    >>> import numpy as np, pyconv as pc
    >>> pc.conv1d_backward(np.ones((1, 1, 3)), (1, 1, 4), np.array([[[1.0, 2.0]]]), needs="x")
    (array([[[1., 3., 3., 2.]]]), None, None)
    """
    given = (stride, padding, dilation, groups, padding_mode, flip, None, algorithm, 0, None)
    return backward("conv1d_backward", 1, False, dy, x, w, layout, given, needs, out)


def conv2d_backward(
    dy: Array,
    x: Array | Shape,
    w: Array | Shape,
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
    groups: int = 1,
    *,
    padding_mode: str = "zeros",
    layout: str = "NCHW",
    flip: bool = False,
    needs: Iterable[str] = ("x", "w", "b"),
    algorithm: str = "auto",
    out: tuple[Array, Array, Array] | None = None,
) -> Gradients:
    """Gradients (dx, dw, db) of sum(dy * conv2d(x, w, b, ...)); an entry not in `needs` is None.

    dx[n,c,h,w] is the sum over every output that read x[n,c,h,w] of dy times the weight it was read
    with; dw[k,c,r,s] = sum over n,p,q of dy[n,k,p,q] * x[n,c, p*stride - pad + r*dilation, ...];
    db[k] = sum over n,p,q of dy[n,k,p,q].

    dy : (N, K, P, Q), the gradient of y; behind a fused activation, what `activation_backward`
        makes of it. The other arguments are those of conv2d.
    x, w : the arrays, or shape tuples where their values are not needed: dx reads w, dw reads x.
    needs : any of "x", "w", "b". out : a triple of arrays to write to, or None in the places of it.

    Raises as conv2d; ValueError for an unknown entry of needs, TypeError for a shape where `needs`
    asks for values.

    Source: Goodfellow, Bengio and Courville, "Deep Learning", 2016, section 9.5.

    >>> import numpy as np, pyconv as pc
    >>> x, w = np.arange(9.0).reshape(1, 1, 3, 3), np.ones((1, 1, 2, 2))
    >>> dx, dw, db = pc.conv2d_backward(np.ones((1, 1, 2, 2)), x, w)
    >>> dw  # each weight saw four pixels
    array([[[[ 8., 12.],
             [20., 24.]]]])
    """
    given = (stride, padding, dilation, groups, padding_mode, flip, None, algorithm, 0, None)
    return backward("conv2d_backward", 2, False, dy, x, w, layout, given, needs, out)


def conv3d_backward(
    dy: Array,
    x: Array | Shape,
    w: Array | Shape,
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
    groups: int = 1,
    *,
    padding_mode: str = "zeros",
    layout: str = "NCHW",
    flip: bool = False,
    needs: Iterable[str] = ("x", "w", "b"),
    algorithm: str = "auto",
    out: tuple[Array, Array, Array] | None = None,
) -> Gradients:
    """As conv2d_backward, for conv3d.

    >>> import numpy as np, pyconv as pc
    >>> _, _, db = pc.conv3d_backward(np.ones((2, 1, 3, 3, 3)), (2, 1, 3, 3, 3), (1, 1, 1, 1, 1),
    ...                               needs="b")
    >>> db
    array([54.])
    """
    given = (stride, padding, dilation, groups, padding_mode, flip, None, algorithm, 0, None)
    return backward("conv3d_backward", 3, False, dy, x, w, layout, given, needs, out)


def activation_backward(dy: Array, y: Array, activation: str | None) -> Array:
    """The gradient before a fused activation: dy * activation'(.), element by element.

    dy, y : arrays of one shape. y is the activation's output, from which the derivatives of relu,
    relu6, leaky_relu, tanh and sigmoid follow; for gelu and silu it is the activation's input. For
    activation None the result is a copy of dy.

    Raises ValueError for unequal shapes or an unknown activation, TypeError as conv2d.

    >>> import numpy as np, pyconv as pc
    >>> pc.activation_backward(np.array([1.0, 1.0]), np.array([0.0, 2.0]), "relu")
    array([0., 1.])
    """
    op = "activation_backward"
    if activation is not None and not isinstance(activation, str):
        raise TypeError(f"{op}: activation must be a string, got {activation!r}")
    if ready(dy, y) and dy.shape == y.shape:
        dx = np.empty_like(dy)
        _core.activation_backward(activation or "none", dy, y, dx)
        return dx
    call = Call(op, "NCHW", {"dy": dy, "y": y})
    if call.shape("dy", "NCHW") != call.shape("y", "NCHW"):
        raise ValueError(f"{op}: dy and y must have one shape; {call.describe()}")
    dense_dy = call.dense("dy")
    result = call.empty(dense_dy.shape)
    core: Callable[..., None] = (_core if call.device is None else _gpu).activation_backward
    core(activation or "none", dense_dy, call.dense("y"), result)
    return call.hand_back(result)


def conv_output_shape(
    x_shape: Sequence[int],
    w_shape: Sequence[int],
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
    groups: int = 1,
    *,
    layout: str = "NCHW",
    transposed: bool = False,
    output_padding: Ints = 0,
    output_size: Sequence[int] | None = None,
) -> Shape:
    """The shape of conv1d, conv2d or conv3d of these shapes (or, transposed, of conv_transpose*).

    Nothing is computed; raises what the convolution itself would.

    >>> import pyconv as pc
    >>> pc.conv_output_shape((1, 3, 224, 224), (64, 3, 7, 7), stride=2, padding=3)
    (1, 64, 112, 112)
    """
    op = "conv_output_shape"
    x, w = shape_tuple(op, "x_shape", x_shape), shape_tuple(op, "w_shape", w_shape)
    if not isinstance(transposed, bool):
        raise TypeError(f"{op}: transposed must be a bool, got {transposed!r}")
    head = (op, axes_of(x), "fwd", transposed, "float32", layout, x, w, None, None, None)
    names = ("zeros", False, None, "auto")
    options = (stride, padding, dilation, groups, *names, output_padding, output_size)
    return conv_plan(*head, options).output_shape

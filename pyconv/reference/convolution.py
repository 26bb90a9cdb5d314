"""Convolution, transposed convolution, their gradients, activations."""

import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from .sizes import (
    PAD_MODE,
    Array,
    Ints,
    Padding,
    Pairs,
    Size,
    conv_size,
    extents,
    pad_pairs,
    per_axis,
)


def pad(x: Array, pairs: Pairs, padding_mode: str = "zeros") -> Array:
    return np.pad(x, [(0, 0), (0, 0), *pairs], mode=PAD_MODE[padding_mode])


def pad_backward(dy: Array, pairs: Pairs, padding_mode: str = "zeros") -> Array:
    """The adjoint of pad: each padded element gives its gradient back to where it was read."""
    for axis, (before, after) in enumerate(pairs, 2):
        size = dy.shape[axis] - before - after
        lines = np.moveaxis(dy, axis, 0)
        dx = lines[before : before + size]
        if padding_mode != "zeros":
            source = np.pad(np.arange(size), (before, after), mode=PAD_MODE[padding_mode])
            dx = np.zeros_like(dx)
            np.add.at(dx, source, lines)
        dy = np.moveaxis(dx, 0, axis)
    return dy


def last_axes(index: Iterable[slice]) -> Any:
    return ..., *index


def reverse(w: Array) -> Array:
    return np.flip(w, tuple(range(2, w.ndim)))


def tap_views(
    x: Array, kernel: Size, out: Size, stride: Ints, dilation: Ints
) -> Iterator[tuple[tuple[Any, ...], Array]]:
    """For each tap its place in w and the view of the padded x that it multiplies."""
    steps, spread = per_axis(stride, len(kernel)), per_axis(dilation, len(kernel))
    for tap in np.ndindex(*kernel):
        starts = [t * d for t, d in zip(tap, spread)]
        window = [slice(i, i + o * s, s) for i, o, s in zip(starts, out, steps)]
        yield (..., *tap), x[last_axes(window)]


def split(x: Array, groups: int) -> Array:
    """(N, C, *spatial) -> (N, G, C/G, pixels): a matrix for each image and group."""
    return x.reshape(x.shape[0], groups, x.shape[1] // groups, math.prod(x.shape[2:]))


def finish(y: Array, b: Array | None, residual: Array | None, name: str | None) -> Array:
    y = y if b is None else y + b.reshape(-1, *[1] * (y.ndim - 2))
    y = activation(y if residual is None else y + residual, name)
    return y


def conv(
    x: Array,
    w: Array,
    b: Array | None = None,
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
    groups: int = 1,
    *,
    padding_mode: str = "zeros",
    flip: bool = False,
    activation: str | None = None,
    residual: Array | None = None,
) -> Array:
    """y[n,k,o] = activation(b[k] + sum_{c,t} x[n, c, o stride + t dilation - pad] w[k,c,t])."""
    w = reverse(w) if flip else w
    n, k, c = x.shape[0], w.shape[0], w.shape[1]
    out, pairs = conv_size(x.shape[2:], w.shape[2:], stride, padding, dilation)
    padded = pad(x, pairs, padding_mode)
    y = np.zeros((n, groups, k // groups, math.prod(out)), x.dtype)
    for tap, view in tap_views(padded, w.shape[2:], out, stride, dilation):
        y += w[tap].reshape(groups, k // groups, c) @ split(view, groups)
    return finish(y.reshape(n, k, *out), b, residual, activation)


def conv_im2col(
    x: Array,
    w: Array,
    b: Array | None = None,
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
    groups: int = 1,
) -> Array:
    """As conv, as fast as NumPy goes: every window gathered into one matrix, one BLAS product."""
    n, k, axes = x.shape[0], w.shape[0], w.ndim - 2
    out, pairs = conv_size(x.shape[2:], w.shape[2:], stride, padding, dilation)
    extent: Any = extents(w.shape[2:], dilation)
    windows = sliding_window_view(pad(x, pairs), extent, tuple(range(2, x.ndim)))
    steps = [slice(None, None, s) for s in per_axis(stride, axes) + per_axis(dilation, axes)]
    windows = windows[last_axes(steps)]  # (N, C, *out, *kernel)
    columns = np.moveaxis(windows, range(2, 2 + axes), range(-axes, 0))
    columns = columns.reshape(n, groups, math.prod(w.shape[1:]), math.prod(out))
    y = w.reshape(groups, k // groups, -1) @ columns
    return finish(y.reshape(n, k, *out), b, None, None)


def input_gradient(
    dy: Array,
    w: Array,
    x_shape: Size,
    stride: Ints = 1,
    pairs: Padding = 0,
    dilation: Ints = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
) -> Array:
    """dx: each tap adds w^T dy to the view it read."""
    k, c = w.shape[:2]
    pairs = pad_pairs(pairs, x_shape[2:], extents(w.shape[2:], dilation), stride)
    size = [i + before + after for i, (before, after) in zip(x_shape[2:], pairs)]
    rows = zip(dy.shape[2:], per_axis(stride, len(size)), extents(w.shape[2:], dilation))
    # Where the taps of a transposed convolution reach beyond its output, they are cut off.
    reach = [max(i, (o - 1) * s + e) for i, (o, s, e) in zip(size, rows)]
    dx = np.zeros((*x_shape[:2], *reach), dy.dtype)
    for tap, view in tap_views(dx, w.shape[2:], dy.shape[2:], stride, dilation):
        transposed = w[tap].reshape(groups, k // groups, c).swapaxes(1, 2)
        view += (transposed @ split(dy, groups)).reshape(view.shape)
    return pad_backward(dx[last_axes(map(slice, size))], pairs, padding_mode)


def weight_gradient(
    dy: Array, padded: Array, w_shape: Size, stride: Ints, dilation: Ints, groups: int
) -> Array:
    """dw: each tap sums dy times the view it read, over images and outputs."""
    dw = np.zeros(w_shape, dy.dtype)
    for tap, view in tap_views(padded, w_shape[2:], dy.shape[2:], stride, dilation):
        product = split(dy, groups) @ split(view, groups).swapaxes(2, 3)
        dw[tap] = product.sum(0).reshape(w_shape[:2])
    return dw


def conv_backward(
    dy: Array,
    x: Array,
    w: Array,
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
    groups: int = 1,
    *,
    padding_mode: str = "zeros",
    flip: bool = False,
) -> tuple[Array, Array, Array]:
    """(dx, dw, db) of sum(dy * conv(x, w, b)). A true convolution's dw is turned like its w."""
    _, pairs = conv_size(x.shape[2:], w.shape[2:], stride, padding, dilation)
    turned = reverse(w) if flip else w
    dx = input_gradient(dy, turned, x.shape, stride, pairs, dilation, groups, padding_mode)
    dw = weight_gradient(dy, pad(x, pairs, padding_mode), w.shape, stride, dilation, groups)
    return dx, reverse(dw) if flip else dw, dy.sum((0, *range(2, dy.ndim)))


def transposed_size(
    size: Size,
    kernel: Size,
    stride: Ints = 1,
    padding: Padding = 0,
    output_padding: Ints = 0,
    dilation: Ints = 1,
    output_size: Ints | None = None,
) -> tuple[list[int], Pairs]:
    """Output size (i - 1) stride - before - after + extent + output_padding, and the padding."""
    axes, extent = len(size), extents(kernel, dilation)
    steps, more = per_axis(stride, axes), per_axis(output_padding, axes)
    if padding == "same":
        out = [i * s for i, s in zip(size, steps)]
        return out, pad_pairs("same", out, extent, steps)
    pairs = pad_pairs(padding, size, extent, steps)
    rows = zip(size, steps, pairs, extent, more)
    out = [(i - 1) * s - sum(p) + e + m for i, s, p, e, m in rows]
    return out if output_size is None else per_axis(output_size, axes), pairs


def conv_transpose(
    x: Array,
    w: Array,
    b: Array | None = None,
    stride: Ints = 1,
    padding: Padding = 0,
    output_padding: Ints = 0,
    groups: int = 1,
    dilation: Ints = 1,
    *,
    output_size: Ints | None = None,
    activation: str | None = None,
) -> Array:
    """The input gradient of the convolution with the same w, made public: y for dx, x for dy."""
    out, pairs = transposed_size(
        x.shape[2:], w.shape[2:], stride, padding, output_padding, dilation, output_size
    )
    y_shape = (x.shape[0], w.shape[1] * groups, *out)
    y = input_gradient(x, w, y_shape, stride, pairs, dilation, groups)
    return finish(y, b, None, activation)


def conv_transpose_backward(
    dy: Array,
    x: Array,
    w: Array,
    stride: Ints = 1,
    padding: Padding = 0,
    groups: int = 1,
    dilation: Ints = 1,
) -> tuple[Array, Array, Array]:
    """(dx, dw, db), the output's size taken from dy: dx is the convolution of dy."""
    _, pairs = transposed_size(x.shape[2:], w.shape[2:], stride, padding, 0, dilation, dy.shape[2:])
    reach = [  # taps beyond dy read zeros
        (before, max(after, (i - 1) * s + e - size - before))
        for (before, after), i, s, e, size in zip(
            pairs,
            x.shape[2:],
            per_axis(stride, len(pairs)),
            extents(w.shape[2:], dilation),
            dy.shape[2:],
        )
    ]
    dx = conv(dy, w, None, stride, reach, dilation, groups)[last_axes(map(slice, x.shape[2:]))]
    dw = weight_gradient(x, pad(dy, reach), w.shape, stride, dilation, groups)
    return dx, dw, dy.sum((0, *range(2, dy.ndim)))


def normal_cdf(x: Array) -> Any:
    return np.asarray(0.5 * np.vectorize(math.erfc, otypes=[float])(x / -math.sqrt(2)), x.dtype)


def activation(x: Array, name: str | None) -> Any:
    match name:
        case "relu":
            return np.maximum(x, 0)  # keeps NaN
        case "leaky_relu":
            return np.where(x > 0, x, 0.01 * x)
        case "tanh":
            return np.tanh(x)
        case "sigmoid":
            z = np.exp(-np.abs(x))  # never overflows
            return np.where(x < 0, z, 1) / (1 + z)
        case "gelu":
            return x * normal_cdf(x)
        case "silu":
            return x * activation(x, "sigmoid")
        case "relu6":
            return np.clip(x, 0, 6)  # keeps NaN
    return x


def activation_backward(dy: Array, y: Array, name: str) -> Any:
    """dy times the derivative; y is the activation's output, its input for gelu and silu."""
    match name:
        case "relu":
            return np.where(y > 0, dy, 0)
        case "leaky_relu":
            return np.where(y > 0, dy, 0.01 * dy)
        case "tanh":
            return dy * (1 - y * y)
        case "sigmoid":
            return dy * y * (1 - y)
        case "gelu":
            return dy * (normal_cdf(y) + y * np.exp(-0.5 * y * y) / math.sqrt(2 * math.pi))
        case "relu6":
            return np.where((y <= 0) | (y >= 6), 0, dy)
    return dy * activation(y, "sigmoid") * (1 + y * activation(-y, "sigmoid"))

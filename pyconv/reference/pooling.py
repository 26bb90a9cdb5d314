"""Pooling, unpooling and columns, over tables of positions."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .sizes import Array, Ints, Padding, Size, conv_size, per_axis

# Pooling. `window` below stands for the arguments of pool_positions after the first --------------


def flat_positions(lines: Sequence[Array], size: Size) -> Array:
    """A table of positions for each axis -> one (outputs, taps) of flat positions, -1 outside."""
    flat = np.zeros((1, 1), np.int64)
    for line, n in zip(lines, size):
        a, i = flat[:, None, :, None], line[None, :, None, :]
        joined = np.where((a < 0) | (i < 0) | (i >= n), -1, a * n + i)
        flat = joined.reshape(flat.shape[0] * line.shape[0], flat.shape[1] * line.shape[1])
    return flat


def pool_positions(
    size: Size,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    dilation: Ints = 1,
    ceil_mode: bool = False,
    count_padding: bool = False,
) -> tuple[list[int], Array]:
    """Output size and table of positions in the input (count_padding: in the padded input)."""
    axes, out, lines, whole = len(size), [], [], []
    columns = (kernel_size, kernel_size if stride is None else stride, padding, dilation)
    for i, k, s, p, d in zip(size, *(per_axis(column, axes) for column in columns)):
        room = i + 2 * p - (k - 1) * d - 1
        o = (-(-room // s) if ceil_mode else room // s) + 1
        o -= ceil_mode and (o - 1) * s >= i + p  # the last window starts inside the input
        start = np.arange(o)[:, None] * s - (0 if count_padding else p)
        out.append(o)
        lines.append(start + np.arange(k) * d)
        whole.append(i + 2 * p if count_padding else i)
    return out, flat_positions(lines, whole)


def adaptive_positions(size: Size, output_size: Ints) -> tuple[list[int], Array]:
    """Output o reads floor(o size / out) <= i < ceil((o + 1) size / out)."""
    out, lines = per_axis(output_size, len(size)), []
    for i, n in zip(size, out):
        o = np.arange(n)[:, None]
        start, stop = o * i // n, -(-(o + 1) * i // n)
        line = start + np.arange((stop - start).max(initial=0))
        lines.append(np.where(line < stop, line, -1))
    return out, flat_positions(lines, size)


def gather(x: Array, positions: Array, fill: float = 0) -> Array:
    """(N, C, *positions.shape), `fill` at -1."""
    plane = x.reshape(*x.shape[:2], math.prod(x.shape[2:]))
    return np.where(positions < 0, x.dtype.type(fill), plane[:, :, positions])


def scatter(values: Array, positions: Array, shape: Size) -> Array:
    """The adjoint of gather: adds values up where they were read."""
    plane = np.zeros((*shape[:2], math.prod(shape[2:])), values.dtype)
    inside = positions >= 0
    np.add.at(plane.T, positions[inside], values[..., inside].T)
    return plane.reshape(shape)


def outputs(y: Array, positions: Array) -> Array:
    """(N, C, *out) -> (N, C, outputs, 1), to stand beside taps."""
    return y.reshape(*y.shape[:2], len(positions), 1)


def max_pool(x: Array, *window: Any, adaptive: bool = False, **more: Any) -> tuple[Array, Array]:
    """(y, flat position of each maximum in its plane); the first NaN, else the first maximum."""
    find: Any = adaptive_positions if adaptive else pool_positions
    out, positions = find(x.shape[2:], *window, **more)
    values, rows = gather(x, positions, -np.inf), np.arange(len(positions))
    tap = values.argmax(-1)
    # Where all are -inf the padding must not win.
    tap = np.where(positions[rows, tap] < 0, (positions >= 0).argmax(-1), tap)
    y, indices = np.take_along_axis(values, tap[..., None], -1), positions[rows, tap]
    return y.reshape(*x.shape[:2], *out), indices.reshape(*x.shape[:2], *out)


def max_pool_backward(dy: Array, indices: Array, input_shape: Size) -> Array:
    """Each output's gradient goes to its maximum."""
    dx = np.zeros((*input_shape[:2], math.prod(input_shape[2:])), dy.dtype)
    image, channel, *_ = np.indices(dy.shape)
    np.add.at(dx, (image, channel, indices), dy)
    return dx.reshape(input_shape)


def max_unpool(x: Array, indices: Array, output_size: Size) -> Array:
    """Zeros, and each x at its index."""
    y = np.zeros((*x.shape[:2], math.prod(output_size)), x.dtype)
    image, channel, *_ = np.indices(x.shape)
    y[image, channel, indices] = x
    return y.reshape(*x.shape[:2], *output_size)


def shares(
    size: Size,
    *window: Any,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    weights: Array | None = None,
    adaptive: bool = False,
    **more: Any,
) -> tuple[list[int], Array, Array]:
    """Output size, positions, and each tap's share of its output, (outputs, taps).

    The divisor is the sum of the weights (ones if None) over the window clipped to the padded
    input, or to the input itself where padding is not counted.
    """
    find: Any = adaptive_positions if adaptive else pool_positions
    out, positions = find(size, *window, **more)
    counted = positions
    if count_include_pad and not adaptive:
        counted = find(size, *window, **more, count_padding=True)[1]
    weight = np.ones(positions.shape[1]) if weights is None else weights.ravel()
    total = ((counted >= 0) * weight).sum(1, keepdims=True)
    share = weight / (total if divisor_override is None else divisor_override)
    return out, positions, np.where(positions < 0, 0.0, share)


def avg_pool(x: Array, *window: Any, **more: Any) -> Array:
    """Mean of each window, with the options of `shares`."""
    out, positions, share = shares(x.shape[2:], *window, **more)
    y: Array = (gather(x, positions) * share.astype(x.dtype)).sum(-1)
    return y.reshape(*x.shape[:2], *out)


def avg_pool_backward(dy: Array, input_shape: Size, *window: Any, **more: Any) -> Array:
    _, positions, share = shares(input_shape[2:], *window, **more)
    return scatter(outputs(dy, positions) * share.astype(dy.dtype), positions, input_shape)


def lp_pool(x: Array, norm_type: float, *window: Any, **more: Any) -> Array:
    """(sum |x|^p)^(1/p); p = inf gives the largest |x|."""
    out, positions = pool_positions(x.shape[2:], *window, **more)
    y = np.linalg.norm(gather(x, positions), norm_type, -1)
    return np.asarray(y.reshape(*x.shape[:2], *out), x.dtype)


def lp_pool_backward(
    dy: Array, x: Array, y: Array, norm_type: float, *window: Any, **more: Any
) -> Array:
    """dx = dy sign(x) (|x| / y)^(p - 1), and 0 where y is 0."""
    _, positions = pool_positions(x.shape[2:], *window, **more)
    dy, y, values = outputs(dy, positions), outputs(y, positions), gather(x, positions)
    part = (np.abs(values) / np.where(y == 0, 1, y)) ** (norm_type - 1)
    return scatter(np.where(y == 0, 0, dy * np.sign(values) * part), positions, x.shape)


# Columns -----------------------------------------------------------------------------------------


def im2col_indices(
    size: Size, kernel_size: Ints, stride: Ints = 1, padding: Padding = 0, dilation: Ints = 1
) -> Array:
    """(taps, outputs): which pixel stands in each place of the columns, -1 in the padding."""
    axes = len(size)
    kernel, steps, spread = (per_axis(v, axes) for v in (kernel_size, stride, dilation))
    out, pairs = conv_size(size, kernel, steps, padding, spread)
    lines = [
        np.arange(o)[:, None] * s - p[0] + np.arange(k) * d
        for o, s, p, k, d in zip(out, steps, pairs, kernel, spread)
    ]
    return flat_positions(lines, size).T


def im2col(x: Array, *window: Any, **more: Any) -> Array:
    """(N, C taps, outputs): every window a column."""
    indices = im2col_indices(x.shape[2:], *window, **more)
    taps, out = indices.shape
    return gather(x, indices).reshape(x.shape[0], x.shape[1] * taps, out)


def col2im(columns: Array, input_shape: Size, *window: Any, **more: Any) -> Array:
    """The adjoint of im2col: overlapping windows add up."""
    indices = im2col_indices(input_shape[2:], *window, **more)
    return scatter(columns.reshape(*input_shape[:2], *indices.shape), indices, input_shape)

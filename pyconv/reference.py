"""The definitions in plain NumPy, written to be read: the tests' oracle, the benchmarks' baseline.

One function serves one, two and three dimensions. Arrays are (N, C, *spatial), filters
(K, C/groups, *kernel), those of a transposed convolution (C, K/groups, *kernel); results have the
dtype of x. Nothing is checked. A tap is one position inside the filter or the window.

Two facts carry the file. A convolution is a sum over taps of matrix products with a shifted,
strided view of x, and its gradients walk the same views. A pooling reduces over a table of flat
input positions, one row an output and one column a tap, with -1 outside the input.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

Array = np.ndarray[Any, Any]
Size = Sequence[int]
Ints = int | Sequence[int]
Pairs = list[tuple[int, int]]
Padding = Ints | Sequence[Sequence[int]] | str
PadMode = Literal["constant", "reflect", "edge", "wrap", "symmetric"]

PAD_MODE: dict[str, PadMode] = {
    "zeros": "constant",
    "reflect": "reflect",
    "replicate": "edge",
    "circular": "wrap",
    "symmetric": "symmetric",
}

# Sizes -------------------------------------------------------------------------------------------


def per_axis(value: Ints, axes: int) -> list[int]:
    return [value] * axes if isinstance(value, int) else list(value)


def extents(kernel: Size, dilation: Ints) -> list[int]:
    return [(k - 1) * d + 1 for k, d in zip(kernel, per_axis(dilation, len(kernel)))]


def pad_pairs(padding: Padding, size: Size, extent: Size, stride: Ints) -> Pairs:
    """(before, after) of each axis."""
    if padding == "valid":
        return [(0, 0)] * len(size)
    if padding == "full":
        return [(e - 1, e - 1) for e in extent]
    if isinstance(padding, str):  # same: output = ceil(size / stride)
        rows = zip(size, extent, per_axis(stride, len(size)))
        totals = [max((-(-i // s) - 1) * s + e - i, 0) for i, e, s in rows]
        pairs = [(t // 2, t - t // 2) for t in totals]
        return pairs if padding == "same" else [(after, before) for before, after in pairs]
    if isinstance(padding, int):
        return [(padding, padding)] * len(size)
    return [(p, p) if isinstance(p, int) else (p[0], p[1]) for p in padding]


def conv_size(
    size: Size, kernel: Size, stride: Ints, padding: Padding, dilation: Ints
) -> tuple[list[int], Pairs]:
    """Output size floor((size + before + after - extent) / stride) + 1, and the padding."""
    extent, steps = extents(kernel, dilation), per_axis(stride, len(size))
    pairs = pad_pairs(padding, size, extent, steps)
    return [(i + sum(p) - e) // s + 1 for i, p, e, s in zip(size, pairs, extent, steps)], pairs


# Convolution -------------------------------------------------------------------------------------


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


# Activations -------------------------------------------------------------------------------------


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
    return dy * activation(y, "sigmoid") * (1 + y * activation(-y, "sigmoid"))


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

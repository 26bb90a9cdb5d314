"""Random shapes, options, layouts and views against the float64 reference."""

import contract
import hypothesis.strategies as st
import numpy as np
import pytest
from contract import ALGORITHMS, DTYPES, LAYOUTS, from_layout, to_layout
from hypothesis import assume, given, reject

import pyconv as pc
from pyconv import reference

CONV = {1: pc.conv1d, 2: pc.conv2d, 3: pc.conv3d}
CONV_BACKWARD = {1: pc.conv1d_backward, 2: pc.conv2d_backward, 3: pc.conv3d_backward}
TRANSPOSE = {1: pc.conv_transpose1d, 2: pc.conv_transpose2d, 3: pc.conv_transpose3d}
MAX_POOL = {1: pc.max_pool1d, 2: pc.max_pool2d, 3: pc.max_pool3d}
AVG_POOL = {1: pc.avg_pool1d, 2: pc.avg_pool2d, 3: pc.avg_pool3d}
AVG_POOL_BACKWARD = {
    1: pc.avg_pool1d_backward,
    2: pc.avg_pool2d_backward,
    3: pc.avg_pool3d_backward,
}
pytestmark = pytest.mark.usefixtures("target", "canaries")
MOST_PRODUCTS = 3e6  # multiply-adds of one example, so that ten thousand end in minutes


def per_axis(draw, axes, low, high):
    """A number for all axes or one for each."""
    if draw(st.booleans()):
        return draw(st.integers(low, high))
    return tuple(draw(st.integers(low, high)) for _ in range(axes))


@st.composite
def convolutions(draw, transposed=False):
    """(x shape, w shape, options) of a legal convolution."""
    axes = draw(st.sampled_from([1, 2, 2, 2, 3]))
    groups = draw(st.sampled_from([1, 1, 1, 2, 3, 5, 16]))
    most = max(1, 67 // groups)
    # Small numbers first, for small counterexamples; depthwise (1, 1) often.
    c, k = (draw(st.sampled_from([1, 1, 2, 3, most]) | st.integers(1, most)) for _ in "ck")
    if groups > 1 and draw(st.booleans()):
        c, k = 1, draw(st.sampled_from([1, 1, 2]))
    longest = {1: 40, 2: 40, 3: 9}[axes]
    kernel = tuple(draw(st.integers(1, 11 if axes < 3 else 3)) for _ in range(axes))
    size = tuple(draw(st.integers(1, longest)) for _ in range(axes))
    stride = per_axis(draw, axes, 1, 5)
    dilation = per_axis(draw, axes, 1, 1) if draw(st.booleans()) else per_axis(draw, axes, 1, 3)
    n = draw(st.integers(0, 4))
    options = {"stride": stride, "dilation": dilation, "groups": groups}
    if transposed:
        options["padding"] = per_axis(draw, axes, 0, 5)
        steps, spread = (reference.per_axis(v, axes) for v in (stride, dilation))
        options["output_padding"] = tuple(
            draw(st.integers(0, max(s, d) - 1)) for s, d in zip(steps, spread, strict=True)
        )
        out, _ = reference.transposed_size(
            size, kernel, stride, options["padding"], options["output_padding"], dilation
        )
        assume(min(out) >= 1)
        w = (c * groups, k, *kernel)
    else:
        modes = ["zeros"] * 4 + ["reflect", "replicate", "circular", "symmetric"]
        options["padding_mode"] = mode = draw(st.sampled_from(modes))
        options["flip"] = draw(st.booleans())
        most_pad = [7 if mode in ("zeros", "replicate") else s - (mode == "reflect") for s in size]
        names = ["valid", "same", "same_lower", "full"] if mode == "zeros" else []
        options["padding"] = draw(
            st.sampled_from([0, min(1, *most_pad), *names])
            | st.tuples(*[st.integers(0, min(p, 7)) for p in most_pad])
            | st.tuples(*[st.tuples(*[st.integers(0, min(p, 7))] * 2) for p in most_pad])
        )
        out, _ = reference.conv_size(size, kernel, stride, options["padding"], dilation)
        assume(min(out) >= 1)
        w = (k * groups, c, *kernel)
    work = max(n, 1) * np.prod(size if transposed else out) * np.prod(w)
    if work > MOST_PRODUCTS:
        reject()
    return (n, c * groups, *size), w, options


@st.composite
def viewed(draw, dense):
    """The same values in some other memory: flipped, strided, offset, read-only, swapped, ..."""
    kinds = ["dense", "fortran", "negative", "strided", "readonly", "big-endian", "unaligned"]
    match draw(st.sampled_from(kinds)):
        case "fortran":
            return np.asfortranarray(dense)
        case "negative":
            backwards = tuple(slice(None, None, -1) for _ in dense.shape)
            return np.ascontiguousarray(dense[backwards])[backwards]
        case "strided":
            wide = np.full((*dense.shape[:-1], 2 * dense.shape[-1] + 3), np.nan, dense.dtype)
            view = wide[..., 3::2]
            view[...] = dense
            return view
        case "readonly":
            dense.flags.writeable = False
            return dense
        case "big-endian":
            return dense.astype(dense.dtype.newbyteorder(">"))
        case "unaligned":
            memory = np.empty(dense.nbytes + 1, np.uint8)
            view = memory[1:].view(dense.dtype).reshape(dense.shape)
            view[...] = dense
            return view
    return dense


def drawn(data, array, dtype, layout=None):
    """float64 values as the call gets them."""
    array = array.astype(dtype)
    return data.draw(viewed(to_layout(array, layout) if layout else array))


DRAWS = {
    "dtype": st.sampled_from(DTYPES),
    "layout": st.sampled_from(LAYOUTS),
    "algorithm": st.sampled_from(ALGORITHMS),
    "data": st.data(),
}


@given(problem=convolutions(), bias=st.booleans(), **DRAWS)
def test_conv(problem, bias, dtype, layout, algorithm, data):
    x_shape, w_shape, options = problem
    x, w, b = contract.random(repr(problem), x_shape, w_shape, w_shape[:1])
    b = b if bias else np.zeros_like(b)
    y = contract.forced(
        CONV[len(x_shape) - 2], drawn(data, x, dtype, layout), drawn(data, w, dtype),
        drawn(data, b, dtype) if bias else None, layout=layout, algorithm=algorithm, **options,
    )  # fmt: skip
    if y is None:
        return
    want = reference.conv(x, w, b, **options)
    scale = reference.conv(abs(x), abs(w), abs(b), **options)
    contract.assert_accurate(
        from_layout(y, layout), want, scale, np.prod(w_shape[1:]), "", algorithm
    )


@given(problem=convolutions(), **DRAWS)
def test_conv_integers(problem, dtype, layout, algorithm, data):
    x_shape, w_shape, options = problem
    assume(algorithm in contract.PLAIN)
    x, w = contract.integers(repr(problem), x_shape, w_shape)
    x_run, w_run = drawn(data, x, dtype, layout), drawn(data, w, dtype)
    with pc.config(precision="strict"):
        y = CONV[len(x_shape) - 2](x_run, w_run, layout=layout, algorithm=algorithm, **options)
    want = reference.conv(x, w, **options)
    contract.assert_same_bits(from_layout(y, layout), want.astype(dtype))


@given(problem=convolutions(), **DRAWS)
def test_conv_backward(problem, dtype, layout, algorithm, data):
    x_shape, w_shape, options = problem
    x, w = contract.random(repr(problem), x_shape, w_shape)
    y = reference.conv(x, w, **options)
    [dy] = contract.random(repr(problem) + "dy", y.shape)
    gradients = contract.forced(
        CONV_BACKWARD[len(x_shape) - 2], drawn(data, dy, dtype, layout),
        drawn(data, x, dtype, layout), drawn(data, w, dtype),
        layout=layout, algorithm=algorithm, **options,
    )  # fmt: skip
    if gradients is None:
        return
    dx, dw, db = gradients
    wants = reference.conv_backward(dy, x, w, **options)
    scales = reference.conv_backward(abs(dy), abs(x), abs(w), **options)
    ones = [np.ones_like(a) for a in (dy, x, w)]
    counts = reference.conv_backward(*ones, **options)
    got = (from_layout(dx, layout), dw, db)
    for name, g, want, scale, count in zip("xwb", got, wants, scales, counts, strict=True):
        contract.assert_accurate(g, want, scale, int(count.max(initial=0)), f"d{name}", algorithm)


@given(problem=convolutions(), **DRAWS)
def test_conv_adjoint(problem, dtype, layout, algorithm, data):
    x_shape, w_shape, options = problem
    x, w = contract.random(repr(problem), x_shape, w_shape)
    axes = len(x_shape) - 2
    run = {"layout": layout, "algorithm": algorithm, **options}
    assume(algorithm in contract.PLAIN)
    y = CONV[axes](to_layout(x, layout), w, **run)
    [dy] = contract.random(repr(problem) + "dy", y.shape)
    gradients = CONV_BACKWARD[axes](dy, to_layout(x, layout), w, **run)
    scale = np.sum(abs(from_layout(dy, layout)) * reference.conv(abs(x), abs(w), **options))
    assert abs(np.sum(dy * y) - np.sum(from_layout(gradients[0], layout) * x)) <= 1e-12 * scale
    assert abs(np.sum(dy * y) - np.sum(gradients[1] * w)) <= 1e-12 * scale


@given(problem=convolutions(transposed=True), **DRAWS)
def test_conv_transpose(problem, dtype, layout, algorithm, data):
    x_shape, w_shape, options = problem
    x, w = contract.random(repr(problem), x_shape, w_shape)
    y = contract.forced(
        TRANSPOSE[len(x_shape) - 2], drawn(data, x, dtype, layout), drawn(data, w, dtype),
        layout=layout, algorithm=algorithm, **options,
    )  # fmt: skip
    if y is None:
        return
    want = reference.conv_transpose(x, w, **options)
    scale = reference.conv_transpose(abs(x), abs(w), **options)
    products = w_shape[0] // options["groups"] * np.prod(w_shape[2:])
    contract.assert_accurate(from_layout(y, layout), want, scale, products, "", algorithm)


@given(data=st.data())
def test_broadcast_views(data):
    """Zero strides: one stored number stands for many."""
    x_shape, w_shape, options = data.draw(convolutions())
    strides = [
        tuple(1 if data.draw(st.booleans()) else s for s in shape) for shape in (x_shape, w_shape)
    ]
    x, w = contract.integers(repr(strides), *strides)
    assume(x.size)
    x, w = np.broadcast_to(x, x_shape), np.broadcast_to(w, w_shape)
    y = CONV[len(x_shape) - 2](x, w, **options)
    contract.assert_same_bits(y, reference.conv(x, w, **options))


@st.composite
def poolings(draw, dilated=True):
    axes = draw(st.sampled_from([1, 2, 2, 3]))
    kernel = tuple(draw(st.integers(1, 7 if axes < 3 else 3)) for _ in range(axes))
    size = tuple(draw(st.integers(1, 40 if axes < 3 else 9)) for _ in range(axes))
    dilation = per_axis(draw, axes, 1, 3) if dilated and draw(st.booleans()) else 1
    options = {
        "stride": draw(st.none()) or per_axis(draw, axes, 1, 5),
        "padding": tuple(draw(st.integers(0, k // 2)) for k in kernel),
        "ceil_mode": draw(st.booleans()),
    }
    if dilated:
        options["dilation"] = dilation
    extent = reference.extents(kernel, dilation)
    pads = options["padding"]
    assume(all(i + 2 * p >= e for i, p, e in zip(size, pads, extent, strict=True)))
    _, positions = reference.pool_positions(
        size, kernel, options["stride"], pads, dilation, options["ceil_mode"]
    )
    assume((positions >= 0).any(1).all())  # a dilated window may miss a tiny input altogether
    return (draw(st.integers(0, 3)), draw(st.integers(1, 35)), *size), kernel, options


@given(problem=poolings(), dtype=DRAWS["dtype"], layout=DRAWS["layout"], data=st.data())
def test_max_pool(problem, dtype, layout, data):
    shape, kernel, options = problem
    make = data.draw(st.sampled_from([contract.random, contract.integers]))
    [x] = make(repr(problem), shape)
    y, indices = MAX_POOL[len(kernel)](
        drawn(data, x, dtype, layout), kernel, return_indices=True, layout=layout, **options
    )
    want, want_indices = reference.max_pool(x, kernel, **options)
    contract.assert_same_bits(from_layout(y, layout), want.astype(dtype))
    contract.assert_same_bits(from_layout(indices, layout), want_indices)


@given(problem=poolings(False), dtype=DRAWS["dtype"], layout=DRAWS["layout"], data=st.data())
def test_avg_pool(problem, dtype, layout, data):
    shape, kernel, options = problem
    options["count_include_pad"] = data.draw(st.booleans())
    options["divisor_override"] = data.draw(st.none() | st.integers(1, 9))
    [x] = contract.random(repr(problem), shape)
    y = AVG_POOL[len(kernel)](drawn(data, x, dtype, layout), kernel, layout=layout, **options)
    want = reference.avg_pool(x, kernel, **options)
    scale = reference.avg_pool(abs(x), kernel, **options)
    contract.assert_accurate(from_layout(y, layout), want, scale, np.prod(kernel))

    [dy] = contract.random(repr(problem) + "dy", want.shape)
    dx = AVG_POOL_BACKWARD[len(kernel)](
        drawn(data, dy, dtype, layout), to_layout(x, layout).shape, kernel, layout=layout, **options
    )
    want = reference.avg_pool_backward(dy, shape, kernel, **options)
    scale = reference.avg_pool_backward(abs(dy), shape, kernel, **options)
    contract.assert_accurate(from_layout(dx, layout), want, scale, np.prod(kernel))


@given(problem=convolutions(), dtype=DRAWS["dtype"], data=st.data())
def test_im2col(problem, dtype, data):
    shape, w_shape, options = problem
    window = {name: options[name] for name in ("stride", "padding", "dilation")}
    kernel = w_shape[2:]
    [x] = contract.random(repr(problem), shape)
    columns = pc.im2col(drawn(data, x, dtype), kernel, **window)
    want = reference.im2col(x, kernel, **window)
    contract.assert_same_bits(columns, want.astype(dtype))
    [dy] = contract.integers(repr(problem), want.shape)
    got = pc.col2im(drawn(data, dy, dtype), shape, kernel, **window)
    contract.assert_same_bits(got, reference.col2im(dy, shape, kernel, **window).astype(dtype))

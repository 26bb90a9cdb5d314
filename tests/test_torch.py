"""An operation called with PyTorch's arguments gives PyTorch's numbers: float64, 1e-12 of scale."""

import itertools

import contract
import numpy as np
import pytest

import pyconv as pc

torch = pytest.importorskip("torch", reason="pip install 'pyconv-engine[torch]'")
functional = torch.nn.functional


def assert_close(got, want):
    want = want.detach().numpy()
    assert got.shape == want.shape
    assert np.abs(got - want).max(initial=0) <= 1e-12 * max(1, np.abs(want).max(initial=0))


def tensors(*arrays):
    return [torch.from_numpy(np.ascontiguousarray(a)).requires_grad_() for a in arrays]


def gradients(y, dy, *inputs):
    return torch.autograd.grad(y, inputs, torch.from_numpy(np.ascontiguousarray(dy)))


def op(module, name, axes):
    return getattr(module, name.replace("#", f"{axes}d"))


SHAPES = {1: ((2, 6, 17), (4,)), 2: ((2, 6, 9, 11), (3, 4)), 3: ((1, 6, 6, 5, 7), (3, 2, 3))}
WINDOWS = [  # stride, padding, dilation, groups
    (1, 0, 1, 1),
    (2, 1, 1, 1),
    (1, 2, 2, 2),
    (3, 1, 1, 6),
    (2, 3, 2, 3),
]


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_conv(axes, window):
    stride, padding, dilation, groups = window
    shape, kernel = SHAPES[axes]
    x, w, b = contract.random(f"torch {axes}", shape, (12, 6 // groups, *kernel), (12,))
    tx, tw, tb = tensors(x, w, b)
    want = op(functional, "conv#", axes)(tx, tw, tb, stride, padding, dilation, groups)
    y = op(pc, "conv#", axes)(x, w, b, stride, padding, dilation, groups)
    assert_close(y, want)
    [dy] = contract.random("torch dy", y.shape)
    got = op(pc, "conv#_backward", axes)(dy, x, w, stride, padding, dilation, groups)
    for mine, theirs in zip(got, gradients(want, dy, tx, tw, tb), strict=True):
        assert_close(mine, theirs)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_named_padding(axes, padding):
    shape, kernel = SHAPES[axes]
    x, w = contract.random(f"named {axes}", shape, (4, 6, *kernel))
    for dilation in (1, 2):
        want = op(functional, "conv#", axes)(
            *tensors(x, w), None, 1, padding=padding, dilation=dilation
        )
        got = op(pc, "conv#", axes)(x, w, None, 1, padding, dilation)
        assert_close(got, want)


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_padding_modes(axes, mode):
    shape, kernel = SHAPES[axes]
    x, w = contract.random(f"modes {axes}", shape, (4, 3, *kernel))
    pads = ((2, 1), (0, 3), (1, 2))[:axes]
    flat = [size for pair in reversed(pads) for size in pair]
    tx, tw = tensors(x, w)
    padded = functional.pad(tx, flat, mode=mode)
    want = op(functional, "conv#", axes)(padded, tw, None, 2, 0, 1, 2)
    y = op(pc, "conv#", axes)(x, w, None, 2, pads, 1, 2, padding_mode=mode)
    assert_close(y, want)
    [dy] = contract.random("modes dy", y.shape)
    got = op(pc, "conv#_backward", axes)(
        dy, x, w, 2, pads, 1, 2, padding_mode=mode, needs=("x", "w")
    )
    for mine, theirs in zip(got[:2], gradients(want, dy, tx, tw), strict=True):
        assert_close(mine, theirs)


@pytest.mark.parametrize(
    "window",  # stride, padding, output_padding, groups, dilation
    [(1, 0, 0, 1, 1), (2, 1, 1, 1, 1), (3, 2, 2, 2, 1), (2, 0, 1, 3, 2), (1, 1, 1, 6, 2)],
    ids=str,
)
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_conv_transpose(axes, window):
    *_, groups, _ = window
    shape, kernel = SHAPES[axes]
    x, w, b = contract.random(f"transposed {axes}", shape, (6, 2, *kernel), (2 * groups,))
    tx, tw, tb = tensors(x, w, b)
    want = op(functional, "conv_transpose#", axes)(tx, tw, tb, *window)
    y = op(pc, "conv_transpose#", axes)(x, w, b, *window)
    assert_close(y, want)
    [dy] = contract.random("transposed dy", y.shape)
    got = op(pc, "conv_transpose#_backward", axes)(dy, x, w, *window)
    for mine, theirs in zip(got, gradients(want, dy, tx, tw, tb), strict=True):
        assert_close(mine, theirs)


def test_output_size_is_that_of_torchs_layer():
    x, w = contract.random("output size", (2, 3, 5, 6), (3, 4, 3, 3))
    layer = torch.nn.ConvTranspose2d(3, 4, 3, stride=3, padding=1, bias=False, dtype=torch.float64)
    layer.weight.data = torch.from_numpy(w)
    for size in ((13, 16), (14, 18), (15, 17)):
        want = layer(torch.from_numpy(x), output_size=size)
        assert_close(pc.conv_transpose2d(x, w, None, 3, 1, output_size=size), want)


POOLS = [  # kernel, stride, padding, dilation, ceil_mode
    (2, None, 0, 1, False),
    (3, 2, 1, 1, False),
    (3, 2, 1, 1, True),
    (2, 1, 1, 2, False),
    (3, 2, 0, 2, True),
    (2, 3, 1, 1, True),
]


@pytest.mark.parametrize("window", POOLS, ids=str)
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_max_pool(axes, window):
    [x] = contract.random(f"pool {axes}", SHAPES[axes][0])
    x = np.round(2 * x) / 2  # ties
    [tx] = tensors(x)
    want, want_indices = op(functional, "max_pool#", axes)(tx, *window, return_indices=True)
    y, indices = op(pc, "max_pool#", axes)(x, *window, return_indices=True)
    assert_close(y, want)
    contract.assert_same_bits(indices, want_indices.numpy())
    [dy] = contract.random("pool dy", y.shape)
    assert_close(
        op(pc, "max_pool#_backward", axes)(dy, indices, x.shape), gradients(want, dy, tx)[0]
    )


@pytest.mark.parametrize("count_include_pad", [True, False])
@pytest.mark.parametrize("divisor", [None, 5, -3])
@pytest.mark.parametrize("window", [(*w[:3], w[4]) for w in POOLS if w[3] == 1], ids=str)
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_avg_pool(axes, window, divisor, count_include_pad):
    if axes == 1 and divisor is not None:
        pytest.skip("torch's avg_pool1d has no divisor")
    [x] = contract.random(f"pool {axes}", SHAPES[axes][0])
    [tx] = tensors(x)
    window = (*window, count_include_pad)
    divisors = () if axes == 1 else (divisor,)
    want = op(functional, "avg_pool#", axes)(tx, *window, *divisors)
    y = op(pc, "avg_pool#", axes)(x, *window, divisor)
    assert_close(y, want)
    [dy] = contract.random("pool dy", y.shape)
    got = op(pc, "avg_pool#_backward", axes)(dy, x.shape, *window, divisor)
    assert_close(got, gradients(want, dy, tx)[0])


@pytest.mark.parametrize("norm", [1, 2, 3, 4])
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_lp_pool(axes, norm):
    """torch sums x^p without the absolute value: odd norms are compared where x is positive."""
    [x] = contract.random(f"lp {axes}", SHAPES[axes][0])
    x = abs(x) + 0.1 if norm % 2 else x
    [tx] = tensors(x)
    want = op(functional, "lp_pool#", axes)(tx, float(norm), 2, 1)
    y = op(pc, "lp_pool#", axes)(x, norm, 2, 1)
    assert_close(y, want)
    [dy] = contract.random("lp dy", y.shape)
    got = op(pc, "lp_pool#_backward", axes)(dy, x, y, norm, 2, 1)
    assert_close(got, gradients(want, dy, tx)[0])


@pytest.mark.parametrize("size", [1, 3, 5])
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_adaptive(axes, size):
    [x] = contract.random(f"adaptive {axes}", SHAPES[axes][0])
    [tx] = tensors(x)
    want = op(functional, "adaptive_avg_pool#", axes)(tx, size)
    y = op(pc, "adaptive_avg_pool#", axes)(x, size)
    assert_close(y, want)
    [dy] = contract.random("adaptive dy", y.shape)
    got = op(pc, "adaptive_avg_pool#_backward", axes)(dy, x.shape)
    assert_close(got, gradients(want, dy, tx)[0])

    want, indices = op(functional, "adaptive_max_pool#", axes)(tx, size, return_indices=True)
    assert_close(op(pc, "adaptive_max_pool#", axes)(x, size), want)
    got = op(pc, "max_pool#_backward", axes)(dy, indices.numpy(), x.shape)
    assert_close(got, gradients(want, dy, tx)[0])


@pytest.mark.parametrize("window", [(2, None, 0), (3, 2, 1), (2, 3, 0)], ids=str)
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_max_unpool(axes, window):
    kernel, stride, padding = window
    # Windows that do not overlap name each pixel once: otherwise torch's result is not defined.
    distinct = stride is None or stride >= kernel
    [x] = contract.random(f"unpool {axes}", SHAPES[axes][0])
    y, indices = op(pc, "max_pool#", axes)(x, kernel, stride, padding, return_indices=True)
    if not distinct:
        y = np.ones_like(y)
    for size in (None, x.shape[2:]):
        if size is None and indices.max() >= np.prod(
            default_size(y.shape, kernel, stride, padding)
        ):
            continue  # the maximum lay beyond the default size
        window = (kernel, stride, padding, size)
        pooled = torch.from_numpy(y), torch.from_numpy(indices)
        want = op(functional, "max_unpool#", axes)(*pooled, *window)
        got = op(pc, "max_unpool#", axes)(y, indices, *window)
        assert_close(got, want)


def default_size(shape, kernel, stride, padding):
    return [(i - 1) * (stride or kernel) - 2 * padding + kernel for i in shape[2:]]


@pytest.mark.parametrize(
    "window", list(itertools.product([2, (3, 1)], [1, 2], [0, 1], [1, (1, 3)])), ids=str
)
def test_unfold_and_fold(window):
    kernel, dilation, padding, stride = window
    [x] = contract.random("unfold", (2, 3, 8, 9))
    want = functional.unfold(torch.from_numpy(x), kernel, dilation, padding, stride)
    options = {"stride": stride, "padding": padding, "dilation": dilation}
    columns = pc.im2col(x, kernel, **options)
    assert_close(columns, want)
    want = functional.fold(want, (8, 9), kernel, dilation, padding, stride)
    assert_close(pc.col2im(columns, x.shape, kernel, **options), want)


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "tanh", "sigmoid", "gelu", "silu", "relu6"])
def test_activation(name):
    [x] = contract.random("activation", (1, 1, 500))
    x = 3 * x
    [tx] = tensors(x)
    want = torch.sigmoid(tx) if name == "sigmoid" else getattr(functional, name)(tx)
    y = pc.conv1d(x, np.ones((1, 1, 1)), activation=name)
    assert_close(y, want)
    [dy] = contract.random("activation dy", x.shape)
    got = pc.activation_backward(dy, x if name in ("gelu", "silu") else y, name)
    assert_close(got, gradients(want, dy, tx)[0])


@pytest.mark.parametrize("requires_grad", [False, True])
def test_tensors_go_in_and_come_out(requires_grad):
    x, w = (torch.ones(s, requires_grad=requires_grad) for s in ((1, 2, 4, 5), (3, 2, 2, 2)))
    if requires_grad:
        with pytest.raises(ValueError, match=r"conv2d: x requires grad.*detach"):
            pc.conv2d(x, w)
        return
    y = pc.conv2d(x, w)
    assert isinstance(y, torch.Tensor)
    assert (y == 8).all()
    last = pc.conv2d(x.to(memory_format=torch.channels_last), w)
    assert last.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(last, y)

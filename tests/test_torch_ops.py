"""pyconv.torch: PyTorch's own numbers, gradients, strides and rules, by its own checkers."""

import subprocess
import sys

import contract
import pytest

torch = pytest.importorskip("torch", reason="pip install 'pyconv-engine[torch]'")
import pyconv.torch as pt  # noqa: E402  (needs torch)

F, nn = torch.nn.functional, torch.nn
OPS = torch.ops.pyconv
SHAPES = {1: ((2, 6, 17), (4,)), 2: ((2, 6, 9, 11), (3, 4)), 3: ((1, 6, 6, 5, 7), (3, 2, 3))}


def tensors(name, *shapes, last=False):
    """Random leaves that want gradients; the first in channels_last memory if asked."""
    made = [torch.from_numpy(a) for a in contract.random(name, *shapes)]
    if last:
        made[0] = made[0].movedim(1, -1).contiguous().movedim(-1, 1)
    return [t.requires_grad_() for t in made]


def op(module, name, axes):
    return getattr(module, name.replace("#", f"{axes}d"))


def assert_same(got, want):
    assert got.shape == want.shape
    scale = max(1, want.abs().max().item() if want.numel() else 0)
    assert (got - want).abs().max().item() <= 1e-12 * scale if want.numel() else True


def assert_same_gradients(got, want, inputs):
    """Of a function that is not linear in its result, so that every element counts."""
    assert_same(got, want)
    mine, theirs = (torch.autograd.grad((y * y.sin()).sum(), inputs) for y in (got, want))
    for a, b in zip(mine, theirs, strict=True):
        assert_same(a, b)


@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize(
    "window",  # stride, padding, dilation, groups
    [(1, 0, 1, 1), (2, 1, 1, 1), (1, 2, 2, 2), (3, 1, 1, 6), (2, 3, 2, 3), (1, "same", 2, 1)],
    ids=str,
)
@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_conv(axes, window, last):
    shape, kernel = SHAPES[axes]
    x, w, b = tensors("ops", shape, (12, 6 // window[3], *kernel), (12,), last=last)
    want = op(F, "conv#", axes)(x, w, b, *window)
    got = op(pt, "conv#", axes)(x, w, b, *window)
    assert got.stride() == want.stride() or axes != 2
    assert got.movedim(1, -1).is_contiguous() == last
    [dx] = torch.autograd.grad(got, x, got.detach(), retain_graph=True)
    assert dx.stride() == x.stride()
    assert_same_gradients(got, want, (x, w, b))


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_padding_modes_and_pairs(mode):
    x, w = tensors("modes", (2, 6, 9, 11), (4, 6, 3, 4))
    want = F.conv2d(F.pad(x, (2, 1, 0, 3), mode=mode), w, None, 2)
    got = pt.conv2d(x, w, None, 2, ((0, 3), (2, 1)), padding_mode=mode)
    assert_same_gradients(got, want, (x, w))


@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize(
    "window",  # stride, padding, output_padding, groups, dilation
    [(1, 0, 0, 1, 1), (2, 1, 1, 1, 1), (3, 2, 2, 2, 1), (2, 0, 1, 3, 2), (1, 1, 1, 6, 2)],
    ids=str,
)
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_conv_transpose(axes, window, last):
    shape, kernel = SHAPES[axes]
    x, w, b = tensors("transposed", shape, (6, 2, *kernel), (2 * window[3],), last=last)
    want = op(F, "conv_transpose#", axes)(x, w, b, *window)
    assert_same_gradients(op(pt, "conv_transpose#", axes)(x, w, b, *window), want, (x, w, b))


POOLS = [(2, None, 0, False), (3, 2, 1, False), (3, 2, 1, True), (2, 3, 1, True)]


@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("window", POOLS, ids=str)
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_pools(axes, window, last):
    [x] = tensors("pools", SHAPES[axes][0], last=last)
    size, stride, padding, ceil = window
    for dilation in (1, 2):
        options = (size, stride, padding, dilation, ceil)
        want, theirs = op(F, "max_pool#", axes)(x, *options, return_indices=True)
        got, mine = op(pt, "max_pool#", axes)(x, *options, return_indices=True)
        assert_same_gradients(got, want, (x,))
        assert torch.equal(mine, theirs)
        assert_same(op(pt, "max_pool#", axes)(x.detach(), *options), want)
        assert got.stride() == mine.stride() == want.stride() or axes != 2
    for included in (False, True):
        options = (size, stride, padding, ceil, included)
        want = op(F, "avg_pool#", axes)(x, *options)
        assert_same_gradients(op(pt, "avg_pool#", axes)(x, *options), want, (x,))
    if axes == 2:
        want = F.avg_pool2d(x, size, stride, padding, ceil, True, -3)
        assert_same_gradients(pt.avg_pool2d(x, size, stride, padding, ceil, True, -3), want, (x,))


def test_unbatched_empty_and_views():
    x, w = tensors("odd", (6, 9, 11), (4, 6, 3, 3))
    assert_same_gradients(pt.conv2d(x, w), F.conv2d(x, w), (x, w))
    assert_same(pt.max_pool2d(x, 2), F.max_pool2d(x, 2))
    empty = torch.zeros(0, 6, 9, 11, dtype=torch.float64, requires_grad=True)
    dx, dw = torch.autograd.grad(pt.conv2d(empty, w).sum(), (empty, w))
    assert dx.shape == empty.shape
    assert not dw.any()
    [x] = tensors("views", (2, 9, 12, 22))
    view = x[:, 1:7, :, ::2]  # neither order of memory
    assert_same_gradients(pt.conv2d(view, w), F.conv2d(view, w), (x, w))


@pytest.mark.parametrize(
    "sizes", [(1, 5, 1, 1), (2, 1, 4, 5), (1, 3, 1, 7), (3, 1, 1, 1), (2, 4, 6, 1)], ids=str
)
def test_sizes_of_one_leave_the_layout_to_the_strides(sizes):
    w = torch.ones(2, sizes[1], 1, 1)
    for form in (torch.contiguous_format, torch.channels_last):
        x = torch.ones(sizes).to(memory_format=form)
        want = F.conv2d(x, w)
        got = pt.conv2d(x, w)
        assert torch.equal(got, want)
        assert got.is_contiguous(memory_format=form)


STRIDED = ((2, 1), (1, 0, 2, 2), (1, 2), 2, "zeros", False, (0, 0))
TRANSPOSED = ((2, 2), (1, 1), (1, 1), 2, "zeros", True, (1, 0))
MAX = ((3, 2), (2, 2), (1, 1), (1, 1), True)
AVERAGE = ((3, 2), (2, 2), (1, 1), True, False, None)


def samples(last):
    x, w, b, v = tensors("opcheck", (2, 6, 7, 9), (4, 3, 3, 2), (4,), (6, 2, 3, 2), last=last)
    yield OPS.conv, (x, w, b, *STRIDED)
    yield OPS.conv, (x, v, b, *TRANSPOSED)
    y = OPS.conv(x, w, None, *STRIDED).detach().requires_grad_()
    yield OPS.conv_input_grad, (y, w, x.shape, *STRIDED)
    yield OPS.conv_weight_grad, (y, x, w.shape, *STRIDED)
    yield OPS.max_pool, (x, *MAX)
    yield OPS.max_pool_indices, (x, *MAX)
    y, indices = OPS.max_pool_indices(x.detach(), *MAX)
    yield OPS.max_pool_grad, (y.requires_grad_(), indices, x.shape)
    yield OPS.avg_pool, (x, *AVERAGE)
    yield OPS.avg_pool_grad, (y.detach().requires_grad_(), x.shape, *AVERAGE)


@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
def test_opcheck(last):
    seen = set()
    for operation, arguments in samples(last):
        torch.library.opcheck(operation.default, arguments)
        seen.add(operation._qualified_op_name)
    from pyconv.torch._register import LIBRARY

    assert len(seen) == len(LIBRARY._op_defs)


def second_order(call, *inputs):
    assert torch.autograd.gradgradcheck(call, inputs)
    assert torch.autograd.gradcheck(call, inputs)


def test_gradients_of_gradients():
    x, w, b, v = tensors("double", (2, 4, 5, 6), (4, 2, 3, 2), (4,), (4, 1, 2, 3), last=True)
    second_order(lambda x, w, b: pt.conv2d(x, w, b, 2, 1, 1, 2), x, w, b)
    second_order(lambda x, w: pt.conv2d(x, w, None, 1, 1, groups=2, padding_mode="circular"), x, w)
    second_order(lambda x, v: pt.conv_transpose2d(x, v, None, 2, 1, 1, 2), x, v)
    second_order(lambda x: pt.max_pool2d(x, 3, 2, 1), x)
    second_order(lambda x: pt.avg_pool2d(x, 3, 2, 1, True, False), x)


def test_third_order():
    x, w = tensors("third", (1, 2, 5, 4), (3, 2, 2, 3))

    def third(convolve):
        value = convolve(x, w).sin().sum()
        for _ in range(2):
            gx, gw = torch.autograd.grad(value, (x, w), create_graph=True)
            value = gx.sin().sum() + gw.sin().sum()
        return torch.autograd.grad(value, (x, w))

    for mine, theirs in zip(third(pt.conv2d), third(F.conv2d), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)


def test_functional_transforms():
    x, w = tensors("func", (2, 3, 6, 5), (4, 3, 3, 2))
    x, w = x.detach(), w.detach()

    def loss(module):
        return lambda w: (module.max_pool2d(module.conv2d(x, w, None, 1, 1), 2) ** 2).sum()

    assert_same(torch.func.grad(loss(pt))(w), torch.func.grad(loss(F))(w))


@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
def test_layouts_are_read_in_place(last):
    x, w = tensors("profile", (2, 6, 9, 11), (4, 6, 3, 3), last=last)
    layer = pt.Conv2d(4, 4, 3, dtype=torch.float64)
    with torch.profiler.profile() as profile:
        y = pt.avg_pool2d(pt.max_pool2d(layer(pt.conv2d(x, w, padding=1)), 2), 2)
        y.backward(torch.ones_like(y))
    names = {event.name for event in profile.events()}
    assert "pyconv::conv_weight_grad" in names
    assert not names & {"aten::copy_", "aten::clone"}


def test_errors():
    x, w = torch.ones(1, 6, 5, 5), torch.ones(4, 6, 3, 3)
    for error, call, text in [
        (TypeError, lambda: pt.conv2d(x.half(), w.half()), "conv2d: x is torch.float16"),
        (TypeError, lambda: pt.conv2d(x, w.double()), "w is torch.float64"),
        (TypeError, lambda: pt.max_pool2d(x.int(), 2), "must be float32 or float64"),
        (ValueError, lambda: pt.conv2d(x[0, 0], w), "x must have 4 dimensions"),
        (ValueError, lambda: pt.conv2d(x, w[0]), "w must have 4 dimensions"),
        (ValueError, lambda: pt.conv2d(x, w, groups=4), "in_channels (=6)"),
        (ValueError, lambda: pt.conv2d(x, w, padding="some"), "padding (='some')"),
        (ValueError, lambda: pt.max_pool2d(x, 2, 2, 2), "padding"),
        (TypeError, lambda: pt.patch(3), "torch.nn.Module"),
    ]:
        with pytest.raises(error) as caught:
            call()
        assert text in str(caught.value)


def test_without_torch_the_pip_line_is_told():
    code = "import sys; sys.modules['torch'] = None\nimport pyconv.torch"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert "pip install 'pyconv-engine[torch]'" in done.stderr.splitlines()[-1]

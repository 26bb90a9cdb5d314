"""Layers run as one pass give what they give one by one; kernels take either memory order."""

import numpy as np
import pytest

import pyconv as pc
from pyconv import nn

RNG = np.random.default_rng(0)


def _used(net):
    """Weights and statistics that are not the initial ones and zeros."""
    rng = np.random.default_rng(5)
    for layer in (layer for _, layer in net.modules()):
        if isinstance(layer, nn.BatchNorm2d):
            for array in (layer.w.value, layer.b.value, layer.mean, layer.variance):
                array[...] = rng.uniform(0.5, 1.5, array.shape)
    return net


def _block():
    body = nn.Sequential(
        nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 1),
        nn.BatchNorm2d(4),
    )  # fmt: skip
    return nn.Sequential(nn.Residual(body, nn.Conv2d(4, 4, 1)), nn.ReLU(), nn.Conv2d(4, 2, 3))


NETS = {
    "conv-relu": lambda: nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Tanh()),
    "conv-gelu": lambda: nn.Sequential(nn.Conv2d(4, 4, 3), nn.GELU()),
    "conv-norm": lambda: nn.Sequential(nn.Conv2d(4, 3, 3, bias=False), nn.BatchNorm2d(3)),
    "norm-silu": lambda: nn.Sequential(nn.BatchNorm2d(4), nn.SiLU()),
    "transposed": lambda: nn.Sequential(nn.ConvTranspose2d(4, 2, 2, 2), nn.Sigmoid()),
    "linear": lambda: nn.Sequential(nn.Flatten(), nn.Linear(4 * 49, 5), nn.Tanh()),
    "residual": _block,
    "identity": lambda: nn.Sequential(nn.Residual(nn.Sequential(nn.BatchNorm2d(4))), nn.ReLU()),
}


def _apart(net, x):
    """The same layers, called one by one."""
    if isinstance(net, nn.Sequential):
        for layer in net.children().values():
            x = _apart(layer, x)
        return x
    if isinstance(net, nn.Residual):
        return _apart(net.body, x) + (x if net.shortcut is None else _apart(net.shortcut, x))
    return net(x)


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("keeping", [True, False])
def test_fused_layers_are_the_layers(name, training, keeping):
    net = _used(NETS[name]().to(np.float64).train(training))
    x = RNG.normal(size=(3, 4, 7, 7))
    state = {key: value.copy() for key, value in net.state_dict().items()}
    expected = _apart(net, x)
    net.load_state_dict(state)  # the running statistics moved
    if keeping:
        y = net(x)
    else:
        with nn.no_grad():
            y = net(x)
    np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", NETS)
def test_fused_gradients_are_the_layers_gradients(name):
    net = _used(NETS[name]().to(np.float64))
    x = RNG.normal(size=(2, 4, 7, 7))
    dy = RNG.normal(size=net.output_shape(x.shape))
    net(x)
    dx = net.backward(dy)
    place, step = (1, 2, 3, 4), 1e-6
    values = []
    for sign in (1, -1):
        moved = x.copy()
        moved[place] += sign * step
        values.append(float((_apart(net, moved) * dy).sum()))
    np.testing.assert_allclose(dx[place], (values[0] - values[1]) / (2 * step), rtol=1e-5)


def test_what_is_fused():
    net = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.GELU(), nn.ReLU())

    def kinds():
        return [[type(part).__name__ for part in g if part is not None] for g in net.fused()]

    assert kinds() == [["Conv2d"], ["BatchNorm2d"], ["GELU"], ["ReLU"]]
    with nn.no_grad():
        assert kinds() == [["Conv2d"], ["BatchNorm2d", "GELU"], ["ReLU"]]
        net.eval()
        assert kinds() == [["Conv2d", "BatchNorm2d", "GELU"], ["ReLU"]]


def test_explain_tells_passes_algorithms_and_memory():
    lines = pc.models.resnet20().eval().explain((2, 3, 32, 32)).splitlines()
    found = {line.split()[0]: line.split()[1:] for line in lines[2:-1]}
    assert found["stem.0"][:2] == ["Conv2d+BatchNorm2d+ReLU", "direct"]
    assert found["stage2.0.0.shortcut.0"][0] == "Conv2d+BatchNorm2d"
    assert found["stage2.0.0.body.3"][0] == "Conv2d+BatchNorm2d+ReLU"
    assert found["output"][:3:2] == ["Linear", "2x10"]
    net = pc.models.resnet20()
    assert f"24 passes, {net.eval().multiply_adds((2, 3, 32, 32)) - _norms(net):,}" in lines[-1]


def _norms(net):
    """Batch norms count their multiplications; folded ones have none."""
    shapes, total = [(net, (2, 3, 32, 32))], 0
    while shapes:
        layer, shape = shapes.pop()
        shapes += [(inner, into) for _, inner, into in layer.inside(shape)]
        total += layer.multiply_adds(shape) if isinstance(layer, nn.BatchNorm2d) else 0
    return total


def test_a_forward_of_ones_own_is_not_passed_over():
    class Twice(nn.Conv2d):
        def forward(self, x):
            return 2 * super().forward(x)

    net = nn.Sequential(Twice(1, 1, 1), nn.ReLU())
    x = np.ones((1, 1, 2, 2), np.float32)
    np.testing.assert_array_equal(net(x), np.maximum(net[0](x), 0))
    del nn.Layer.registry[next(n for n in nn.Layer.registry if n.endswith("Twice"))]


ELEMENTWISE = {
    "BatchNorm2d": (lambda: nn.BatchNorm2d(19), (3, 19, 5, 7)),
    "BatchNorm2d-1x1": (lambda: nn.BatchNorm2d(40), (9, 40, 1, 1)),
    "LocalResponseNorm": (lambda: nn.LocalResponseNorm(5, 0.5), (2, 40, 6, 7)),
    "LocalResponseNorm-wide": (lambda: nn.LocalResponseNorm(64, 0.5, 0.6), (2, 19, 3, 3)),
    "LocalResponseNorm-large": (lambda: nn.LocalResponseNorm(9, 0.5), (1, 12, 40, 41)),
    "ReLU": (nn.ReLU, (2, 3, 5, 7)),
    "GELU": (nn.GELU, (2, 3, 5, 7)),
    "Dropout": (lambda: nn.Dropout(0.3), (2, 3, 50, 71)),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_channels_last_memory(name, dtype, target):
    make, shape = ELEMENTWISE[name]
    rng = np.random.default_rng(3)
    x, dy = (rng.normal(size=shape).astype(dtype) for _ in range(2))
    last = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    plain, turned = make().to(dtype), make().to(dtype)
    y, y_last = plain(x), turned(last)
    assert y_last.strides == last.strides
    if name == "Dropout":  # the mask follows the memory
        assert abs((y_last != 0).mean() - 0.7) < 0.03
        np.testing.assert_allclose(y_last[y_last != 0], (x / dtype(0.7))[y_last != 0], rtol=1e-6)
        return
    tolerance = 1e-5 if dtype == np.float32 else 1e-13
    np.testing.assert_allclose(y_last, y, rtol=tolerance, atol=tolerance)
    dx, dx_last = plain.backward(dy), turned.backward(dy)
    np.testing.assert_allclose(dx_last, dx, rtol=tolerance, atol=tolerance)
    for p, q in zip(plain.parameters().values(), turned.parameters().values(), strict=True):
        np.testing.assert_allclose(p.grad, q.grad, rtol=10 * tolerance, atol=10 * tolerance)


def test_batch_norm_of_values_far_from_zero():
    x = (1e4 + np.random.default_rng(0).normal(size=(64, 3, 16, 16))).astype(np.float32)
    x[0, 0, 0, 0] = -1e6  # a first value far from the rest
    exact = x.astype(np.float64)
    centred = exact - exact.mean((0, 2, 3), keepdims=True)
    expected = centred / np.sqrt((centred**2).mean((0, 2, 3), keepdims=True) + 1e-5)
    np.testing.assert_allclose(nn.BatchNorm2d(3)(x)[:, 1:], expected[:, 1:], atol=2e-3)
    np.testing.assert_allclose(nn.BatchNorm2d(3)(x)[:, 0], expected[:, 0], atol=1e-3)


def test_dropout_drops_each_place_alike_and_as_its_seed_says(threads):
    x = np.ones((64, 4096), np.float32)
    layer = nn.Dropout(0.25)
    layer.reseed(3, 1)
    y = layer(x)
    dropped = y == 0
    assert abs(dropped.mean() - 0.25) < 0.003
    assert np.abs(dropped.mean(0) - 0.25).max() < 0.3
    assert set(np.unique(y)) == {np.float32(0), np.float32(1 / 0.75)}
    np.testing.assert_array_equal(layer.backward(x), y)
    assert (layer(x) != y).any()  # the next call has a mask of its own
    for count in (1, 2, 3):
        threads(count)
        layer.reseed(3, 1)
        np.testing.assert_array_equal(layer(x), y)


@pytest.mark.parametrize("make", [lambda: nn.BatchNorm2d(3), lambda: nn.LocalResponseNorm(3)])
def test_threads_change_no_bit(make, threads):
    x, dy = (RNG.normal(size=(8, 3, 64, 64)).astype(np.float32) for _ in range(2))
    results = []
    for count in (1, 2, 5):
        threads(count)
        layer = make()
        results.append((layer(x), layer.backward(dy)))
    for y, dx in results[1:]:
        np.testing.assert_array_equal(y, results[0][0])
        np.testing.assert_array_equal(dx, results[0][1])


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: nn.BatchNorm2d(3)(np.zeros((2, 3, 4, 4))), "x is float64 but the weights"),
        (lambda: nn.BatchNorm2d(3)(np.zeros((2, 3, 4, 4), np.int32)), "x is int32"),
        (lambda: nn.LocalResponseNorm(3)(np.zeros((2, 3, 4), np.int64)), "x is int64"),
        (lambda: nn.ReLU()(np.zeros(3, np.int32)), "x is int32"),
        (lambda: nn.Dropout()(np.zeros(3, np.int32)), "x is int32"),
    ],
)
def test_other_dtypes(call, text):
    with pytest.raises(TypeError, match=text):
        call()


@pytest.mark.parametrize(
    ("arrays", "numbers", "text"),
    [
        ((), (0.5,), "takes 1 to 8 arrays"),
        ((np.zeros(4), np.zeros(3)), (0.5,), "array 1 must be C-contiguous and hold 32 bytes"),
        ((np.zeros(4), None), (0.5,), "needs array 1"),
        ((np.zeros(4), np.zeros(8)[::2]), (0.5,), "array 1 must be C-contiguous"),
    ],
)
def test_the_core_checks_what_it_will_touch(arrays, numbers, text):
    with pytest.raises(ValueError, match=text):
        pc._core.run_layer("dropout", arrays, "NCHW", 4, 1, 1, numbers)

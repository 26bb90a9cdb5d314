"""Layers, containers, losses and initialisers: gradients by finite differences in float64."""

import json
import math

import numpy as np
import pytest

import pyconv as pc
from pyconv import nn

LINEAR = {  # bilinear in input and weights: differences with step 1 have no truncation error
    "Conv1d": (lambda: nn.Conv1d(2, 4, 3, 2, 1, groups=2), (2, 2, 7)),
    "Conv2d": (lambda: nn.Conv2d(2, 3, (3, 2), (1, 2), ((0, 1), (2, 1)), 2), (2, 2, 7, 6)),
    "Conv2d-no-bias": (lambda: nn.Conv2d(2, 3, 2, bias=False, padding="same"), (1, 2, 4, 3)),
    "Conv2d-reflect": (lambda: nn.Conv2d(1, 2, 3, padding=1, padding_mode="reflect"), (1, 1, 4, 3)),
    "Conv2d-table": (lambda: nn.Conv2d(2, 2, 2, connections=((1, 0), (1, 1))), (1, 2, 3, 4)),
    "Conv3d": (lambda: nn.Conv3d(1, 2, 2, padding=1), (1, 1, 2, 3, 2)),
    "ConvTranspose1d": (lambda: nn.ConvTranspose1d(2, 2, 3, 2, 1, 1, 2), (2, 2, 4)),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(2, 3, 3, 2, dilation=2), (1, 2, 3, 2)),
    "ConvTranspose3d": (lambda: nn.ConvTranspose3d(1, 2, 2, bias=False), (1, 1, 2, 1, 2)),
    "Linear": (lambda: nn.Linear(5, 3), (4, 5)),
    "Linear-3d": (lambda: nn.Linear(3, 2, bias=False), (2, 3, 3)),
    "SubSample2d": (lambda: nn.SubSample2d(2, (2, 3), 2), (2, 2, 5, 5)),
    "AvgPool1d": (lambda: nn.AvgPool1d(3, 2, 1), (1, 2, 6)),
    "AvgPool2d": (lambda: nn.AvgPool2d(3, 2, 1, True, False), (1, 2, 6, 5)),
    "AvgPool3d": (lambda: nn.AvgPool3d((1, 2, 2)), (1, 2, 2, 4, 4)),
    "GlobalAvgPool": (nn.GlobalAvgPool, (2, 3, 4, 2)),
    "Upsample": (lambda: nn.Upsample(2), (1, 2, 3, 2)),
    "Upsample-linear": (lambda: nn.Upsample(3, "linear"), (1, 2, 3, 2)),
    "Flatten": (nn.Flatten, (2, 3, 2)),
    "BatchNorm2d-eval": (lambda: _used(nn.BatchNorm2d(2)).eval(), (2, 2, 3, 2)),
    "Dropout-eval": (lambda: nn.Dropout(0.4).eval(), (2, 3)),
}
SMOOTH = {
    "MaxPool1d": (lambda: nn.MaxPool1d(3, 2, 1), (1, 2, 7)),
    "MaxPool2d": (lambda: nn.MaxPool2d(3, 2, ceil_mode=True), (2, 2, 6, 5)),
    "MaxPool3d": (lambda: nn.MaxPool3d(2, dilation=(1, 2, 1)), (1, 1, 4, 4, 4)),
    "ReLU": (nn.ReLU, (2, 3, 4)),
    "LeakyReLU": (lambda: nn.LeakyReLU(0.2), (2, 3)),
    "Tanh": (nn.Tanh, (2, 3, 4)),
    "Sigmoid": (nn.Sigmoid, (2, 3, 2, 2)),
    "GELU": (nn.GELU, (2, 3)),
    "SiLU": (nn.SiLU, (2, 3)),
    "ReLU6": (lambda: nn.Sequential(nn.Scale(4.0), nn.ReLU6()), (2, 3, 4)),
    "Softmax": (nn.Softmax, (2, 5)),
    "Softmax-last": (lambda: nn.Softmax(-1), (2, 3, 4)),
    "BatchNorm1d": (lambda: _used(nn.BatchNorm1d(3)), (4, 3, 2)),
    "BatchNorm2d": (lambda: _used(nn.BatchNorm2d(2)), (3, 2, 2, 3)),
    "BatchNorm3d": (lambda: _used(nn.BatchNorm3d(2)), (2, 2, 2, 1, 2)),
    "LayerNorm": (lambda: _used(nn.LayerNorm((3, 2))), (4, 3, 2)),
    "LocalResponseNorm": (lambda: nn.LocalResponseNorm(3, 0.5, 0.75, 1.5), (2, 5, 2)),
    "LocalResponseNorm-even": (lambda: nn.LocalResponseNorm(4, 0.5), (2, 3, 2)),
    "Sequential": (
        lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(8, 3)),
        (2, 1, 4, 4),
    ),
    "Concat": (
        lambda: nn.Concat(nn.Conv2d(2, 1, 1), b=nn.Sequential(nn.Conv2d(2, 2, 3, padding=1))),
        (1, 2, 3, 3),
    ),
    "Residual": (lambda: nn.Residual(nn.Sequential(nn.Linear(3, 3), nn.Tanh())), (2, 3)),
    "Graph": (lambda: _graph(), (2, 2, 3, 3)),
    "Scale": (lambda: nn.Scale(0.3), (2, 3)),
    "Residual-shortcut": (lambda: nn.Residual(nn.Linear(3, 2), nn.Linear(3, 2)), (2, 3)),
}
LAYERS = LINEAR | SMOOTH


def _graph():
    """One node read three times, a node of three inputs, channels side by side."""
    return nn.Graph(
        {
            "a": (nn.Conv2d(2, 3, 3, padding=1), "input"),
            "b": (nn.Tanh(), "a"),
            "c": (nn.Conv2d(3, 3, 1), "b"),
            "sum": (nn.Add(), "a", "b", "c"),
            "cat": (nn.Cat(), "sum", "input", "b"),
            "y": (nn.Conv2d(8, 2, 2), "cat"),
        },
        "y",
    )


def _used(layer):
    """A normalisation whose weights and statistics are not the initial ones and zeros."""
    rng = np.random.default_rng(5)
    for values in (*layer.parameters().values(), *layer.buffers().values()):
        array = values.value if isinstance(values, nn.Parameter) else values
        array[...] = rng.uniform(0.5, 1.5, array.shape)
    return layer


def _difference(f, array, step):
    """Gradient of the scalar f() with respect to the array, by central differences in place."""
    gradient = np.empty_like(array)
    for place in np.ndindex(array.shape):
        before = array[place]
        array[place] = before + step
        above = f()
        array[place] = before - step
        gradient[place] = (above - f()) / (2 * step)
        array[place] = before
    return gradient


@pytest.mark.parametrize("name", LAYERS)
def test_gradients(name):
    make, shape = LAYERS[name]
    layer = make().to(np.float64)
    rng = np.random.default_rng(1)
    x = rng.normal(size=shape)
    dy = rng.normal(size=layer(x).shape)

    def f():
        return float((layer(x) * dy).sum())

    step, tolerance = (1.0, 1e-11) if name in LINEAR else (1e-6, 1e-6)
    f()
    dx = layer.backward(dy)
    for got, array in [(dx, x)] + [(p.grad, p.value) for p in layer.parameters().values()]:
        expected = _difference(f, array, step)
        if name == "Conv2d-table" and array is not x:
            expected *= layer.w.mask if array.ndim == 4 else 1
        scale = max(1.0, np.abs(expected).max())
        assert got.dtype == np.float64
        np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("name", LAYERS)
def test_shapes_dtypes_and_architecture(name):
    make, shape = LAYERS[name]
    layer = make()
    x = np.random.default_rng(2).normal(size=shape).astype(np.float32)
    y = layer(x)
    assert y.shape == layer.output_shape(shape)
    assert y.dtype == np.float32
    assert layer.backward(np.ones_like(y)).dtype == np.float32
    again = nn.layer.from_architecture(json.loads(json.dumps(layer.architecture())))
    again.load_state_dict(layer.state_dict())
    np.testing.assert_array_equal(again.eval()(x), layer.eval()(x))
    assert repr(again).startswith(type(layer).__name__)


@pytest.mark.parametrize("name", [n for n in LAYERS if "BatchNorm" not in n])
def test_an_empty_batch_gives_an_empty_result(name):
    make, shape = LAYERS[name]
    layer = make()
    y = layer(np.zeros((0, *shape[1:]), np.float32))
    assert y.shape == layer.output_shape((0, *shape[1:]))


def test_parameters_have_dotted_names_and_shared_ones_are_listed_once():
    shared = nn.Linear(3, 3)
    net = nn.Sequential(shared, act=nn.Tanh(), tail=nn.Residual(nn.Linear(3, 3)))
    net["tail"].body.w = shared.w
    assert list(net.parameters()) == ["0.w", "0.b", "tail.body.b"]
    x = np.random.default_rng(0).normal(size=(2, 3))
    net.to(np.float64)
    dy = np.ones((2, 3))

    def f():
        return float(net(x).sum())

    f()
    net.backward(dy)
    expected = _difference(f, shared.w.value, 1e-6)
    np.testing.assert_allclose(shared.w.grad, expected, rtol=1e-6)


def test_gradients_add_up_until_zero_grad():
    layer = nn.Linear(2, 1)
    x = np.ones((1, 2), np.float32)
    for _ in range(2):
        layer.backward(layer(x))
    layer.zero_grad()
    assert layer.w.grad is None
    first = layer.backward(np.ones_like(layer(x)))
    once = layer.w.grad.copy()
    np.testing.assert_array_equal(layer.backward(np.ones_like(layer(x))), first)
    np.testing.assert_array_equal(layer.w.grad, 2 * once)


def test_backward_needs_its_own_forward():
    layer = nn.Linear(2, 1)
    x = np.ones((1, 2), np.float32)
    with pytest.raises(RuntimeError, match=r"Linear\.backward: call the layer first"):
        layer.backward(x[:, :1])
    layer.backward(layer(x))
    with pytest.raises(RuntimeError, match="each backward"):
        layer.backward(x[:, :1])
    with nn.no_grad():
        layer(x)
    with pytest.raises(RuntimeError, match="no_grad"):
        layer.backward(x[:, :1])


def test_frozen_parameters_get_no_gradient():
    net = nn.Sequential(nn.Conv2d(1, 2, 3).freeze(), nn.BatchNorm2d(2).freeze(), nn.Flatten())
    net.backward(net(np.ones((2, 1, 4, 4), np.float32)))
    assert all(p.grad is None for p in net.parameters().values())
    net.freeze(False)
    net.backward(net(np.ones((2, 1, 4, 4), np.float32)))
    assert all(p.grad is not None for p in net.parameters().values())


def test_without_input_gradient_the_parameters_gradients_are_the_same():
    def gradients(wanted):
        nn.init.seed(3)
        net = nn.Sequential(
            nn.Tanh(),
            nn.Residual(nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(2, 2, 1)),
            nn.Concat(nn.Conv2d(2, 1, 1), nn.Conv2d(2, 2, 1)),
        )
        net.input_gradient = wanted
        net.backward(net(np.random.default_rng(0).normal(size=(2, 2, 4, 4)).astype(np.float32)))
        return {name: p.grad for name, p in net.parameters().items()}

    full, part = gradients(True), gradients(False)
    for name, gradient in full.items():
        np.testing.assert_array_equal(part[name], gradient)


def test_batch_norm_follows_the_batches_statistics():
    layer = nn.BatchNorm2d(2, momentum=0.25).to(np.float64)
    x = np.random.default_rng(0).normal(3, 2, (4, 2, 3, 5))
    y = layer(x)
    np.testing.assert_allclose(y.mean((0, 2, 3)), 0, atol=1e-12)
    np.testing.assert_allclose(y.var((0, 2, 3)), 1, rtol=1e-5)
    np.testing.assert_allclose(layer.mean, 0.25 * x.mean((0, 2, 3)))
    np.testing.assert_allclose(layer.variance, 0.75 + 0.25 * x.var((0, 2, 3), ddof=1))
    expected = (x - layer.mean[:, None, None]) / np.sqrt(layer.variance[:, None, None] + 1e-5)
    np.testing.assert_allclose(layer.eval()(x), expected)
    with pytest.raises(ValueError, match="more than one value a channel"):
        layer.train()(x[:1, :, :1, :1])
    with pytest.raises(ValueError, match="2 channels, got"):
        layer(x[:, :1])


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.GELU])
def test_an_activation_before_a_maximum_has_the_same_gradient(activation):
    """The container takes its derivative behind the pool, where that reads y alone."""
    rng = np.random.default_rng(0)
    x = rng.integers(-3, 4, (2, 3, 9, 9)).astype(np.float64)
    layers = [nn.MaxPool2d(1), activation(), nn.MaxPool2d(3, 2, 1), nn.MaxPool2d(2), nn.Scale(2.0)]
    net = nn.Sequential(*layers)
    dx = net.backward(net(x))
    for layer in layers:
        x = layer(x)
    for layer in reversed(layers):
        x = layer.backward(x)
    np.testing.assert_allclose(dx, x, rtol=1e-13)
    assert np.abs(dx).max() > 0


def test_local_response_norm_is_the_published_formula():
    x = np.random.default_rng(0).normal(size=(2, 7, 3))
    y = nn.LocalResponseNorm(5, alpha=0.3, beta=0.6, k=2.0)(x)
    for c in range(7):
        s = (x[:, max(0, c - 2) : c + 3] ** 2).sum(1)
        np.testing.assert_allclose(y[:, c], x[:, c] / (2 + 0.3 / 5 * s) ** 0.6)


def test_linear_upsampling_interpolates_between_pixel_centres():
    x = np.random.default_rng(0).normal(size=(1, 1, 5))
    places = (np.arange(15) + 0.5) / 3 - 0.5
    expected = np.interp(places, np.arange(5), x[0, 0])
    np.testing.assert_allclose(nn.Upsample(3, "linear")(x)[0, 0], expected)


def test_dropout_keeps_the_mean_and_follows_its_seed():
    layer = nn.Sequential(nn.Dropout(0.25), nn.Dropout(0.5))
    x = np.ones((100, 400), np.float32)
    layer.reseed(7)
    y = layer(x)
    assert abs(y.mean() - 1) < 0.02
    assert set(np.unique(y.round(4))) == {0, np.float32(round(1 / 0.375, 4))}
    np.testing.assert_array_equal(layer.backward(x), y)
    assert not np.array_equal(layer(x), y)
    layer.reseed(7)
    np.testing.assert_array_equal(layer(x), y)
    assert layer.eval()(x) is x


def test_subsampling_starts_as_the_average():
    x = np.random.default_rng(0).normal(size=(1, 3, 4, 4)).astype(np.float32)
    np.testing.assert_allclose(nn.SubSample2d(3)(x), nn.AvgPool2d(2)(x), rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: nn.Conv2d(6, 4, 3, groups=4), r"channels \(=6\) must be divisible by groups"),
        (lambda: nn.Conv2d(4, 6, 3, groups=0), "groups"),
        (lambda: nn.Conv2d(0, 6, 3), "at least 1"),
        (lambda: nn.Conv2d(1, 6, (3, 3, 3)), "expected 2 numbers"),
        (lambda: nn.Conv2d(1, 2, 3, init="best"), "init must be one of"),
        (lambda: nn.Conv2d(1, 2, 3, connections=((1, 1),)), "connections must be"),
        (lambda: nn.ConvTranspose2d(4, 6, 3, groups=4), "divisible"),
        (lambda: nn.Dropout(1.0), "p must be"),
        (lambda: nn.Upsample(0), "scale_factor"),
        (lambda: nn.Upsample(2, "cubic"), "mode"),
        (lambda: nn.LocalResponseNorm(0), "size"),
        (lambda: nn.Linear(3, 2)(np.zeros((2, 4), np.float32)), r"must be \(\.\.\., 3\)"),
        (lambda: nn.LayerNorm(3)(np.zeros((2, 4), np.float32)), "must end in"),
        (lambda: nn.Linear(3, 2).load_state_dict({}), "missing b, w"),
    ],
)
def test_wrong_arguments(make, text):
    with pytest.raises(ValueError, match=text):
        make()


def test_wrong_types():
    with pytest.raises(TypeError, match="is not a Layer"):
        nn.Sequential(np.tanh)
    with pytest.raises(TypeError, match="float32 or float64"):
        nn.Linear(1, 1).to(np.float16)
    with pytest.raises(TypeError):
        nn.Conv2d(1, 1, 1)(np.zeros((1, 1, 2, 2)))


def test_load_state_dict_changes_nothing_when_it_fails():
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    before = {name: value.copy() for name, value in net.state_dict().items()}
    wrong = {name: value + 1 for name, value in before.items()}
    wrong["1.w"] = np.zeros((3, 2), np.float32)
    with pytest.raises(ValueError, match=r"1\.w must be \(2, 2\), got \(3, 2\)"):
        net.load_state_dict(wrong)
    with pytest.raises(ValueError, match="unknown extra"):
        net.load_state_dict(before | {"extra": before["1.w"]})
    for name, value in net.state_dict().items():
        np.testing.assert_array_equal(value, before[name])


def test_weights_do_not_leave_their_table():
    net = pc.models.lenet5()
    optimizer = pc.optim.Adam(net.parameters(), 0.01, weight_decay=0.1)
    for _ in range(3):
        net.backward(net(np.random.default_rng(0).normal(size=(2, 1, 32, 32)).astype(np.float32)))
        optimizer.step()
    w = net["c3"].w
    assert not w.value[w.mask == 0].any()
    assert w.value[w.mask == 1].all()


# Losses


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("shape", [(4, 3), (2, 3, 2, 2)])
def test_softmax_cross_entropy(shape, smoothing):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=shape)
    labels = rng.integers(0, 3, (shape[0], *shape[2:]))
    loss, gradient = nn.softmax_cross_entropy(logits, labels, smoothing)
    one_hot = np.moveaxis(np.eye(3)[labels], -1, 1)
    target = one_hot * (1 - smoothing) + smoothing / 3
    log_softmax = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    assert loss == pytest.approx(-(target * log_softmax).sum() / labels.size, rel=1e-12)
    expected = _difference(
        lambda: nn.softmax_cross_entropy(logits, labels, smoothing)[0], logits, 1e-6
    )
    np.testing.assert_allclose(gradient, expected, atol=1e-8)
    assert nn.softmax_cross_entropy(logits, one_hot, smoothing)[0] == pytest.approx(loss)


def test_softmax_cross_entropy_of_extreme_and_bad_values():
    huge = np.array([[1e4, -1e4]], np.float32)
    assert nn.softmax_cross_entropy(huge, np.array([0]))[0] == 0
    assert nn.softmax_cross_entropy(huge, np.array([1]))[0] == 2e4
    assert math.isnan(nn.softmax_cross_entropy(huge * np.inf, np.array([1]))[0])
    with pytest.raises(ValueError, match=r"labels must be in 0\.\.1, got 2\.\.2"):
        nn.softmax_cross_entropy(huge, np.array([2]))
    with pytest.raises(ValueError, match="integer labels must be"):
        nn.softmax_cross_entropy(huge, np.array([0, 1]))
    with pytest.raises(ValueError, match="labels must be integers or"):
        nn.softmax_cross_entropy(huge, np.array([0.0]))
    with pytest.raises(ValueError, match="logits must be"):
        nn.softmax_cross_entropy(huge[0], np.array([0]))


def test_mse():
    rng = np.random.default_rng(0)
    y, target = rng.normal(size=(2, 3, 4))
    loss, gradient = nn.mse(y, target)
    assert loss == pytest.approx(np.mean((y - target) ** 2))
    np.testing.assert_allclose(
        gradient, _difference(lambda: nn.mse(y, target)[0], y, 1e-3), atol=1e-9
    )
    with pytest.raises(ValueError, match="same shape"):
        nn.mse(y, target[:1])


# Initialisers


def test_initialisers():
    shape = (40, 30, 3, 3)
    rng = np.random.default_rng(0)
    limit = math.sqrt(6 / (270 + 360))
    w = nn.init.glorot(shape, rng)
    assert 0.99 * limit < np.abs(w).max() <= limit
    assert w.std() == pytest.approx(limit / math.sqrt(3), rel=0.02)
    assert nn.init.he(shape, rng).std() == pytest.approx(math.sqrt(2 / 270), rel=0.02)
    for rows in (
        nn.init.orthogonal(shape, rng).reshape(40, -1),
        nn.init.orthogonal((50, 9), rng).T,
    ):
        np.testing.assert_allclose(rows @ rows.T, np.eye(len(rows)), atol=1e-12)
    x = rng.normal(size=(1, 3, 5, 5)).astype(np.float32)
    np.testing.assert_array_equal(nn.Conv2d(3, 3, 3, padding=1, init="dirac")(x), x)


def test_the_seed_fixes_the_weights():
    def weights(seed):
        nn.init.seed(seed)
        return nn.Sequential(nn.Conv2d(1, 2, 3), nn.Linear(3, 3)).state_dict()

    for name, value in weights(1).items():
        np.testing.assert_array_equal(value, weights(1)[name])
    assert not np.array_equal(weights(1)["0.w"], weights(2)["0.w"])


# Against PyTorch, where it is installed


def test_normalisations_against_torch():
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).normal(size=(3, 4, 5, 2))
    tensor = torch.tensor(x)
    pairs = [
        (nn.BatchNorm2d(4).to(np.float64), torch.nn.BatchNorm2d(4).double()),
        (nn.LayerNorm((5, 2)).to(np.float64), torch.nn.LayerNorm((5, 2)).double()),
        (nn.LocalResponseNorm(3, 0.1, 0.5, 2.0), torch.nn.LocalResponseNorm(3, 0.1, 0.5, 2.0)),
        (nn.LocalResponseNorm(4), torch.nn.LocalResponseNorm(4)),
        (nn.Upsample(2, "linear"), torch.nn.Upsample(scale_factor=2, mode="bilinear")),
        (nn.Upsample(3), torch.nn.Upsample(scale_factor=3)),
        (nn.LeakyReLU(0.2), torch.nn.LeakyReLU(0.2)),
        (nn.GELU(), torch.nn.GELU()),
        (nn.SiLU(), torch.nn.SiLU()),
        (nn.ReLU6(), torch.nn.ReLU6()),
    ]
    for ours, theirs in pairs:
        np.testing.assert_allclose(ours(x), theirs(tensor).detach().numpy(), rtol=0, atol=1e-12)

"""Optimizers against their formulas written out by hand, and against PyTorch where installed."""

import math

import numpy as np
import pytest

from pyconv import nn, optim

GRADIENTS = np.random.default_rng(0).normal(size=(6, 3))
START = np.array([0.5, -1.0, 2.0])


def run(make, gradients=GRADIENTS):
    parameter = nn.Parameter(START.copy())
    optimizer = make({"w": parameter})
    for gradient in gradients:
        optimizer.zero_grad()
        parameter.accumulate(gradient)
        optimizer.step()
    return parameter.value


def sgd(lr, momentum=0.0, nesterov=False, weight_decay=0.0):
    w, v = START.copy(), np.zeros(3)
    for gradient in GRADIENTS:
        g = gradient + weight_decay * w
        v = momentum * v + g
        w = w - lr * (g + momentum * v if nesterov else v)
    return w


def adam(lr, beta1, beta2, eps, penalty=0.0, decay=0.0):
    w, m, v = START.copy(), np.zeros(3), np.zeros(3)
    for t, gradient in enumerate(GRADIENTS, 1):
        w = w - lr * decay * w
        g = gradient + penalty * w
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g * g
        w = w - lr * (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + eps)
    return w


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"momentum": 0.9},
        {"momentum": 0.9, "nesterov": True},
        {"momentum": 0.8, "weight_decay": 0.1},
    ],
)
def test_sgd(options):
    got = run(lambda p: optim.SGD(p, 0.1, **options))
    np.testing.assert_allclose(got, sgd(0.1, **options), rtol=1e-13)


def test_adam_and_adamw():
    got = run(lambda p: optim.Adam(p, 0.1, (0.8, 0.95), 1e-6, weight_decay=0.2))
    np.testing.assert_allclose(got, adam(0.1, 0.8, 0.95, 1e-6, penalty=0.2), rtol=1e-13)
    got = run(lambda p: optim.AdamW(p, 0.1, (0.8, 0.95), 1e-6, weight_decay=0.2))
    np.testing.assert_allclose(got, adam(0.1, 0.8, 0.95, 1e-6, decay=0.2), rtol=1e-13)


def test_against_torch():
    torch = pytest.importorskip("torch")
    pairs = [
        ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.05}),
        ("Adam", {"lr": 0.05, "weight_decay": 0.1}),
        ("AdamW", {"lr": 0.05, "weight_decay": 0.1}),
    ]
    for name, options in pairs:
        w = torch.tensor(START, requires_grad=True)
        theirs = getattr(torch.optim, name)([w], **options)
        for gradient in GRADIENTS:
            w.grad = torch.tensor(gradient)
            theirs.step()
        got = run(lambda p, n=name, o=options: getattr(optim, n)(p, **o))
        np.testing.assert_allclose(got, w.detach().numpy(), rtol=1e-12)


def test_schedules():
    assert [optim.constant(0.5)(t) for t in (0, 9)] == [0.5, 0.5]
    assert [optim.step(1.0, 3, 0.5)(t) for t in (0, 2, 3, 6)] == [1, 1, 0.5, 0.25]
    cosine = optim.cosine(1.0, 10, floor=0.2)
    expected = 0.2 + 0.8 * (1 + math.cos(0.3 * math.pi)) / 2
    assert cosine(3) == pytest.approx(expected)
    assert [cosine(0), cosine(10), cosine(99)] == pytest.approx([1.0, 0.2, 0.2])
    warm = optim.warmup(4, optim.step(1.0, 2, 0.1))
    assert [warm(t) for t in range(7)] == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1, 0.1])
    cycle = optim.one_cycle(1.0, 10, rise=0.4, start=0.2)
    assert [cycle(t) for t in (0, 2, 4, 7, 10, 11)] == pytest.approx([0.2, 0.6, 1, 0.5, 0, 0])
    triangle = optim.one_cycle(2.0, 10, rise=0.5, start=0.5, end=0.1)
    assert [triangle(t) for t in (0, 5, 10, 99)] == pytest.approx([1, 2, 0.2, 0.2])
    assert optim.one_cycle(1.0, 4, rise=1.0)(4) == 0


def test_the_schedule_sets_the_rate_of_each_step():
    parameter = nn.Parameter(np.zeros(1))
    optimizer = optim.SGD({"w": parameter}, optim.step(1.0, 1, 0.5))
    moved = []
    for _ in range(3):
        before = parameter.value.copy()
        parameter.grad = np.ones(1)
        assert optimizer.lr == 0.5 ** len(moved)
        optimizer.step()
        moved.append(float((before - parameter.value)[0]))
    assert moved == [1, 0.5, 0.25]


def test_frozen_parameters_and_those_without_gradient_stay():
    frozen, unused = nn.Parameter(np.ones(1)), nn.Parameter(np.ones(1))
    frozen.trainable, frozen.grad = False, np.ones(1)
    optim.AdamW({"frozen": frozen, "unused": unused}, 0.1, weight_decay=0.5).step()
    assert frozen.value == unused.value == 1


def test_float32_stays_float32():
    for make in (optim.SGD, optim.Adam, optim.AdamW, optim.Muon):
        parameter = nn.Parameter(np.ones(2, np.float32))
        parameter.grad = np.ones(2, np.float32)
        optimizer = make({"w": parameter}, 0.1, weight_decay=0.1)
        optimizer.step()
        assert parameter.value.dtype == np.float32
        assert all(a.dtype == np.float32 for n, a in optimizer.state_dict().items() if n != "steps")


@pytest.mark.parametrize(
    "make", [lambda p: optim.SGD(p, 0.1, 0.9), optim.Adam, optim.AdamW, optim.Muon]
)
def test_state_continues_bit_for_bit(make):
    whole = run(make)
    parameter = nn.Parameter(START.copy())
    first = make({"w": parameter})
    for gradient in GRADIENTS[:3]:
        parameter.grad = gradient
        first.step()
    second = make({"w": parameter})
    second.load_state_dict({name: value.copy() for name, value in first.state_dict().items()})
    for gradient in GRADIENTS[3:]:
        parameter.grad = gradient
        second.step()
    np.testing.assert_array_equal(parameter.value, whole)


def test_wrong_states_and_arguments():
    parameters = {"w": nn.Parameter(np.ones(2))}
    optimizer = optim.Adam(parameters)
    steps = {"steps": np.array(1)}
    for state, text in [
        ({}, "missing steps"),
        (steps | {"velocity.w": np.ones(2)}, "Adam has no velocity.w"),
        (steps | {"mean.v": np.ones(2)}, "Adam has no mean.v"),
        (steps | {"mean.w": np.ones(3)}, r"mean\.w must be \(2,\)"),
    ]:
        with pytest.raises(ValueError, match=text):
            optimizer.load_state_dict(state)
    with pytest.raises(ValueError, match="nesterov needs a momentum"):
        optim.SGD(parameters, 0.1, nesterov=True)


# Muon


@pytest.mark.parametrize("shape", [(6, 40), (40, 6), (16, 3, 3, 3), (7, 7)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_muon(shape, dtype):
    """Two steps against the formula in float64."""
    rng = np.random.default_rng(1)
    w = rng.normal(size=shape)
    gradients = rng.normal(size=(2, *shape))
    parameter = nn.Parameter(w.astype(dtype))
    optimizer = optim.Muon({"w": parameter}, 0.1, 0.9, weight_decay=0.2)
    velocity = np.zeros(shape)
    for gradient in gradients:
        velocity = 0.9 * velocity + gradient
        x = (gradient + 0.9 * velocity).reshape(shape[0], -1)
        scale = math.sqrt(max(1, x.shape[0] / x.shape[1]))
        x = x / np.linalg.norm(x)
        for _ in range(5):
            y = x @ x.T
            x = 3.4445 * x + (-4.7750 * y + 2.0315 * y @ y) @ x
        w = w * (1 - 0.1 * 0.2) - 0.1 * scale * x.reshape(shape)
        parameter.grad = gradient.astype(dtype)
        optimizer.step()
    # In float32 small singular values grow about 3.4^5 times, and with them their rounding errors.
    tolerance = 1e-4 if dtype == np.float32 else 1e-11
    np.testing.assert_allclose(parameter.value, w, rtol=0, atol=tolerance)


def test_muons_step_has_singular_values_near_1():
    x = np.random.default_rng(0).normal(size=(20, 50))
    values = np.linalg.svd(optim.orthogonalized(x), compute_uv=False)
    assert 0.6 < values.min() < values.max() < 1.25


def test_muon_gives_vectors_and_the_classifier_to_adamw():
    rng = np.random.default_rng(0)
    start = {"conv.w": rng.normal(size=(4, 3)), "conv.b": rng.normal(size=4)}
    start["output.w"] = rng.normal(size=(2, 4))
    muon, adamw = ({n: nn.Parameter(v.copy()) for n, v in start.items()} for _ in range(2))
    first = optim.Muon(muon, 0.1, weight_decay=0.3, adamw_lr=0.5)
    second = optim.AdamW(adamw, 0.05, (0.9, 0.95), weight_decay=0.3)
    for name, value in start.items():
        muon[name].grad = adamw[name].grad = np.ones_like(value)
    first.step(), second.step()
    for name in ("conv.b", "output.w"):
        np.testing.assert_array_equal(muon[name].value, adamw[name].value)
    assert not np.array_equal(muon["conv.w"].value, adamw["conv.w"].value)
    assert {n for n in first.state_dict() if "conv.w" in n} == {"velocity.conv.w"}


def test_muons_bits_do_not_depend_on_threads(threads):
    x = np.random.default_rng(0).normal(size=(96, 300)).astype(np.float32)
    found = set()
    for count in (1, 2, 3):
        threads(count)
        found.add(optim.orthogonalized(x).tobytes())
    assert len(found) == 1


# Groups and clipping


def test_groups_have_factors_and_an_end():
    parameters = {name: nn.Parameter(np.array([1.0])) for name in ("a.w", "a.b", "c.b")}
    groups = [optim.Group("c.*", steps=1), optim.Group("*.b", lr=10, weight_decay=0)]
    optimizer = optim.SGD(parameters, 0.1, weight_decay=0.5, groups=groups)
    for _ in range(2):
        for parameter in parameters.values():
            parameter.grad = np.array([1.0])
        optimizer.step()
    expected = {"a.w": (1 - 0.15) - 0.1 * (1 + 0.5 * 0.85), "a.b": -1.0, "c.b": 1 - 0.15}
    for name, value in expected.items():
        np.testing.assert_allclose(parameters[name].value, [value], rtol=1e-14)
    assert not parameters["c.b"].trainable
    parameters["c.b"].trainable = True  # as in a network made anew, which then resumes
    optimizer.load_state_dict(optimizer.state_dict())
    assert not parameters["c.b"].trainable
    with pytest.raises(ValueError, match="no parameter matches 'd'; there are a"):
        optim.SGD(parameters, 0.1, groups=[optim.Group("d")])


def test_clipping_keeps_directions():
    rng = np.random.default_rng(0)
    parameters = {str(i): nn.Parameter(np.zeros((5, 4), np.float32)) for i in range(4)}
    for name, parameter in parameters.items():
        parameter.grad = rng.normal(size=(5, 4)).astype(np.float32) if name != "0" else None
    parameters["3"].trainable = False
    before = {name: parameters[name].grad for name in ("1", "2", "3")}
    norm = math.sqrt(sum(np.square(before[n], dtype=np.float64).sum() for n in ("1", "2")))
    assert optim.clip_gradients(parameters, 1e9) == pytest.approx(norm)
    assert parameters["1"].grad is before["1"]
    optim.clip_gradients(parameters, 0.5)
    for name in ("1", "2"):
        np.testing.assert_allclose(parameters[name].grad, before[name] * (0.5 / norm), rtol=1e-6)
    assert parameters["3"].grad is before["3"]
    assert optim.clip_gradients(parameters, 0.5) == pytest.approx(0.5, rel=1e-6)
    parameters["1"].grad = np.full((5, 4), np.inf, np.float32)
    assert optim.clip_gradients(parameters, 0.5) == math.inf

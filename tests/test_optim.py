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
    for make in (optim.SGD, optim.Adam, optim.AdamW):
        parameter = nn.Parameter(np.ones(2, np.float32))
        parameter.grad = np.ones(2, np.float32)
        optimizer = make({"w": parameter}, 0.1, weight_decay=0.1)
        optimizer.step()
        assert parameter.value.dtype == np.float32
        assert all(a.dtype == np.float32 for n, a in optimizer.state_dict().items() if n != "steps")


@pytest.mark.parametrize("make", [lambda p: optim.SGD(p, 0.1, 0.9), optim.Adam, optim.AdamW])
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

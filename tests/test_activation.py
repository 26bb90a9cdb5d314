"""Activations through the fused convolution, and their derivatives."""

import contract
import numpy as np
import pytest
from contract import DTYPES

import pyconv as pc
from pyconv import reference

NAMES = ["relu", "leaky_relu", "tanh", "sigmoid", "gelu", "silu", "relu6"]
VALUES = np.concatenate([np.linspace(-12, 12, 401), [0.0, -0.0, 1e-30, -1e-30, 88.0, -88.0, 1e4]])


def through_conv(x, name):
    """A 1x1 convolution with weight one is the activation alone."""
    return pc.conv1d(x[None, None], np.ones((1, 1, 1), x.dtype), activation=name)[0, 0]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_values(name, dtype, target):
    x = VALUES.astype(dtype)
    want = reference.activation(x.astype(np.float64), name)
    u = contract.UNIT[x.dtype]
    assert (abs(through_conv(x, name) - want) <= 8 * u * np.maximum(1, abs(want))).all()


@pytest.mark.parametrize("name", NAMES)
def test_special_values(name, target):
    x = np.array([np.nan, np.inf, -np.inf] * 11, np.float32)  # off the vector width
    y = through_conv(x, name).reshape(-1, 3)
    at_infinity = {
        "tanh": (1, -1),
        "sigmoid": (1, 0),
        "leaky_relu": (np.inf, -np.inf),
        "relu6": (6, 0),
    }
    high, low = at_infinity.get(name, (np.inf, 0))
    assert np.isnan(y[:, 0]).all()
    assert (y[:, 1] == high).all()
    if name in ("gelu", "silu"):  # -inf * 0, as the formula says and as PyTorch gives it
        assert (np.isnan(y[:, 2]) | (y[:, 2] == 0)).all()
    else:
        assert (y[:, 2] == low).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_derivatives(name, dtype, target):
    x = VALUES[abs(VALUES) < 80]
    [dy] = contract.random("activation dy", x.shape)
    given = x if name in ("gelu", "silu") else reference.activation(x, name)
    given, dy = given.astype(dtype), dy.astype(dtype)
    got = pc.activation_backward(dy, given, name)
    want = reference.activation_backward(dy.astype(np.float64), given.astype(np.float64), name)
    assert got.dtype == dtype
    assert (abs(got - want) <= 8 * contract.UNIT[got.dtype] * np.maximum(abs(dy), abs(want))).all()


@pytest.mark.parametrize("name", NAMES)
def test_derivatives_by_differences(name):
    x = np.linspace(-7, 7, 141) + 0.0137  # away from the corners of relu and relu6
    y = through_conv(x, name)
    slope = (through_conv(x + 1e-6, name) - through_conv(x - 1e-6, name)) / 2e-6
    got = pc.activation_backward(np.ones_like(x), x if name in ("gelu", "silu") else y, name)
    assert np.allclose(got, slope, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_any_shape_and_view(name):
    dy, y = contract.random("activation views", (3, 4, 5), (3, 4, 5))
    want = pc.activation_backward(dy.ravel(), y.ravel(), name).reshape(dy.shape)
    contract.assert_same_bits(pc.activation_backward(dy, y, name), want)
    got = pc.activation_backward(dy[:, ::-1], y[:, ::-1], name)
    contract.assert_same_bits(got, want[:, ::-1])


def test_bad_input():
    dy = np.ones((2, 3))
    with pytest.raises(ValueError, match=r"activation_backward: activation .*softmax"):
        pc.activation_backward(dy, dy, "softmax")
    with pytest.raises(ValueError, match=r"activation_backward: .*\(2, 3\).*\(3, 2\)"):
        pc.activation_backward(dy, dy.T, "relu")
    with pytest.raises(TypeError, match=r"activation_backward: .*float32"):
        pc.activation_backward(dy, dy.astype(np.float32), "relu")

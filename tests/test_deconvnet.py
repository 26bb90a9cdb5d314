"""The view of Zeiler and Fergus: steps back written out by hand, and what is linear is exact."""

import numpy as np
import pytest

from pyconv import nn


def random(*shape):
    return np.random.default_rng(sum(shape)).normal(size=shape)


def test_a_convolution_goes_back_as_its_transpose():
    """The strongest response y, projected back: y times the filter, at the place of its window."""
    net = nn.Sequential(conv=nn.Conv2d(2, 3, 3, bias=False)).to(np.float64)
    x = random(4, 2, 7, 6)
    y = net(x)
    seen = nn.deconvnet(net, "conv", x)
    for n in range(4):
        k, i, j = np.unravel_index(y[n].argmax(), y[n].shape)
        expected = np.zeros((2, 7, 6))
        expected[:, i : i + 3, j : j + 3] = y[n, k, i, j] * net["conv"].w.value[k]
        np.testing.assert_allclose(seen[n], expected, rtol=1e-12, atol=1e-14)


def test_switches_and_rectifiers():
    """Through conv, ReLU, pooling and a second convolution, by hand."""
    net = nn.Sequential(
        conv1=nn.Conv2d(1, 3, 3),
        relu1=nn.ReLU(),
        pool=nn.MaxPool2d(2),
        block=nn.Sequential(nn.Conv2d(3, 2, 2), nn.ReLU()),
    ).to(np.float64)
    x = random(1, 1, 8, 8)
    first, second = net["conv1"].w.value, net["block"][0].w.value
    maps = np.maximum(net["conv1"](x), 0)[0]
    pooled = maps.reshape(3, 3, 2, 3, 2).max((2, 4))
    y = net(x)
    k = y[0].max((1, 2)).argmax()
    i, j = np.unravel_index(y[0, k].argmax(), (2, 2))
    signal = np.zeros((3, 6, 6))
    for c in range(3):
        for a in range(2):
            for b in range(2):
                window = maps[c, 2 * (i + a) : 2 * (i + a) + 2, 2 * (j + b) : 2 * (j + b) + 2]
                assert window.max() == pooled[c, i + a, j + b]
                p, q = np.unravel_index(window.argmax(), (2, 2))
                value = y[0, k, i, j] * second[k, c, a, b]
                signal[c, 2 * (i + a) + p, 2 * (j + b) + q] = max(value, 0)
    expected = np.zeros((8, 8))
    for c in range(3):
        for p in range(6):
            for q in range(6):
                expected[p : p + 3, q : q + 3] += signal[c, p, q] * first[c, 0]
    np.testing.assert_allclose(nn.deconvnet(net, "block.1", x)[0, 0], expected, atol=1e-12)


def test_batch_norm_scales_and_linear_layers_transpose():
    net = nn.Sequential(
        norm=nn.BatchNorm2d(2), flatten=nn.Flatten(), drop=nn.Dropout(0.5), fc=nn.Linear(18, 4)
    ).to(np.float64)
    net(random(9, 2, 3, 3))  # moves the running statistics
    x = random(2, 2, 3, 3)
    seen = nn.deconvnet(net, "fc", x, channel=1)
    response = net.eval()(x)[:, 1]
    norm = net["norm"]
    scale = norm.w.value / np.sqrt(norm.variance + norm.eps)
    for n in range(2):
        expected = response[n] * net["fc"].w.value[1].reshape(2, 3, 3) * scale[:, None, None]
        np.testing.assert_allclose(seen[n], expected, rtol=1e-12, atol=1e-14)


def test_what_cannot_be_seen_through_is_named():
    net = nn.Sequential(a=nn.Residual(nn.ReLU()), b=nn.Conv2d(1, 1, 1)).train()
    x = np.ones((1, 1, 2, 2), np.float32)
    with pytest.raises(ValueError, match="no way back through Residual"):
        nn.deconvnet(net, "b", x)
    assert net.training
    with pytest.raises(ValueError, match="no layer 'c'; there are a, b"):
        nn.deconvnet(net, "c", x)

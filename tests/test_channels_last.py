"""Layers on images whose pixels' channels lie side by side: as in the usual order, to rounding."""

import numpy as np
import pytest

from pyconv import data, nn
from pyconv.train.build import make_trainer
from pyconv.train.config import Config


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("channels", [1, 3, 16, 41])
def test_large_batches_of_channels_last_are_normalised_alike(channels, dtype, threads):
    """There the pixels are cut into parts, whose sums wait in the result."""
    rng = np.random.default_rng(0)
    x = rng.normal(3, 2, (3, channels, 29, 31)).astype(dtype)
    dy = rng.normal(size=x.shape).astype(dtype)
    found = []
    for order, count in ((np.ascontiguousarray, 1), *((data.channels_last, n) for n in (1, 2, 3))):
        threads(count)
        layer = nn.BatchNorm2d(channels).to(dtype)
        y = layer(order(x))
        dx = layer.backward(order(dy))
        assert y.strides == dx.strides == order(x).strides
        found.append([y, dx, layer.w.grad, layer.b.grad, layer.mean, layer.variance])
    for one in found[2:]:
        for a, b in zip(found[1], one, strict=True):
            assert a.tobytes() == b.tobytes()
    for a, b in zip(found[0], found[1], strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5 if dtype == np.float32 else 1e-12, rtol=1e-5)


@pytest.mark.parametrize("size", [1, 4, 5, 9, 40])
@pytest.mark.parametrize("channels", [1, 5, 16, 23, 64])
def test_local_response_norm_of_channels_last(channels, size):
    rng = np.random.default_rng(0)
    x, dy = rng.normal(size=(2, 2, channels, 5, 7))
    layer = nn.LocalResponseNorm(size, alpha=0.5)
    plain = layer(x), layer.backward(dy)
    turned = layer(data.channels_last(x)), layer.backward(data.channels_last(dy))
    for a, b in zip(plain, turned, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


def test_channels_last_trains_alike():
    """Only the order in memory differs, so only the rounding."""
    x = np.random.default_rng(0).integers(0, 256, (96, 3, 32, 32), np.uint8)
    train = data.Dataset(x, np.arange(96) % 10, tuple("0123456789"))
    found = []
    for channels_last in (False, True):
        config = Config(model="lenet5_modern", channels_last=channels_last)
        trainer = make_trainer(config, train, (32, 32))
        seen = trainer._prepared(x[:2])
        assert seen.flags.c_contiguous == (not channels_last)
        np.testing.assert_array_equal(seen, trainer.prepare(x[:2]))
        trainer.fit(train)
        found.append(trainer.net.state_dict())
    for name, value in found[0].items():
        np.testing.assert_allclose(found[1][name], value, atol=1e-4, err_msg=name)

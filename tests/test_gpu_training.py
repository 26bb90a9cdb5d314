"""Networks on a GPU: layers, losses and optimizers on CuPy arrays give what they give on NumPy's.

They run inside test_cuda_host.py, or with -p on_device on a GPU.
"""

import importlib
import sys

import contract
import numpy as np
import pytest

import pyconv as pc
from pyconv import nn, optim

if "on_device" not in sys.modules:
    pytest.skip(
        "runs inside test_cuda_host.py, or with -p on_device on a GPU", allow_module_level=True
    )
cupy = importlib.import_module("cupy")

F32 = np.float32
X = contract.random("training", (6, 3, 8, 8))[0].astype(F32)
Y = np.arange(6) % 4


def network():
    nn.init.seed(3)
    table = np.array([[1, 0, 1, 1], [1, 1, 0, 1]] * 3).tolist()
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, bias=False),  # which batch norm would take away
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 6, 3, connections=table),
        nn.Residual(nn.Sequential(nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.GELU())),
        nn.LocalResponseNorm(3),
        nn.MaxPool2d(2),
        nn.SubSample2d(6, 3),
        nn.LeakyReLU(),
        nn.Dropout(0.2),
        nn.Flatten(),
        nn.LayerNorm(6),
        nn.Linear(6, 4),
    )


OPTIMIZERS = {
    "sgd": lambda p: optim.SGD(p, 0.05, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "adam": lambda p: optim.Adam(p, 1e-3),
    "adamw": lambda p: optim.AdamW(p, 1e-3),
    "muon": lambda p: optim.Muon(p, 0.01),
}


def trained(kind, device, path=None, **options):
    net = network()
    optimizer = OPTIMIZERS[kind](net.parameters())
    trainer = pc.Trainer(net, optimizer, batch_size=4, device=device, **options)
    trainer.fit((X, Y), epochs=2)
    if path is not None:
        trainer.save(path)
    return trainer


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_training_gives_what_it_gives_on_the_cpu(kind):
    cpu, gpu = trained(kind, "cpu"), trained(kind, "cuda")
    for name, value in gpu.net.state_dict().items():
        assert isinstance(value, cupy.ndarray), name
        want = cpu.net.state_dict()[name]
        assert np.allclose(cupy.asnumpy(value), want, rtol=2e-3, atol=2e-4), name
    first, second = (t.evaluate((X, Y))["loss"] for t in (cpu, gpu))
    assert abs(first - second) < 1e-3
    assert isinstance(gpu.predict(X), np.ndarray)
    again = trained(kind, "cuda")
    for name, value in again.net.state_dict().items():
        contract.assert_same_bits(cupy.asnumpy(value), cupy.asnumpy(gpu.net.state_dict()[name]))


def test_a_resumed_run_goes_on_with_the_same_bits(tmp_path):
    options = {"average": None, "clip": 1.0, "parts": 2}
    whole = trained("sgd", "cuda", tmp_path / "state", **options)
    net = network()
    optimizer = OPTIMIZERS["sgd"](net.parameters())
    resumed = pc.Trainer(net, optimizer, batch_size=4, device="cuda", **options)
    resumed.load(tmp_path / "state")
    for trainer in (whole, resumed):
        trainer.fit((X, Y), epochs=1)
    for name, value in resumed.net.state_dict().items():
        contract.assert_same_bits(cupy.asnumpy(value), cupy.asnumpy(whole.net.state_dict()[name]))


def test_a_network_moves_there_and_back(tmp_path):
    net = network().eval()
    want = net(X)
    net.to("cuda")
    got = net(cupy.asarray(X))
    assert isinstance(got, cupy.ndarray)
    assert np.allclose(cupy.asnumpy(got), want, rtol=1e-4, atol=1e-5)
    pc.save(net, tmp_path / "net")
    assert np.array_equal(pc.load(tmp_path / "net")(X), want)
    assert np.array_equal(net.to("cpu")(X), want)


def test_what_runs_on_the_cpu_only_says_so():
    with pytest.raises(TypeError, match="Upsample: x is on a CUDA device"):
        nn.Upsample(2)(cupy.asarray(X))


def test_unknown_devices():
    with pytest.raises(ValueError, match=r"Layer.to: device must be .*'cuda:x'"):
        network().to("cuda:x")
    with pytest.raises(RuntimeError, match=r"Trainer: device is 'cuda:99', but there are"):
        pc.Trainer(network(), optim.SGD({}, 0.1), device="cuda:99")

"""Training and inference of whole networks against PyTorch, step by step in turns: images a second.

    python benchmarks/training.py [--threads 2] [--only NAME,...] [--seconds 5] [--save FILE.json]

The same network, batch and optimizer (SGD with momentum), random images. Both run contiguous and
with the channels last; the ratio is the better one's median time of each. Before it is timed, a
network's outputs are compared with PyTorch's.
"""

import argparse
import json
import pathlib
import statistics
import time

import numpy as np
import torch

import pyconv as pc
from pyconv import nn

NETS = {  # build, image, batch
    "lenet5": (pc.models.lenet5_modern, (1, 32, 32), 128),
    "cifar_tutorial": (pc.models.cifar_tutorial, (3, 24, 24), 128),
    "klein1": (lambda: pc.models.klein(1), (3, 24, 24), 128),
    "klein2": (lambda: pc.models.klein(2), (3, 24, 24), 128),
    "klein3": (lambda: pc.models.klein(3), (3, 24, 24), 128),
    "klein4": (lambda: pc.models.klein(4), (3, 24, 24), 128),
    "resnet20": (pc.models.resnet20, (3, 32, 32), 128),
    "resnet18": (lambda: pc.models.resnet(18, 10, small_images=True), (3, 32, 32), 64),
}


class Sum(torch.nn.Module):
    def __init__(self, body, shortcut):
        super().__init__()
        self.body, self.shortcut = body, shortcut

    def forward(self, x):
        return self.body(x) + self.shortcut(x)


def translated(layer):
    """The same network of torch.nn, with the same weights."""
    if isinstance(layer, nn.Sequential):
        return torch.nn.Sequential(*map(translated, layer.children().values()))
    if isinstance(layer, nn.Residual):
        shortcut = layer.shortcut
        return Sum(
            translated(layer.body),
            torch.nn.Identity() if shortcut is None else translated(shortcut),
        )
    made = _module(layer)
    with torch.no_grad():
        for name, parameter in layer.parameters().items():
            value = torch.from_numpy(parameter.value.copy())
            {"w": made.weight, "b": made.bias}[name].copy_(value) if value.ndim else None
    return made


def _module(layer):
    kind = type(layer)
    if kind is nn.Conv2d:
        same = layer.padding == "same"
        return torch.nn.Conv2d(
            layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride,
            layer.kernel_size // 2 if same else layer.padding, bias=layer.bias,
        )  # fmt: skip
    if kind is nn.Linear:
        return torch.nn.Linear(layer.in_features, layer.out_features, layer.bias)
    if kind is nn.MaxPool2d:
        return torch.nn.MaxPool2d(
            layer.kernel_size, layer.stride, layer.padding, ceil_mode=layer.ceil_mode
        )
    if kind is nn.BatchNorm2d:
        return torch.nn.BatchNorm2d(layer.channels, layer.eps, layer.momentum)
    if kind is nn.LocalResponseNorm:
        return torch.nn.LocalResponseNorm(layer.size, layer.alpha, layer.beta, layer.k)
    if kind is nn.GlobalAvgPool:
        return torch.nn.AdaptiveAvgPool2d(1)
    return {nn.ReLU: torch.nn.ReLU, nn.Flatten: torch.nn.Flatten, nn.Tanh: torch.nn.Tanh}[kind]()


def our_steps(build, x, y):
    nn.init.seed(0)
    net = build()
    optimizer = pc.optim.SGD(net.parameters(), 0.01, momentum=0.9)

    def train():
        net.train().input_gradient = False
        _, gradient = nn.softmax_cross_entropy(net(x), y)
        optimizer.zero_grad()
        net.backward(gradient)
        optimizer.step()

    def infer():
        with nn.no_grad():
            return net.eval()(x)

    return net, {"train": train, "infer": infer}


def torch_steps(net, x, y, memory_format):
    model = translated(net).to(memory_format=memory_format)
    x, y = torch.from_numpy(x).contiguous(memory_format=memory_format), torch.from_numpy(y)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)

    def train():
        model.train()
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()

    def infer():
        model.eval()
        with torch.no_grad():
            return model(x)

    return model, {"train": train, "infer": infer}


def check(net, model, x):
    net.eval(), model.eval()
    with nn.no_grad(), torch.no_grad():
        a, b = net(x), model(torch.from_numpy(x)).numpy()
    assert np.abs(a - b).max() <= 1e-4 * np.abs(b).max(), "the networks differ"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", default="")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--save", type=pathlib.Path)
    options = parser.parse_args()
    with pc.MemoryPool():  # as in pyconv.Trainer; of NumPy's arrays, PyTorch has memory of its own
        compare(options)


def compare(options):
    pc.set_num_threads(options.threads)
    torch.set_num_threads(options.threads)
    report = []
    for name, (build, image, batch) in NETS.items():
        if options.only and name not in options.only.split(","):
            continue
        rng = np.random.default_rng(0)
        x = rng.standard_normal((batch, *image), np.float32)
        y = rng.integers(0, 10, batch)
        net, steps = our_steps(build, x, y)
        runs = {"pyconv": steps, "pyconv nhwc": our_steps(build, pc.data.channels_last(x), y)[1]}
        for label, memory_format in (
            ("torch nchw", torch.contiguous_format),
            ("torch nhwc", torch.channels_last),
        ):
            model, runs[label] = torch_steps(net, x, y, memory_format)
            check(net, model, x)
        for what in ("train", "infer"):
            samples = {label: [] for label in runs}
            end = time.perf_counter() + options.seconds
            while time.perf_counter() < end or len(samples["pyconv"]) < 3:
                for label, steps in runs.items():
                    start = time.perf_counter()
                    steps[what]()
                    samples[label].append(time.perf_counter() - start)
            rate = {label: batch / statistics.median(t[1:]) for label, t in samples.items()}
            ours, theirs = (
                max(value for label, value in rate.items() if label.startswith(name_of))
                for name_of in ("pyconv", "torch")
            )
            ratio = ours / theirs
            report.append({"net": name, "what": what, "batch": batch, "ratio": ratio,
                           "samples": samples})  # fmt: skip
            rates = "  ".join(f"{label} {value:8.0f}" for label, value in rate.items())
            print(f"{name:15} {what:6} {ratio:5.2f}x  images/s: {rates}", flush=True)
    if options.save:
        head = {"torch": torch.__version__, "numpy": np.__version__, "threads": options.threads}
        options.save.write_text(json.dumps(head | {"runs": report}) + "\n")


if __name__ == "__main__":
    main()

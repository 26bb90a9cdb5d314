"""Time pyconv inside other frameworks against their own operations, interleaved in one process for
each framework: threads that one leaves spinning would slow the next.

    python benchmarks/frameworks.py [--threads 2] [--seconds 2] [--out FILE.json]
                                    [torch] [jax] [onnx] [scipy]

torch: one training step, and inference, of a ResNet of torch.nn, before and after
pyconv.torch.patch, in both layouts, and the microseconds of a call. jax: jitted
lax.conv_general_dilated and its gradients where JAX on a CPU is slow. onnx: ResNet-50, GoogLeNet
and MobileNetV2 with random weights, loaded by pyconv.onnx and by onnxruntime. scipy: the filters of
an image and the convolutions of signals. Every pair is compared before it is timed.
"""

import argparse
import json
import multiprocessing
import os
import pathlib
import statistics
import time

PACKAGES = {"torch": "torch", "jax": "jax", "onnx": "onnxruntime", "scipy": "scipy"}
ROWS = []  # framework, row, our seconds, theirs


def interleaved(seconds, rest=0.0, **calls):
    """Median seconds of each call, taken in turns after one that warms up.

    rest : seconds of sleep after each, for peers whose threads go on spinning.
    """
    for call in calls.values():
        call()
    times = {name: [] for name in calls}
    start, turns = time.perf_counter(), 0
    while time.perf_counter() - start < seconds or turns < 3:
        turns += 1
        for name, call in calls.items():
            before = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - before)
            time.sleep(rest)
    return {name: statistics.median(taken) for name, taken in times.items()}


def report(name, medians):
    ours, theirs = medians.values()
    framework, _, row = name.partition(" ")
    ROWS.append({"framework": framework, "row": row, "ours": ours, "theirs": theirs})
    print(f"{name:44}{ours * 1e3:10.3f} ms{theirs * 1e3:10.3f} ms{theirs / ours:8.2f}", flush=True)


def bench_torch(seconds):
    import copy

    import torch
    from torch import nn

    import pyconv.torch

    class Block(nn.Module):
        def __init__(self, c, k, stride):
            super().__init__()
            self.body = nn.Sequential(
                *(nn.Conv2d(c, k, 3, stride, 1, bias=False), nn.BatchNorm2d(k), nn.ReLU()),
                *(nn.Conv2d(k, k, 3, 1, 1, bias=False), nn.BatchNorm2d(k)),
            )
            plain = stride == 1 and c == k
            self.shortcut = nn.Identity() if plain else nn.Conv2d(c, k, 1, stride, bias=False)

        def forward(self, x):
            return (self.body(x) + self.shortcut(x)).relu()

    def resnet18():
        stem = (nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU())
        widths = ((64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2))
        blocks = [Block(*at) for c, k, s in widths for at in ((c, k, s), (k, k, 1))]
        head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))
        return nn.Sequential(*stem, nn.MaxPool2d(3, 2, 1), *blocks, *head)

    torch.manual_seed(0)
    for form in (torch.contiguous_format, torch.channels_last):
        x = torch.randn(4, 3, 128, 128).to(memory_format=form)
        theirs = resnet18().to(memory_format=form)
        ours = copy.deepcopy(theirs)
        pyconv.torch.patch(ours)

        def step(net, x=x):
            net.zero_grad()
            loss = nn.functional.cross_entropy(net(x), torch.arange(len(x)))
            loss.backward()
            return loss.item()

        def inference(net, x=x):
            with torch.inference_mode():
                return net(x)

        assert abs(step(ours) - step(theirs)) < 1e-4
        for name, run in (("training step", step), ("inference", inference)):
            for net in (ours, theirs):
                net.train(run is step)
            calls = {"ours": lambda: run(ours), "theirs": lambda: run(theirs)}  # noqa: B023
            layout = str(form).removeprefix("torch.").removesuffix("_format")
            report(f"torch ResNet-18 {name}, {layout}", interleaved(seconds, **calls))

    x, w = torch.randn(1, 1, 4, 4), torch.randn(1, 1, 3, 3)
    calls = {
        "ours": lambda: pyconv.torch.conv2d(x, w),
        "theirs": lambda: nn.functional.conv2d(x, w),
    }
    report("torch conv2d of 4x4 pixels", interleaved(seconds, **calls))


# N, C, *spatial and K, C/groups, *kernel; stride 1.
JAX = {
    "3x3": ((16, 64, 56, 56), (64, 64, 3, 3), {"padding": "SAME"}),
    "depthwise 3x3": (
        *((8, 96, 56, 56), (96, 1, 3, 3)),
        {"padding": "SAME", "feature_group_count": 96},
    ),
    "grouped 3x3": (
        *((4, 256, 28, 28), (256, 8, 3, 3)),
        {"padding": "SAME", "feature_group_count": 32},
    ),
    "transposed 4x4/2": (
        *((4, 64, 28, 28), (64, 64, 4, 4)),
        {"padding": ((2, 2),) * 2, "lhs_dilation": (2, 2)},
    ),
    "transposed 3x3x3/2": (
        *((1, 16, 8, 16, 16), (16, 16, 3, 3, 3)),
        {"padding": ((2, 2),) * 3, "lhs_dilation": (2, 2, 2)},
    ),
    "1-D, 9 taps": ((8, 64, 4096), (64, 64, 9), {"padding": "SAME"}),
}


def bench_jax(seconds):
    import jax
    import numpy as np
    from jax import lax

    import pyconv.jax

    rng = np.random.default_rng(0)
    for name, (x_shape, w_shape, options) in JAX.items():
        x, w = (jax.numpy.asarray(rng.standard_normal(s), "float32") for s in (x_shape, w_shape))
        stride = (1,) * (x.ndim - 2)

        def passes(convolve, stride=stride, options=options):
            def forward(image, kernel):
                return convolve(image, kernel, stride, **options)

            loss = lambda *arrays: (forward(*arrays) ** 2).sum()  # noqa: E731
            return {"forward": jax.jit(forward), "gradients": jax.jit(jax.grad(loss, (0, 1)))}

        ours, theirs = passes(pyconv.jax.conv_general_dilated), passes(lax.conv_general_dilated)
        for what in ours:
            calls = {
                name: lambda f=f, x=x, w=w: jax.block_until_ready(f(x, w))
                for name, f in (("ours", ours[what]), ("theirs", theirs[what]))
            }
            for mine, other in zip(*(jax.tree.leaves(call()) for call in calls.values())):
                assert np.abs(mine - other).max() <= 1e-4 * np.abs(other).max()
            report(f"jax {name}, {what}", interleaved(seconds, **calls))


def mobilenet_v2(rng):
    """MobileNetV2 (M. Sandler et al., CVPR 2018) as bytes."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    nodes, constants, blocks = [], {"zero": np.float32(0), "six": np.float32(6)}, 0

    def conv(x, c, k, size=1, stride=1, groups=1, clip=True):
        name = f"conv{len(nodes)}"
        fan = c // groups * size * size
        arrays = {
            "w": rng.standard_normal((k, c // groups, size, size)) * (2 / fan) ** 0.5,
            **{what: rng.uniform(0.8, 1.2, k) for what in ("scale", "variance")},
            **{what: rng.normal(0, 0.1, k) for what in ("shift", "mean")},
        }
        constants.update({f"{name}.{what}": np.float32(a) for what, a in arrays.items()})
        shape = {"strides": [stride] * 2, "pads": [size // 2] * 4, "group": groups}
        nodes.append(helper.make_node("Conv", [x, f"{name}.w"], [name], **shape))
        norm = [f"{name}.{what}" for what in ("scale", "shift", "mean", "variance")]
        nodes.append(helper.make_node("BatchNormalization", [name, *norm], [f"{name}.norm"]))
        if not clip:
            return f"{name}.norm"
        limits = [f"{name}.norm", "zero", "six"]
        nodes.append(helper.make_node("Clip", limits, [f"{name}.clip"]))
        return f"{name}.clip"

    x, c = conv("input", 3, 32, 3, 2), 32
    for wider, k, count, stride in (
        *((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2)),
        *((6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)),
    ):
        for index in range(count):
            step = stride if index == 0 else 1
            y = x if wider == 1 else conv(x, c, c * wider)
            y = conv(y, c * wider, c * wider, 3, step, c * wider)
            y = conv(y, c * wider, k, clip=False)
            if step == 1 and c == k:
                blocks += 1
                nodes.append(helper.make_node("Add", [x, y], [f"sum{blocks}"]))
                y = f"sum{blocks}"
            x, c = y, k
    nodes.append(helper.make_node("GlobalAveragePool", [conv(x, c, 1280)], ["pool"]))
    nodes.append(helper.make_node("Flatten", ["pool"], ["flat"]))
    constants["w"] = np.float32(rng.standard_normal((1000, 1280)) / 36)
    nodes.append(helper.make_node("Gemm", ["flat", "w"], ["output"], transB=1))
    ends = {"input": ["N", 3, 224, 224], "output": ["N", 1000]}
    given, result = (
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)]
        for name, shape in ends.items()
    )
    kept = [numpy_helper.from_array(a, name) for name, a in constants.items()]
    graph = helper.make_graph(nodes, "mobilenet_v2", given, result, kept)
    opset = helper.make_opsetid("", 17)
    return helper.make_model(graph, opset_imports=[opset], ir_version=8).SerializeToString()


def bench_onnx(seconds):
    import pathlib
    import tempfile

    import numpy as np
    import onnxruntime

    import pyconv.onnx
    from pyconv.nn import models

    rng = np.random.default_rng(0)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(os.environ["OMP_NUM_THREADS"])
    with tempfile.TemporaryDirectory() as folder:
        for name in ("ResNet-50", "GoogLeNet", "MobileNetV2"):
            path = pathlib.Path(folder, f"{name}.onnx")
            if name == "MobileNetV2":
                path.write_bytes(mobilenet_v2(rng))
            else:
                net = models.resnet(50) if name == "ResNet-50" else models.googlenet()
                pyconv.onnx.export(net.eval(), path, (1, 3, 224, 224))
            ours, theirs = pyconv.onnx.load(path), onnxruntime.InferenceSession(path, options)
            for batch in (1, 16):
                x = rng.standard_normal((batch, 3, 224, 224)).astype(np.float32)
                calls = {
                    "ours": lambda x=x, net=ours: net(x),
                    "theirs": lambda x=x, session=theirs: session.run(None, {"input": x})[0],
                }
                mine, other = (call() for call in calls.values())
                assert np.abs(mine - other).max() <= 1e-4 * np.abs(other).max()
                report(f"onnx {name}, batch {batch}", interleaved(seconds, 0.1, **calls))


def bench_scipy(seconds):
    import numpy as np
    import scipy.ndimage
    import scipy.signal

    import pyconv.ndimage
    import pyconv.signal

    rng = np.random.default_rng(0)
    for dtype in (np.float32, np.float64):
        image = rng.standard_normal((1024, 1024)).astype(dtype)
        tall = rng.standard_normal(1 << 20).astype(dtype)
        filters = {n: rng.standard_normal((n, n)).astype(dtype) for n in (3, 5, 9, 25)}
        taps = {n: rng.standard_normal(n).astype(dtype) for n in (33, 2049)}
        rows = [
            *(("ndimage", "correlate", f"{n}x{n}", (image, w)) for n, w in filters.items()),
            ("ndimage", "gaussian_filter", "sigma 2", (image, 2)),
            ("ndimage", "uniform_filter", "9", (image, 9)),
            ("ndimage", "sobel", "", (image,)),
            ("ndimage", "laplace", "", (image,)),
            ("ndimage", "maximum_filter", "5", (image, 5)),
            ("signal", "convolve2d", "5x5", (image, filters[5])),
            ("signal", "fftconvolve", "25x25", (image, filters[25])),
            ("signal", "oaconvolve", "25x25", (image, filters[25])),
            *(("signal", "convolve", f"{n} taps", (tall, w)) for n, w in taps.items()),
        ]
        for module, name, what, given in rows:
            ours = getattr(getattr(pyconv, module), name)
            theirs = getattr(getattr(scipy, module), name)
            mine, other = ours(*given), theirs(*given)
            assert mine.dtype == other.dtype
            assert np.abs(mine - other).max() <= 1e-4 * np.abs(other).max()
            calls = {
                "ours": lambda f=ours, given=given: f(*given),
                "theirs": lambda f=theirs, given=given: f(*given),
            }
            row = " ".join(filter(None, (f"scipy {module}.{name}", what, np.dtype(dtype).name)))
            report(row, interleaved(seconds, **calls))


BENCHES = {"torch": bench_torch, "jax": bench_jax, "onnx": bench_onnx, "scipy": bench_scipy}


def rows_of(framework, seconds):
    BENCHES[framework](seconds)
    return ROWS


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("frameworks", nargs="*", default=list(BENCHES), metavar="|".join(BENCHES))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=2, help="of every row")
    parser.add_argument("--out", type=pathlib.Path, help="keep the figures as JSON")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)  # before the frameworks are imported
    print(f"{'':44}{'pyconv':>13}{'framework':>13}{'ratio':>8}")
    if len(arguments.frameworks) > 1:
        with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
            for framework in arguments.frameworks:
                ROWS.extend(pool.apply(rows_of, (framework, arguments.seconds)))
    else:
        rows_of(*arguments.frameworks, arguments.seconds)
    if arguments.out:
        from pyconv.bench.measure import machine

        about = machine(arguments.threads, [PACKAGES[name] for name in arguments.frameworks])
        found = {"suite": "frameworks", "machine": about, "rows": ROWS}
        arguments.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()

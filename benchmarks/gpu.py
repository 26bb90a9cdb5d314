"""Measure pyconv on one NVIDIA GPU against cuDNN, under 8 minutes, and write the figures as JSON.

    python benchmarks/gpu.py [--out gpu.json] [--only PART_OF_A_NAME] [--seconds 420]

Needs CuPy, PyTorch built for CUDA, and pyconv with -DPYCONV_CUDA=ON; it says what is missing.
First the card's own ceilings (a copy, products of large matrices in float32 and TF32), then layers
in every pass against cuDNN (PyTorch, channels_last, cudnn.benchmark=True, TF32 allowed where ours
may use it), then training steps. A case runs over buffers in turn that are together larger than the
L2 cache; times are medians by events. Every result is compared before it is timed. A row has the
time, cuDNN's time over ours, and the share of the roofline that the ceilings and the case's work
give.
"""

import argparse
import json
import math
import statistics
import sys
import time
from dataclasses import asdict, dataclass

import numpy as np

import pyconv as pc


@dataclass(frozen=True)
class Case:
    name: str
    x: tuple[int, ...]  # N, C, H, W
    w: tuple[int, ...]
    stride: int = 1
    padding: int = 0
    groups: int = 1

    @property
    def out(self):
        return pc.conv_output_shape(self.x, self.w, self.stride, self.padding, 1, self.groups)

    @property
    def flops(self):
        return 2 * math.prod(self.out) * math.prod(self.w[1:])

    @property
    def numbers(self):
        return math.prod(self.x) + math.prod(self.w) + math.prod(self.out)


CONVOLUTIONS = [  # ../shared/design/gpu.md, section 7
    Case("first layer 7x7/2", (64, 3, 224, 224), (64, 3, 7, 7), 2, 3),
    Case("1x1 64-256 56", (64, 64, 56, 56), (256, 64, 1, 1)),
    Case("3x3 64 56", (64, 64, 56, 56), (64, 64, 3, 3), 1, 1),
    Case("3x3 128 28", (64, 128, 28, 28), (128, 128, 3, 3), 1, 1),
    Case("3x3/2 128 56", (64, 128, 56, 56), (128, 128, 3, 3), 2, 1),
    Case("3x3 256 14", (64, 256, 14, 14), (256, 256, 3, 3), 1, 1),
    Case("1x1 1024-256 14", (64, 1024, 14, 14), (256, 1024, 1, 1)),
    Case("3x3 512 7", (64, 512, 7, 7), (512, 512, 3, 3), 1, 1),
    Case("depthwise 3x3 96 56", (64, 96, 56, 56), (96, 1, 3, 3), 1, 1, 96),
    Case("depthwise 7x7 96 56", (64, 96, 56, 56), (96, 1, 7, 7), 1, 3, 96),
    Case("depthwise 31x31 384 32", (64, 384, 32, 32), (384, 1, 31, 31), 1, 15, 384),
    Case("grouped 3x3 128/32 56", (64, 128, 56, 56), (128, 4, 3, 3), 1, 1, 32),
    Case("LeNet c1", (512, 1, 32, 32), (6, 1, 5, 5)),
    Case("LeNet c2", (512, 6, 14, 14), (16, 6, 5, 5)),
    Case("airbench 24-64 31", (2000, 24, 31, 31), (64, 24, 3, 3), 1, 1),
    Case("airbench 64-256 15", (2000, 64, 15, 15), (256, 64, 3, 3), 1, 1),
]
PRECISIONS = ("default", "3xtf32", "tf32")


def missing():
    """What keeps this program from measuring, or None."""
    try:
        import cupy
        import torch
    except ImportError as error:
        return f"{error}: it needs CuPy and PyTorch built for CUDA"
    try:
        if not cupy.cuda.runtime.getDeviceCount() or not torch.cuda.is_available():
            return "there is no CUDA device, or PyTorch is built without CUDA"
    except cupy.cuda.runtime.CUDARuntimeError as error:
        return f"CUDA: {error}"
    try:
        from pyconv import _gpu

        _gpu.module()
    except RuntimeError as error:
        return str(error)
    return None


class Bench:
    def __init__(self, seconds):
        import cupy
        import torch

        self.cupy, self.torch = cupy, torch
        torch.backends.cudnn.benchmark = True
        self.stop = time.perf_counter() + seconds
        self.l2 = cupy.cuda.Device().attributes["L2CacheSize"]
        self.copy, self.rate = None, {}

    def sets(self, numbers):
        """How many sets of buffers are together four times as large as the L2 cache."""
        return max(1, min(64, math.ceil(4 * self.l2 / (4 * numbers))))

    def microseconds(self, calls):
        """The median time of a call, taken in turn over `calls`, which differ in their buffers.

        Both libraries are on the default stream, so one pair of events times either.
        """
        for call in calls[:3]:
            call()
        torch = self.torch
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for call in calls:
            call()
        end.record()
        end.synchronize()
        once = start.elapsed_time(end) / len(calls)  # ms
        inner = max(1, min(200, math.ceil(2 / max(once, 1e-3))))  # some 2 ms a measurement
        taken = []
        for repeat in range(15):
            start.record()
            for i in range(inner):
                calls[(repeat * inner + i) % len(calls)]()
            end.record()
            end.synchronize()
            taken.append(start.elapsed_time(end) / inner)
        return 1e3 * statistics.median(taken)

    def ceilings(self):
        torch = self.torch
        a, b = (torch.empty(256 << 20, dtype=torch.uint8, device="cuda") for _ in range(2))
        self.copy = 2 * a.numel() / self.microseconds([lambda: b.copy_(a)]) * 1e6
        x, y = (torch.randn(8192, 8192, device="cuda") for _ in range(2))
        out = torch.empty_like(x)
        for name, allowed in (("default", False), ("tf32", True)):
            torch.backends.cuda.matmul.allow_tf32 = allowed
            taken = self.microseconds([lambda: torch.mm(x, y, out=out)])
            self.rate[name] = 2 * 8192**3 / taken * 1e6
        self.rate["3xtf32"] = self.rate["tf32"] / 3
        return {"copy GB/s": self.copy / 1e9} | {
            f"GEMM {name} TFLOP/s": rate / 1e12 for name, rate in self.rate.items()
        }

    def convolution(self, case, precision):
        """Rows of the three passes."""
        cupy, torch = self.cupy, self.torch
        torch.backends.cudnn.allow_tf32 = precision == "tf32"
        generator = np.random.default_rng(0)
        options = {"stride": case.stride, "padding": case.padding, "groups": case.groups}
        count = self.sets(case.numbers)

        def arrays(shape):
            """NHWC memory that PyTorch sees as (N, C, H, W), and CuPy's view of the same."""
            host = generator.standard_normal(shape, dtype=np.float32)
            last = torch.channels_last
            tensors = [torch.from_numpy(host).cuda().to(memory_format=last) for _ in range(count)]
            return tensors, [cupy.from_dlpack(tensor) for tensor in tensors]

        (tx, x), (tdy, dy) = arrays(case.x), arrays(case.out)
        (tw, *_), _ = arrays(case.w)
        w = cupy.asarray(cupy.ascontiguousarray(cupy.from_dlpack(tw)))
        conv = torch.nn.functional.conv2d
        grad = torch.ops.aten.convolution_backward
        shared = (None, [case.stride] * 2, [case.padding] * 2, [1, 1], False, [0, 0], case.groups)

        def theirs(i, mask):
            if mask is None:
                return conv(tx[i], tw, None, **options)
            return next(g for g in grad(tdy[i], tx[i], tw, *shared, mask) if g is not None)

        def ours(i, needs):
            if needs is None:
                return pc.conv2d(x[i], w, **options)
            return next(g for g in pc.conv2d_backward(dy[i], x[i], w, needs=needs, **options)
                        if g is not None)  # fmt: skip

        roof = max(case.flops / self.rate[precision], 4 * case.numbers / self.copy) * 1e6
        passes = {"fwd": (None, None), "bwd_data": ([True, False, False], "x"),
                  "bwd_weight": ([False, True, False], "w")}  # fmt: skip
        for name, (mask, needs) in passes.items():
            with pc.config(precision=precision):
                got = cupy.asnumpy(ours(0, needs)).astype("f8")
                want = theirs(0, mask).double().cpu().numpy()
                error = float(abs(got - want).max() / abs(want).max())
                limit = 2e-2 if precision == "tf32" else 1e-4
                mine = self.microseconds([lambda i=i, n=needs: ours(i, n) for i in range(count)])
                peer = self.microseconds([lambda i=i, m=mask: theirs(i, m) for i in range(count)])
            yield asdict(case) | {
                "pass": name, "precision": precision, "error": error, "right": error < limit,
                "us": mine, "cudnn us": peer, "ratio": peer / mine, "roofline": roof / mine,
            }  # fmt: skip

    def pooling(self):
        """Max pooling of ResNet's stem, both passes, in bytes against the copy's."""
        cupy, torch = self.cupy, self.torch
        host = np.random.default_rng(0).standard_normal((64, 64, 112, 112), dtype=np.float32)
        tx = torch.from_numpy(host).cuda().requires_grad_()
        x = cupy.asarray(host)
        y, where = pc.max_pool2d(x, 3, 2, 1, return_indices=True)
        ty = torch.nn.functional.max_pool2d(tx, 3, 2, 1)
        tdy = torch.ones_like(ty)
        dy = cupy.ones_like(y)
        pool = torch.nn.functional.max_pool2d
        rows = {
            "fwd": (lambda: pc.max_pool2d(x, 3, 2, 1), lambda: pool(tx.detach(), 3, 2, 1)),
            "bwd_data": (
                lambda: pc.max_pool2d_backward(dy, where, x.shape),
                lambda: torch.autograd.grad(ty, tx, tdy, retain_graph=True),
            ),
        }
        right = bool((cupy.asnumpy(y) == ty.detach().cpu().numpy()).all())
        for name, (ours, theirs) in rows.items():
            mine, peer = self.microseconds([ours]), self.microseconds([theirs])
            roof = 4 * (x.size + y.size) / self.copy * 1e6
            yield {"name": "max pool 3x3/2", "pass": name, "precision": "default", "right": right,
                   "us": mine, "cudnn us": peer, "ratio": peer / mine,
                   "roofline": roof / mine}  # fmt: skip

    def call_overhead(self):
        """Microseconds of the host for a call that leaves the device nearly nothing to do."""
        x, w = self.cupy.zeros((1, 1, 8, 8), "f4"), self.cupy.zeros((1, 1, 3, 3), "f4")
        for _ in range(100):
            pc.conv2d(x, w)
        start = time.perf_counter()
        for _ in range(2000):
            pc.conv2d(x, w)
        taken = (time.perf_counter() - start) / 2000
        self.cupy.cuda.Device().synchronize()
        return {"host us of a small conv2d": 1e6 * taken}

    def training(self):
        """Images a second of LeNet-5 on random digits, our trainer's step alone."""
        net = pc.models.lenet5()
        optimizer = pc.optim.SGD(net.parameters(), 0.01, momentum=0.9)
        x = np.random.default_rng(0).standard_normal((8192, 1, 32, 32), dtype=np.float32)
        trainer = pc.Trainer(net, optimizer, batch_size=512, device="cuda")
        data = x, np.arange(8192) % 10
        trainer.fit(data, epochs=1)
        start = time.perf_counter()
        trainer.fit(data, epochs=3)
        return {"LeNet-5 training images/s": 3 * 8192 / (time.perf_counter() - start)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="gpu.json", help="default gpu.json")
    parser.add_argument("--only", default="", help="cases whose name holds this")
    parser.add_argument("--seconds", type=float, default=420, help="no new case begins after; 420")
    arguments = parser.parse_args()
    if reason := missing():
        print(f"benchmarks/gpu.py: {reason}", file=sys.stderr)
        return 2
    bench = Bench(arguments.seconds)
    card = bench.cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()
    found = {"card": card, "torch": bench.torch.__version__, "numbers": bench.ceilings()}
    found["numbers"] |= bench.call_overhead() | bench.training()
    print(card, *(f"{name}: {value:.4g}" for name, value in found["numbers"].items()), sep="\n")
    rows = found["rows"] = []

    def keep(some):
        for row in some:
            rows.append(row)
            what = f"{row['name']}, {row['pass']}, {row['precision']}"
            print(f"{what:48}{row['us']:9.1f} us{row['cudnn us']:9.1f} us{row['ratio']:7.2f}"
                  f"{row['roofline']:7.0%}{'' if row['right'] else '  WRONG'}")  # fmt: skip

    print(f"{'case, pass, precision':48}{'ours':>12}{'cuDNN':>12}{'ratio':>7}{'roof':>7}")
    keep(bench.pooling() if arguments.only in "max pool 3x3/2" else ())
    for case in CONVOLUTIONS:
        for precision in PRECISIONS:
            if arguments.only in case.name and time.perf_counter() < bench.stop:
                keep(bench.convolution(case, precision))
    for precision in PRECISIONS:
        ratios = [row["ratio"] for row in rows if row["precision"] == precision]
        if ratios:
            print(f"geometric mean, {precision}: {statistics.geometric_mean(ratios):.2f}")
    with open(arguments.out, "w") as file:
        json.dump(found, file, indent=1)
    return 0 if all(row["right"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())

"""Time convolution layers against peers, interleaved in one process: medians and ratios.

    python benchmarks/layers.py [--threads 2] [--only NAME,...] [--passes fwd,bwd_data,bwd_weight]
                                [--seconds 2] [--batch 1] [--fresh] [--save results/NAME.json]

Peers that are installed take part: PyTorch (contiguous and channels_last) and the vectorised im2col
+ BLAS of `pyconv.reference` (forward). Every peer's result is compared with ours before it is
timed. Our outputs are preallocated (`out=`), PyTorch's are fresh, as its functions have no
`out`; with --fresh ours are fresh too. Weights are packed in every call.
The ratio is the best peer's median over the median of our better layout. FLOP = 2 N K P Q C/G R S;
peak is the best of a few square float32 matrix products by NumPy's BLAS.
"""

import argparse
import json
import os
import pathlib
import platform
import statistics
import sys
import time

import numpy as np

import pyconv as pc
from pyconv import reference

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "tests"))
import cases

try:
    import torch
except ImportError:
    torch = None


def channels_last(a):
    """An NCHW-shaped view of NHWC memory, which runs the NHWC kernels."""
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(a, 1, -1)), -1, 1)


def ours(case, arrays, direction, layout, fresh):
    x, w, dy = arrays
    if layout == "nhwc":
        x, dy = channels_last(x), channels_last(dy)
    if direction == "fwd":
        call, out = lambda out: pc.conv2d(x, w, out=out, **case.window), dy
        slot = np.empty_like(out)
        return lambda: call(None if fresh else slot)
    need = "x" if direction == "bwd_data" else "w"
    slot = np.empty_like(x if need == "x" else w)
    outs = (slot, None, None) if need == "x" else (None, slot, None)
    picked = 0 if need == "x" else 1
    return lambda: pc.conv2d_backward(
        dy, x, w, needs=(need,), out=None if fresh else outs, **case.window
    )[picked]


def torch_peer(case, arrays, direction, memory_format):
    x, w, dy = (torch.from_numpy(a).contiguous(memory_format=memory_format) for a in arrays)
    stride, padding, dilation = ([v, v] for v in (case.stride, case.padding, case.dilation))
    if direction == "fwd":
        return lambda: torch.conv2d(x, w, None, stride, padding, dilation, case.groups)
    mask = [direction == "bwd_data", direction == "bwd_weight", False]
    backward = torch.ops.aten.convolution_backward
    rest = (None, stride, padding, dilation, False, [0, 0], case.groups, mask)
    return lambda: backward(dy, x, w, *rest)[mask.index(True)]


def contestants(case, arrays, direction, fresh):
    runs = {f"pyconv {layout}": ours(case, arrays, direction, layout, fresh) for layout in
            ("nchw", "nhwc")}  # fmt: skip
    if torch:
        runs["torch nchw"] = torch_peer(case, arrays, direction, torch.contiguous_format)
        runs["torch nhwc"] = torch_peer(case, arrays, direction, torch.channels_last)
    if direction == "fwd":
        x, w, _ = arrays
        plain = {n: case.window[n] for n in ("stride", "padding", "dilation", "groups")}
        runs["numpy im2col"] = lambda: reference.conv_im2col(x, w, **plain)
    return runs


def check(runs):
    """Every result against our first: within float32 of a different order of summation."""
    first, *others = (np.asarray(run()) for run in runs.values())
    for name, other in zip(list(runs)[1:], others):
        error = np.abs(other - first).max() / np.abs(first).max()
        assert error < 2e-5, f"{name} differs by {error}"


def measure(runs, seconds):
    samples = {name: [] for name in runs}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(samples[next(iter(runs))]) < 3:
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            samples[name].append(time.perf_counter() - start)
    return samples


def peak():
    a = np.ones((2048, 2048), np.float32)
    return 2 * 2048**3 / min(measure({"": lambda: a @ a}, 1.0)[""]) / 1e9


def machine(threads):
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(": ")[1] for line in lines if line.startswith("model name")), "")
    return {
        "cpu": model or platform.processor(),
        "threads": threads,
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": torch.__version__ if torch else None,
        **pc.show_config("dict"),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", default="")
    parser.add_argument("--passes", default="fwd,bwd_data,bwd_weight")
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--fresh", action="store_true")
    parser.add_argument("--save", type=pathlib.Path)
    options = parser.parse_args()
    pc.set_num_threads(options.threads)
    if torch:
        torch.set_num_threads(options.threads)
    report = {"machine": machine(options.threads), "cases": []}
    report["machine"]["blas_gflops"] = peak()
    print(f"BLAS peak {report['machine']['blas_gflops']:.0f} GFLOP/s, {options.threads} threads")
    ratios = []
    for case in cases.BENCH:
        if options.only and not any(part in case.name for part in options.only.split(",")):
            continue
        x_shape = (options.batch or case.x[0], *case.x[1:])
        rng = np.random.default_rng(0)
        x = rng.standard_normal(x_shape, np.float32)
        w = rng.standard_normal(case.w, np.float32)
        y_shape = pc.conv_output_shape(
            x_shape, case.w, case.stride, case.padding, case.dilation, case.groups
        )
        arrays = x, w, rng.standard_normal(y_shape, np.float32)
        flops = 2 * np.prod(y_shape) * np.prod(case.w[1:])
        for direction in options.passes.split(","):
            runs = contestants(case, arrays, direction, options.fresh)
            check(runs)
            samples = measure(runs, options.seconds)
            medians = {name: statistics.median(times) for name, times in samples.items()}
            best = {ours: min(t for n, t in medians.items() if n.startswith("pyconv") == ours)
                    for ours in {n.startswith("pyconv") for n in medians}}  # fmt: skip
            ratio = best[False] / best[True] if False in best else float("nan")
            ratios.append(ratio)
            row = {"name": case.name, "x": x_shape, "w": case.w, "pass": direction}
            report["cases"].append(row | {"flop": int(flops), "ratio": ratio, "samples": samples})
            rates = "  ".join(f"{n} {flops / t / 1e9:6.1f}" for n, t in medians.items())
            print(f"{case.name:18} {direction:10} {ratio:5.2f}x  {rates}", flush=True)
    print(f"geometric mean {statistics.geometric_mean(ratios):.2f}x over {len(ratios)}")
    if options.save:
        options.save.parent.mkdir(parents=True, exist_ok=True)
        options.save.write_text(json.dumps(report) + "\n")


if __name__ == "__main__":
    main()

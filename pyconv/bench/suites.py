"""What is measured in which order. A suite is a generator of rows; a row is a dict of one layer,
pass and batch with the samples of every contestant.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial
from typing import Any

import numpy as np

import pyconv as pc
from pyconv.bench import measure, memory, networks, peers
from pyconv.bench.cases import LAYERS, PASSES, Layer, conv, pool
from pyconv.bench.report import Row


@dataclass(frozen=True)
class Options:
    against: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    passes: tuple[str, ...] = PASSES
    threads: int = 1
    seconds: float = 1.0
    batch: tuple[int, ...] = (0, 1)  # 0: the layer's own


OVERHEAD = [
    conv("conv2d", "conv2d 1x1x4x4", 1, 1, 4, 1, 3, 1, 1),
    pool("max", "max_pool2d 1x1x4x4", 1, 1, 4, 2, 2),
    pool("avg", "avg_pool2d 1x1x4x4", 1, 1, 4, 2, 2),
]


def chosen(layers: list[Layer], options: Options) -> Iterator[Layer]:
    """The layers asked for by class or the beginning of their names, at every batch asked for."""
    found = False
    for layer in layers:
        wanted = (part == layer.label or fnmatch(layer.name, f"{part}*") for part in options.only)
        if not options.only or any(wanted):
            found = True
            for batch in dict.fromkeys(batch or layer.x[0] for batch in options.batch):
                yield layer.at(batch)
    if not found:
        raise ValueError(f"bench: --only: no layer or class is like {', '.join(options.only)}")


def row_of(layer: Layer, direction: str, **more: Any) -> Row:
    names = ("name", "label", "x", "w", "times", "flops", "bytes", "pools")
    found = {name: getattr(layer, name) for name in names}
    return found | {"pass": direction, "batch": layer.x[0], "left_out": {}} | more


def raced(layers: list[Layer], options: Options) -> Iterator[Row]:
    """Ours and those of the peers, in every pass."""
    own_batch = {layer.name: layer.x[0] for layer in layers}
    for layer in chosen(layers, options):
        given = peers.arrays(layer)
        for direction in (name for name in layer.passes if name in options.passes):
            contestants, left_out = list(peers.pyconv(layer, given, direction)), {}
            for name in options.against:
                try:
                    contestants += peers.PEERS[name](layer, given, direction)
                except Exception as error:  # whatever a framework raises for what it cannot do
                    left_out[name] = f"{type(error).__name__}: {str(error)[:200]}"
            runs, first, wrong = measure.checked(contestants)
            yield row_of(
                layer,
                direction,
                own_batch=own_batch[layer.name] == layer.x[0],
                left_out=left_out | wrong,
                samples=measure.race(runs, first, options.seconds),
            )


def scaling(options: Options) -> Iterator[Row]:
    """Ours on one thread and on all, and products of matrices that nothing but cores can limit."""
    many = options.threads
    if many < 2:
        raise ValueError("bench: --suite scaling needs more than one thread")
    matrices = np.ones((many, 3, 768, 768), np.float32)

    def multiply(i: int) -> None:
        np.matmul(matrices[i, 0], matrices[i, 1], out=matrices[i, 2])

    def on(threads: int, run: Callable[[], Any]) -> Callable[[], Any]:
        def call() -> Any:
            if pc.get_num_threads() != threads:
                pc.set_num_threads(threads)
            return run()

        return call

    for layer in chosen(LAYERS, options):
        given = peers.arrays(layer)
        for direction in (name for name in layer.passes if name in options.passes):
            runs: dict[str, Callable[[], Any]] = {}
            for threads in (1, many):
                for name, run, _ in peers.pyconv(layer, given, direction):
                    if name in ("pyconv nchw", "pyconv nhwc"):
                        runs[f"{name} {threads}"] = on(threads, run)
                runs[f"fma {threads}"] = partial(measure.at_once, threads, multiply)
            with measure.blas_threads(1):
                first = {name: [measure.timed(run)] for name, run in runs.items()}
                samples = measure.race(runs, first, options.seconds, hopeless=math.inf)
            yield row_of(layer, direction, threads=many, samples=samples)
    pc.set_num_threads(many)


def memory_rows(options: Options) -> Iterator[Row]:
    torch = "torch" in options.against
    made = memory.rows(chosen(LAYERS, options), options.passes, options.threads, torch)
    for layer, direction, samples in made:
        of = layer or conv("random shapes", f"{memory.RANDOM_SHAPES} random shapes", 1, 1, 1, 1, 1)
        yield row_of(of, direction, samples=samples)


FRAMEWORKS = ("torch", "onnxruntime", "jax")
CONVOLUTIONS = [layer for layer in LAYERS if layer.kind == "conv"]

# name -> rows, the peers that take part by default, batches
SUITES: dict[str, tuple[Callable[[Options], Iterator[Row]], tuple[str, ...], tuple[int, ...]]] = {
    "layers": (lambda options: raced(LAYERS, options), (*FRAMEWORKS, "scipy", "numpy"), (0, 1)),
    "networks": (lambda options: raced(networks.LAYERS, options), FRAMEWORKS, (0,)),
    "numpy": (
        lambda options: raced(CONVOLUTIONS, options),
        ("numpy", "fft", "scipy", "loops"),
        (1,),
    ),
    "overhead": (lambda options: raced(OVERHEAD, options), ("torch", "onnxruntime"), (1,)),
    "scaling": (scaling, (), (0,)),
    "memory": (memory_rows, ("torch",), (0,)),
}

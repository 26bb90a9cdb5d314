"""What is measured in which order. A suite is a generator of rows; a row is a dict of one layer,
pass and batch with the samples of every contestant.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

from pyconv.bench import measure, peers
from pyconv.bench.cases import LAYERS, PASSES, Layer

Row = dict[str, Any]


@dataclass(frozen=True)
class Options:
    against: tuple[str, ...] = tuple(peers.PEERS)
    only: tuple[str, ...] = ()
    passes: tuple[str, ...] = PASSES
    threads: int = 1
    seconds: float = 1.0
    batch: tuple[int, ...] = (0, 1)  # 0: the layer's own


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


def layer_rows(layers: list[Layer], options: Options) -> Iterator[Row]:
    own_batch = {layer.name: layer.x[0] for layer in layers}
    for layer in chosen(layers, options):
        given = peers.arrays(layer)
        for direction in layer.passes:
            if direction in options.passes:
                row = one(layer, given, direction, options)
                yield row | {"own_batch": own_batch[layer.name] == layer.x[0]}


def one(layer: Layer, given: peers.Arrays, direction: str, options: Options) -> Row:
    contestants = list(peers.pyconv(layer, given, direction))
    left_out = {}
    for name in options.against:
        try:
            contestants += peers.PEERS[name](layer, given, direction)
        except Exception as error:  # whatever a framework raises for a shape it does not serve
            left_out[name] = f"{type(error).__name__}: {str(error)[:200]}"
    runs, first, wrong = measure.checked(contestants)
    return {
        "name": layer.name,
        "label": layer.label,
        "pass": direction,
        "batch": layer.x[0],
        "x": layer.x,
        "w": layer.w,
        "times": layer.times,
        "flops": layer.flops,
        "bytes": layer.bytes,
        "left_out": left_out | wrong,
        "samples": measure.race(runs, first, options.seconds),
    }


def layers(options: Options) -> Iterator[Row]:
    return layer_rows(LAYERS, options)


SUITES = {"layers": layers}

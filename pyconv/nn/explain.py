"""The table that `Layer.explain` prints: what runs, as how many passes, and what it needs."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

from pyconv._arrays import Shape
from pyconv._plan import plan_conv
from pyconv.nn.containers import Sequential
from pyconv.nn.conv import Linear, _Conv, _ConvTranspose
from pyconv.nn.layer import Layer, no_grad

_ELEMENT = 4  # bytes of a float32


class Pass(NamedTuple):
    """One pass over memory: what it fuses, how, and what it costs."""

    name: str
    layers: str  # type names joined by +
    kernel: str
    output: Shape
    work: int  # multiply-adds
    workspace: int  # bytes


def passes(net: Layer, shape: Shape, name: str = "") -> list[Pass]:
    """The passes of one call in inference, in order."""
    if isinstance(net, Sequential):
        found = []
        names = {id(layer): inner for inner, layer in net.children().items()}
        with no_grad():
            groups = net.fused()
        for group in groups:
            layer, *joined = (part for part in group if part is not None)
            inner = _join(name, names[id(layer)])
            if joined and layer.inside(shape):  # a block: its last pass takes the activation
                *before, last = passes(layer, shape, inner)
                more = "+".join(type(part).__name__ for part in joined)
                found += [*before, last._replace(layers=f"{last.layers}+{more}")]
            elif layer.inside(shape):
                found += passes(layer, shape, inner)
            else:
                found.append(_leaf(layer, shape, inner, joined))
            shape = layer.output_shape(shape)
        return found
    inside = net.inside(shape)
    if not inside:
        return [_leaf(net, shape, name, [])]
    return [
        found for inner, layer, into in inside for found in passes(layer, into, _join(name, inner))
    ]


def table(net: Layer, input_shape: Shape) -> str:
    """One line a pass, and the sums below."""
    found = passes(net, input_shape)
    rows = [("pass", "layers", "kernel", "output shape", "multiply-adds", "workspace")]
    rows += [
        (p.name, p.layers, p.kernel, "x".join(map(str, p.output)), f"{p.work:,}", _kb(p.workspace))
        for p in found
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(6)]
    lines = [
        "  ".join(
            text.rjust(width) if column >= 4 else text.ljust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    sizes = [math.prod(input_shape), *(math.prod(p.output) for p in found)]
    parameters = sum(p.size for p in net.parameters().values())
    two = max((a + b for a, b in pairwise(sizes)), default=sizes[0])
    total = (
        f"{len(found)} passes, {sum(p.work for p in found):,} multiply-adds; float32: parameters "
        f"{_kb(parameters * _ELEMENT)}, all activations {_kb(sum(sizes) * _ELEMENT)}, the largest "
        f"input and output {_kb(two * _ELEMENT)}"
    )
    return "\n".join([*lines[:1], "-" * max(map(len, lines)), *lines[1:], total])


def _leaf(layer: Layer, shape: Shape, name: str, joined: list[Layer]) -> Pass:
    output = layer.output_shape(shape)
    kernel, workspace = _kernel(layer, shape)
    layers = "+".join(type(part).__name__ for part in (layer, *joined))
    return Pass(name, layers, kernel, output, layer.multiply_adds(shape), workspace)


def _kernel(layer: Layer, shape: Shape) -> tuple[str, int]:
    """The algorithm, and the bytes of its workspace; "" for layers that have one way only."""
    if isinstance(layer, _Conv):
        plan = plan_conv(shape, layer.w.value.shape, **layer._options())
    elif isinstance(layer, Linear):
        rows = (1, math.prod(shape[:-1]), layer.in_features)
        plan = plan_conv(rows, (*layer.w.value.shape, 1), layout="NHWC")
    elif isinstance(layer, _ConvTranspose):
        return "input gradient", 0
    else:
        return "", 0
    return plan.algorithm, plan.workspace_bytes


def _kb(count: int) -> str:
    return f"{count / 1024:,.0f} KB"


def _join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name

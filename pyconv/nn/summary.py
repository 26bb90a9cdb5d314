"""The table that `Layer.summary` prints."""

from __future__ import annotations

from pyconv._arrays import Shape
from pyconv.nn.layer import Layer

Row = tuple[str, str, str, str]


def table(net: Layer, input_shape: Shape) -> str:
    """One line a layer: name and type, output shape, parameters, multiply-adds."""
    parameters = sum(parameter.size for parameter in net.parameters().values())
    rows: list[Row] = [("layer", "output shape", "parameters", "multiply-adds")]
    rows += _rows(net, input_shape, "", 0)
    rows.append(("total", "", f"{parameters:,}", f"{net.multiply_adds(input_shape):,}"))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        f"{name:<{widths[0]}}  {shape:<{widths[1]}}  {size:>{widths[2]}}  {work:>{widths[3]}}"
        for name, shape, size, work in rows
    ]
    rule = "-" * len(lines[0])
    head = f"{type(net).__name__} on {_times(input_shape)}"
    return "\n".join([head, rule, lines[0], rule, *lines[1:-1], rule, lines[-1]])


def _rows(layer: Layer, shape: Shape, name: str, depth: int) -> list[Row]:
    inside = layer.inside(shape)
    rows: list[Row] = []
    if depth:
        label = "  " * (depth - 1) + f"{name} {type(layer).__name__}"
        if inside:
            rows.append((label, _times(layer.output_shape(shape)), "", ""))
        else:
            size = sum(parameter.size for parameter in layer.parameters().values())
            work = layer.multiply_adds(shape)
            rows.append((label, _times(layer.output_shape(shape)), f"{size:,}", f"{work:,}"))
    for inner_name, inner, inner_shape in inside:
        rows += _rows(inner, inner_shape, inner_name, depth + 1)
    return rows


def _times(shape: Shape) -> str:
    return "x".join(map(str, shape))

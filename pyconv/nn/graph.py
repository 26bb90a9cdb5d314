"""Free wiring: layers that read several inputs, and the graph that connects any layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pyconv._arrays import Array, Shape
from pyconv._gpu import namespace
from pyconv.nn.layer import Layer

Node = tuple[Any, ...]  # (layer, name of its input, ...)


class Join(Layer):
    """A layer of several inputs: `forward(a, b, ...)`; `backward(dy)` gives one gradient for each.

    Its shapes are the inputs' shapes, in a tuple.
    """

    def __call__(self, *xs: Array) -> Array:
        return self.forward(*xs)

    def forward(self, *xs: Array) -> Array:
        raise NotImplementedError(f"{type(self).__name__} does not define forward")

    def multiply_adds(self, shape: Shape) -> int:
        return 0


class Add(Join):
    """The sum of its inputs.

    >>> import numpy as np
    >>> from pyconv import nn
    >>> nn.Add()(np.array([1.0]), np.array([2.0]), np.array([3.0]))
    array([6.])
    """

    def forward(self, *xs: Array) -> Array:
        _require_equal("Add", [x.shape for x in xs], "shape")
        self.keep(len(xs))
        y = xs[0] + xs[1] if len(xs) > 1 else xs[0].copy()
        for x in xs[2:]:
            y += x
        return y

    def backward(self, dy: Array) -> Any:
        (count,) = self.kept()
        return (dy,) * count

    def output_shape(self, shape: Any) -> Shape:
        _require_equal("Add", list(shape), "shape")
        return tuple(shape[0])


class Cat(Join):
    """Its inputs side by side as channels.

    >>> import numpy as np
    >>> from pyconv import nn
    >>> nn.Cat()(np.zeros((1, 2, 5)), np.zeros((1, 3, 5))).shape
    (1, 5, 5)
    """

    def forward(self, *xs: Array) -> Array:
        self.output_shape([x.shape for x in xs])
        self.keep([x.shape[1] for x in xs])
        return np.concatenate(xs, axis=1)

    def backward(self, dy: Array) -> Any:
        (channels,) = self.kept()
        parts = np.split(dy, np.cumsum(channels)[:-1], axis=1)
        return tuple(namespace(part).ascontiguousarray(part) for part in parts)

    def output_shape(self, shape: Any) -> Shape:
        _require_equal("Cat", [(s[0], *s[2:]) for s in shape], "batch and size")
        first = shape[0]
        return (first[0], sum(s[1] for s in shape), *first[2:])


class Graph(Layer):
    """Layers wired freely: `nodes` maps each name to (layer, name of its input, ...).

    "input" is the graph's own input; a node may be read by several others, and nodes stand in the
    order in which they run. `output` names the result; in training the call returns a tuple, the
    result and then the nodes of `auxiliary` (GoogLeNet's extra classifiers), and backward() takes
    such a tuple of gradients, None for an output the loss did not use. Nodes that only lead to
    auxiliary outputs do not run in inference.

    Raises ValueError for a node that reads an unknown or later one, a layer used twice and a node
    that leads nowhere.

    >>> import numpy as np
    >>> from pyconv import nn
    >>> net = nn.Graph({"a": (nn.ReLU(), "input"), "sum": (nn.Add(), "a", "input")}, "sum")
    >>> net(np.array([[-1.0, 2.0]]))
    array([[-1.,  4.]])
    >>> net.backward(np.ones((1, 2)))
    array([[1., 2.]])
    """

    def __init__(
        self, nodes: Mapping[str, Sequence[Any]], output: str, auxiliary: Sequence[str] = ()
    ) -> None:
        self.nodes: dict[str, Node] = {name: tuple(node) for name, node in nodes.items()}
        self.output, self.auxiliary = output, tuple(auxiliary)
        known = {"input"}
        for name, (layer, *inputs) in self.nodes.items():
            if not isinstance(layer, Layer):
                raise TypeError(f"Graph: node {name!r} must begin with a Layer, got {layer!r}")
            if name in known or not inputs:
                raise ValueError(f"Graph: node {name!r} needs inputs and a name of its own")
            if unknown := [source for source in inputs if source not in known]:
                raise ValueError(
                    f"Graph: node {name!r} reads {', '.join(unknown)}; so far there are "
                    f"{', '.join(sorted(known))}"
                )
            if len(inputs) > 1 and not isinstance(layer, Join):
                raise ValueError(f"Graph: node {name!r}: {type(layer).__name__} reads one input")
            known.add(name)
        layers = [node[0] for node in self.nodes.values()]
        if len({id(layer) for layer in layers}) < len(layers):
            raise ValueError("Graph: a layer serves one node; give each node its own")
        if unknown := [name for name in (output, *self.auxiliary) if name not in self.nodes]:
            raise ValueError(f"Graph: no node is called {', '.join(unknown)}")
        self._inference = self._needed([output])
        if idle := self.nodes.keys() - self._needed([output, *self.auxiliary]).keys():
            raise ValueError(f"Graph: {', '.join(sorted(idle))} lead to no output")

    def _needed(self, outputs: Sequence[str]) -> dict[str, Node]:
        """The nodes that lead to these outputs, in order."""
        wanted = set(outputs)
        for name, (_, *inputs) in reversed(self.nodes.items()):
            if name in wanted:
                wanted.update(inputs)
        return {name: node for name, node in self.nodes.items() if name in wanted}

    def children(self) -> dict[str, Layer]:
        return {name: node[0] for name, node in self.nodes.items()}

    def forward(self, x: Array) -> Any:
        several = self.training and bool(self.auxiliary)
        run = self.nodes if several else self._inference
        last = {source: name for name, (_, *inputs) in run.items() for source in inputs}
        outputs = (self.output, *self.auxiliary) if several else (self.output,)
        values = {"input": x}
        for name, (layer, *inputs) in run.items():
            values[name] = layer(*(values[source] for source in inputs))
            for source in inputs:  # what nobody reads any more is freed
                if last[source] == name and source not in outputs:
                    values.pop(source, None)
        self.keep(several)
        return tuple(values[name] for name in outputs) if several else values[self.output]

    def backward(self, dy: Any) -> Any:
        (several,) = self.kept()
        run = self.nodes if several else self._inference
        given = zip((self.output, *self.auxiliary), dy) if several else [(self.output, dy)]
        gradients: dict[str, Array | None] = {}
        for name, gradient in given:
            _add(gradients, name, gradient)
        learns = self._learning()
        for name, (layer, *inputs) in reversed(run.items()):
            gradient = gradients.pop(name, None)
            wanted = any(self._wants(source, learns) for source in inputs)
            if gradient is None or not (wanted or name in learns):
                continue
            layer.input_gradient = wanted
            found = layer.backward(gradient)
            parts = found if isinstance(layer, Join) else (found,)
            for source, part in zip(inputs, parts):
                if self._wants(source, learns):
                    _add(gradients, source, part)
        return gradients.get("input")

    def _wants(self, source: str, learns: set[str]) -> bool:
        return self.input_gradient if source == "input" else source in learns

    def _learning(self) -> set[str]:
        """Nodes whose gradient is needed: something at or below them learns, or dx is wanted."""
        found: set[str] = set()
        for name, (layer, *inputs) in self.nodes.items():
            below = any(self._wants(source, found) for source in inputs)
            if below or any(p.trainable for p in layer.parameters().values()):
                found.add(name)
        return found

    # Shapes, without computing

    def inside(self, shape: Shape) -> list[tuple[str, Layer, Shape]]:
        shapes: dict[str, Any] = {"input": tuple(shape)}
        seen = []
        for name, (layer, *inputs) in self.nodes.items():
            read = tuple(shapes[source] for source in inputs)
            into = read if isinstance(layer, Join) else read[0]
            seen.append((name, layer, into))
            shapes[name] = layer.output_shape(into)
        return seen

    def multiply_adds(self, shape: Shape) -> int:
        """Of inference: the nodes that lead to auxiliary outputs only are left out."""
        return sum(
            layer.multiply_adds(into)
            for name, layer, into in self.inside(shape)
            if name in self._inference
        )

    def output_shape(self, shape: Shape) -> Shape:
        shapes = {name: layer.output_shape(into) for name, layer, into in self.inside(shape)}
        return shapes[self.output]


def _add(gradients: dict[str, Array | None], name: str, gradient: Array | None) -> None:
    if gradient is not None:
        before = gradients.get(name)
        gradients[name] = gradient if before is None else before + gradient


def _require_equal(op: str, values: list[Any], what: str) -> None:
    if any(value != values[0] for value in values):
        raise ValueError(f"{op}: inputs must have the same {what}, got {values}")

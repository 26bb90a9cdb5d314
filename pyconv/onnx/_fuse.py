"""What is done to a graph before it runs: constants are computed, and nodes joined into one pass.

A convolution takes in the batch norm after it, by other weights, and then a sum and an activation,
by its kernel. It moves to where the last of them stood, when all that it reads is there.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

from pyconv._arrays import Dense
from pyconv.onnx._read import Model, Node
from pyconv.onnx._table import bound

FOLDED = 1 << 26  # bytes that constants computed here may take: a hostile file asks for no more

# Operators that constants go through; _bytes knows how much each can make of them.
_CHEAP = """Add Cast Concat Constant ConstantOfShape Div Expand Flatten Gather Identity Mul Neg
    Reshape Shape Slice Split Sqrt Squeeze Sub Transpose Unsqueeze"""
_ACTIVATIONS = {"Relu": "relu", "Sigmoid": "sigmoid", "Tanh": "tanh"}
_CLIPS: dict[tuple[float | None, float | None], str] = {(0, None): "relu", (0, 6): "relu6"}


def fused(model: Model) -> Model:
    """The same function in fewer steps."""
    outputs = {value.name for value in model.outputs}
    with np.errstate(all="ignore"):
        nodes, constants = _folded(model)
        nodes = _Joiner(_without_identities(nodes, outputs), constants, outputs).joined()
    read = {name for node in nodes for name in node.inputs} | {v.name for v in model.outputs}
    kept = {name: value for name, value in constants.items() if name in read}
    return model._replace(nodes=tuple(nodes), constants=kept)


def _bytes(op: str, inputs: list[Dense | None], attributes: dict[str, Any]) -> int:
    """No less than the result takes."""
    given = [x for x in inputs if x is not None]
    widest = max((x.itemsize for x in given), default=8)
    if op in ("ConstantOfShape", "Expand") and given:
        return math.prod(max(int(n), 1) for n in given[-1].ravel()) * max(given[0].size, 1) * 8
    if op == "Gather" and len(given) == 2:
        return given[0].size * max(given[1].size, 1) * widest
    if op in ("Add", "Div", "Mul", "Sub") and len(given) == 2:
        return given[0].size * given[1].size * widest  # at most, by broadcasting
    return 8 * (sum(x.size for x in given) + 8)


def _folded(model: Model) -> tuple[list[Node], dict[str, Dense]]:
    constants, nodes, room = dict(model.constants), [], FOLDED
    cheap = set(_CHEAP.split())
    for node in model.nodes:
        inputs = [constants.get(name) for name in node.inputs]
        known = all(x is not None or not name for x, name in zip(inputs, node.inputs))
        if node.op not in cheap or not known or _bytes(node.op, inputs, node.attributes) > room:
            nodes.append(node)
            continue
        function = bound(node.op, node.opset, node.attributes, len(node.outputs))
        try:
            found = function(*inputs) if function else None
        except Exception:  # running it will tell
            found = None
        results = found if isinstance(found, tuple) else (found,)
        if len(results) != len(node.outputs) or any(r is None for r in results):
            nodes.append(node)
            continue
        for name, result in zip(node.outputs, results):
            constants[name] = np.asarray(result)
            room -= constants[name].nbytes
    return nodes, constants


def _without_identities(nodes: list[Node], outputs: set[str]) -> list[Node]:
    other: dict[str, str] = {}
    kept = []
    for node in nodes:
        node = node._replace(inputs=tuple(other.get(name, name) for name in node.inputs))
        drops = node.op == "Identity" or (node.op == "Dropout" and len(node.inputs) < 3)
        if drops and len(node.outputs) == 1 and node.outputs[0] not in outputs:
            other[node.outputs[0]] = node.inputs[0]
        else:
            kept.append(node)
    return kept


class _Joiner:
    """Joins nodes to convolutions and matrix products with constant weights."""

    def __init__(self, nodes: list[Node], constants: dict[str, Dense], outputs: set[str]) -> None:
        self.nodes, self.constants = nodes, constants
        self.readers = Counter(name for node in nodes for name in node.inputs)
        self.readers.update(outputs)
        self.after: dict[str, list[int]] = {}
        for i, node in enumerate(nodes):
            for name in node.inputs:
                self.after.setdefault(name, []).append(i)
        self.taken: set[int] = set()

    def joined(self) -> list[Node]:
        found: dict[int, Node] = {}
        for i, node in enumerate(self.nodes):
            if i in self.taken:
                continue
            start = self._convolution(node) or self._product(node)
            if start is None:
                found[i] = node
                continue
            steps = [(i, start), *self._longer(start)]
            self.taken.update(place for place, _ in steps)
            found[steps[-1][0]] = steps[-1][1]
        return [found[i] for i in sorted(found)]

    def _convolution(self, node: Node) -> Node | None:
        if node.op != "Conv":
            return None
        arrays = [self.constants.get(name) for name in node.inputs[1:] if name]
        if any(a is None or a.dtype not in (np.float32, np.float64) for a in arrays):
            return None
        w, *b = arrays
        kept = {"attributes": node.attributes, "w": w, "b": b[0] if b else None}
        return node._replace(op="pyconv.Conv", inputs=node.inputs[:1], attributes=kept)

    def _product(self, node: Node) -> Node | None:
        """Rows times a constant matrix."""
        given = node.attributes
        w = self.constants.get(node.inputs[1]) if node.op in ("Gemm", "MatMul") else None
        b = None
        if w is None or w.ndim != 2 or w.dtype not in (np.float32, np.float64) or not w.size:
            return None
        if node.op == "Gemm":
            if given["transA"] or node.inputs[0] in self.constants:
                return None
            w = w if given["transB"] else w.T
            w = w * w.dtype.type(given["alpha"])
            if len(node.inputs) > 2 and node.inputs[2]:
                b = self.constants.get(node.inputs[2])
                if b is None or b.shape not in ((len(w),), (1, len(w)), (1,), ()):
                    return None
                b = np.broadcast_to(b * b.dtype.type(given["beta"]), (1, len(w)))[0]
        else:
            w = w.T
        kept = {"w": np.ascontiguousarray(w), "b": b}
        return node._replace(op="pyconv.Linear", inputs=node.inputs[:1], attributes=kept)

    def _longer(self, node: Node) -> Iterator[tuple[int, Node]]:
        """The node with ever more of what follows it, and where the last of that stands."""
        for step in (self._norm, self._sum, self._activation, self._bounds):
            [name] = node.outputs
            followers = self.after.get(name, [])
            found = None
            if self.taken.intersection(followers):
                return
            if self.readers[name] == len(followers) == 1:
                found = step(node, followers[0])
            elif step == self._activation:
                found = self._gate(node, followers)
            if found is not None:
                node = found[1]
                yield found

    def _norm(self, node: Node, place: int) -> tuple[int, Node] | None:
        after = self.nodes[place]
        if (
            node.op != "pyconv.Conv"
            or after.op != "BatchNormalization"
            or len(after.outputs) > 1
            or after.attributes.get("training_mode")
            or not after.attributes.get("spatial", 1)
        ):
            return None
        values = [self.constants.get(name) for name in after.inputs[1:]]
        w, b = node.attributes["w"], node.attributes["b"]
        if any(v is None or v.shape != w.shape[:1] for v in values):
            return None
        scale, shift, mean, variance = (np.asarray(v, np.float64) for v in values)
        scale = scale / np.sqrt(variance + after.attributes["epsilon"])
        shift = shift - mean * scale + (0 if b is None else b * scale)
        wide = w * scale.reshape(-1, *[1] * (w.ndim - 1))
        kept = {"w": wide.astype(w.dtype), "b": shift.astype(w.dtype)}
        return place, self._with(node, after, **kept)

    def _sum(self, node: Node, place: int) -> tuple[int, Node] | None:
        after = self.nodes[place]
        if node.op != "pyconv.Conv" or after.op not in ("Add", "Sum") or len(after.inputs) != 2:
            return None
        [other] = [name for name in after.inputs if name != node.outputs[0]]
        if other in self.constants:
            return None
        return place, self._with(node, after)._replace(inputs=(node.inputs[0], other))

    def _activation(self, node: Node, place: int) -> tuple[int, Node] | None:
        after = self.nodes[place]
        name = _ACTIVATIONS.get(after.op)
        if after.op == "LeakyRelu" and abs(after.attributes["alpha"] - 0.01) < 1e-9:
            name = "leaky_relu"
        if after.op == "Gelu" and after.attributes["approximate"] == "none":
            name = "gelu"
        if after.op == "Clip":
            name = _CLIPS.get(self._limits(after))
        return None if name is None else (place, self._with(node, after, activation=name))

    def _gate(self, node: Node, followers: list[int]) -> tuple[int, Node] | None:
        """x * sigmoid(x), SiLU."""
        [name] = node.outputs
        if self.readers[name] != 2 or len(followers) != 2:
            return None
        gate, product = (self.nodes[i] for i in followers)
        if gate.op != "Sigmoid" or product.op != "Mul" or self.readers[gate.outputs[0]] != 1:
            return None
        if set(product.inputs) != {name, gate.outputs[0]}:
            return None
        self.taken.add(followers[0])
        return followers[1], self._with(node, product, activation="silu")

    def _bounds(self, node: Node, place: int) -> tuple[int, Node] | None:
        """Clip after ReLU."""
        after = self.nodes[place]
        if after.op != "Clip" or node.attributes.get("activation") != "relu":
            return None
        name = _CLIPS.get(self._limits(after))
        return None if name is None else (place, self._with(node, after, activation=name))

    def _limits(self, clip: Node) -> tuple[float | None, float | None]:
        """Its constant bounds, None for none; (nan, nan) where they are not constant."""
        if "min" in clip.attributes:
            low, high = clip.attributes["min"], clip.attributes["max"]
        else:
            bounds = [*clip.inputs[1:], "", ""][:2]
            values = [self.constants.get(name) if name else None for name in bounds]
            if any(v is None and name for v, name in zip(values, bounds)):
                return math.nan, math.nan
            low, high = (None if v is None else float(v.reshape(())) for v in values)
        return low, None if high is not None and high >= np.finfo(np.float32).max else high

    def _with(self, node: Node, after: Node, **more: Any) -> Node:
        attributes = node.attributes | more
        return node._replace(
            name=after.name or node.name, outputs=after.outputs, attributes=attributes
        )

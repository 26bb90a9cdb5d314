"""A graph that runs: each node's function on the values before it, freed after its last reader."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from pyconv._arrays import Dense, host_view
from pyconv.onnx._fuse import fused
from pyconv.onnx._kept import Arena, Convolution, Linear
from pyconv.onnx._read import Model, Node, Value
from pyconv.onnx._table import Operator, bound

_JOINED: dict[str, Callable[..., Operator]] = {"pyconv.Conv": Convolution, "pyconv.Linear": Linear}

# What functions raise for inputs that are not theirs.
_WRONG = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


class _Step(NamedTuple):
    run: Operator
    sources: tuple[int, ...]
    targets: tuple[int, ...]
    freed: tuple[int, ...]  # the slots that nothing reads any more
    node: Node


class Net:
    """An ONNX graph, ready to run: `y = net(x)`, or a tuple where the graph has several outputs.

    `run` takes a list, or a dict by name, and always returns a tuple. Any number of threads may
    call it; it is pickled as its graph. Small convolutions choose their algorithm by the batch,
    unless `config(batch_invariant=True)` holds when they first see a shape.
    """

    def __init__(self, model: Model) -> None:
        self._model = model = fused(model)
        arena = Arena()
        self.inputs: tuple[Value, ...] = model.inputs
        self.outputs: tuple[Value, ...] = model.outputs
        self.opset = model.opset
        slots = {name: i for i, name in enumerate(["", *model.constants])}
        self._values: list[Any] = [None, *model.constants.values()]

        def slot(name: str) -> int:
            if name not in slots:
                slots[name] = len(slots)
                self._values.append(None)
            return slots[name]

        self._inputs = [slot(value.name) for value in model.inputs]
        last = {name: i for i, node in enumerate(model.nodes) for name in node.inputs if name}
        last |= {value.name: len(model.nodes) for value in model.outputs}
        last |= {name: len(model.nodes) for name in model.constants}
        self._steps = []
        for i, node in enumerate(model.nodes):
            joined = _JOINED.get(node.op)
            if joined is None:
                function = bound(node.op, node.opset, node.attributes, len(node.outputs))
            else:
                function = joined(arena, **node.attributes)
            if function is None:
                raise NotImplementedError(f"operator {node.op} is not served: {node}")
            read = {name for name in (*node.inputs, *node.outputs) if name}
            freed = tuple(slot(name) for name in read if last.get(name, -1) <= i)
            targets = tuple(slot(name) for name in node.outputs)
            self._steps.append(_Step(function, tuple(map(slot, node.inputs)), targets, freed, node))
        self._outputs = [slot(value.name) for value in model.outputs]

    def __reduce__(self) -> tuple[Any, ...]:
        return Net, (self._model,)  # nothing is left to join

    def __call__(self, *inputs: Any) -> Any:
        found = self.run(inputs)
        return found[0] if len(found) == 1 else found

    def run(self, inputs: Sequence[Any] | Mapping[str, Any]) -> tuple[Dense, ...]:
        """The outputs, in order.

        Raises ValueError or TypeError for inputs of another number, dtype or shape than the model
        says, ValueError naming the node where its operator cannot serve what it is given, and
        MemoryError where a result cannot be held.
        """
        values = self._values.copy()
        for slot, array in zip(self._inputs, self._checked(inputs)):
            values[slot] = array
        with np.errstate(all="ignore"):
            for step in self._steps:
                try:
                    found = step.run(*[values[slot] for slot in step.sources])
                except _WRONG as error:
                    shapes = ", ".join(_describe(values[slot]) for slot in step.sources)
                    raise ValueError(f"{step.node}: {error}; its inputs are {shapes}") from error
                except NotImplementedError as error:
                    raise NotImplementedError(f"{step.node}: {error}") from error
                if len(step.targets) == 1 and type(found) is not tuple:
                    values[step.targets[0]] = found
                else:
                    for slot, value in zip(step.targets, found):
                        values[slot] = value
                for slot in step.freed:
                    values[slot] = None
        return tuple(values[slot] for slot in self._outputs)

    def _checked(self, inputs: Sequence[Any] | Mapping[str, Any]) -> list[Dense]:
        names = [value.name for value in self.inputs]
        if isinstance(inputs, Mapping):
            if set(inputs) != set(names):
                raise ValueError(f"the inputs are {names}, got {sorted(inputs)}")
            inputs = [inputs[name] for name in names]
        if len(inputs) != len(names):
            raise ValueError(f"the inputs are {names}, got {len(inputs)}")
        arrays = []
        for value, given in zip(self.inputs, inputs):
            array = given if isinstance(given, np.generic) else host_view("onnx", value.name, given)
            array = np.asarray(array)
            if value.dtype is not None and array.dtype != value.dtype:
                raise TypeError(f"{value.name} must be {value.dtype}, got {array.dtype}")
            if value.shape is not None and (
                array.ndim != len(value.shape)
                or any(w is not None and w != n for w, n in zip(value.shape, array.shape))
            ):
                raise ValueError(f"{value.name} must be {value.shape}, got {array.shape}")
            arrays.append(array)
        return arrays


def _describe(value: Any) -> str:
    return f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else "absent"

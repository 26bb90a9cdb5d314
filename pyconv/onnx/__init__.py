"""ONNX: run models (a backend as `onnx.backend` defines one), load and export networks.

>>> import numpy as np, onnx.parser, pyconv.onnx
>>> model = onnx.parser.parse_model('''<ir_version: 10, opset_import: ["": 21]>
...     g (float[1, 1, 3, 3] x) => (float[1, 1, 2, 2] y)
...     <float[1, 1, 2, 2] w = {1, 1, 1, 1}> { y = Conv (x, w) }''')
>>> pyconv.onnx.prepare(model)(np.ones((1, 1, 3, 3), np.float32))
array([[[[4., 4.],
         [4., 4.]]]], dtype=float32)
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

try:
    import onnx as _onnx
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "pyconv.onnx needs onnx: pip install 'pyconv-engine[onnx]'", name=error.name
    ) from error

from pyconv._arrays import Dense
from pyconv.onnx import _elementwise, _reduce, _resize, _shapes, _windows  # noqa: F401
from pyconv.onnx._export import export
from pyconv.onnx._net import Net
from pyconv.onnx._read import read_file, read_model

__all__ = [
    "Net",
    "export",
    "is_compatible",
    "load",
    "prepare",
    "run_model",
    "run_node",
    "supports_device",
]


def load(path: str | os.PathLike[str]) -> Net:
    """The network of an ONNX file, to be called on arrays: `y = load("model.onnx")(x)`.

    External data must lie in plain files below the model's folder. Raises OSError where the file
    cannot be read, pyconv.FormatError with the reason where it is not what it should be, and
    NotImplementedError naming an operator that is not served.
    """
    return Net(read_file(path))


def prepare(model: Any, device: str = "CPU", **_: Any) -> Net:
    """The network of an `onnx.ModelProto`; raises as `load`, and ValueError for another device."""
    if not isinstance(model, _onnx.ModelProto):
        raise TypeError(f"prepare: model must be an onnx.ModelProto, got {type(model).__name__}")
    if not supports_device(device):
        raise ValueError(f"prepare: device must be 'CPU', got {device!r}")
    return Net(read_model(model))


def run_model(
    model: Any, inputs: Sequence[Any] | Mapping[str, Any], device: str = "CPU", **_: Any
) -> tuple[Dense, ...]:
    """`prepare(model).run(inputs)`."""
    return prepare(model, device).run(inputs)


def run_node(
    node: Any, inputs: Sequence[Any], device: str = "CPU", outputs_info: Any = None,
    opset_version: int | None = None, **_: Any,
) -> tuple[Dense, ...]:  # fmt: skip
    """Run one `onnx.NodeProto` on arrays, by the newest opset or the one that is given."""
    arrays = [_onnx.numpy_helper.from_array(array, name) for array, name in zip(inputs, node.input)]
    kind = _onnx.TypeProto(tensor_type=_onnx.TypeProto.Tensor())
    outputs = [_onnx.ValueInfoProto(name=name, type=kind) for name in node.output if name]
    graph = _onnx.helper.make_graph([node], "node", [], outputs, arrays)
    version = _onnx.defs.onnx_opset_version() if opset_version is None else opset_version
    opset = _onnx.helper.make_opsetid("", version)
    return run_model(_onnx.helper.make_model(graph, opset_imports=[opset]), [], device)


def supports_device(device: str) -> bool:
    """Only the CPU, so far."""
    return device.split(":")[0] == "CPU"


def is_compatible(model: Any, device: str = "CPU", **_: Any) -> bool:
    """Whether `prepare` would take the model."""
    try:
        prepare(model, device)
    except (ValueError, NotImplementedError):
        return False
    return True

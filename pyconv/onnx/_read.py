"""ONNX files and models, which are hostile until checked, as the graph that this package runs.

Nothing here trusts a number of the file: the bytes that a tensor needs are computed in Python
integers and compared with the bytes that are there before anything is allocated.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from google.protobuf.message import DecodeError
from onnx import AttributeProto, ModelProto, TensorProto, ValueInfoProto, defs, helper

from pyconv._arrays import Dense
from pyconv._errors import FormatError
from pyconv.onnx._external import External

OLDEST = 7
_LARGEST_FILE = 1 << 31  # what protobuf can hold
_DTYPES = ("FLOAT", "DOUBLE", "FLOAT16", "BFLOAT16", "BOOL", "INT8", "INT16", "INT32", "INT64",
           "UINT8", "UINT16", "UINT32", "UINT64")  # fmt: skip

# The field that holds a tensor's values where raw_data does not; two halves and small integers
# share int32_data, a 16-bit float as its bits.
_FIELDS = {"FLOAT": "float_data", "DOUBLE": "double_data", "INT64": "int64_data",
           "UINT32": "uint64_data", "UINT64": "uint64_data"}  # fmt: skip

_ATTRIBUTES: dict[int, Callable[[Any], Any]] = {
    AttributeProto.FLOAT: lambda a: a.f,
    AttributeProto.INT: lambda a: a.i,
    AttributeProto.STRING: lambda a: a.s.decode(),
    AttributeProto.FLOATS: lambda a: tuple(a.floats),
    AttributeProto.INTS: lambda a: tuple(a.ints),
}


class Value(NamedTuple):
    """An input or output: dtype is None where the model does not say it, so are unknown sizes."""

    name: str
    dtype: np.dtype[Any] | None
    shape: tuple[int | None, ...] | None


class Node(NamedTuple):
    """One operator; an absent optional input or output is ""."""

    op: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]  # with the defaults of the specification
    opset: int

    def __str__(self) -> str:
        name = f" {self.name!r}" if self.name else ""
        return f"{self.op}{name} (opset {self.opset}), which writes {', '.join(self.outputs)}"


class Model(NamedTuple):
    """A checked graph: every name a node reads is an input, a constant or written before it."""

    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    nodes: tuple[Node, ...]
    constants: dict[str, Dense]
    opset: int


def read_file(path: str | os.PathLike[str]) -> Model:
    """The model of a file; FormatError with the reason where it is not one."""
    name = os.fspath(path)
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > _LARGEST_FILE:
            raise FormatError(f"{name}: {size} bytes; an ONNX file has at most {_LARGEST_FILE}")
        data = file.read(size)
    return read_bytes(data, name, Path(path).parent)


def read_bytes(data: bytes, name: str = "model", folder: Path | None = None) -> Model:
    try:
        proto = ModelProto.FromString(data)
    except DecodeError as error:
        raise FormatError(f"{name}: not an ONNX file ({error})") from error
    return read_model(proto, name, folder)


def read_model(proto: ModelProto, name: str = "model", folder: Path | None = None) -> Model:
    """`folder` is where external data may lie; without one there is none."""
    try:
        return _Reader(proto, External(folder)).model()
    except (ValueError, UnicodeDecodeError) as error:
        raise FormatError(f"{name}: {error}") from error


class _Reader:
    def __init__(self, proto: ModelProto, external: External) -> None:
        self.proto, self.external = proto, external
        self.constants: dict[str, Dense] = {}
        self.opset = self._opset()

    def _opset(self) -> int:
        versions: dict[str, int] = {}
        for entry in self.proto.opset_import:
            _require_text(entry.domain)
            domain = "" if entry.domain == "ai.onnx" else entry.domain
            if domain in versions:
                raise ValueError(f"opset_import names the domain {domain!r} twice")
            versions[domain] = entry.version
        newest = defs.onnx_opset_version()
        if "" not in versions:
            raise ValueError("opset_import does not name the default domain")
        if not OLDEST <= versions[""] <= newest:
            raise ValueError(
                f"opset is {versions['']}; this onnx package knows {OLDEST} to {newest}"
            )
        return versions[""]

    def model(self) -> Model:
        graph = self.proto.graph
        if graph.sparse_initializer:
            raise ValueError("sparse initializers are not served")
        for tensor in graph.initializer:
            if not tensor.name or tensor.name in self.constants:
                raise ValueError(f"two initializers are called {tensor.name!r}")
            self.constants[tensor.name] = self.array(tensor)
        inputs = tuple(map(self.value, graph.input))
        _require_unique("input", [v.name for v in inputs])
        known = {v.name for v in inputs} | self.constants.keys()
        nodes = []
        for proto in graph.node:
            node = self.node(proto)
            missing = [name for name in node.inputs if name and name not in known]
            if missing:
                raise ValueError(f"{node}: reads {missing[0]!r}, which nothing before it writes")
            for name in node.outputs:
                if name in known:
                    raise ValueError(f"{node}: {name!r} has been written before")
                known |= {name} if name else set()
            nodes.append(node)
        outputs = tuple(map(self.value, graph.output))
        if not outputs:
            raise ValueError("the graph has no output")
        _require_unique("output", [v.name for v in outputs])
        for value in outputs:
            if value.name not in known:
                raise ValueError(f"nothing writes the output {value.name!r}")
        given = tuple(v for v in inputs if v.name not in self.constants)
        return Model(given, outputs, tuple(nodes), self.constants, self.opset)

    def value(self, proto: ValueInfoProto) -> Value:
        _require_text(proto.name)
        if proto.type.WhichOneof("value") is None:
            return Value(proto.name, None, None)
        if not proto.type.HasField("tensor_type"):
            raise NotImplementedError(f"{proto.name!r} is no tensor; sequences are not served")
        tensor = proto.type.tensor_type
        dtype = None if tensor.elem_type == TensorProto.UNDEFINED else dtype_of(tensor.elem_type)
        if not tensor.HasField("shape"):
            return Value(proto.name, dtype, None)
        shape = tuple(d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim)
        if any(size is not None and size < 0 for size in shape):
            raise ValueError(f"{proto.name!r} has the shape {shape}")
        return Value(proto.name, dtype, shape)

    def node(self, proto: Any) -> Node:
        op, domain = proto.op_type, proto.domain
        inputs, outputs = tuple(proto.input), tuple(proto.output)
        _require_text(op, domain, proto.name, *inputs, *outputs)
        node = Node(op, proto.name, inputs, outputs, {}, self.opset)
        if domain not in ("", "ai.onnx") or not defs.has(op, self.opset, ""):
            where = f" of the domain {domain!r}" if domain else ""
            raise NotImplementedError(f"operator {op}{where} is not served: {node}")
        schema = defs.get_schema(op, self.opset, "")
        if schema.deprecated:
            raise ValueError(f"{node}: {op} is deprecated since opset {schema.since_version}")
        for what, count, low, high in (
            ("inputs", len(inputs), schema.min_input, schema.max_input),
            ("outputs", len(outputs), schema.min_output, schema.max_output),
        ):
            if not low <= count <= high:
                raise ValueError(f"{node}: has {count} {what}, but takes {low} to {high}")
        for place, formal in zip(inputs, schema.inputs):
            if not place and formal.option == defs.OpSchema.FormalParameterOption.Single:
                raise ValueError(f"{node}: the input {formal.name} is missing")
        found = node.attributes
        for attribute in proto.attribute:
            _require_text(attribute.name)
            if attribute.name in found:
                raise ValueError(f"{node}: has the attribute {attribute.name} twice")
            wanted = schema.attributes.get(attribute.name)
            if wanted is None:
                raise ValueError(f"{node}: {op} has no attribute {attribute.name}")
            if int(attribute.type) != int(wanted.type.value):
                raise ValueError(f"{node}: the attribute {attribute.name} has the wrong type")
            found[attribute.name] = self.attribute(node, attribute)
        for name, wanted in schema.attributes.items():
            if name not in found:
                if wanted.required:
                    raise ValueError(f"{node}: the attribute {name} is missing")
                if wanted.default_value.type:
                    found[name] = self.attribute(node, wanted.default_value)
        return node

    def attribute(self, node: Node, proto: AttributeProto) -> Any:
        if proto.ref_attr_name:
            raise ValueError(f"{node}: {proto.name} refers to a function's attribute")
        if proto.type == AttributeProto.TENSOR:
            return self.array(proto.t)
        if proto.type not in _ATTRIBUTES:
            kind = AttributeProto.AttributeType.Name(proto.type)
            raise NotImplementedError(f"attributes like {proto.name} ({kind}) not served: {node}")
        return _ATTRIBUTES[proto.type](proto)

    def array(self, tensor: TensorProto) -> Dense:
        """The values, once their number is known to be that of the shape."""
        _require_text(tensor.name)
        what = f"tensor {tensor.name!r}"
        dtype = dtype_of(tensor.data_type)
        shape = tuple(tensor.dims)
        if any(size < 0 for size in shape):
            raise ValueError(f"{what} has the shape {shape}")
        if tensor.HasField("segment"):
            raise ValueError(f"{what} is a segment of another")
        wanted = math.prod(shape) * dtype.itemsize
        fields = ("float_data", "double_data", "int32_data", "int64_data", "uint64_data")
        typed = [name for name in fields if len(getattr(tensor, name))]
        if tensor.data_location == TensorProto.EXTERNAL:
            if typed or tensor.raw_data:
                raise ValueError(f"{what} has external data and data of its own")
            data = self.external.read(what, tensor.external_data, wanted)
        elif tensor.external_data:
            raise ValueError(f"{what} has external_data without being external")
        elif typed:
            kind = TensorProto.DataType.Name(tensor.data_type)
            if tensor.raw_data or typed != [_FIELDS.get(kind, "int32_data")]:
                raise ValueError(f"{what} has values in {', '.join(typed)}, being {kind}")
            values = getattr(tensor, typed[0])
            if len(values) != math.prod(shape):
                raise ValueError(f"{what} of shape {shape} has {len(values)} values")
            return _narrowed(np.array(values), dtype).reshape(shape)
        else:
            data = tensor.raw_data
        if len(data) != wanted:
            raise ValueError(f"{what} of shape {shape} needs {wanted} bytes and has {len(data)}")
        return np.frombuffer(data, dtype.newbyteorder("<")).astype(dtype, copy=False).reshape(shape)


def _narrowed(values: Dense, dtype: np.dtype[Any]) -> Dense:
    if dtype.kind in "iub" or dtype.itemsize > 2:
        return values.astype(dtype)
    return values.astype(np.uint16).view(dtype)


def dtype_of(number: int) -> np.dtype[Any]:
    """The NumPy dtype of a TensorProto.DataType."""
    if number not in TensorProto.DataType.values():
        raise ValueError(f"there is no data type {number}")
    name = TensorProto.DataType.Name(number)
    if name not in _DTYPES:
        raise NotImplementedError(f"the data type {name} is not served; {', '.join(_DTYPES)} are")
    dtype: np.dtype[Any] = np.dtype(helper.tensor_dtype_to_np_dtype(number))
    return dtype


def _require_text(*values: Any) -> None:
    """protobuf hands out what is no UTF-8 as bytes."""
    for value in values:
        if not isinstance(value, str):
            raise ValueError(f"{value[:40]!r} is no UTF-8")


def _require_unique(what: str, names: Iterable[str]) -> None:
    seen = set()
    for name in names:
        if not name or name in seen:
            raise ValueError(f"two {what}s are called {name!r}")
        seen.add(name)

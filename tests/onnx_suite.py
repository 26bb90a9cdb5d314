"""ONNX's own backend tests, those of models that use only the operators that pyconv.onnx serves.

`cases()` gives each of them by name; nothing is left out but EXCLUDED, part of a name -> why.
"""

import functools
import pathlib

import onnx.backend.test
from onnx.backend.test.loader import load_model_tests

import pyconv.onnx
from pyconv.onnx._table import TABLE

EXCLUDED = {
    "training_dropout_default": "random numbers are those of NumPy's old generator",
    "training_dropout_mask": "random numbers are those of NumPy's old generator",
    "test_training_dropout_cpu": "random numbers are those of NumPy's old generator",
}
# Types that are not served: strings, complex numbers, integers below and floats of up to 8 bits.
UNSERVED = {"STRING", "COMPLEX64", "COMPLEX128", "INT4", "UINT4", "INT2", "UINT2", "FLOAT4E2M1",
            "FLOAT8E4M3FN", "FLOAT8E4M3FNUZ", "FLOAT8E5M2", "FLOAT8E5M2FNUZ",
            "FLOAT8E8M0"}  # fmt: skip
KINDS = {"node": "Node", "simple": "Simple", "pytorch-converted": "PyTorchConverted",
         "pytorch-operator": "PyTorchOperator", "real": "Real"}  # fmt: skip


@functools.cache
def cases():
    """Name -> (what runs it, the operators of its model)."""
    found = {}
    classes = onnx.backend.test.BackendTest(pyconv.onnx, __name__).test_cases
    for kind, title in KINDS.items():
        for test in load_model_tests(kind=kind):
            model = _model(test)
            name = f"{test.name}_cpu"
            if model is not None and _served(model) and not any(part in name for part in EXCLUDED):
                case = classes[f"OnnxBackend{title}ModelTest"](name)
                found[name] = case, {node.op_type for node in model.graph.node}
    return found


def _model(test):
    """None for a model that is not in the package but would be downloaded."""
    if test.model is not None:
        return test.model
    if test.model_dir is None and not test.url.startswith("onnx/backend/test/data/light/"):
        return None
    root = pathlib.Path(onnx.__file__).parents[1]
    path = root / test.url if test.model_dir is None else pathlib.Path(test.model_dir, "model.onnx")
    return onnx.load(path)


def _served(model):
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    if set(opsets) - {"", "ai.onnx"} or not opsets or max(opsets.values()) < 7:
        return False
    values = [*model.graph.input, *model.graph.output, *model.graph.value_info]
    kinds = {value.type.tensor_type.elem_type for value in values}
    kinds |= {a.i for node in model.graph.node if node.op_type == "Cast" for a in node.attribute
              if a.name == "to"}  # fmt: skip
    return (
        all(value.type.HasField("tensor_type") for value in values)
        and not UNSERVED & {onnx.TensorProto.DataType.Name(kind) for kind in kinds}
        and {node.op_type for node in model.graph.node} <= set(TABLE)
    )

"""Networks as ONNX files: each layer writes its nodes, by a table of its type."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from onnx import ModelProto, helper, numpy_helper

import pyconv
from pyconv import nn
from pyconv._arrays import Array, Shape
from pyconv.nn.conv import _Conv, _ConvTranspose, _Weighted
from pyconv.nn.files import replace
from pyconv.nn.layer import Layer, Spatial
from pyconv.nn.norm import _BatchNorm
from pyconv.nn.pool import _AvgPool, _MaxPool

OPSET, IR_VERSION = 20, 9  # ONNX 1.15: the first with Gelu
_LARGEST = (1 << 31) - 1
_PAD_MODES = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}


class _Tensor(NamedTuple):
    """A value of the graph; shape is None where the input's was not given."""

    name: str
    rank: int
    shape: Shape | None


class _Writer:
    def __init__(self, dtype: Any) -> None:
        self.dtype = dtype
        self.nodes: list[Any] = []
        self.constants: dict[str, Array] = {}

    def layer(self, layer: Layer, path: str, *inputs: _Tensor) -> _Tensor:
        """The output of a layer whose parameters are called `path`.w and so on."""
        for kind in type(layer).__mro__:
            if kind in _LAYERS:
                return _LAYERS[kind](self, layer, path, *inputs)
        raise NotImplementedError(
            f"export: {path or 'the network'} is a {type(layer).__name__}, which has no ONNX "
            "counterpart here"
        )

    def node(self, op: str, path: str, inputs: Sequence[str], suffix: str = "", **attributes: Any
             ) -> str:  # fmt: skip
        """One node, named as its layer is; its output is the layer's y."""
        name = f"{path or op}{suffix}"
        self.nodes.append(helper.make_node(op, inputs, [f"{name}/y"], name=name, **attributes))
        return f"{name}/y"

    def constant(self, name: str, value: Any) -> str:
        self.constants[name] = np.asarray(value, order="C")
        return name

    def numbers(self, path: str, name: str, values: Sequence[float]) -> str:
        return self.constant(f"{path}.{name}", np.array(values, np.float32))


def _after(layer: Layer, x: _Tensor, name: str, rank: int | None = None) -> _Tensor:
    """The result, with the shape that the layer says it has."""
    shape = None if x.shape is None else layer.output_shape(x.shape)
    return _Tensor(name, x.rank if rank is None else rank, shape)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _parameters(writer: _Writer, layer: _Weighted, path: str, turned: bool = False) -> list[str]:
    w = layer.w.value.T if turned else layer.w.value
    names = [writer.constant(_join(path, "w"), w)]
    if layer.b is not None:
        names.append(writer.constant(_join(path, "b"), layer.b.value))
    return names


def _pairs(
    layer: Any, path: str, x: _Tensor, extent: Shape, stride: Shape
) -> list[tuple[int, int]]:
    """The padding of a convolution as (before, after) of each axis."""
    padding = layer.padding
    if padding == "valid":
        return [(0, 0)] * layer.axes
    if padding == "full":
        return [(e - 1, e - 1) for e in extent]
    if padding in ("same", "same_lower"):
        sizes = (1,) * layer.axes if x.shape is None else x.shape[2:]
        if x.shape is None and max(stride) > 1:
            raise ValueError(f'export: {path} is padded "{padding}" in steps; give input_shape')
        totals = [max((-(-n // s) - 1) * s + e - n, 0) for n, s, e in zip(sizes, stride, extent)]
        pairs = [(t // 2, t - t // 2) for t in totals]
        return pairs if padding == "same" else [(b, a) for a, b in pairs]
    each = (padding,) * layer.axes if isinstance(padding, int) else tuple(padding)
    return [(p, p) if isinstance(p, int) else (p[0], p[1]) for p in each]


def _flat(pairs: Sequence[tuple[int, int]]) -> list[int]:
    return [before for before, _ in pairs] + [after for _, after in pairs]


def _conv(writer: _Writer, layer: _Conv, path: str, x: _Tensor) -> _Tensor:
    kernel, stride = layer.w.value.shape[2:], layer.per_axis(layer.stride)
    dilation = layer.per_axis(layer.dilation)
    extent = tuple((k - 1) * d + 1 for k, d in zip(kernel, dilation))
    pairs, source = _pairs(layer, path, x, extent, stride), x.name
    if layer.padding_mode != "zeros" and any(map(any, pairs)):
        if layer.padding_mode not in _PAD_MODES:
            raise NotImplementedError(f"export: {path}: ONNX pads in no {layer.padding_mode} mode")
        pads = writer.constant(_join(path, "pads"), np.array(_flat([(0, 0), (0, 0), *pairs])))
        mode = _PAD_MODES[layer.padding_mode]
        source = writer.node("Pad", path, [source, pads], ".pad", mode=mode)
        pairs = [(0, 0)] * layer.axes
    name = writer.node(
        "Conv", path, [source, *_parameters(writer, layer, path)], kernel_shape=kernel,
        strides=stride, dilations=dilation, group=layer.groups, pads=_flat(pairs),
    )  # fmt: skip
    return _after(layer, x, name)


def _conv_transpose(writer: _Writer, layer: _ConvTranspose, path: str, x: _Tensor) -> _Tensor:
    kernel, stride = layer.w.value.shape[2:], layer.per_axis(layer.stride)
    dilation, extra = layer.per_axis(layer.dilation), layer.per_axis(layer.output_padding)
    extent = tuple((k - 1) * d + 1 for k, d in zip(kernel, dilation))
    if layer.padding in ("same", "same_lower"):  # output = input * stride
        totals = [max(e - s, 0) for e, s in zip(extent, stride)]
        pairs = [(t // 2, t - t // 2) for t in totals]
        pairs = pairs if layer.padding == "same" else [(b, a) for a, b in pairs]
        extra = tuple(s - e + t for s, e, t in zip(stride, extent, totals))
    else:
        pairs = _pairs(layer, path, x, extent, stride)
    name = writer.node(
        "ConvTranspose", path, [x.name, *_parameters(writer, layer, path)], kernel_shape=kernel,
        strides=stride, dilations=dilation, group=layer.groups, pads=_flat(pairs),
        output_padding=extra,
    )  # fmt: skip
    return _after(layer, x, name)


def _linear(writer: _Writer, layer: nn.Linear, path: str, x: _Tensor) -> _Tensor:
    if x.rank == 2:
        names = _parameters(writer, layer, path)
        return _after(layer, x, writer.node("Gemm", path, [x.name, *names], transB=1))
    w, *b = _parameters(writer, layer, path, turned=True)
    name = writer.node("MatMul", path, [x.name, w], ".product" if b else "")
    return _after(layer, x, writer.node("Add", path, [name, *b]) if b else name)


def _window(layer: Spatial | nn.SubSample2d, axes: int) -> dict[str, Any]:
    def each(value: Any) -> list[int]:
        return [value] * axes if isinstance(value, int) else list(value)

    given: Any = layer
    kernel = each(given.kernel_size)
    stride = kernel if given.stride is None else each(given.stride)
    return {
        "kernel_shape": kernel,
        "strides": stride,
        "pads": each(getattr(layer, "padding", 0)) * 2,
    }


def _max_pool(writer: _Writer, layer: _MaxPool, path: str, x: _Tensor) -> _Tensor:
    options = {"dilations": layer.per_axis(layer.dilation), "ceil_mode": int(layer.ceil_mode)}
    window = _window(layer, layer.axes) | options
    return _after(layer, x, writer.node("MaxPool", path, [x.name], **window))


def _avg_pool(writer: _Writer, layer: _AvgPool, path: str, x: _Tensor) -> _Tensor:
    window = _window(layer, layer.axes)
    include, divisor = layer.count_include_pad, layer.divisor_override
    options: Any = {
        "ceil_mode": int(layer.ceil_mode),
        "count_include_pad": int(include or bool(divisor)),
    }
    if divisor is None:
        return _after(layer, x, writer.node("AveragePool", path, [x.name], **window, **options))
    if layer.ceil_mode:
        raise NotImplementedError(f"export: {path}: ONNX has no divisor for overhanging windows")
    name = writer.node("AveragePool", path, [x.name], ".mean", **window, **options)
    factor = np.array(np.prod(window["kernel_shape"]) / divisor, writer.dtype)
    scale = writer.constant(_join(path, "factor"), factor)
    return _after(layer, x, writer.node("Mul", path, [name, scale]))


def _sub_sample(writer: _Writer, layer: nn.SubSample2d, path: str, x: _Tensor) -> _Tensor:
    """A weight a channel times the sum of a window: a depthwise convolution."""
    window = _window(layer, 2)
    shape = (layer.channels, 1, *window["kernel_shape"])
    w = np.broadcast_to(layer.w.value[:, None, None, None], shape)
    names = [writer.constant(_join(path, "w"), w), writer.constant(_join(path, "b"), layer.b.value)]
    options = window | {"group": layer.channels}
    name = writer.node("Conv", path, [x.name, *names], **options)
    return _after(layer, x, name)


def _batch_norm(writer: _Writer, layer: _BatchNorm, path: str, x: _Tensor) -> _Tensor:
    arrays = {"w": layer.w.value, "b": layer.b.value, "mean": layer.mean,
              "variance": layer.variance}  # fmt: skip
    names = [writer.constant(_join(path, name), value) for name, value in arrays.items()]
    node = writer.node("BatchNormalization", path, [x.name, *names], epsilon=layer.eps)
    return _after(layer, x, node)


def _layer_norm(writer: _Writer, layer: nn.LayerNorm, path: str, x: _Tensor) -> _Tensor:
    names = [writer.constant(_join(path, n), p.value) for n, p in (("w", layer.w), ("b", layer.b))]
    options: Any = {"axis": -len(layer.shape), "epsilon": layer.eps}
    return _after(layer, x, writer.node("LayerNormalization", path, [x.name, *names], **options))


def _lrn(writer: _Writer, layer: nn.LocalResponseNorm, path: str, x: _Tensor) -> _Tensor:
    if layer.size % 2 == 0:
        raise NotImplementedError(
            f"export: {path}: of an even number (={layer.size}) of channels ONNX takes the extra "
            "one after, LocalResponseNorm the one before"
        )
    options: Any = {"size": layer.size, "alpha": layer.alpha, "beta": layer.beta, "bias": layer.k}
    return _after(layer, x, writer.node("LRN", path, [x.name], **options))


def _upsample(writer: _Writer, layer: nn.Upsample, path: str, x: _Tensor) -> _Tensor:
    factors = [1.0, 1.0, *[float(layer.scale_factor)] * (x.rank - 2)]
    options = {"mode": layer.mode, "coordinate_transformation_mode": "half_pixel"}
    if layer.mode == "nearest":
        options |= {"nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"}
    inputs = [x.name, "", writer.numbers(path, "scales", factors)]
    return _after(layer, x, writer.node("Resize", path, inputs, **options))


def _scale(writer: _Writer, layer: nn.Scale, path: str, x: _Tensor) -> _Tensor:
    factor = writer.constant(_join(path, "factor"), np.array(layer.factor, writer.dtype))
    return _after(layer, x, writer.node("Mul", path, [x.name, factor]))


def _silu(writer: _Writer, layer: nn.SiLU, path: str, x: _Tensor) -> _Tensor:
    gate = writer.node("Sigmoid", path, [x.name], ".gate")
    return _after(layer, x, writer.node("Mul", path, [x.name, gate]))


def _relu6(writer: _Writer, layer: nn.ReLU6, path: str, x: _Tensor) -> _Tensor:
    limits = {"low": 0, "high": 6}
    named = [
        writer.constant(_join(path, name), np.array(value, writer.dtype))
        for name, value in limits.items()
    ]
    return _after(layer, x, writer.node("Clip", path, [x.name, *named]))


def _simple(op: str, rank: int | None = None, **attributes: str) -> Callable[..., _Tensor]:
    """A layer that is one operator; attributes by the names they have in the layer."""

    def write(writer: _Writer, layer: Layer, path: str, x: _Tensor) -> _Tensor:
        found = {name: getattr(layer, source) for name, source in attributes.items()}
        return _after(layer, x, writer.node(op, path, [x.name], **found), rank)

    return write


def _sequential(writer: _Writer, layer: nn.Sequential, path: str, x: _Tensor) -> _Tensor:
    for name, inner in layer.children().items():
        x = writer.layer(inner, _join(path, name), x)
    return x


def _concat(writer: _Writer, layer: nn.Concat, path: str, x: _Tensor) -> _Tensor:
    parts = [writer.layer(inner, _join(path, n), x).name for n, inner in layer.children().items()]
    return _after(layer, x, writer.node("Concat", path, parts, axis=1))


def _residual(writer: _Writer, layer: nn.Residual, path: str, x: _Tensor) -> _Tensor:
    y = writer.layer(layer.body, _join(path, "body"), x)
    shortcut = layer.shortcut
    beside = x if shortcut is None else writer.layer(shortcut, _join(path, "shortcut"), x)
    return _Tensor(writer.node("Add", path, [y.name, beside.name]), y.rank, y.shape)


def _joined(op: str, **attributes: Any) -> Callable[..., _Tensor]:
    def write(writer: _Writer, layer: nn.Join, path: str, *xs: _Tensor) -> _Tensor:
        name = writer.node(op, path, [x.name for x in xs], **attributes)
        shapes: Any = tuple(x.shape for x in xs)
        return _Tensor(name, xs[0].rank, None if None in shapes else layer.output_shape(shapes))

    return write


def _graph(writer: _Writer, layer: nn.Graph, path: str, x: _Tensor) -> _Tensor:
    values = {"input": x}
    for name, (inner, *inputs) in layer._inference.items():
        read = (values[source] for source in inputs)
        values[name] = writer.layer(inner, _join(path, name), *read)
    return values[layer.output]


_LAYERS: dict[type[Layer], Callable[..., _Tensor]] = {
    _Conv: _conv,
    _ConvTranspose: _conv_transpose,
    nn.Linear: _linear,
    _MaxPool: _max_pool,
    _AvgPool: _avg_pool,
    nn.SubSample2d: _sub_sample,
    nn.GlobalAvgPool: _simple("GlobalAveragePool"),
    _BatchNorm: _batch_norm,
    nn.LayerNorm: _layer_norm,
    nn.LocalResponseNorm: _lrn,
    nn.Dropout: lambda writer, layer, path, x: x,
    nn.Flatten: _simple("Flatten", rank=2),
    nn.ReLU: _simple("Relu"),
    nn.ReLU6: _relu6,
    nn.LeakyReLU: _simple("LeakyRelu", alpha="slope"),
    nn.Tanh: _simple("Tanh"),
    nn.Sigmoid: _simple("Sigmoid"),
    nn.GELU: _simple("Gelu"),
    nn.SiLU: _silu,
    nn.Softmax: _simple("Softmax", axis="axis"),
    nn.Scale: _scale,
    nn.Upsample: _upsample,
    nn.Sequential: _sequential,
    nn.Concat: _concat,
    nn.Residual: _residual,
    nn.Add: _joined("Sum"),
    nn.Cat: _joined("Concat", axis=1),
    nn.Graph: _graph,
}


def model(
    net: Layer, input_shape: Sequence[int] | None = None, metadata: Mapping[str, str] | None = None
) -> ModelProto:
    """What `export` writes, in memory."""
    dtypes = {parameter.value.dtype for parameter in net.parameters().values()}
    dtype = dtypes.pop() if dtypes else np.dtype(np.float32)
    if dtypes:
        raise TypeError(f"export: parameters are of several dtypes, {dtype} and {dtypes.pop()}")
    shape = None if input_shape is None else tuple(map(int, input_shape))
    said: list[Any] = _unknown(net) if shape is None else ["N", *shape[1:]]
    writer = _Writer(dtype)
    y = writer.layer(net, "", _Tensor("input", len(said), shape))
    element = helper.np_dtype_to_tensor_dtype(dtype)
    result = ["N", *([None] * (y.rank - 1) if y.shape is None else y.shape[1:])]
    writer.nodes.append(helper.make_node("Identity", [y.name], ["output"], name="Identity"))
    graph = helper.make_graph(
        writer.nodes,
        type(net).__name__,
        [helper.make_tensor_value_info("input", element, said)],
        [helper.make_tensor_value_info("output", element, result)],
        [numpy_helper.from_array(value, key) for key, value in writer.constants.items()],
    )
    made = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="pyconv",
        producer_version=pyconv.__version__,
    )
    helper.set_model_props(made, dict(metadata or {}))
    return made


def _unknown(net: Layer) -> list[Any]:
    """The input of the first layer that says what it reads, with the sizes left open."""
    for _, layer in net.modules():
        if isinstance(layer, _Conv | _ConvTranspose):
            return ["N", layer.in_channels, *("D", "H", "W")[3 - layer.axes :]]
        if isinstance(layer, nn.Linear):
            return ["N", layer.in_features]
    raise ValueError("export: no layer says how many channels it reads; give input_shape")


def export(
    net: Layer,
    path: str | os.PathLike[str],
    input_shape: Sequence[int] | None = None,
    *,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a network, as it is in inference, to an ONNX file of opset 20 (IR version 9).

    input_shape : (N, C, *spatial) with any N: the batch stays open. Without it the sizes stay open
        too, which strided "same" padding does not allow.
    metadata : strings by name, for the file's metadata properties.

    Tensors are called as in `net.state_dict()`. Raises NotImplementedError for a layer that ONNX
    has no operator for, ValueError where input_shape is needed or the file would pass 2 GiB,
    OSError where it cannot be written.

    >>> import tempfile, numpy as np, pyconv.onnx
    >>> from pyconv import nn
    >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()).eval()
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     pyconv.onnx.export(net, f"{folder}/net.onnx")
    ...     again = pyconv.onnx.load(f"{folder}/net.onnx")
    >>> x = np.ones((1, 1, 5, 5), np.float32)
    >>> bool(abs(again(x) - net(x)).max() < 1e-6)
    True
    """
    made = model(net, input_shape, metadata)
    if sum(map(len, (t.raw_data for t in made.graph.initializer))) > _LARGEST - (1 << 20):
        raise ValueError(f"export: an ONNX file has at most {_LARGEST} bytes")
    replace(path, made.SerializeToString())

"""The contestants: pyconv and the frameworks that are installed, each as calls with no argument.

A peer is a generator of contestants, given a layer, its arrays and a pass. "nchw" and "nhwc" are
the memory order. Ours come three times: with a fresh result, with a given one ("out"), and fresh
from a plan that keeps its weights in the kernel's form ("kept"). Frameworks make fresh results.
Weights are packed in every call but in "kept" and in onnxruntime, where they are constants.
"""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import pyconv as pc
from pyconv.bench import numpy_peers
from pyconv.bench.cases import Array, Arrays, Contestant, Layer


def arrays(layer: Layer) -> Arrays:
    """Random ones; no two values of x are likely to be equal, so no maximum is a tie."""
    rng = np.random.default_rng(0)
    w = None if layer.pools else rng.standard_normal(layer.w, np.float32)
    x, dy = (rng.standard_normal(shape, np.float32) for shape in (layer.x, layer.y))
    return x, w, dy


def channels_last(a: Array) -> Array:
    return np.ascontiguousarray(np.moveaxis(a, 1, -1))


def pyconv(layer: Layer, given: Arrays, direction: str) -> Iterator[Contestant]:
    for layout in ("nchw", "nhwc"):
        last = layout == "nhwc"
        x, dy = (channels_last(a) if last else a for a in (given[0], given[2]))
        call = _ours(layer, (x, given[1], dy), direction, layout.upper())
        out = np.empty_like({"fwd": dy, "bwd_data": x, "bwd_weight": given[1]}[direction])
        turned = last and direction != "bwd_weight"
        yield f"pyconv {layout}", functools.partial(call, None), turned
        yield f"pyconv {layout} out", functools.partial(call, out), turned
        if layer.kind == "conv" and direction != "bwd_weight":
            window = {n: getattr(layer, n) for n in ("stride", "padding", "dilation", "groups")}
            options = window | {"layout": layout.upper(), "direction": direction}
            plan = pc.plan_conv(x.shape, layer.w, **options)
            plan.set_weights(given[1])
            array = x if direction == "fwd" else dy
            yield f"pyconv {layout} kept", functools.partial(plan, array), turned


def _ours(layer: Layer, given: Arrays, direction: str, layout: str) -> Callable[[Array], Array]:
    """call(out), `out` None for a fresh result."""
    x, w, dy = given
    if layer.pools:
        window: tuple[Any, ...] = (layer.w, layer.stride, layer.padding)
        more = {"ceil_mode": layer.ceil_mode, "layout": layout}
        op = f"{layer.kind}_pool{layer.axes}d"
        forward, backward = getattr(pc, op), getattr(pc, f"{op}_backward")
        if direction == "fwd":
            return lambda out: forward(x, *window, out=out, **more)
        if layer.kind == "avg":
            return lambda out: backward(dy, x.shape, *window, out=out, **more)
        _, indices = forward(x, *window, return_indices=True, **more)
        return lambda out: backward(dy, indices, x.shape, layout=layout, out=out)
    options: dict[str, Any] = {
        **{n: getattr(layer, n) for n in ("stride", "padding", "dilation", "groups")},
        "layout": layout,
    }
    op = f"conv{layer.axes}d"
    if layer.kind == "transposed":
        op = f"conv_transpose{layer.axes}d"
        options["output_padding"] = layer.output_padding
    if direction == "fwd":
        forward = getattr(pc, op)
        return lambda out: forward(x, w, out=out, **options)
    backward = getattr(pc, f"{op}_backward")
    place = direction == "bwd_weight"
    needs = "xw"[place]

    def gradient(out: Array) -> Array:
        outs = None if out is None else (None, out, None) if place else (out, None, None)
        return backward(dy, x, w, needs=needs, out=outs, **options)[place]

    return gradient


def torch(layer: Layer, given: Arrays, direction: str) -> Iterator[Contestant]:
    import torch

    formats = {"nchw": torch.contiguous_format}
    if layer.axes > 1:
        formats["nhwc"] = torch.channels_last if layer.axes == 2 else torch.channels_last_3d
    aten = torch.ops.aten
    stride, padding, dilation, extra = (
        [value] * layer.axes
        for value in (layer.stride, layer.padding, layer.dilation, layer.output_padding)
    )
    for layout, memory in formats.items():
        x, dy = (torch.from_numpy(a).contiguous(memory_format=memory) for a in given[::2])
        call: Callable[[], Array]
        if layer.pools:
            window: tuple[Any, ...] = (list(layer.w), stride, padding)
            if layer.kind == "max":
                forward = getattr(torch, f"max_pool{layer.axes}d")
                backward = getattr(aten, f"max_pool{layer.axes}d_with_indices_backward")
                rest: tuple[Any, ...] = (dilation, layer.ceil_mode)
            else:
                forward = getattr(aten, f"avg_pool{layer.axes}d")
                backward = getattr(aten, f"avg_pool{layer.axes}d_backward")
                rest = (layer.ceil_mode, True)
            if direction == "fwd":
                call = functools.partial(forward, x, *window, *rest)
            elif layer.kind == "max":
                with_indices = getattr(aten, f"max_pool{layer.axes}d_with_indices")
                indices = with_indices(x, *window, *rest)[1]
                call = functools.partial(backward, dy, x, *window, *rest, indices)
            else:
                call = functools.partial(backward, dy, x, *window, *rest, None)
        else:
            # 1-D weights have no channels-last form; those of 2-D and 3-D follow the data.
            w = torch.from_numpy(given[1]).contiguous(memory_format=memory)
            window = (stride, padding, dilation, layer.kind == "transposed", extra, layer.groups)
            if direction == "fwd":
                call = functools.partial(torch.convolution, x, w, None, *window)
            else:
                place = direction == "bwd_weight"
                run = functools.partial(
                    aten.convolution_backward, dy, x, w, None, *window, [not place, place, False]
                )
                call = functools.partial(lambda run, place: run()[place], run, place)
        yield f"torch {layout}", call, False


def onnxruntime(layer: Layer, given: Arrays, direction: str) -> Iterator[Contestant]:
    import onnx
    import onnxruntime as ort

    if direction != "fwd":
        return
    two, helper = 2 * layer.axes, onnx.helper
    options: dict[str, Any] = {
        "strides": [layer.stride] * layer.axes,
        "pads": [layer.padding] * two,
        "kernel_shape": list(layer.kernel),
    }
    if layer.pools:
        options["ceil_mode"] = int(layer.ceil_mode)
        if layer.kind == "avg":
            options["count_include_pad"] = 1
    else:
        options |= {"dilations": [layer.dilation] * layer.axes, "group": layer.groups}
    if layer.kind == "transposed":
        options["output_padding"] = [layer.output_padding] * layer.axes
    op = {"conv": "Conv", "transposed": "ConvTranspose", "max": "MaxPool", "avg": "AveragePool"}
    inputs = ["x"] if layer.pools else ["x", "w"]
    kind = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node(op[layer.kind], inputs, ["y"], **options)],
        "layer",
        [helper.make_tensor_value_info("x", kind, layer.x)],
        [helper.make_tensor_value_info("y", kind, layer.y)],
        [onnx.numpy_helper.from_array(given[1], "w")] if given[1] is not None else [],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9
    ).SerializeToString()
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = pc.get_num_threads()
    session = ort.InferenceSession(model, settings, ["CPUExecutionProvider"])
    feed = {"x": given[0]}
    yield "onnxruntime", lambda: session.run(None, feed)[0], False


def jax(layer: Layer, given: Arrays, direction: str) -> Iterator[Contestant]:
    import jax

    if direction == "bwd_weight" and layer.groups > 1:
        return  # XLA goes through the groups one by one: 7 s where PyTorch takes 16 ms
    lax, axes = jax.lax, range(layer.axes)
    spatial = "DHW"[-layer.axes :]
    orders = (f"N{spatial}C", f"OI{spatial}", f"N{spatial}C")  # channels last: XLA's own on a CPU
    x, dy = (jax.device_put(channels_last(a)) for a in given[::2])
    w = None if given[1] is None else jax.device_put(given[1])
    stride, dilation = (layer.stride,) * layer.axes, (layer.dilation,) * layer.axes
    padding = [(layer.padding, layer.padding)] * layer.axes

    def conv(x: Array, w: Array) -> Array:
        return lax.conv_general_dilated(x, w, stride, padding, None, dilation, orders, layer.groups)

    def forward(x: Array, w: Array) -> Array:
        if layer.kind == "conv":
            return conv(x, w)
        if layer.kind == "transposed":  # the adjoint of conv
            return jax.linear_transpose(lambda y: conv(y, w), dy)(x)[0]
        reach = [(layer.y[2 + i] - 1) * layer.stride + layer.w[i] for i in axes]
        after = [reach[i] - layer.x[2 + i] - layer.padding for i in axes]
        sides = ((0, 0), *[(layer.padding, a) for a in after], (0, 0))
        window, steps = (1, *layer.w, 1), (1, *stride, 1)
        if layer.kind == "max":
            return lax.reduce_window(x, -np.inf, lax.max, window, steps, sides)
        return lax.reduce_window(x, 0.0, lax.add, window, steps, sides) / np.prod(layer.w)

    run = jax.jit(
        {
            "fwd": lambda x, w, dy: forward(x, w),
            "bwd_data": lambda x, w, dy: jax.vjp(lambda x: forward(x, w), x)[1](dy)[0],
            "bwd_weight": lambda x, w, dy: jax.vjp(lambda w: forward(x, w), w)[1](dy)[0],
        }[direction]
    )
    yield "jax", lambda: run(x, w, dy).block_until_ready(), direction != "bwd_weight"


PEERS: dict[str, Callable[[Layer, Arrays, str], Iterator[Contestant]]] = {
    "torch": torch,
    "onnxruntime": onnxruntime,
    "jax": jax,
    "scipy": numpy_peers.scipy,
    "numpy": numpy_peers.numpy,
    "fft": numpy_peers.fft,
    "loops": numpy_peers.loops,
}
_MODULES = {"onnxruntime": ("onnxruntime", "onnx"), "fft": (), "loops": ()}


def installed(name: str) -> bool:
    modules = _MODULES.get(name, (name,))
    return all(importlib.util.find_spec(module) is not None for module in modules)


def use_threads(names: tuple[str, ...], threads: int) -> None:
    """Before the first use: JAX reads its number of threads when it starts."""
    if "jax" in names:
        os.environ["NPROC"] = str(threads)
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
    if "torch" in names:
        import torch

        torch.set_num_threads(threads)

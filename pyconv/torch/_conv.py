"""Convolution, transposed or not, in one to three dimensions: three operations, each the derivative
of the other two, so that gradients of every order exist.
"""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from .._config import Settings, current
from .._plan import conv_plan
from ._register import operation
from ._tensors import (
    Job,
    dense,
    device_of,
    dtype_of,
    empty,
    in_layout,
    job,
    layout_of,
    run,
    target_of,
)

# What describes a convolution beside its tensors, the end of every schema. padding has one number
# an axis, or (before, after) of each axis in turn.
Options = tuple[Any, ...]
_OPTIONS = (
    "int[] stride, SymInt[] padding, int[] dilation, int groups, str padding_mode, "
    "bool transposed, SymInt[] output_padding"
)
_NO_OPTIONS = (None,) * 7


@lru_cache(maxsize=256)
def _job(
    settings: Settings,
    target: str,
    direction: str,
    options: Options,
    dtypes: tuple[torch.dtype | None, ...],
    x: Any,
    w: Any,
    dy: Any,
    b: Any,
    strides: Any,
) -> Job:
    """strides: of x or, where only the gradient dy has memory, of dy; the rest are shapes."""
    stride, padding, dilation, groups, padding_mode, transposed, output_padding = options
    axes = len(w) - 2
    op = f"conv_transpose{axes}d" if transposed else f"conv{axes}d"
    if len(padding) > axes:
        padding = tuple(zip(padding[::2], padding[1::2]))
    names = _NAMES[direction]
    dtype = dtype_of(op, **dict(zip(names, dtypes)))
    layout = layout_of(dy if direction == "bwd_data" else x, strides)
    shapes = (in_layout(x, layout), tuple(w), None if dy is None else in_layout(dy, layout))
    numbers = (stride, padding, dilation, groups, padding_mode, False, None, "auto")
    head = (op, axes, direction, transposed, dtype, layout)
    b = None if b is None else tuple(b)
    options = (*numbers, output_padding, None)
    plan = conv_plan(*head, *shapes, b, None, options, device=device_of(target))
    return job(plan, layout, direction != "bwd_weight")


_NAMES = {"fwd": "xwb", "bwd_data": ("dy", "w"), "bwd_weight": ("dy", "x")}


def _conv(x: Tensor, w: Tensor, b: Tensor | None, *options: Any) -> Tensor:
    dtypes = (x.dtype, w.dtype, None if b is None else b.dtype)
    shapes = (x.shape, w.shape, None, None if b is None else b.shape)
    work = _job(current(), target_of(x, w, b), "fwd", options, dtypes, *shapes, x.stride())
    b = None if b is None else b.contiguous()
    return run(work, dense(x, work.layout), w.contiguous(), b)


def _conv_shape(x: Any, w: Any, *options: Any) -> list[Any]:
    stride, padding, dilation, groups, _, transposed, extra = options
    axes = len(w) - 2
    pads = [2 * p for p in padding] if len(padding) == axes else _sums(padding)
    size = []
    for axis in range(axes):
        extent, step = dilation[axis] * (w[2 + axis] - 1) + 1, stride[axis]
        if transposed:
            size.append((x[2 + axis] - 1) * step + extent - pads[axis] + extra[axis])
        else:
            size.append((x[2 + axis] + pads[axis] - extent) // step + 1)
    return [x[0], w[1] * groups if transposed else w[0], *size]


def _sums(padding: Any) -> list[Any]:
    return [before + after for before, after in zip(padding[::2], padding[1::2])]


def _conv_fake(x: Tensor, w: Tensor, b: Tensor | None, *options: Any) -> Tensor:
    return empty(x, _conv_shape(x.shape, w.shape, *options))


def _conv_save(ctx: Any, inputs: Any, output: Tensor) -> None:
    x, w, _, *ctx.options = inputs
    ctx.shapes = x.shape, w.shape
    needs_x, needs_w, *_ = ctx.needs_input_grad
    ctx.save_for_backward(x if needs_w else None, w if needs_x else None)


def _conv_backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
    x, w = ctx.saved_tensors
    x_shape, w_shape = ctx.shapes
    needs_x, needs_w, needs_b, *_ = ctx.needs_input_grad
    dx = conv_input_grad(dy, w, x_shape, *ctx.options) if needs_x else None
    dw = conv_weight_grad(dy, x, w_shape, *ctx.options) if needs_w else None
    db = dy.sum((0, *range(2, dy.dim()))) if needs_b else None
    return dx, dw, db, *_NO_OPTIONS


def _input_grad(dy: Tensor, w: Tensor, x_size: Any, *options: Any) -> Tensor:
    dtypes, shapes = (dy.dtype, w.dtype), (x_size, w.shape, dy.shape, None)
    work = _job(current(), target_of(dy, w), "bwd_data", options, dtypes, *shapes, dy.stride())
    return run(work, dense(dy, work.layout), w.contiguous())


def _input_grad_fake(dy: Tensor, w: Tensor, x_size: Any, *options: Any) -> Tensor:
    return empty(dy, x_size)


def _input_grad_save(ctx: Any, inputs: Any, output: Tensor) -> None:
    dy, w, _, *ctx.options = inputs
    ctx.w_shape = w.shape
    needs_dy, needs_w, *_ = ctx.needs_input_grad
    ctx.save_for_backward(dy if needs_w else None, w if needs_dy else None)


def _input_grad_backward(ctx: Any, dx: Tensor) -> tuple[Any, ...]:
    dy, w = ctx.saved_tensors
    needs_dy, needs_w, *_ = ctx.needs_input_grad
    d_dy = conv(dx, w, None, *ctx.options) if needs_dy else None
    d_w = conv_weight_grad(dy, dx, ctx.w_shape, *ctx.options) if needs_w else None
    return d_dy, d_w, None, *_NO_OPTIONS


def _weight_grad(dy: Tensor, x: Tensor, w_size: Any, *options: Any) -> Tensor:
    dtypes, shapes = (dy.dtype, x.dtype), (x.shape, w_size, dy.shape, None)
    work = _job(current(), target_of(dy, x), "bwd_weight", options, dtypes, *shapes, x.stride())
    return run(work, dense(dy, work.layout), dense(x, work.layout))


def _weight_grad_fake(dy: Tensor, x: Tensor, w_size: Any, *options: Any) -> Tensor:
    return dy.new_empty(w_size)


def _weight_grad_save(ctx: Any, inputs: Any, output: Tensor) -> None:
    dy, x, _, *ctx.options = inputs
    ctx.x_shape = x.shape
    needs_dy, needs_x, *_ = ctx.needs_input_grad
    ctx.save_for_backward(dy if needs_x else None, x if needs_dy else None)


def _weight_grad_backward(ctx: Any, dw: Tensor) -> tuple[Any, ...]:
    dy, x = ctx.saved_tensors
    needs_dy, needs_x, *_ = ctx.needs_input_grad
    d_dy = conv(x, dw, None, *ctx.options) if needs_dy else None
    d_x = conv_input_grad(dy, dw, ctx.x_shape, *ctx.options) if needs_x else None
    return d_dy, d_x, None, *_NO_OPTIONS


conv = operation(
    f"conv(Tensor x, Tensor w, Tensor? b, {_OPTIONS}) -> Tensor",
    _conv,
    _conv_fake,
    _conv_save,
    _conv_backward,
)
conv_input_grad = operation(
    f"conv_input_grad(Tensor dy, Tensor w, SymInt[] x_size, {_OPTIONS}) -> Tensor",
    _input_grad,
    _input_grad_fake,
    _input_grad_save,
    _input_grad_backward,
)
conv_weight_grad = operation(
    f"conv_weight_grad(Tensor dy, Tensor x, SymInt[] w_size, {_OPTIONS}) -> Tensor",
    _weight_grad,
    _weight_grad_fake,
    _weight_grad_save,
    _weight_grad_backward,
)

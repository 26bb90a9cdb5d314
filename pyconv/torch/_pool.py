"""Max and average pooling in one to three dimensions, and what differentiates them."""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from .._plan import pool_plan
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

_WINDOW = "int[] kernel_size, int[] stride, int[] padding"
_MAX = f"{_WINDOW}, int[] dilation, bool ceil_mode"
_AVERAGE = f"{_WINDOW}, bool ceil_mode, bool count_include_pad, int? divisor_override"


@lru_cache(maxsize=256)
def _job(
    target: str,
    kind: str,
    direction: str,
    dtype: torch.dtype,
    x: Any,
    dy: Any,
    strides: Any,
    *options: Any,
) -> Job:
    """strides: of x forwards, of dy backwards; options as those of a plan."""
    axes = len(x) - 2
    op, name = f"{kind}_pool{axes}d", "x" if dy is None else "dy"
    layout = layout_of(x if dy is None else dy, strides)
    x, dy = (None if shape is None else in_layout(shape, layout) for shape in (x, dy))
    indices = dy if kind == "max" else None
    head = (op, axes, kind, direction, dtype_of(op, **{name: dtype}), layout)
    plan = pool_plan(*head, x, dy, indices, None, options, device=device_of(target))
    return job(plan, layout)


def _pool_shape(
    x: Any, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool
) -> list[Any]:
    shape = [x[0], x[1]]
    for size, k, s, p, d in zip(x[2:], kernel_size, stride, padding, dilation):
        room = size + 2 * p - d * (k - 1) - 1
        out = (room + (s - 1 if ceil_mode else 0)) // s + 1
        if ceil_mode and (out - 1) * s >= size + p:  # it would begin in the padding after
            out -= 1
        shape.append(out)
    return shape


def _max(x: Tensor, *options: Any, indices: Tensor | None = None) -> Tensor:
    *window, ceil_mode = options
    rest = (None, False, ceil_mode, True, None, 2.0)
    shapes = (x.shape, None, x.stride())
    work = _job(target_of(x), "max", "fwd", x.dtype, *shapes, *window, *rest)
    return run(work, dense(x, work.layout), aux=indices)


def _max_fake(x: Tensor, *options: Any) -> Tensor:
    return empty(x, _pool_shape(x.shape, *options))


def _max_indices(x: Tensor, *options: Any) -> tuple[Tensor, Tensor]:
    indices = empty(x, _pool_shape(x.shape, *options), torch.int64)
    return _max(x, *options, indices=indices), indices


def _max_indices_fake(x: Tensor, *options: Any) -> tuple[Tensor, Tensor]:
    shape = _pool_shape(x.shape, *options)
    return empty(x, shape), empty(x, shape, torch.int64)


def _max_save(ctx: Any, inputs: Any, output: Tensor) -> None:
    x, *ctx.options = inputs
    ctx.save_for_backward(x)


def _max_backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
    [x] = ctx.saved_tensors
    _, indices = max_pool_indices(x, *ctx.options)
    return max_pool_grad(dy, indices, x.shape), *_NO_MAX


def _max_indices_save(ctx: Any, inputs: Any, output: tuple[Tensor, Tensor]) -> None:
    ctx.x_shape = inputs[0].shape
    ctx.save_for_backward(output[1])
    ctx.mark_non_differentiable(output[1])


def _max_indices_backward(ctx: Any, dy: Tensor, _: Any) -> tuple[Any, ...]:
    [indices] = ctx.saved_tensors
    return max_pool_grad(dy, indices, ctx.x_shape), *_NO_MAX


def _max_grad(dy: Tensor, indices: Tensor, x_size: Any) -> Tensor:
    if indices.dtype != torch.int64 or indices.shape != dy.shape:
        raise TypeError(
            f"max_pool_grad: indices must be int64 of the shape of dy, got {indices.dtype} of "
            f"{tuple(indices.shape)}; dy is {tuple(dy.shape)}"
        )
    options = (None, None, 0, 1, None, False, False, True, None, 2.0)
    shapes = (x_size, dy.shape, dy.stride())
    work = _job(target_of(dy, indices), "max", "bwd_data", dy.dtype, *shapes, *options)
    return run(work, dense(dy, work.layout), dense(indices, work.layout))


def _max_grad_fake(dy: Tensor, indices: Tensor, x_size: Any) -> Tensor:
    return empty(dy, x_size)


def _max_grad_save(ctx: Any, inputs: Any, output: Tensor) -> None:
    ctx.save_for_backward(inputs[1])


def _max_grad_backward(ctx: Any, dx: Tensor) -> tuple[Any, ...]:
    [indices] = ctx.saved_tensors
    d_dy = dx.flatten(2).gather(2, indices.flatten(2)).reshape(indices.shape)
    return d_dy, None, None


def _average(x: Tensor, *options: Any) -> Tensor:
    shapes = (x.shape, None, x.stride())
    work = _job(target_of(x), "avg", "fwd", x.dtype, *shapes, *_average_options(*options))
    return run(work, dense(x, work.layout))


def _average_options(kernel_size: Any, stride: Any, padding: Any, *rest: Any) -> Any:
    return (kernel_size, stride, padding, 1, None, False, *rest, 2.0)


def _average_fake(x: Tensor, *options: Any) -> Tensor:
    size, stride, padding, ceil_mode, *_ = options
    ones = (1,) * len(size)
    return empty(x, _pool_shape(x.shape, size, stride, padding, ones, ceil_mode))


def _average_save(ctx: Any, inputs: Any, output: Tensor) -> None:
    x, *ctx.options = inputs
    ctx.x_shape = x.shape


def _average_backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
    return avg_pool_grad(dy, ctx.x_shape, *ctx.options), *_NO_AVERAGE


def _average_grad(dy: Tensor, x_size: Any, *options: Any) -> Tensor:
    shapes = (x_size, dy.shape, dy.stride())
    work = _job(target_of(dy), "avg", "bwd_data", dy.dtype, *shapes, *_average_options(*options))
    return run(work, dense(dy, work.layout))


def _average_grad_fake(dy: Tensor, x_size: Any, *options: Any) -> Tensor:
    return empty(dy, x_size)


def _average_grad_save(ctx: Any, inputs: Any, output: Tensor) -> None:
    _, _, *ctx.options = inputs


def _average_grad_backward(ctx: Any, dx: Tensor) -> tuple[Any, ...]:
    return avg_pool(dx, *ctx.options), None, *_NO_AVERAGE


_NO_MAX, _NO_AVERAGE = (None,) * 5, (None,) * 6

max_pool = operation(
    f"max_pool(Tensor x, {_MAX}) -> Tensor", _max, _max_fake, _max_save, _max_backward
)
max_pool_indices = operation(
    f"max_pool_indices(Tensor x, {_MAX}) -> (Tensor, Tensor)",
    _max_indices,
    _max_indices_fake,
    _max_indices_save,
    _max_indices_backward,
)
max_pool_grad = operation(
    "max_pool_grad(Tensor dy, Tensor indices, SymInt[] x_size) -> Tensor",
    _max_grad,
    _max_grad_fake,
    _max_grad_save,
    _max_grad_backward,
)
avg_pool = operation(
    f"avg_pool(Tensor x, {_AVERAGE}) -> Tensor",
    _average,
    _average_fake,
    _average_save,
    _average_backward,
)
avg_pool_grad = operation(
    f"avg_pool_grad(Tensor dy, SymInt[] x_size, {_AVERAGE}) -> Tensor",
    _average_grad,
    _average_grad_fake,
    _average_grad_save,
    _average_grad_backward,
)

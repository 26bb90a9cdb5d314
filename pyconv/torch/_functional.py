"""conv*, conv_transpose* and the poolings with the arguments of torch.nn.functional."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ._conv import conv
from ._pool import avg_pool, max_pool, max_pool_indices

Ints = int | Sequence[int]


def _per_axis(value: Any, axes: int) -> Any:
    if type(value) is int:
        return (value,) * axes
    if type(value) is tuple and len(value) == axes:
        return value
    return tuple(value) * axes if len(value) == 1 else tuple(value)


def _padding(padding: Any, x: Any, w: Any, stride: Any, dilation: Any) -> Any:
    """One number an axis, or (before, after) of each axis in turn."""
    if isinstance(padding, str):
        return _named(padding, x[2:], w[2:], stride, dilation)
    if isinstance(padding, tuple | list) and padding and isinstance(padding[0], tuple | list):
        return tuple(size for pair in padding for size in pair)
    return _per_axis(padding, len(w) - 2)


def _named(name: str, size: Any, kernel: Any, stride: Any, dilation: Any) -> Any:
    extents = [d * (k - 1) + 1 for k, d in zip(kernel, dilation)]
    if name == "valid":
        return (0,) * len(extents)
    if name == "full":
        return tuple(e - 1 for e in extents)
    if name not in ("same", "same_lower"):
        raise ValueError(
            f"conv{len(extents)}d: padding (={name!r}) must be a number, one an axis, a (before, "
            "after) pair an axis, 'valid', 'same', 'same_lower' or 'full'"
        )
    pads: list[Any] = []
    for i, e, s in zip(size, extents, stride):
        total = e - 1 if s == 1 else max((-(-i // s) - 1) * s + e - i, 0)
        less, more = total // 2, total - total // 2
        pads += (less, more) if name == "same" else (more, less)
    return tuple(pads)


def _batched(op: str, x: Tensor, axes: int) -> tuple[Tensor, bool]:
    if x.dim() == axes + 2:
        return x, True
    if x.dim() == axes + 1:
        return x.unsqueeze(0), False
    raise ValueError(
        f"{op}: x must have {axes + 2} dimensions (N, C, *spatial), or {axes + 1} without N; "
        f"x is {tuple(x.shape)}"
    )


def _filter(op: str, x: Tensor, w: Tensor, axes: int) -> None:
    if w.dim() != axes + 2:
        raise ValueError(
            f"{op}: w must have {axes + 2} dimensions; x is {tuple(x.shape)}, w is {tuple(w.shape)}"
        )


def _conv_of(axes: int) -> Callable[..., Tensor]:
    op = f"conv{axes}d"

    def convolve(
        x: Tensor,
        w: Tensor,
        b: Tensor | None = None,
        stride: Ints = 1,
        padding: Any = 0,
        dilation: Ints = 1,
        groups: int = 1,
        *,
        padding_mode: str = "zeros",
    ) -> Tensor:
        x, batched = _batched(op, x, axes)
        _filter(op, x, w, axes)
        stride, dilation = _per_axis(stride, axes), _per_axis(dilation, axes)
        padding = _padding(padding, x.shape, w.shape, stride, dilation)
        zeros = (0,) * axes
        y = conv(x, w, b, stride, padding, dilation, groups, padding_mode, False, zeros)
        return y if batched else y.squeeze(0)

    return _named_as(
        convolve,
        op,
        f"""As torch.nn.functional.{op}, and any padding and padding_mode of pyconv.{op}.

        Differentiable to every order; float32 and float64; channels_last as it is in memory.
        Raises ValueError for shapes and numbers that break a rule, TypeError for another dtype.
        """,
    )


def _conv_transpose_of(axes: int) -> Callable[..., Tensor]:
    op = f"conv_transpose{axes}d"

    def convolve(
        x: Tensor,
        w: Tensor,
        b: Tensor | None = None,
        stride: Ints = 1,
        padding: Any = 0,
        output_padding: Ints = 0,
        groups: int = 1,
        dilation: Ints = 1,
    ) -> Tensor:
        x, batched = _batched(op, x, axes)
        _filter(op, x, w, axes)
        stride, dilation = _per_axis(stride, axes), _per_axis(dilation, axes)
        if isinstance(padding, str) and padding != "valid":
            raise ValueError(f"{op}: padding (={padding!r}) must be numbers or 'valid'")
        padding = _padding(padding, x.shape, w.shape, stride, dilation)
        extra = _per_axis(output_padding, axes)
        y = conv(x, w, b, stride, padding, dilation, groups, "zeros", True, extra)
        return y if batched else y.squeeze(0)

    return _named_as(
        convolve, op, f"As torch.nn.functional.{op}; padding may be (before, after) pairs."
    )


def _max_pool_of(axes: int) -> Callable[..., Any]:
    op = f"max_pool{axes}d"

    def pool(
        x: Tensor,
        kernel_size: Ints,
        stride: Ints | None = None,
        padding: Ints = 0,
        dilation: Ints = 1,
        ceil_mode: bool = False,
        return_indices: bool = False,
    ) -> Any:
        x, batched = _batched(op, x, axes)
        kernel, step = _window(kernel_size, stride, axes)
        window = (kernel, step, _per_axis(padding, axes), _per_axis(dilation, axes), ceil_mode)
        if return_indices or (x.requires_grad and torch.is_grad_enabled()):
            y, indices = max_pool_indices(x, *window)
        else:  # without indices it is faster
            y = indices = max_pool(x, *window)
        if not batched:
            y, indices = y.squeeze(0), indices.squeeze(0)
        return (y, indices) if return_indices else y

    return _named_as(pool, op, f"As torch.nn.functional.{op}; NaN wins, the first of equals too.")


def _avg_pool_of(axes: int) -> Callable[..., Tensor]:
    op = f"avg_pool{axes}d"

    def pool(
        x: Tensor,
        kernel_size: Ints,
        stride: Ints | None = None,
        padding: Ints = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> Tensor:
        x, batched = _batched(op, x, axes)
        window = (*_window(kernel_size, stride, axes), _per_axis(padding, axes))
        y = avg_pool(x, *window, ceil_mode, count_include_pad, divisor_override)
        return y if batched else y.squeeze(0)

    return _named_as(pool, op, f"As torch.nn.functional.{op}.")


def _window(kernel_size: Ints, stride: Any, axes: int) -> tuple[Any, Any]:
    kernel = _per_axis(kernel_size, axes)
    return kernel, _per_axis(stride, axes) if stride or stride == 0 else kernel


def _named_as(function: Callable[..., Any], name: str, text: str) -> Callable[..., Any]:
    function.__name__ = function.__qualname__ = name
    function.__module__ = "pyconv.torch"
    function.__doc__ = text
    return function


conv1d, conv2d, conv3d = map(_conv_of, (1, 2, 3))
conv_transpose1d, conv_transpose2d, conv_transpose3d = map(_conv_transpose_of, (1, 2, 3))
max_pool1d, max_pool2d, max_pool3d = map(_max_pool_of, (1, 2, 3))
avg_pool1d, avg_pool2d, avg_pool3d = map(_avg_pool_of, (1, 2, 3))

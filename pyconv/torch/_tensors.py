"""PyTorch's tensors as the kernels read and write them: in which order of memory, and where."""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .. import _gpu
from .._core import Plan, get_target

Shape = tuple[int, ...]

CUDA = "cuda"

_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
_DTYPES = {torch.float32: "float32", torch.float64: "float64"}
_BYTE = np.dtype(np.uint8)


class Job(NamedTuple):
    """A plan, the order of memory that it runs in, and what its result is like."""

    plan: Plan
    layout: str
    shape: Shape
    strides: Shape


def job(plan: Plan, layout: str, channelled: bool = True) -> Job:
    """channelled: the result has a layout, unlike the gradient of a filter."""
    shape = plan.output_shape
    order = layout if channelled else "NCHW"
    if order == "NHWC":
        shape = (shape[0], shape[-1], *shape[1:-1])
    return Job(plan, layout, shape, strides_of(shape, order))


def target_of(*tensors: Tensor | None) -> str:
    """What kernels run on them: an instruction set of the CPU's, or CUDA. TypeError for tensors on
    several devices."""
    first, *others = (x for x in tensors if x is not None)
    for x in others:
        if x.device != first.device:
            raise TypeError(
                f"pyconv.torch: tensors must be on one device, got {first.device} and {x.device}"
            )
    return get_target() if first.is_cpu else CUDA


def device_of(target: str) -> int | None:
    """As plans are asked for, which serve every device of a kind."""
    return 0 if target == CUDA else None


def run(
    work: Job,
    a: Tensor,
    b: Tensor | None = None,
    bias: Tensor | None = None,
    aux: Tensor | None = None,
) -> Tensor:
    """The result of dense tensors."""
    plan, _, shape, strides = work
    out = a.new_empty_strided(shape, strides)
    if isinstance(plan, _gpu.Plan):
        given = {"a": a, "b": b, "bias": bias, "residual": None, "out": out, "aux": aux}
        views = (x if x is None else _gpu.view("pyconv.torch", n, x) for n, x in given.items())
        plan.run(*views)
        return out
    size = plan.workspace_bytes
    plan.run_at(
        a.data_ptr(),
        0 if b is None else b.data_ptr(),
        0 if bias is None else bias.data_ptr(),
        out.data_ptr(),
        0 if aux is None else aux.data_ptr(),
        np.empty(size, _BYTE) if size else None,
    )
    return out


def layout_of(shape: Any, strides: Any) -> str:
    """The order of memory to run: NHWC for channels_last, otherwise NCHW, if need be by a copy.

    Where sizes of 1 leave it open, the strides tell what was meant, as in PyTorch.
    """
    if strides[1] < strides[2]:
        meant = strides_of(shape, "NHWC")
        if all(n == 1 or found == s for n, found, s in zip(shape, strides, meant)):
            return "NHWC"
    return "NCHW"


def strides_of(shape: Any, layout: str) -> Shape:
    axes = range(len(shape))
    order = (0, *axes[2:], 1) if layout == "NHWC" else axes
    strides: list[Any] = [1] * len(shape)
    step: Any = 1
    for axis in reversed(order):
        strides[axis] = step
        step = step * shape[axis]
    return tuple(strides)


def dense(x: Tensor, layout: str) -> Tensor:
    """x in that order of memory, itself where it is so already."""
    if layout == "NCHW":
        return x if x.is_contiguous() else x.contiguous()
    form = _CHANNELS_LAST.get(x.dim())
    if form is not None:
        return x if x.is_contiguous(memory_format=form) else x.contiguous(memory_format=form)
    return x.movedim(1, -1).contiguous().movedim(-1, 1)  # no copy where it is so


def empty(like: Tensor, shape: Any, dtype: torch.dtype | None = None) -> Tensor:
    """A new tensor of that shape in the order of memory that `like` is run in; also a fake one."""
    strides = strides_of(shape, layout_of(like.shape, like.stride()))
    return like.new_empty_strided(shape, strides, dtype=dtype)


def in_layout(shape: Any, layout: str) -> Shape:
    """A shape as a plan of that layout says it."""
    return (shape[0], *shape[2:], shape[1]) if layout == "NHWC" else tuple(shape)


def dtype_of(op: str, **dtypes: torch.dtype | None) -> str:
    """The one dtype of the tensors; TypeError where it is not one that serves."""
    first, *_ = dtypes
    for name, dtype in dtypes.items():
        if dtype is None:
            continue
        if dtype not in _DTYPES:
            raise TypeError(
                f"{op}: {name} is {dtype}, but must be float32 or float64; "
                f"cast it, e.g. {name}.float()"
            )
        if dtype != dtypes[first]:
            raise TypeError(
                f"{op}: {first} is {dtypes[first]} but {name} is {dtype}; cast one of them"
            )
    return _DTYPES[dtypes[first]]

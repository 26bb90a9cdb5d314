"""Layers of torch.nn that run pyconv's kernels, and what puts them into a model and takes them out.

Each class adds methods to one of torch.nn and no state, so that a layer changes hands by its
`__class__` alone: parameters, buffers, hooks, optimisers and state_dict know nothing of it.
"""

from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from . import _functional as F
from ._conv import conv


def _serves(x: Tensor, w: Tensor | None = None) -> bool:
    """Whether the kernels do. Half precision stays with PyTorch, and CUDA, where none of the
    kernels has been measured; the functions of this package serve it."""
    dtype = x.dtype
    return (
        (dtype is torch.float32 or dtype is torch.float64)
        and x.is_cpu
        and (w is None or (w.dtype is dtype and w.is_cpu))
    )


class _Conv:
    def _conv_forward(self: Any, x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        if not _serves(x, w) or not w.dim() - 1 <= x.dim() <= w.dim():
            return super()._conv_forward(x, w, b)
        padding = self.padding
        if isinstance(padding, str):  # what PyTorch means by it: pairs, the last axis first
            flat = self._reversed_padding_repeated_twice
            padding = tuple(p for i in range(len(flat) - 2, -1, -2) for p in flat[i : i + 2])
        batched = x.dim() == w.dim()
        window = (self.stride, padding, self.dilation, self.groups, self.padding_mode)
        y = conv(x if batched else x.unsqueeze(0), w, b, *window, False, self.output_padding)
        return y if batched else y.squeeze(0)


class _ConvTranspose:
    def forward(self: Any, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        if not _serves(x, self.weight) or self.padding_mode != "zeros":
            return super().forward(x, output_size)
        axes = len(self.kernel_size)
        window = (self.stride, self.padding, self.kernel_size, axes, self.dilation)
        extra = self._output_padding(x, output_size, *window)
        convolve = getattr(F, f"conv_transpose{axes}d")
        options = (self.stride, self.padding, extra, self.groups, self.dilation)
        return convolve(x, self.weight, self.bias, *options)


class _MaxPool:
    def forward(self: Any, x: Tensor) -> Any:
        if not _serves(x):
            return super().forward(x)
        window = (self.kernel_size, self.stride, self.padding, self.dilation)
        pool = getattr(F, f"max_pool{_axes(self)}d")
        return pool(x, *window, self.ceil_mode, self.return_indices)


class _AvgPool:
    def forward(self: Any, x: Tensor) -> Tensor:
        if not _serves(x):
            return super().forward(x)
        window = (self.kernel_size, self.stride, self.padding)
        pool = getattr(F, f"avg_pool{_axes(self)}d")
        rest = (self.count_include_pad, getattr(self, "divisor_override", None))
        return pool(x, *window, self.ceil_mode, *rest)


def _axes(layer: nn.Module) -> int:
    return int(type(layer).__name__[-2])


class Conv1d(_Conv, nn.Conv1d):
    """torch.nn.Conv1d on pyconv's kernels."""


class Conv2d(_Conv, nn.Conv2d):
    """torch.nn.Conv2d on pyconv's kernels."""


class Conv3d(_Conv, nn.Conv3d):
    """torch.nn.Conv3d on pyconv's kernels."""


class ConvTranspose1d(_ConvTranspose, nn.ConvTranspose1d):
    """torch.nn.ConvTranspose1d on pyconv's kernels."""


class ConvTranspose2d(_ConvTranspose, nn.ConvTranspose2d):
    """torch.nn.ConvTranspose2d on pyconv's kernels."""


class ConvTranspose3d(_ConvTranspose, nn.ConvTranspose3d):
    """torch.nn.ConvTranspose3d on pyconv's kernels."""


class MaxPool1d(_MaxPool, nn.MaxPool1d):
    """torch.nn.MaxPool1d on pyconv's kernels."""


class MaxPool2d(_MaxPool, nn.MaxPool2d):
    """torch.nn.MaxPool2d on pyconv's kernels."""


class MaxPool3d(_MaxPool, nn.MaxPool3d):
    """torch.nn.MaxPool3d on pyconv's kernels."""


class AvgPool1d(_AvgPool, nn.AvgPool1d):
    """torch.nn.AvgPool1d on pyconv's kernels."""


class AvgPool2d(_AvgPool, nn.AvgPool2d):
    """torch.nn.AvgPool2d on pyconv's kernels."""


class AvgPool3d(_AvgPool, nn.AvgPool3d):
    """torch.nn.AvgPool3d on pyconv's kernels."""


LAYERS = (
    *(Conv1d, Conv2d, Conv3d, ConvTranspose1d, ConvTranspose2d, ConvTranspose3d),
    *(MaxPool1d, MaxPool2d, MaxPool3d, AvgPool1d, AvgPool2d, AvgPool3d),
)
_OURS = {getattr(nn, layer.__name__): layer for layer in LAYERS}
_THEIRS = {ours: theirs for theirs, ours in _OURS.items()}


class Patch:
    """What `patch` did to a model; `unpatch`, or the end of a `with` block, undoes it."""

    def __init__(self, model: nn.Module) -> None:
        self.layers = [layer for layer in model.modules() if type(layer) in _OURS]
        weights = (layer.weight for layer in self.layers if hasattr(layer, "weight"))
        self._turned = [w for w in weights if not w.is_contiguous()]
        for w in self._turned:
            w.data = w.data.contiguous()
        _swap(self.layers, _OURS)

    def unpatch(self) -> None:
        _swap(self.layers, _THEIRS)
        while self._turned:
            w = self._turned.pop()
            form = torch.channels_last_3d if w.dim() == 5 else torch.channels_last
            w.data = w.data.contiguous(memory_format=form)

    def __enter__(self) -> "Patch":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.unpatch()

    def __repr__(self) -> str:
        return f"<pyconv.torch.Patch of {len(self.layers)} layers>"


def patch(model: nn.Module) -> Patch:
    """Let every Conv*, ConvTranspose*, MaxPool* and AvgPool* layer of `model` run pyconv's kernels.

    In place, in any model: names, parameters, hooks and state_dict stay as they are, and so do
    optimisers that hold the parameters. `with patch(model):` or `.unpatch()` swaps back; a copy or
    a pickle of a patched model is patched, `unpatch(model)` serves those.

    Only layers of exactly these classes of torch.nn are swapped, not their subclasses. A swapped
    layer leaves what pyconv does not serve to PyTorch: CUDA tensors, half and bfloat16. Under
    autocast float32 inputs stay float32. Weights of a channels_last model are contiguous meanwhile,
    as the kernels read them: to copy them in each call would be a quarter of ResNet-18's time.

    >>> import torch, pyconv.torch
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.MaxPool2d(2))
    >>> pyconv.torch.patch(net)
    <pyconv.torch.Patch of 2 layers>
    >>> net(torch.zeros(1, 3, 8, 8)).shape
    torch.Size([1, 8, 3, 3])
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"patch: model must be a torch.nn.Module, got {type(model).__name__}")
    return Patch(model)


def unpatch(model: nn.Module) -> None:
    """Turn every layer of pyconv.torch in `model` back into torch.nn's, in place."""
    _swap(model.modules(), _THEIRS)


def _swap(layers: Any, classes: dict[Any, Any]) -> None:
    for layer in layers:
        if type(layer) in classes:
            layer.__class__ = classes[type(layer)]

"""What every convolution, transposed or not, and every gradient of one is: two functions."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from . import _core
from ._arrays import Array, Call, Dense, dtype_name, ready, run, shape_tuple
from ._plan import conv_plan

Gradients = tuple[Array, Array, Array]

# stride, padding, dilation, groups, padding_mode, flip, activation, algorithm, output_padding,
# output_size: the end of `_core.plan_conv`'s arguments, which describes the operation
Options = tuple[Any, ...]


def forward(
    op: str,
    axes: int,
    transposed: bool,
    x: Array,
    w: Array,
    b: Array,
    residual: Array,
    layout: str,
    options: Options,
    out: Array,
) -> Array:
    """The convolution or transposed convolution that every public one is."""
    if out is None and w is not None and ready(x, w, b, residual):
        plan = conv_plan(
            op,
            axes,
            "fwd",
            transposed,
            dtype_name(x.dtype),
            layout,
            x.shape,
            w.shape,
            None,
            None if b is None else b.shape,
            None if residual is None else residual.shape,
            *options,
        )
        y = np.empty(plan.output_shape, x.dtype)
        run(plan, x, w, b, residual, y, None)
        return y
    call = Call(op, layout, {"x": x, "w": w, "b": b, "residual": residual})

    def plan_in(run_layout: str) -> _core.Plan:
        shapes = (call.shape(name, run_layout) for name in ("x", "w", "dy", "b", "residual"))
        dtype = dtype_name(call.dtype)
        return conv_plan(op, axes, "fwd", transposed, dtype, run_layout, *shapes, *options)

    def kernel(plan: _core.Plan, y: Dense) -> None:
        dense = call.dense
        run(plan, dense("x"), dense("w"), dense("b"), dense("residual"), y, None)

    return call.job(plan_in, kernel, out=out)()


# For each gradient: its direction, and the argument beside dy whose values it reads.
_GRADIENTS = {"x": ("bwd_data", "w"), "w": ("bwd_weight", "x"), "b": ("bwd_bias", None)}


def backward(
    op: str,
    axes: int,
    transposed: bool,
    dy: Array,
    x: Array,
    w: Array,
    layout: str,
    options: Options,
    needs: Iterable[str],
    out: Any,
) -> Gradients:
    """The gradients of `forward`: those in `needs`, None for the others."""
    needed = _checked_needs(op, needs)
    arrays, shapes = {"dy": dy}, {}
    for name, value in (("x", x), ("w", w)):
        if isinstance(value, tuple):
            shapes[name] = shape_tuple(op, name, value)
        else:
            arrays[name] = value
    for gradient in needed:
        read = _GRADIENTS[gradient][1]
        if read in shapes:
            raise TypeError(
                f"{op}: needs has {gradient!r}, whose gradient reads {read}: "
                f"give the array, not its shape {shapes[read]}"
            )
    outs = (None, None, None) if out is None else out
    if not isinstance(outs, tuple | list) or len(outs) != 3:
        raise TypeError(f"{op}: out must be a triple (dx, dw, db), got {out!r}")
    call = Call(op, layout, arrays, shapes)

    def job(gradient: str, target: Array) -> Callable[[], Array]:
        direction, read = _GRADIENTS[gradient]

        def plan_in(run_layout: str) -> _core.Plan:
            x_shape, w_shape, dy_shape = (call.shape(n, run_layout) for n in ("x", "w", "dy"))
            dtype = dtype_name(call.dtype)
            head = (op, axes, direction, transposed, dtype, run_layout)
            return conv_plan(*head, x_shape, w_shape, dy_shape, None, None, *options)

        def kernel(plan: _core.Plan, result: Dense) -> None:
            run(plan, call.dense("dy"), call.dense(read), None, None, result, None)

        channelled = gradient == "x"
        name = f"out d{gradient}"
        return call.job(plan_in, kernel, out=target, out_name=name, channelled=channelled)

    # Everything is checked before anything is computed, even where nothing is needed.
    wanted = [(g, target) for g, target in zip("xwb", outs) if g in needed]
    jobs = {g: job(g, target) for g, target in wanted or [("b", None)]}
    dx, dw, db = (jobs[g]() if g in needed else None for g in "xwb")
    return dx, dw, db


def _checked_needs(op: str, needs: Iterable[str]) -> tuple[str, ...]:
    if not isinstance(needs, Iterable):
        raise TypeError(f"{op}: needs must be a tuple of 'x', 'w', 'b', got {needs!r}")
    needed = (needs,) if isinstance(needs, str) else tuple(needs)
    for gradient in needed:
        if not isinstance(gradient, str) or gradient not in _GRADIENTS:
            raise ValueError(f"{op}: needs must hold 'x', 'w' or 'b', got {gradient!r}")
    return needed

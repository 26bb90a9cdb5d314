"""What every convolution, transposed or not, and every gradient of one is: two functions."""

from collections.abc import Callable, Iterable
from typing import Any

from . import _core, _gpu
from ._arrays import Array, Call, Dense, Shape, View, dtype_name, shape_tuple
from ._core import ready
from ._plan import Options, conv_plan

Gradients = tuple[Array, Array, Array]


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
    if w is not None and ready(x, w, b, residual):
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
            options,
        )
        if out is None or plan.accepts(out, x, w, b, residual):
            return plan.run(x, w, b, residual, out, None)
    if w is not None and out is None and (views := _gpu.ready(x, w, b, residual)) is not None:
        return _forward_on_device(op, axes, transposed, views, layout, options)
    arrays = {"x": x, "w": w, "b": b, "residual": residual}
    return _forward_converted(Call(op, layout, arrays), axes, transposed, options, out)


def _forward_on_device(
    op: str, axes: int, transposed: bool, views: list[View], layout: str, options: Options
) -> Array:
    x, w, b, residual = views
    shapes = (x.shape, w.shape, None, b and b.shape, residual and residual.shape)
    head = (op, axes, "fwd", transposed, dtype_name(x.dtype), layout)
    plan = conv_plan(*head, *shapes, options, device=x.device)
    y = x.empty(plan.output_shape, x.dtype)
    plan.run(x, w, b, residual, y, None)
    return y.owner


def _forward_converted(
    call: Call, axes: int, transposed: bool, options: Options, out: Array
) -> Array:
    def plan_in(layout: str) -> _core.Plan:
        head = (call.op, axes, "fwd", transposed, dtype_name(call.dtype), layout)
        shapes = (call.shape(name, layout) for name in ("x", "w", "dy", "b", "residual"))
        return conv_plan(*head, *shapes, options, device=call.device)

    def kernel(plan: _core.Plan, y: View) -> None:
        x, w, b, residual = map(call.dense, ("x", "w", "b", "residual"))
        plan.run(x, w, b, residual, y, None)

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
    # All is checked before anything is computed, even where nothing is needed.
    wanted = [gradient for gradient in "xwb" if gradient in needed] or ["b"]
    outs = (None, None, None) if out is None else out
    if not isinstance(outs, tuple | list) or len(outs) != 3:
        raise TypeError(f"{op}: out must be a triple (dx, dw, db), got {out!r}")
    targets = dict(zip("xwb", outs))
    found: Gradients | None = None
    if x is not None and w is not None and ready(*arrays.values()):
        head = (op, axes, transposed, layout)
        found = _backward_ready(*head, arrays, shapes, options, wanted, needed, targets)
    if found is None:
        call = Call(op, layout, arrays, shapes)
        jobs = _backward_converted(call, axes, transposed, options, wanted, targets)
        dx, dw, db = (jobs[gradient]() if gradient in needed else None for gradient in "xwb")
        found = dx, dw, db
    return found


def _backward_ready(
    op: str,
    axes: int,
    transposed: bool,
    layout: str,
    arrays: dict[str, Dense],
    shapes: dict[str, Shape],
    options: Options,
    wanted: list[str],
    needed: tuple[str, ...],
    targets: dict[str, Array],
) -> Gradients | None:
    """None where a target has to be converted, or refused."""
    dy = arrays["dy"]
    x, w = (shapes[name] if name in shapes else arrays[name].shape for name in ("x", "w"))
    head, tail = (transposed, dtype_name(dy.dtype), layout, x, w, dy.shape), (None, None, options)
    plans = {g: conv_plan(op, axes, _GRADIENTS[g][0], *head, *tail) for g in wanted}
    written: list[Array] = []  # no result may share memory with one before
    for gradient, plan in plans.items():
        target = targets[gradient]
        if target is not None:
            if not plan.accepts(target, dy, *arrays.values(), *written):
                return None
            written.append(target)

    def gradient_of(gradient: str) -> Array:
        if gradient not in needed:
            return None
        read = _GRADIENTS[gradient][1]
        second = arrays[read] if read else None
        return plans[gradient].run(dy, second, None, None, targets[gradient], None)

    return gradient_of("x"), gradient_of("w"), gradient_of("b")


def _backward_converted(
    call: Call,
    axes: int,
    transposed: bool,
    options: Options,
    wanted: list[str],
    targets: dict[str, Array],
) -> dict[str, Callable[[], Array]]:
    def job(gradient: str) -> Callable[[], Array]:
        direction, read = _GRADIENTS[gradient]

        def plan_in(layout: str) -> _core.Plan:
            head = (call.op, axes, direction, transposed, dtype_name(call.dtype), layout)
            shapes = (call.shape(name, layout) for name in ("x", "w", "dy"))
            return conv_plan(*head, *shapes, None, None, options, device=call.device)

        def kernel(plan: _core.Plan, result: View) -> None:
            plan.run(call.dense("dy"), call.dense(read), None, None, result, None)

        target, name, channelled = targets[gradient], f"out d{gradient}", gradient == "x"
        return call.job(plan_in, kernel, out=target, out_name=name, channelled=channelled)

    return {gradient: job(gradient) for gradient in wanted}


def _checked_needs(op: str, needs: Iterable[str]) -> tuple[str, ...]:
    if not isinstance(needs, Iterable):
        raise TypeError(f"{op}: needs must be a tuple of 'x', 'w', 'b', got {needs!r}")
    needed = (needs,) if isinstance(needs, str) else tuple(needs)
    for gradient in needed:
        if not isinstance(gradient, str) or gradient not in _GRADIENTS:
            raise ValueError(f"{op}: needs must hold 'x', 'w' or 'b', got {gradient!r}")
    return needed

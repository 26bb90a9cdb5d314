"""What every pooling, every gradient of one and max unpooling is: two functions."""

from typing import Any

import numpy as np

from . import _core
from ._arrays import DENSE, INT64, UINT8, Array, Call, Shape, View, dtype_name
from ._core import ready
from ._plan import Ints, Options, pool_plan


def pool(
    op: str,
    axes: int,
    kind: str,
    x: Array,
    layout: str,
    options: Options,
    *,
    indices: Array = None,
    weights: Array = None,
    return_indices: bool = False,
    out: Array = None,
) -> Any:
    """The forward pooling that every public one is; (y, indices) with return_indices.

    Kind "switches" is "max" with the number of the tap that won, a byte, as its index.
    """
    if not isinstance(return_indices, bool):
        raise TypeError(f"{op}: return_indices must be a bool, got {return_indices!r}")
    if weights is None and kind != "unpool" and ready(x):
        head = (op, axes, kind, "fwd", dtype_name(x.dtype), layout)
        plan = pool_plan(*head, x.shape, None, None, None, options)
        if out is None or plan.accepts(out, x):
            found = np.empty(plan.output_shape, _places(kind)) if return_indices else None
            y = plan.run(x, None, None, None, out, found)
            return (y, found) if return_indices else y
    arrays = {"x": x, "indices": indices} if kind == "unpool" else {"x": x, "weights": weights}
    call = Call(op, layout, arrays)
    winners: list[View] = []

    def plan_in(run_layout: str) -> _core.Plan:
        x_shape, *others = (call.shape(n, run_layout) for n in ("x", "indices", "weights"))
        head = (op, axes, kind, "fwd", dtype_name(call.dtype), run_layout)
        return pool_plan(*head, x_shape, None, *others, options, device=call.device)

    def kernel(plan: _core.Plan, y: View) -> None:
        winners.extend([call.empty(y.shape, _places(kind))] if return_indices else [])
        b = call.dense("indices") if kind == "unpool" else unit_sum(call)
        plan.run(call.dense("x"), b, None, None, y, winners[0] if winners else None)

    y = call.job(plan_in, kernel, out=out)()
    return (y, call.hand_back(winners[0])) if return_indices else y


def pool_backward(
    op: str,
    axes: int,
    kind: str,
    arrays: dict[str, Array],
    input_shape: Shape | None,
    layout: str,
    options: Options,
    out: Array = None,
) -> Array:
    """The gradient of every pooling; `arrays` has dy first, and what else its kind reads."""
    dy: Array = arrays["dy"]
    weights, indices = arrays.get("weights"), arrays.get("indices", arrays.get("switches"))
    complete = input_shape is not None and (indices is None) == (kind == "avg")
    if complete and weights is None and ready(dy) and _are_places(indices, kind):
        head = (op, axes, kind, "bwd_data", dtype_name(dy.dtype), layout)
        at = None if indices is None else indices.shape
        plan = pool_plan(*head, input_shape, dy.shape, at, None, options)
        if out is None or plan.accepts(out, dy, indices):
            return plan.run(dy, indices, None, None, out, None)
    call = Call(op, layout, arrays, None if input_shape is None else {"x": input_shape})
    y_shape, dy_shape = (call.shape(name, layout) for name in ("y", "dy"))
    if y_shape is not None and y_shape != dy_shape:
        raise ValueError(f"{op}: y must have the shape of dy; {call.describe()}")

    def plan_in(run_layout: str) -> _core.Plan:
        places = "switches" if kind == "switches" else "indices"
        shapes = (call.shape(n, run_layout) for n in ("x", "dy", places, "weights"))
        head = (op, axes, kind, "bwd_data", dtype_name(call.dtype), run_layout)
        return pool_plan(*head, *shapes, options, device=call.device)

    def kernel(plan: _core.Plan, dx: View) -> None:
        reads = {"max": "indices", "switches": "switches", "lp": "x"}
        b = unit_sum(call) if kind == "avg" else call.dense(reads[kind])
        plan.run(call.dense("dy"), b, None, None, dx, call.dense("y"))

    return call.job(plan_in, kernel, out=out)()


def _places(kind: str) -> np.dtype[Any]:
    return UINT8 if kind == "switches" else INT64


def _are_places(array: Array, kind: str) -> bool:
    """Whether the kernels read them as they are, or there are none to read."""
    return array is None or (
        type(array) is np.ndarray
        and array.dtype is _places(kind)
        and array.flags.num & DENSE == DENSE
    )


def unit_sum(call: Call) -> Any:
    """The window weights of weighted averaging divided by their sum; None without weights."""
    weights = call.host("weights")
    if weights is None:
        return None
    total = weights.sum(dtype=np.float64)
    with np.errstate(all="ignore"):
        unit = (weights / total).astype(weights.dtype)
    if not np.isfinite(unit).all():
        raise ValueError(
            f"{call.op}: weights must be finite with a sum that is not zero, got sum {total}; "
            f"{call.describe()}"
        )
    return call.beside(unit)


def average_options(
    op: str,
    kernel_size: Ints,
    stride: Ints | None,
    padding: Ints,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
    weights: Array,
) -> Options:
    if weights is not None and divisor_override is not None:
        raise ValueError(
            f"{op}: weights, which are normalised to sum 1, exclude "
            f"divisor_override (={divisor_override!r})"
        )
    sizes = (kernel_size, stride, padding, 1, None)
    return (*sizes, False, ceil_mode, count_include_pad, divisor_override, 2.0)


def spatial(shape: Any, layout: str) -> Shape:
    """The spatial part of a shape; a layout that is none is told later."""
    return tuple(shape[1:-1] if str(layout) == "NHWC" else shape[2:])


def rank(shape: Any) -> int:
    return len(shape) if isinstance(shape, tuple | list) else 0

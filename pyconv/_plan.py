"""Plans: the ones kept behind every call, and `plan_conv`, which hands one to the caller."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from . import _config, _core
from ._arrays import Array, Call, Dense, Shape, float_name, run, shape_tuple

Ints = int | Sequence[int]
Padding = str | int | Sequence[int] | Sequence[Sequence[int]]


# typed: True == 1 == 1.0 must not find each other's plan.
@lru_cache(maxsize=256, typed=True)
def _conv(settings: _config.Settings, target: str, *arguments: Any) -> _core.Plan:
    op, *_, border, flip, activation, algorithm, _, _ = arguments
    names = {"layout": arguments[5], "padding_mode": border, "algorithm": algorithm}
    if activation is not None:
        names["activation"] = activation
    _require_types(op, names, {"flip": flip})
    plan: Callable[..., _core.Plan] = _core.plan_conv
    strict, invariant = settings.precision == "strict", settings.batch_invariant
    if algorithm == "auto" and settings.algorithm != "auto":
        preferred = (*arguments[:-3], settings.algorithm, *arguments[-2:])
        try:
            return plan(*preferred, strict, invariant)
        except ValueError:  # it cannot serve, or the problem itself is wrong: "auto" will tell
            pass
    return plan(*arguments, strict, invariant)


@lru_cache(maxsize=256, typed=True)
def _pool(target: str, *arguments: Any) -> _core.Plan:
    op, layout = arguments[0], arguments[5]
    *_, ceil_mode, count_include_pad, _, norm_type = arguments
    flags = {"ceil_mode": ceil_mode, "count_include_pad": count_include_pad}
    _require_types(op, {"layout": layout}, flags)
    if isinstance(norm_type, bool) or not isinstance(norm_type, int | float | np.number):
        raise TypeError(f"{op}: norm_type must be a number, got {norm_type!r}")
    return _core.plan_pool(*arguments)


def _require_types(op: str, names: dict[str, Any], flags: dict[str, Any]) -> None:
    for name, value in names.items():
        if not isinstance(value, str):
            raise TypeError(f"{op}: {name} must be a string, got {value!r}")
    for name, value in flags.items():
        if not isinstance(value, bool | np.bool_):
            raise TypeError(f"{op}: {name} must be a bool, got {value!r}")


def conv_plan(*arguments: Any) -> _core.Plan:
    """`_core.plan_conv` of these arguments, up to output_size; kept while among the last 256."""
    numbers = arguments[11:15] + arguments[19:]  # stride to groups; output_padding, output_size
    return _kept(_conv, (_config.current(), _core.get_target(), *arguments), numbers)


def pool_plan(*arguments: Any) -> _core.Plan:
    """`_core.plan_pool` of these arguments; kept while among the last 256."""
    return _kept(_pool, (_core.get_target(), *arguments), arguments[10:15])  # kernel to output_size


def _kept(cached: Any, key: tuple[Any, ...], numbers: tuple[Any, ...]) -> _core.Plan:
    for value in numbers:
        if type(value) is not int and value is not None and not _exact(value):
            key = tuple(map(_tuples, key))
            if not all(map(_exact, key)):
                return cached.__wrapped__(*key)  # type: ignore[no-any-return]
    try:
        return cached(*key)  # type: ignore[no-any-return]
    except TypeError:  # perhaps only because no dictionary can hold the key
        pass
    return cached.__wrapped__(*key)  # type: ignore[no-any-return]


def _exact(value: Any) -> bool:
    """Whether what is equal to `value` means the same: inside a tuple, True would equal 1."""
    if type(value) is not tuple:
        return type(value) is not list
    for item in value:
        if type(item) is not int and not (type(item) is tuple and _exact(item)):
            return False
    return True


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if type(value) in (list, tuple) else value


def forget_plans() -> None:
    _conv.cache_clear()
    _pool.cache_clear()


class Plan:
    """One convolution, checked and planned for one pair of shapes; `plan_conv` makes it.

    Weights set once are kept in the form the algorithm reads. Results do not depend on the batch
    an image is in (`batch_invariant`). Threads may share it; it is pickled as its arguments and
    weights.
    """

    def __init__(self, **arguments: Any) -> None:
        self._arguments = arguments
        self._direction: str = arguments["direction"]
        self._dtype = np.dtype(arguments["dtype"])
        x, w = arguments["x"], arguments["w"]
        y = _plan_of(**arguments | {"direction": "fwd"}).output_shape
        self._expected = {"x": x, "w": w, "b": w[:1], "dy": y, "residual": y}
        # By what is read beside x and w. All are made now, so that settings changed later cannot
        # give one that reads the packed weights of another.
        extras = [(b, residual) for b in (None, w[:1]) for residual in (None, y)]
        self._plans = {
            (b is not None, residual is not None): _plan_of(**arguments, b=b, residual=residual)
            for b, residual in (extras if self._direction == "fwd" else extras[:1])
        }
        self._plan = self._plans[False, False]
        # w, b, and w as the kernel reads it: one tuple, so that no thread sees half of a change
        self._weights: tuple[Dense, Dense | None, Dense] | None = None

    @property
    def algorithm(self) -> str:
        return self._plan.algorithm

    @property
    def flops(self) -> float:
        """Multiplications and additions of one call."""
        return self._plan.flops

    @property
    def bytes(self) -> float:
        """Memory traffic that no algorithm can avoid."""
        return self._plan.bytes

    @property
    def workspace_bytes(self) -> int:
        """Scratch memory a call takes for as many threads as would run now."""
        return self._plan.workspace_bytes

    @property
    def output_shape(self) -> Shape:
        return self._plan.output_shape

    def explain(self) -> str:
        """What runs, and why."""
        plan, given = self._plan, self._arguments
        return (
            f"conv {self._direction} {given['dtype']} {given['layout']}: "
            f"x {given['x']}, w {given['w']} -> {plan.output_shape}\n"
            f"{plan.algorithm} on {plan.target}: {plan.reason}\n"
            f"{plan.flops:.4g} flop, {plan.bytes:.4g} bytes of compulsory traffic, "
            f"{plan.workspace_bytes} bytes of workspace"
        )

    def set_weights(self, w: Array, b: Array = None) -> None:
        """Copy `w` (and, forwards, the bias `b`) and bring them into the kernel's form, once.

        Raises ValueError for another shape than the plan's, TypeError for another dtype.
        """
        if self._direction == "bwd_weight":
            raise ValueError(
                "plan_conv: a bwd_weight plan reads no weights; call it as plan(dy, x)"
            )
        if b is not None and self._direction != "fwd":
            raise ValueError(f"plan_conv: a {self._direction} plan has no b")
        call = self._call({"w": w, "b": b})
        kept_w, kept_b = call.dense("w"), call.dense("b")
        kept_w, kept_b = kept_w.copy(), None if kept_b is None else kept_b.copy()
        packed = kept_w
        if self._plan.packed_bytes:
            packed = np.empty(self._plan.packed_bytes, np.uint8)
            self._plan.pack(kept_w, packed)
        self._weights = kept_w, kept_b, packed

    def __call__(
        self, array: Array, second: Array = None, out: Array = None, *, residual: Array = None
    ) -> Array:
        """plan(x, residual=None, out=None) -> y, plan(dy) -> dx, or plan(dy, x) -> dw.

        Raises ValueError for shapes other than the plan's and where weights are missing.
        """
        if residual is not None:
            if second is not None or self._direction != "fwd":
                raise TypeError("plan_conv: residual is the second array of a fwd plan alone")
            second = residual
        w = b = None
        if self._direction != "bwd_weight":
            if self._weights is None:
                raise ValueError("plan_conv: call set_weights(w) first")
            _, b, w = self._weights
        name, other = _INPUTS[self._direction]
        if other is None and second is not None:
            raise TypeError(f"plan_conv: a {self._direction} plan takes one array")
        arrays = {name: array} if other is None else {name: array, other: second}
        call = self._call(arrays)
        with_residual = self._direction == "fwd" and second is not None
        plan = self._plans[b is not None, with_residual]

        def kernel(plan: _core.Plan, result: Dense) -> None:
            packed, dense = plan.packed_bytes > 0, call.dense
            if self._direction == "bwd_weight":
                run(plan, dense("dy"), dense("x"), None, None, result, None)
            else:
                run(plan, dense(name), w, b, dense("residual"), result, None, packed)

        return call.job(lambda _: plan, kernel, out=out)()

    def _call(self, arrays: dict[str, Array]) -> Call:
        call = Call("plan_conv", self._arguments["layout"], arrays, may_turn=False)
        if call.dtype != self._dtype:
            raise TypeError(
                f"plan_conv: {next(iter(arrays))} is {call.dtype}, "
                f"but the plan is for {self._dtype}"
            )
        for name, expected in self._expected.items():
            shape = call.shape(name, call.layout)
            if shape is not None and shape != expected:
                raise ValueError(
                    f"plan_conv: {name} is {shape}, but the plan is for {expected}; "
                    f"{call.describe()}"
                )
        return call

    def __reduce__(self) -> tuple[Any, ...]:
        weights = None if self._weights is None else self._weights[:2]
        return _rebuild, (self._arguments, weights)

    def __repr__(self) -> str:
        return f"<pyconv.Plan {self.explain()}>"


_OPTIONS = (
    *("stride", "padding", "dilation", "groups"),
    *("padding_mode", "flip", "activation", "algorithm"),
)
_INPUTS = {"fwd": ("x", "residual"), "bwd_data": ("dy", None), "bwd_weight": ("dy", "x")}


def _rebuild(arguments: dict[str, Any], weights: tuple[Dense, Dense | None] | None) -> Plan:
    plan = Plan(**arguments)
    if weights is not None:
        plan.set_weights(*weights)
    return plan


def _plan_of(
    *, direction: str, b: Shape | None = None, residual: Shape | None = None, **given: Any
) -> _core.Plan:
    head = ("plan_conv", axes_of(given["x"]), direction, False, given["dtype"], given["layout"])
    shapes = (given["x"], given["w"], None, b, residual)
    options = (given[name] for name in _OPTIONS)
    with _config.config(batch_invariant=True):
        return conv_plan(*head, *shapes, *options, 0, None)


def axes_of(shape: Shape) -> int:
    """Spatial axes of an array that has batch and channels; the core tells a wrong rank."""
    return min(max(len(shape) - 2, 1), 3)


def plan_conv(
    x_shape: Sequence[int],
    w_shape: Sequence[int],
    *,
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
    flip: bool = False,
    dtype: npt.DTypeLike = "float32",
    layout: str = "NCHW",
    direction: str = "fwd",
    activation: str | None = None,
    algorithm: str = "auto",
) -> Plan:
    """Plan a 1-, 2- or 3-D convolution once, for calls with the same shapes and weights.

    direction : "fwd" (call it on x, with an optional residual), "bwd_data" (on dy, gives dx) or
        "bwd_weight" (on dy and x, gives dw). The other arguments are those of `conv2d`; the number
        of spatial axes follows from x_shape.

    Raises ValueError and TypeError as `conv2d` does.

    >>> import numpy as np, pyconv as pc
    >>> plan = pc.plan_conv((1, 1, 3, 3), (1, 1, 2, 2), dtype="float64")
    >>> plan.set_weights(np.ones((1, 1, 2, 2)))
    >>> plan(np.arange(9.0).reshape(1, 1, 3, 3))
    array([[[[ 8., 12.],
             [20., 24.]]]])
    """
    if not isinstance(direction, str):
        raise TypeError(f"plan_conv: direction must be a string, got {direction!r}")
    if direction not in _INPUTS:
        raise ValueError(
            f"plan_conv: direction must be one of {', '.join(_INPUTS)}, got {direction!r}"
        )
    return Plan(
        direction=direction,
        dtype=float_name("plan_conv", dtype),
        layout=layout,
        x=shape_tuple("plan_conv", "x_shape", x_shape),
        w=shape_tuple("plan_conv", "w_shape", w_shape),
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        padding_mode=padding_mode,
        flip=flip,
        activation=activation,
        algorithm=algorithm,
    )

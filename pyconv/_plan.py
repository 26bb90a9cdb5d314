"""Plans: the ones kept behind every call, and `plan_conv`, which hands one to the caller."""

import sys
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from . import _config, _core, _gpu
from ._arrays import Array, Call, Shape, View, float_name, place, shape_tuple
from ._core import ready

Ints = int | Sequence[int]
Padding = str | int | Sequence[int] | Sequence[Sequence[int]]


# What describes an operation beside its shapes, the end of the core's arguments:
#   conv: stride, padding, dilation, groups, padding_mode, flip, activation, algorithm,
#         output_padding, output_size
#   pool: kernel_size, stride, padding, dilation, output_size, adaptive, ceil_mode,
#         count_include_pad, divisor_override, norm_type
Options = tuple[Any, ...]

# The types of options when nothing about them is special.
_NONE = type(None)
_CUDA = "cuda"
_CONV_TYPES = (int, int, int, int, str, bool, _NONE, str, int, _NONE)
_POOL_TYPES = (int, _NONE, int, int, _NONE, bool, bool, bool, _NONE, float)


def conv_plan(*problem: Any, device: int | None = None) -> _core.Plan:
    """`_core.plan_conv` of its arguments up to residual and a tuple of `Options`, under the current
    settings; the last 256 plans are kept. With a device, `_gpu.plan_conv`, which runs on its views
    (one plan serves all devices).
    """
    stride, padding, dilation, groups, _, flip, _, _, extra, size = problem[-1]
    simple = (  # the frequent case of _exact: a third of a microsecond of a call's three
        type(stride) is type(padding) is type(dilation) is type(groups) is type(extra) is int
        and type(flip) is bool
        and size is None
    )
    target = _core.get_target() if device is None else _CUDA
    key = (_config.current(), target, *problem)
    return _kept(_conv, key, simple or _exact(problem[-1], _CONV_TYPES), _CONV_TYPES)


def pool_plan(*problem: Any, device: int | None = None) -> _core.Plan:
    """`_core.plan_pool` of its arguments up to weights and a tuple of `Options`; kept likewise."""
    exact = tuple(map(type, problem[-1])) == _POOL_TYPES or _exact(problem[-1], _POOL_TYPES)
    target = _core.get_target() if device is None else _CUDA
    return _kept(_pool, (target, *problem), exact, _POOL_TYPES)


def _kept(cached: Any, key: tuple[Any, ...], exact: bool, types: tuple[type, ...]) -> _core.Plan:
    if not exact:
        key = (*key[:-1], _tuples(key[-1]))
        if not _exact(key[-1], types):
            return cached.__wrapped__(*key)  # type: ignore[no-any-return]
    try:
        return cached(*key)  # type: ignore[no-any-return]
    except TypeError:  # perhaps only because no dictionary can hold the key
        pass
    return cached.__wrapped__(*key)  # type: ignore[no-any-return]


def _exact(options: Options, types: tuple[type, ...]) -> bool:
    """Whether only the same options equal these: True, 1 and 1.0 would find each other's plan."""
    for value, kind in zip(options, types):
        found = type(value)
        if found is tuple:
            for item in value:
                if type(item) is not int and not (
                    type(item) is tuple and all(type(number) is int for number in item)
                ):
                    return False
        elif not (
            found is kind or found is str or value is None or (found is int and kind is _NONE)
        ):
            return False
    return True


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if type(value) in (list, tuple) else value


def forget_plans() -> None:
    _conv.cache_clear()
    _pool.cache_clear()


@lru_cache(maxsize=256)
def _conv(settings: _config.Settings, target: str, *problem: Any) -> _core.Plan:
    *head, options = problem
    op, layout = head[0], head[5]
    *numbers, border, flip, activation, algorithm, output_padding, output_size = options
    names = {"layout": layout, "padding_mode": border, "algorithm": algorithm}
    if activation is not None:
        names["activation"] = activation
    _require_types(op, names, {"flip": flip})
    numerics = (_config.PRECISIONS.index(settings.precision), settings.batch_invariant)
    core: Callable[..., _core.Plan] = (_gpu if target is _CUDA else _core).plan_conv

    def plan(algorithm: str) -> _core.Plan:
        rest = (border, flip, activation, algorithm, output_padding, output_size, *numerics)
        return core(*head, *numbers, *rest)

    if algorithm == "auto" and settings.algorithm != "auto":
        try:
            return plan(settings.algorithm)
        except ValueError:  # it cannot serve, or the problem itself is wrong: "auto" will tell
            pass
    return plan(algorithm)


@lru_cache(maxsize=256)
def _pool(target: str, *problem: Any) -> _core.Plan:
    *head, options = problem
    op, layout, norm_type = head[0], head[5], options[9]
    flags = {"ceil_mode": options[6], "count_include_pad": options[7]}
    _require_types(op, {"layout": layout}, flags)
    if isinstance(norm_type, bool) or not isinstance(
        norm_type, float | int | np.floating | np.integer
    ):
        raise TypeError(f"{op}: norm_type must be a number, got {norm_type!r}")
    if isinstance(norm_type, int) and abs(norm_type) > sys.float_info.max:
        raise ValueError(f"{op}: norm_type must fit a float; it has {norm_type.bit_length()} bits")
    core: Callable[..., _core.Plan] = (_gpu if target is _CUDA else _core).plan_pool
    return core(*head, *options)


def _require_types(op: str, names: dict[str, Any], flags: dict[str, Any]) -> None:
    for name, value in names.items():
        if not isinstance(value, str):
            raise TypeError(f"{op}: {name} must be a string, got {value!r}")
    for name, value in flags.items():
        if not isinstance(value, bool | np.bool_):
            raise TypeError(f"{op}: {name} must be a bool, got {value!r}")


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
        self._settings = _config.current()
        self._cuda_plans: dict[tuple[bool, bool], _core.Plan] | None = None
        self._host_plans = self._make_plans(None)
        self._plan = self._host_plans[False, False]
        # w, b, w as the kernel reads it, and the device: one tuple, so that no thread sees half of
        # a change
        self._weights: tuple[View, View | None, View, int | None] | None = None

    def _make_plans(self, device: int | None) -> dict[tuple[bool, bool], _core.Plan]:
        """By what is read beside x and w. All are made at once, so that settings changed later
        cannot give one that reads the packed weights of another.
        """
        b, y = self._expected["b"], self._expected["residual"]
        extras = [(bias, residual) for bias in (None, b) for residual in (None, y)]
        with _config.config(**self._settings._asdict()):
            return {
                (bias is not None, residual is not None): _plan_of(
                    **self._arguments, b=bias, residual=residual, device=device
                )
                for bias, residual in (extras if self._direction == "fwd" else extras[:1])
            }

    def _plans(self, device: int | None) -> dict[tuple[bool, bool], _core.Plan]:
        if device is None:
            return self._host_plans
        if self._cuda_plans is None:
            self._cuda_plans = self._make_plans(device)
        return self._cuda_plans

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
        plan = self._plans(call.device)[False, False]
        if plan.packed_bytes:
            packed = np.empty(plan.packed_bytes, np.uint8)
            plan.pack(kept_w, packed)
        self._plan = plan
        self._weights = kept_w, kept_b, packed, call.device

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
        if self._direction != "bwd_weight" and self._weights is None:
            raise ValueError("plan_conv: call set_weights(w) first")
        _, b, w, device = self._weights or (None, None, None, None)
        name, other = _INPUTS[self._direction]
        if other is None and second is not None:
            raise TypeError(f"plan_conv: a {self._direction} plan takes one array")
        extras = b is not None, other == "residual" and second is not None

        def kernel(plan: _core.Plan, result: View, first: View, second: View) -> View:
            if w is None:
                return plan.run(first, second, None, None, result, None)
            return plan.run(first, w, b, second, result, None, None, plan.packed_bytes > 0)

        plan = self._host_plans[extras]
        if (
            device is None
            and self._fits(name, array)
            and self._fits(other, second)
            and (out is None or plan.accepts(out, array, second))
        ):
            return kernel(plan, out, array, second)
        call = self._call({name: array} if other is None else {name: array, other: second})
        if w is not None and call.device != device:
            raise TypeError(
                f"plan_conv: {name} is on {place(call.device)} but the weights are on "
                f"{place(device)}; copy one of them"
            )
        chosen = self._plans(call.device)[extras]

        def converted(plan: _core.Plan, result: View) -> None:
            kernel(plan, result, call.dense(name), call.dense(other))

        return call.job(lambda _: chosen, converted, out=out)()

    def _fits(self, name: str | None, array: Array) -> bool:
        """Whether nothing about it needs a check or a copy."""
        if array is None:
            return name in (None, "residual")
        return (
            ready(array)
            and array.dtype is self._dtype
            and array.shape == self._expected[name or ""]
        )

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
        weights = self._weights and tuple(getattr(w, "owner", w) for w in self._weights[:2])
        return _rebuild, (self._arguments, weights)

    def __repr__(self) -> str:
        return f"<pyconv.Plan {self.explain()}>"


_OPTIONS = (
    *("stride", "padding", "dilation", "groups"),
    *("padding_mode", "flip", "activation", "algorithm"),
)
_INPUTS = {"fwd": ("x", "residual"), "bwd_data": ("dy", None), "bwd_weight": ("dy", "x")}


def _rebuild(arguments: dict[str, Any], weights: tuple[Array, ...] | None) -> Plan:
    plan = Plan(**arguments)
    if weights is not None:
        plan.set_weights(*weights)
    return plan


def _plan_of(
    *,
    direction: str,
    b: Shape | None = None,
    residual: Shape | None = None,
    device: int | None = None,
    **given: Any,
) -> _core.Plan:
    head = ("plan_conv", axes_of(given["x"]), direction, False, given["dtype"], given["layout"])
    shapes = (given["x"], given["w"], None, b, residual)
    options = (*(given[name] for name in _OPTIONS), 0, None)
    with _config.config(batch_invariant=True):
        return conv_plan(*head, *shapes, options, device=device)


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

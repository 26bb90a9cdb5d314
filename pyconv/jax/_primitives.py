"""Three primitives, y = fwd(x, w), x = bwd_data(y, w) and w = bwd_weight(y, x): each is linear in
both arguments, its derivatives are the other two, and so JAX differentiates in any mode and order.

x is (N, C, *spatial), y (N, K, *spatial), or channels last; w is (K, C/groups, *kernel).
"""

from functools import cache, partial
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from .._plan import conv_plan
from . import _build

# The two operands and the result of each pass.
ROLES = {"fwd": ("x", "w", "y"), "bwd_data": ("y", "w", "x"), "bwd_weight": ("y", "x", "w")}
_LETTERS = {"x": "NC", "y": "NK", "w": "KC"}
_LAYOUTS = ("NCHW", "NHWC")
_ALGORITHMS = ("auto", "direct", "gemm", "winograd", "fft")  # as pyconv.h numbers them

PRIMITIVES = {name: Primitive(f"pyconv_{name}") for name in ROLES}


def _axis(role: str, letter: str, rank: int, layout: str) -> int:
    """Where an index is in an array; G, the groups, is the outer part of K and C."""
    if role == "w":
        return int(letter == "C")
    return 0 if letter == "N" else 1 if layout == "NCHW" else rank - 1


def fold(a: Any, axis: int, outer: int = 1) -> Any:
    """(B, ..., outer * inner, ...) as (..., outer * B * inner, ...); axis counts without B."""
    size, shape = a.shape[0], a.shape[1:]
    a = a.reshape(size, *shape[:axis], outer, shape[axis] // outer, *shape[axis + 1 :])
    a = jnp.moveaxis(a, 0, axis + 1)
    return a.reshape(*shape[:axis], size * shape[axis], *shape[axis + 1 :])


def _unfold(a: Any, size: int, axis: int, outer: int) -> Any:
    """The inverse of `fold`."""
    shape, rest = a.shape, a.shape[axis] // size
    a = a.reshape(*shape[:axis], outer, size, rest // outer, *shape[axis + 1 :])
    return jnp.moveaxis(a, axis + 1, 0).reshape(size, *shape[:axis], rest, *shape[axis + 1 :])


def _shape(name: str, a: Any, b: Any, **p: Any) -> Any:
    if name == "bwd_weight":
        channel = _axis("x", "C", a.ndim, p["layout"])
        return a.update(
            shape=(a.shape[channel], b.shape[channel] // p["groups"], *p["kernel"]),
        )
    spatial, channels = p["spatial"], b.shape[1] * p["groups"]
    if name == "fwd":
        rows = zip(spatial, p["kernel"], p["stride"], p["padding"], p["dilation"])
        spatial = tuple((i + sum(pad) - d * (k - 1) - 1) // s + 1 for i, k, s, pad, d in rows)
        channels = b.shape[0]
    last = p["layout"] == "NHWC"
    return a.update(shape=(a.shape[0], *((*spatial, channels) if last else (channels, *spatial))))


def _transposes(name: str) -> tuple[Any, Any]:
    """What the derivatives by the two operands are: the pass whose result has that role."""
    first, second, result = ROLES[name]

    def by(wanted: str, given: str) -> Any:
        [other] = [n for n, roles in ROLES.items() if roles[2] == wanted]
        swapped = ROLES[other][0] != result

        def rule(cotangent: Any, a: Any, b: Any, **p: Any) -> Any:
            value = b if given == second else a
            pair = (value, cotangent) if swapped else (cotangent, value)
            return PRIMITIVES[other].bind(*pair, **p)

        return rule

    return by(first, second), by(second, first)


def _batched(name: str, operands: Any, dims: Any, **p: Any) -> tuple[Any, int]:
    """The batch becomes more groups where both operands have it; otherwise more of an index that
    the batched operand and the result share and the other operand does not have."""
    roles, result = ROLES[name][:2], ROLES[name][2]
    size = next(a.shape[d] for a, d in zip(operands, dims) if d is not None)
    if None in dims:
        batched, other = roles if dims[1] is None else reversed(roles)
        [letter] = set(_LETTERS[batched]) & set(_LETTERS[result]) - set(_LETTERS[other])
    else:
        letter = "G"
    rank = len(p["stride"]) + 2
    if size == 0:
        single = (
            a if d is None else jnp.zeros(np.delete(a.shape, d)) for a, d in zip(operands, dims)
        )
        result = jax.eval_shape(partial(PRIMITIVES[name].bind, **p), *single)
        return jnp.zeros((0, *result.shape), operands[0].dtype), 0

    def place(role: str) -> tuple[int, int]:
        inner = letter in "CK" and (role, letter) != ("w", "C")
        return _axis(role, letter, rank, p["layout"]), p["groups"] if inner else 1

    folded = [
        a if d is None else fold(jnp.moveaxis(a, d, 0), *place(role))
        for a, d, role in zip(operands, dims, roles)
    ]
    outer = place(result)
    if letter == "G":
        p["groups"] *= size
    return _unfold(PRIMITIVES[name].bind(*folded, **p), size, *outer), 0


def _lower(name: str, ctx: Any, a: Any, b: Any, **p: Any) -> Any:
    if not _build.registered():
        rule = mlir.lower_fun(partial(_by_callback, name), multiple_results=False)
        return rule(ctx, a, b, **p)
    attributes = {
        "pass": np.int64(list(ROLES).index(name)),
        "layout": np.int64(_LAYOUTS.index(p["layout"])),
        "algorithm": np.int64(_ALGORITHMS.index(p["algorithm"])),
        "groups": np.int64(p["groups"]),
        **{flag: p[flag] for flag in ("flip", "strict", "batch_invariant")},
        **{field: np.array(p[field], np.int64).ravel() for field in _LISTS},
    }
    return jax.ffi.ffi_lowering(_build.TARGET)(ctx, a, b, **attributes)


_LISTS = ("stride", "padding", "dilation")


def _by_callback(name: str, a: Any, b: Any, **p: Any) -> Any:
    result = jax.eval_shape(partial(PRIMITIVES[name].bind, **p), a, b)

    def compute(a: Any, b: Any) -> Any:
        a, b = np.ascontiguousarray(a), np.ascontiguousarray(b)
        shapes = dict(zip(ROLES[name], (a.shape, b.shape, result.shape)))
        y = None if name == "fwd" else shapes["y"]
        options = (*(p[field] for field in _LISTS), p["groups"], "zeros", p["flip"], None, "auto")
        head = ("conv_general_dilated", a.ndim - 2, name, False, a.dtype.name, p["layout"])
        problem = (*head, shapes["x"], shapes["w"], y, None, None, (*options, 0, None))
        return conv_plan(*problem).run(a, b, None, None, None, None)

    return jax.pure_callback(compute, result, a, b)


@cache
def _jitted(primitive: Any, parameters: Any) -> Any:
    return jax.jit(partial(primitive.bind, **dict(parameters)))


def _run(primitive: Any, a: Any, b: Any, **p: Any) -> Any:
    with jax.disable_jit(False):
        return _jitted(primitive, tuple(p.items()))(a, b)


for _name, _primitive in PRIMITIVES.items():
    _primitive.def_impl(partial(_run, _primitive))
    _primitive.def_abstract_eval(partial(_shape, _name))
    ad.defbilinear(_primitive, *_transposes(_name))
    batching.primitive_batchers[_primitive] = partial(_batched, _name)
    mlir.register_lowering(_primitive, partial(_lower, _name), platform="cpu")

"""lax.conv_general_dilated in terms of the primitives."""

from functools import partial
from typing import Any

import jax
import numpy as np
from jax import lax
from jax import numpy as jnp

from .._config import Settings, current
from ._primitives import PRIMITIVES, fold


def conv_general_dilated(
    lhs: Any,
    rhs: Any,
    window_strides: Any,
    padding: Any,
    lhs_dilation: Any = None,
    rhs_dilation: Any = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    precision: Any = None,
    preferred_element_type: Any = None,
    out_sharding: Any = None,
) -> Any:
    """As jax.lax.conv_general_dilated, with the same arguments, results and errors.

    Works under jit, vmap and every kind of differentiation. What pyconv does not serve goes on to
    lax: dtypes other than float32 and float64, more than three spatial axes, results without an
    element, another preferred_element_type, an out_sharding. float32 is computed in full whatever
    `precision` says. pyconv.config is read when the call is traced.

    >>> import jax.numpy as jnp, pyconv.jax
    >>> x, w = jnp.arange(5.0, dtype="float32").reshape(1, 1, 5), jnp.ones((1, 1, 2), "float32")
    >>> pyconv.jax.conv_general_dilated(x, w, (1,), "VALID")
    Array([[[1., 3., 5., 7.]]], dtype=float32)
    """
    lhs, rhs = jnp.asarray(lhs), jnp.asarray(rhs)
    others = (precision, preferred_element_type, out_sharding)
    axes = lhs.ndim - 2
    if (
        not 1 <= axes <= 3
        or lhs.dtype not in (jnp.float32, jnp.float64)
        or rhs.dtype != lhs.dtype
        or (preferred_element_type is not None and preferred_element_type != lhs.dtype)
        or out_sharding is not None
    ):
        rest = (feature_group_count, batch_group_count, *others)
        given = (window_strides, padding, lhs_dilation, rhs_dilation, dimension_numbers)
        return lax.conv_general_dilated(lhs, rhs, *given, *rest)
    dilations = [(1,) * axes if d is None else tuple(d) for d in (lhs_dilation, rhs_dilation)]
    pads = padding if isinstance(padding, str) else tuple(map(tuple, padding))
    groups = (feature_group_count, batch_group_count)
    if dimension_numbers is not None and not isinstance(
        dimension_numbers, lax.ConvDimensionNumbers
    ):
        dimension_numbers = tuple(dimension_numbers)
    window = (tuple(window_strides), pads, *dilations, dimension_numbers, *groups)
    return _convolve(lhs, rhs, window, current())


@partial(jax.jit, static_argnums=(2, 3))
def _convolve(lhs: Any, rhs: Any, window: Any, settings: Settings) -> Any:
    wanted = jax.eval_shape(lambda a, b: lax.conv_general_dilated(a, b, *window), lhs, rhs)
    if 0 in wanted.shape or 0 in lhs.shape or 0 in rhs.shape:
        return lax.conv_general_dilated(lhs, rhs, *window)
    stride, padding, spread, dilation, numbers, feature_groups, batch_groups = window
    numbers = lax.conv_dimension_numbers(lhs.shape, rhs.shape, numbers)
    last = numbers.lhs_spec[1] == lhs.ndim - 1

    def order(spec: Any) -> Any:
        return (spec[0], *spec[2:], spec[1]) if last else spec

    x = lhs.transpose(order(numbers.lhs_spec))
    w = rhs.transpose(numbers.rhs_spec)
    first = 1 if last else 2
    kernel, size = w.shape[2:], x.shape[first : first + len(stride)]
    extents = [d * (k - 1) + 1 for d, k in zip(dilation, kernel)]
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(size, extents, stride, padding)
    groups = feature_groups * batch_groups
    if batch_groups > 1:  # of which each has filters of its own, as groups have
        x = x.reshape(batch_groups, x.shape[0] // batch_groups, *x.shape[1:])
        x = fold(x, x.ndim - 2 if last else 1)

    def bound(name: str, x: Any, w: Any, spatial: Any, padding: Any, stride: Any) -> Any:
        return PRIMITIVES[name].bind(
            x,
            w,
            spatial=tuple(spatial),
            kernel=tuple(w.shape[2:]),
            stride=tuple(stride),
            padding=tuple(padding),
            dilation=tuple(dilation),
            groups=groups,
            layout="NHWC" if last else "NCHW",
            flip=name != "fwd",
            algorithm=settings.algorithm,
            strict=settings.precision == "strict",
            batch_invariant=settings.batch_invariant,
        )

    def padded(a: Any, edges: Any) -> Any:
        """lax.pad of the spatial axes by (before, after, between)."""
        if not np.any(edges):
            return a
        edges = [(0, 0, 0), *edges, (0, 0, 0)] if last else [(0, 0, 0), (0, 0, 0), *edges]
        return lax.pad(a, jnp.zeros((), a.dtype), edges)

    if max(spread) > 1 and max(stride) == 1:
        # A convolution of a spread input is the gradient of a strided one by its input, with the
        # filter turned over; beyond the reach of the filter the result is 0.
        inner = [(e - 1 - lo, e - 1 - hi) for e, (lo, hi) in zip(extents, padding)]
        outer = [(max(-lo, 0), max(-hi, 0), 0) for lo, hi in inner]
        inner = [(max(lo, 0), max(hi, 0)) for lo, hi in inner]
        rows = zip(size, spread, extents, inner)
        spatial = [(i - 1) * s + e - sum(p) for i, s, e, p in rows]
        k, c, *_ = w.shape
        w = w.reshape(groups, k // groups, c, *kernel).swapaxes(1, 2)
        w = w.reshape(groups * c, k // groups, *kernel)
        y = padded(bound("bwd_data", x, w, spatial, inner, spread), outer)
    else:
        edges = [(min(lo, 0), min(hi, 0), s - 1) for s, (lo, hi) in zip(spread, padding)]
        x = padded(x, edges)
        padding = [(max(lo, 0), max(hi, 0)) for lo, hi in padding]
        y = bound("fwd", x, w, x.shape[first : first + len(stride)], padding, stride)
    return y.transpose(np.argsort(order(numbers.out_spec)))

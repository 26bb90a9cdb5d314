"""Smoothing and derivatives: one filter along each axis after the other."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from .._arrays import Array, Dense
from .._filtering import scipy_function, takes_arrays
from ._arguments import (
    answer,
    cast,
    check_axes,
    check_axis,
    check_origin,
    each,
    filtered,
    output_dtype,
    passes_on,
)

# Along one axis: weights, axis, mode, elements before, divisor.
Step = tuple[Dense, int, str, int, int]


def _in_turn(x: Dense, steps: Iterable[Step], cval: Any, dtype: np.dtype[Any]) -> Dense:
    """Each step reads what the one before it rounded to `dtype`, as in SciPy."""
    y = None
    for w, axis, mode, before, divisor in steps:
        y = filtered(x if y is None else y, w, [axis], [before], mode, cval, dtype, divisor)
    return cast(x, dtype).copy() if y is None else y


def _gaussian_weights(sigma: float, order: int, radius: int) -> Dense:
    """exp(-x^2 / (2 sigma^2)), normalised, or its derivative of that order, reversed."""
    if order < 0:
        raise ValueError("order must be non-negative")
    x = np.arange(-radius, radius + 1)
    phi = np.exp(-0.5 / (sigma * sigma) * x**2)
    phi = phi / phi.sum()
    if order == 0:
        return np.asarray(phi)
    # The derivative is q(x) phi(x): q' - q x / sigma^2, so many times, on q's coefficients.
    powers = np.arange(order + 1)
    step = np.diag(powers[1:], 1) + np.diag(np.ones(order) / -(sigma * sigma), -1)
    q = np.linalg.matrix_power(step, order)[:, 0]
    return np.asarray(((x[:, None] ** powers).dot(q) * phi)[::-1])


def _gaussian_step(
    sigma: Any, axis: int, order: int, mode: str, truncate: float, radius: Any
) -> Step:
    reach = int(truncate * float(sigma) + 0.5) if radius is None else radius
    if not isinstance(reach, int | np.integer) or reach < 0:
        raise ValueError("Radius must be a nonnegative integer.")
    return _gaussian_weights(sigma, order, int(reach)), axis, mode, int(reach), 1


@takes_arrays
def gaussian_filter1d(
    input: Array,
    sigma: float,
    axis: int = -1,
    order: int = 0,
    output: Any = None,
    mode: str = "reflect",
    cval: complex = 0.0,
    truncate: float = 4.0,
    *,
    radius: int | None = None,
) -> Array:
    """As `scipy.ndimage.gaussian_filter1d`; order 1, 2, ... gives that derivative.

    >>> from pyconv import ndimage
    >>> ndimage.gaussian_filter1d([1.0, 2.0, 3.0, 4.0, 5.0], 1).round(3)
    array([1.427, 2.068, 3.   , 3.932, 4.573])
    """
    x = np.asarray(input)
    if passes_on(x):
        given = (x, sigma, axis, order, output, mode, cval, truncate)
        return scipy_function("ndimage", "gaussian_filter1d")(*given, radius=radius)
    dtype = output_dtype(output, x, x.dtype.kind == "c")
    step = _gaussian_step(sigma, check_axis(axis, x.ndim), order, mode, truncate, radius)
    return answer(_in_turn(x, [step], cval, dtype), output)


@takes_arrays
def gaussian_filter(
    input: Array,
    sigma: Any,
    order: Any = 0,
    output: Any = None,
    mode: Any = "reflect",
    cval: complex = 0.0,
    truncate: float = 4.0,
    *,
    radius: Any = None,
    axes: Any = None,
) -> Array:
    """As `scipy.ndimage.gaussian_filter`: a Gaussian along every axis, or along `axes`.

    >>> import numpy as np
    >>> from pyconv import ndimage
    >>> ndimage.gaussian_filter(np.eye(3), 1.0, mode="constant").round(3)
    array([[0.221, 0.206, 0.102],
           [0.206, 0.276, 0.206],
           [0.102, 0.206, 0.221]])
    """
    x = np.asarray(input)
    if passes_on(x):
        given = (x, sigma, order, output, mode, cval, truncate)
        return scipy_function("ndimage", "gaussian_filter")(*given, radius=radius, axes=axes)
    dtype = output_dtype(output, x, x.dtype.kind == "c")
    axes = check_axes(axes, x.ndim)
    each_axis = [axes, *(each(value, len(axes)) for value in (sigma, order, mode, radius))]
    steps = [
        _gaussian_step(sigma, axis, order, mode, truncate, radius)
        for axis, sigma, order, mode, radius in zip(*each_axis)
        if sigma > 1e-15
    ]
    return answer(_in_turn(x, steps, cval, dtype), output)


def _uniform_step(size: Any, axis: int, mode: str, origin: int) -> Step:
    if size < 1:
        raise RuntimeError("incorrect filter size")
    size = int(size)
    return np.ones(size), axis, mode, check_origin(origin, size, "invalid origin"), size


@takes_arrays
def uniform_filter1d(
    input: Array,
    size: int,
    axis: int = -1,
    output: Any = None,
    mode: str = "reflect",
    cval: complex = 0.0,
    origin: int = 0,
) -> Array:
    """As `scipy.ndimage.uniform_filter1d`: the mean of `size` neighbours.

    >>> from pyconv import ndimage
    >>> ndimage.uniform_filter1d([2, 8, 0, 4, 1, 9, 9, 0], size=3)
    array([4, 3, 4, 1, 4, 6, 6, 3])
    """
    x = np.asarray(input)
    if passes_on(x):
        given = (x, size, axis, output, mode, cval, origin)
        return scipy_function("ndimage", "uniform_filter1d")(*given)
    dtype = output_dtype(output, x, x.dtype.kind == "c")
    step = _uniform_step(size, check_axis(axis, x.ndim), mode, origin)
    return answer(_in_turn(x, [step], cval, dtype), output)


@takes_arrays
def uniform_filter(
    input: Array,
    size: Any = 3,
    output: Any = None,
    mode: Any = "reflect",
    cval: complex = 0.0,
    origin: Any = 0,
    *,
    axes: Any = None,
) -> Array:
    """As `scipy.ndimage.uniform_filter`: the mean over a box.

    >>> import numpy as np
    >>> from pyconv import ndimage
    >>> ndimage.uniform_filter(np.diag([9.0, 18.0, 9.0]), 3)
    array([[6., 4., 2.],
           [4., 4., 4.],
           [2., 4., 6.]])
    """
    x = np.asarray(input)
    if passes_on(x):
        options = {} if axes is None else {"axes": axes}
        given = (x, size, output, mode, cval, origin)
        return scipy_function("ndimage", "uniform_filter")(*given, **options)
    dtype = output_dtype(output, x, x.dtype.kind == "c")
    axes = check_axes(axes, x.ndim)
    each_axis = [each(size, len(axes)), axes, each(mode, len(axes)), each(origin, len(axes))]
    steps = [_uniform_step(*one) for one in zip(*each_axis) if one[0] > 1]
    return answer(_in_turn(x, steps, cval, dtype), output)


def _derivative(
    name: str, smooth: list[float], x: Any, axis: int, output: Any, mode: Any, cval: Any
) -> Any:
    x = np.asarray(x)
    if passes_on(x):
        return scipy_function("ndimage", name)(x, axis, output, mode, cval)
    axis = check_axis(axis, x.ndim)
    dtype = output_dtype(output, x, x.dtype.kind == "c")
    modes = each(mode, x.ndim)
    along = [axis, *(other for other in range(x.ndim) if other != axis)]
    weights = [[-1.0, 0.0, 1.0], *[smooth] * (x.ndim - 1)]
    steps = [(np.array(w), other, modes[other], 1, 1) for w, other in zip(weights, along)]
    return answer(_in_turn(x, steps, cval, dtype), output)


@takes_arrays
def prewitt(
    input: Array, axis: int = -1, output: Any = None, mode: Any = "reflect", cval: complex = 0.0
) -> Array:
    """As `scipy.ndimage.prewitt`: (-1, 0, 1) along `axis`, (1, 1, 1) along the others."""
    return _derivative("prewitt", [1.0, 1.0, 1.0], input, axis, output, mode, cval)


@takes_arrays
def sobel(
    input: Array, axis: int = -1, output: Any = None, mode: Any = "reflect", cval: complex = 0.0
) -> Array:
    """As `scipy.ndimage.sobel`: (-1, 0, 1) along `axis`, (1, 2, 1) along the others.

    >>> import numpy as np
    >>> from pyconv import ndimage
    >>> ndimage.sobel(np.array([[1, 2, 4], [1, 2, 4], [1, 2, 4]]))
    array([[ 4, 12,  8],
           [ 4, 12,  8],
           [ 4, 12,  8]])
    """
    return _derivative("sobel", [1.0, 2.0, 1.0], input, axis, output, mode, cval)


def _over_axes(
    function: Callable[..., Any],
    x: Any,
    output: Any,
    mode: Any,
    cval: Any,
    arguments: tuple[Any, ...],
    keywords: dict[str, Any] | None,
    axes: Any,
    squares: bool,
) -> Any:
    """The sum of function(x, axis, dtype, mode, cval, ...), or the norm, over the axes."""
    x = np.asarray(x)
    dtype = output_dtype(output, x, False)
    axes = check_axes(axes, x.ndim)
    total: Any = None
    for axis, mode_there in zip(axes, each(mode, len(axes))):
        y = function(x, axis, dtype, mode_there, cval, *arguments, **(keywords or {}))
        y = np.multiply(y, y, out=y) if squares else y
        total = y if total is None else np.add(total, y, out=total)
    if total is None:
        total = cast(x, dtype).copy()
    elif squares:
        np.sqrt(total, out=total, casting="unsafe")
    return answer(total, output)


@takes_arrays
def generic_laplace(
    input: Array,
    derivative2: Callable[..., Any],
    output: Any = None,
    mode: Any = "reflect",
    cval: complex = 0.0,
    extra_arguments: tuple[Any, ...] = (),
    extra_keywords: dict[str, Any] | None = None,
    *,
    axes: Any = None,
) -> Array:
    """As `scipy.ndimage.generic_laplace`: the sum of derivative2(...) along every axis."""
    more = (extra_arguments, extra_keywords, axes)
    return _over_axes(derivative2, input, output, mode, cval, *more, squares=False)


@takes_arrays
def generic_gradient_magnitude(
    input: Array,
    derivative: Callable[..., Any],
    output: Any = None,
    mode: Any = "reflect",
    cval: complex = 0.0,
    extra_arguments: tuple[Any, ...] = (),
    extra_keywords: dict[str, Any] | None = None,
    *,
    axes: Any = None,
) -> Array:
    """As `scipy.ndimage.generic_gradient_magnitude`: the norm of derivative(...) over the axes."""
    more = (extra_arguments, extra_keywords, axes)
    return _over_axes(derivative, input, output, mode, cval, *more, squares=True)


@takes_arrays
def laplace(
    input: Array,
    output: Any = None,
    mode: Any = "reflect",
    cval: complex = 0.0,
    *,
    axes: Any = None,
) -> Array:
    """As `scipy.ndimage.laplace`: (1, -2, 1) along every axis, summed.

    >>> import numpy as np
    >>> from pyconv import ndimage
    >>> ndimage.laplace(np.diag([0, 1, 0]))
    array([[ 0,  1,  0],
           [ 1, -4,  1],
           [ 0,  1,  0]])
    """

    def derivative2(x: Dense, axis: int, dtype: Any, mode: str, cval: Any) -> Dense:
        return filtered(x, np.array([1.0, -2.0, 1.0]), [axis], [1], mode, cval, dtype)

    x = np.asarray(input)
    if passes_on(x):
        options = {} if axes is None else {"axes": axes}
        return scipy_function("ndimage", "laplace")(x, output, mode, cval, **options)
    return _over_axes(derivative2, x, output, mode, cval, (), None, axes, squares=False)


def _gaussian_derivative(order: int, sigma: Any, axes: Any, rank: int) -> Callable[..., Dense]:
    sigmas = [0.0] * rank
    for axis, value in zip(check_axes(axes, rank), each(sigma, len(check_axes(axes, rank)))):
        sigmas[axis] = value

    def derivative(x: Dense, axis: int, dtype: Any, mode: str, cval: Any, **keywords: Any) -> Dense:
        orders = [order * (other == axis) for other in range(rank)]
        return np.asarray(gaussian_filter(x, sigmas, orders, dtype, mode, cval, **keywords))

    return derivative


@takes_arrays
def gaussian_laplace(
    input: Array,
    sigma: Any,
    output: Any = None,
    mode: Any = "reflect",
    cval: complex = 0.0,
    *,
    axes: Any = None,
    **kwargs: Any,
) -> Array:
    """As `scipy.ndimage.gaussian_laplace`: Gaussian second derivatives, summed over the axes."""
    x = np.asarray(input)
    second = _gaussian_derivative(2, sigma, axes, x.ndim)
    return _over_axes(second, x, output, mode, cval, (), kwargs, axes, squares=False)


@takes_arrays
def gaussian_gradient_magnitude(
    input: Array,
    sigma: Any,
    output: Any = None,
    mode: Any = "reflect",
    cval: complex = 0.0,
    *,
    axes: Any = None,
    **kwargs: Any,
) -> Array:
    """As `scipy.ndimage.gaussian_gradient_magnitude`: the norm of Gaussian first derivatives."""
    x = np.asarray(input)
    first = _gaussian_derivative(1, sigma, axes, x.ndim)
    return _over_axes(first, x, output, mode, cval, (), kwargs, axes, squares=True)

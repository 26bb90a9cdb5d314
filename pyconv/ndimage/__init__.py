"""Filters of `scipy.ndimage` on pyconv's kernels: the same names, arguments and results, threaded.

As in SciPy, sums are float64 whatever the input, and the result has the input's dtype unless
`output` says otherwise; integer sums are exact. Where a weighted sum falls within rounding error of
a whole number, an integer result may be the other neighbour. Any DLPack array goes in and comes
back as its kind. `longdouble`, object arrays, and footprints that are no box are passed on to
SciPy, as are extrema of int64 beyond 2^53.
"""

from ._extrema import maximum_filter, maximum_filter1d, minimum_filter, minimum_filter1d
from ._smooth import (
    gaussian_filter,
    gaussian_filter1d,
    gaussian_gradient_magnitude,
    gaussian_laplace,
    generic_gradient_magnitude,
    generic_laplace,
    laplace,
    prewitt,
    sobel,
    uniform_filter,
    uniform_filter1d,
)
from ._weights import convolve, convolve1d, correlate, correlate1d

__all__ = [
    "convolve",
    "convolve1d",
    "correlate",
    "correlate1d",
    "gaussian_filter",
    "gaussian_filter1d",
    "gaussian_gradient_magnitude",
    "gaussian_laplace",
    "generic_gradient_magnitude",
    "generic_laplace",
    "laplace",
    "maximum_filter",
    "maximum_filter1d",
    "minimum_filter",
    "minimum_filter1d",
    "prewitt",
    "sobel",
    "uniform_filter",
    "uniform_filter1d",
]

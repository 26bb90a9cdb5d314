"""The definitions in plain NumPy, written to be read: the tests' oracle, the benchmarks' baseline.

One function serves one, two and three dimensions. Arrays are (N, C, *spatial), filters
(K, C/groups, *kernel), those of a transposed convolution (C, K/groups, *kernel); results have the
dtype of x. Nothing is checked. A tap is one position inside the filter or the window.

Two facts carry the file. A convolution is a sum over taps of matrix products with a shifted,
strided view of x, and its gradients walk the same views. A pooling reduces over a table of flat
input positions, one row an output and one column a tap, with -1 outside the input.
"""

from .convolution import (
    activation,
    activation_backward,
    conv,
    conv_backward,
    conv_im2col,
    conv_transpose,
    conv_transpose_backward,
    finish,
    input_gradient,
    last_axes,
    normal_cdf,
    pad,
    pad_backward,
    reverse,
    split,
    tap_views,
    transposed_size,
    weight_gradient,
)
from .pooling import (
    adaptive_positions,
    avg_pool,
    avg_pool_backward,
    col2im,
    flat_positions,
    gather,
    im2col,
    im2col_indices,
    lp_pool,
    lp_pool_backward,
    max_pool,
    max_pool_backward,
    max_unpool,
    outputs,
    pool_positions,
    scatter,
    shares,
)
from .sizes import conv_size, extents, pad_pairs, per_axis

__all__ = [
    "activation",
    "activation_backward",
    "adaptive_positions",
    "avg_pool",
    "avg_pool_backward",
    "col2im",
    "conv",
    "conv_backward",
    "conv_im2col",
    "conv_size",
    "conv_transpose",
    "conv_transpose_backward",
    "extents",
    "finish",
    "flat_positions",
    "gather",
    "im2col",
    "im2col_indices",
    "input_gradient",
    "last_axes",
    "lp_pool",
    "lp_pool_backward",
    "max_pool",
    "max_pool_backward",
    "max_unpool",
    "normal_cdf",
    "outputs",
    "pad",
    "pad_backward",
    "pad_pairs",
    "per_axis",
    "pool_positions",
    "reverse",
    "scatter",
    "shares",
    "split",
    "tap_views",
    "transposed_size",
    "weight_gradient",
]

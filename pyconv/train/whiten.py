"""A first layer that whitens images: the principal components of their patches."""

from __future__ import annotations

import numpy as np

from pyconv import functional
from pyconv._arrays import Array
from pyconv.nn.conv import Conv2d


def whiten(layer: Conv2d, x: Array, eps: float = 5e-4) -> None:
    """Set a layer's filters to the principal components of the patches of prepared images x
    (N, C, H, W), each divided by sqrt(its variance + eps) and given with both signs; freeze them.

    Raises ValueError unless the layer has 2 C R S filters. Source: K. Jordan, arXiv 2404.00498.
    """
    patches = functional.im2col(x.astype(np.float64), layer.kernel_size)
    size = patches.shape[1]
    if layer.w.value.shape[0] != 2 * size:
        raise ValueError(
            f"whiten: the layer must have {2 * size} filters, twice the numbers in a patch; it has "
            f"{layer.w.value.shape[0]}"
        )
    # The covariance as the weight gradient of a 1x1 convolution: the same bits for any number of
    # threads, and no transposed copy of all patches.
    shape = (size, size, 1)
    _, total, _ = functional.conv1d_backward(patches, patches, shape, needs=("w",))
    count = patches.shape[0] * patches.shape[2]
    variances, vectors = np.linalg.eigh(total[:, :, 0] / count)
    filters = vectors.T / np.sqrt(variances + eps)[:, None]
    value = np.concatenate([filters, -filters]).reshape(layer.w.value.shape)
    layer.w.value = np.ascontiguousarray(value, layer.w.value.dtype)
    layer.w.trainable = False

"""Losses: (outputs, targets) -> (loss, gradient of the outputs)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pyconv._arrays import Array
from pyconv._gpu import namespace

Loss = Callable[[Any, Array], tuple[float, Any]]


def softmax_cross_entropy(
    logits: Array, labels: Array, label_smoothing: float = 0.0
) -> tuple[float, Array]:
    """Mean of -sum over k of t[k] log softmax(logits)[k], and its gradient (softmax - t) / count.

    logits is (N, K) or (N, K, *spatial); labels are integers (N,) or (N, *spatial) in 0..K-1, or
    probabilities (one-hot among them) of logits' shape. With label_smoothing e, t becomes
    (1 - e) t + e/K. Raises ValueError for a label outside 0..K-1 or shapes that do not fit.

    >>> import numpy as np
    >>> from pyconv import nn
    >>> loss, dlogits = nn.softmax_cross_entropy(np.zeros((1, 2)), np.array([1]))
    >>> round(loss, 4), dlogits
    (0.6931, array([[ 0.5, -0.5]]))
    """
    xp = namespace(logits)
    labels = xp.asarray(labels)
    if logits.ndim < 2:
        raise ValueError(f"softmax_cross_entropy: logits must be (N, K, ...), got {logits.shape}")
    classes = logits.shape[1]
    if labels.dtype.kind in "iu":
        if labels.shape != (logits.shape[0], *logits.shape[2:]):
            raise ValueError(
                f"softmax_cross_entropy: integer labels must be "
                f"{(logits.shape[0], *logits.shape[2:])}, got {labels.shape}"
            )
        if labels.size and not 0 <= labels.min() <= labels.max() < classes:
            raise ValueError(
                f"softmax_cross_entropy: labels must be in 0..{classes - 1}, got "
                f"{labels.min()}..{labels.max()}"
            )
        places = xp.arange(classes).reshape(-1, *[1] * (logits.ndim - 2))
        target = (np.expand_dims(labels, 1) == places).astype(logits.dtype)
    elif labels.shape == logits.shape:
        target = labels.astype(logits.dtype)
    else:
        raise ValueError(
            f"softmax_cross_entropy: labels must be integers or of logits' shape {logits.shape}, "
            f"got {labels.dtype} {labels.shape}"
        )
    if label_smoothing:
        number = logits.dtype.type
        target = target * number(1 - label_smoothing) + number(label_smoothing / classes)
    count = max(1, logits.size // max(1, classes))
    with np.errstate(
        invalid="ignore"
    ):  # non-finite logits give a non-finite loss: callers check it
        shifted = logits - logits.max(1, keepdims=True)
        log_sum = np.log(np.exp(shifted).sum(1, keepdims=True))
        log_softmax = shifted - log_sum
        loss = -(target * log_softmax).sum(dtype=np.float64) / count
        dlogits = (np.exp(log_softmax) * target.sum(1, keepdims=True) - target) / count
    return float(loss), dlogits.astype(logits.dtype, copy=False)


def mse(y: Array, target: Array) -> tuple[float, Array]:
    """Mean of (y - target)^2 over all elements, and its gradient 2 (y - target) / size.

    >>> import numpy as np
    >>> from pyconv import nn
    >>> nn.mse(np.array([1.0, 3.0]), np.array([1.0, 1.0]))
    (2.0, array([0., 2.]))
    """
    target = namespace(y).asarray(target)
    if y.shape != target.shape:
        raise ValueError(f"mse: y {y.shape} and target {target.shape} must have the same shape")
    with np.errstate(invalid="ignore", over="ignore"):
        difference = y - target.astype(y.dtype, copy=False)
        loss = (difference * difference).sum(dtype=np.float64) / max(1, y.size)
        return float(loss), difference * y.dtype.type(2 / max(1, y.size))


def auxiliary_loss(weight: float = 0.3, loss: Loss = softmax_cross_entropy) -> Loss:
    """A loss for networks with auxiliary outputs (GoogLeNet): the first counts whole, the others
    `weight` times. In inference, where such a network has one output, it is `loss` itself.

    >>> import numpy as np
    >>> from pyconv import nn
    >>> criterion = nn.auxiliary_loss(0.5, nn.mse)
    >>> criterion((np.array([2.0]), np.array([4.0])), np.array([0.0]))
    (12.0, (array([4.]), array([4.])))
    """

    def weighted(outputs: Any, labels: Array) -> tuple[float, Any]:
        if not isinstance(outputs, tuple):
            return loss(outputs, labels)
        total, gradient = loss(outputs[0], labels)
        gradients = [gradient]
        for output in outputs[1:]:
            value, gradient = loss(output, labels)
            total += weight * value
            gradients.append(gradient * output.dtype.type(weight))
        return total, tuple(gradients)

    return weighted

"""Convolutional networks as scikit-learn estimators: in pipelines, searches, cross-validation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import copy_context
from typing import Any

import numpy as np

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
    from sklearn.utils import check_random_state
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:
    raise ImportError(
        "pyconv.sklearn needs scikit-learn 1.6 or newer: pip install 'pyconv-engine[sklearn]'"
    ) from error

from . import nn, optim
from ._arrays import Dense, Shape
from .train import Trainer

__all__ = ["CNNClassifier", "CNNRegressor"]

_CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_POOL: dict[int, Any] = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}


def _network(shape: Shape, channels: Sequence[int], outputs: int) -> nn.Layer:
    """3-wide convolutions with ReLU, halved while 4 pixels are left, and a linear layer."""
    axes = len(shape) - 1
    read, pixels = shape[0], list(shape[1:])
    layers: list[nn.Layer] = []
    for written in channels:
        layers += [_CONV[axes](read, written, 3, padding=1), nn.ReLU()]
        read = written
        if min(pixels) >= 4:
            layers.append(_POOL[axes](2))
            pixels = [size // 2 for size in pixels]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(read * int(np.prod(pixels)), outputs))


class _CNN(BaseEstimator):  # type: ignore[misc]
    def __init__(
        self,
        *,
        image_shape: Sequence[int] | None = None,
        channels: Sequence[int] = (16, 32),
        network: Callable[[Shape, int], nn.Layer] | None = None,
        epochs: int = 50,
        batch_size: int = 32,
        learning_rate: float = 3e-3,
        weight_decay: float = 1e-4,
        random_state: Any = None,
    ) -> None:
        self.image_shape = image_shape
        self.channels = channels
        self.network = network
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.random_state = random_state

    def _images(self, x: Dense) -> Dense:
        """(N, C, *spatial) float32, of zero mean and unit variance over the training data."""
        if x.ndim == 2:
            shape = (1, x.shape[1]) if self.image_shape is None else tuple(self.image_shape)
            if np.prod(shape) != x.shape[1]:
                raise ValueError(f"image_shape {shape} does not hold X's {x.shape[1]} features")
            x = x.reshape(len(x), *shape)
        if not 3 <= x.ndim <= 5:
            raise ValueError(f"X must be (N, features) or (N, C, *spatial), got {x.shape}")
        return ((x - self._mean) / self._scale).astype(np.float32)

    def _fit(self, x: Dense, targets: Dense, outputs: int, loss: Any) -> Any:
        random = check_random_state(self.random_state)
        seed = int(random.randint(2**31 - 1))
        self._mean: Dense = np.zeros(1)
        self._scale: Dense = np.ones(1)
        images = self._images(x).astype(np.float64)
        # Columns of a table have units of their own, the pixels of a channel share one.
        columns = x.ndim == 2 and self.image_shape is None
        over = (0,) if columns else (0, *range(2, images.ndim))
        self._mean = images.mean(over, keepdims=True)
        scale = images.std(over, keepdims=True)
        self._scale = np.where(scale > 0, scale, 1)
        images = self._images(x)

        def build() -> nn.Layer:
            nn.init.seed(seed)
            if self.network is not None:
                return self.network(images.shape[1:], outputs)
            return _network(images.shape[1:], self.channels, outputs)

        self.net_ = copy_context().run(build)  # the caller's random numbers go on as they were
        optimizer = optim.AdamW(
            self.net_.parameters(), self.learning_rate, weight_decay=self.weight_decay
        )
        trainer = Trainer(self.net_, optimizer, loss=loss, batch_size=self.batch_size, seed=seed)
        trainer.fit((images, targets), epochs=self.epochs)
        self.history_ = trainer.history.rows
        return self

    def _outputs(self, x: Any) -> Dense:
        check_is_fitted(self)
        x = validate_data(self, x, reset=False, allow_nd=True)
        images = self._images(x)
        trainer = Trainer(self.net_, optim.SGD(self.net_.parameters(), 0.1), batch_size=256)
        return np.asarray(trainer.predict(images), np.float64)


class CNNClassifier(ClassifierMixin, _CNN):  # type: ignore[misc]
    """A convolutional network that classifies images, signals or rows of a table.

    X : (N, C, *spatial), or (N, features), which is a signal of one channel or, with image_shape
        (C, *spatial), an image each. Inputs are brought to zero mean and unit variance.
    channels : of the 3-wide convolutions, each with ReLU and, where there is room, max pooling.
    network : network(shape, outputs) -> nn.Layer instead, for inputs of that (C, *spatial).
    Trained by AdamW for so many epochs; an integer random_state gives the same bits every time.

    Fitted: classes_, net_ (a pyconv.nn network), history_ (loss of each epoch).

    >>> import pyconv as pc
    >>> from pyconv.sklearn import CNNClassifier
    >>> train, test = pc.data.load("digits"), pc.data.load("digits", "test")
    >>> model = CNNClassifier(epochs=4, random_state=0).fit(train.x, train.y)
    >>> model.score(test.x, test.y) > 0.9
    True
    """

    def fit(self, X: Any, y: Any) -> CNNClassifier:
        X, y = validate_data(self, X, y, allow_nd=True)
        check_classification_targets(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        self._fit(X, labels, len(self.classes_), nn.softmax_cross_entropy)
        return self

    def predict_proba(self, X: Any) -> Dense:
        """The probability of each class (N, classes), in the order of classes_."""
        logits = self._outputs(X)
        exponents = np.exp(logits - logits.max(1, keepdims=True))
        return np.asarray(exponents / exponents.sum(1, keepdims=True))

    def predict(self, X: Any) -> Dense:
        outputs = self._outputs(X)
        return np.asarray(self.classes_[outputs.argmax(1)])


class CNNRegressor(RegressorMixin, _CNN):  # type: ignore[misc]
    """A convolutional network that predicts numbers: as CNNClassifier, with y (N,) or (N, outputs).

    It minimises the mean squared error of y brought to zero mean and unit variance.
    """

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def fit(self, X: Any, y: Any) -> CNNRegressor:
        X, y = validate_data(self, X, y, allow_nd=True, multi_output=True, y_numeric=True)
        targets = np.asarray(y, np.float64).reshape(len(y), -1)
        self._y_mean, scale = targets.mean(0), targets.std(0)
        self._y_scale, self._y_ndim = np.where(scale > 0, scale, 1), y.ndim
        targets = ((targets - self._y_mean) / self._y_scale).astype(np.float32)
        self._fit(X, targets, targets.shape[1], nn.mse)
        return self

    def predict(self, X: Any) -> Dense:
        outputs = self._outputs(X) * self._y_scale + self._y_mean
        return np.asarray(outputs[:, 0] if self._y_ndim == 1 else outputs)

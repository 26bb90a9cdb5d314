"""CNNClassifier and CNNRegressor against scikit-learn's own checks, and in its company."""

import pickle

import numpy as np
import pytest

import pyconv as pc

sklearn = pytest.importorskip("sklearn", reason="pip install 'pyconv-engine[sklearn]'")

from sklearn.base import clone  # noqa: E402
from sklearn.datasets import make_regression  # noqa: E402
from sklearn.model_selection import GridSearchCV, cross_val_score  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import MinMaxScaler  # noqa: E402
from sklearn.utils.estimator_checks import parametrize_with_checks  # noqa: E402

from pyconv.sklearn import CNNClassifier, CNNRegressor  # noqa: E402

# What scikit-learn asks that does not hold, and why; at most two.
EXCEPTIONS: dict[str, str] = {}


@parametrize_with_checks(
    [CNNClassifier(random_state=0), CNNRegressor(random_state=0)],
    expected_failed_checks=lambda estimator: EXCEPTIONS,
)
def test_check_estimator(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def digits():
    data = pc.data.load("digits")
    return data.x[:400], data.y[:400]


def test_images_and_rows_are_the_same(digits):
    x, y = digits
    images = CNNClassifier(epochs=3, random_state=1).fit(x, y)
    rows = CNNClassifier(image_shape=x.shape[1:], epochs=3, random_state=1)
    rows.fit(x.reshape(len(x), -1), y)
    assert np.array_equal(images.predict_proba(x), rows.predict_proba(x.reshape(len(x), -1)))
    assert images.score(x, y) > 0.8


def test_names_as_classes(digits):
    x, y = digits
    names = np.array([f"digit {label}" for label in y])
    model = CNNClassifier(epochs=3, random_state=0).fit(x, names)
    assert set(model.predict(x)) <= set(names)
    assert np.allclose(model.predict_proba(x).sum(1), 1)


def test_clone_and_pickle(digits):
    x, y = digits
    model = CNNClassifier(epochs=1, random_state=0).fit(x, y)
    assert not hasattr(clone(model), "net_")
    again = pickle.loads(pickle.dumps(model))
    assert np.array_equal(again.predict_proba(x), model.predict_proba(x))
    assert np.array_equal(clone(model).fit(x, y).predict_proba(x), model.predict_proba(x))


def test_pipeline_search_and_cross_validation(digits):
    x, y = digits
    rows = x.reshape(len(x), -1)
    model = CNNClassifier(image_shape=x.shape[1:], channels=(8,), epochs=2, random_state=0)
    pipeline = make_pipeline(MinMaxScaler(), model)
    search = GridSearchCV(pipeline, {"cnnclassifier__channels": [(4,), (8,)]}, cv=2)
    search.fit(rows, y)
    assert search.best_params_["cnnclassifier__channels"] in [(4,), (8,)]
    assert cross_val_score(model, rows, y, cv=2).shape == (2,)


def test_a_network_of_ones_own(digits):
    x, y = digits

    def network(shape, outputs):
        assert shape == x.shape[1:]
        return pc.nn.Sequential(pc.nn.Flatten(), pc.nn.Linear(x[0].size, outputs))

    model = CNNClassifier(network=network, epochs=2, random_state=0).fit(x, y)
    assert len(model.net_) == 2


def test_random_numbers_outside_go_on_as_they_were(digits):
    x, y = digits
    pc.nn.init.seed(5)
    want = pc.nn.Linear(3, 4).w.value
    pc.nn.init.seed(5)
    CNNClassifier(epochs=1).fit(x, y)
    assert np.array_equal(pc.nn.Linear(3, 4).w.value, want)


def test_regression_of_several_numbers():
    x, y = make_regression(200, 12, n_targets=2, random_state=0)
    model = CNNRegressor(random_state=0).fit(x, y)
    assert model.predict(x).shape == y.shape
    assert model.score(x, y) > 0.9


def test_shapes_that_do_not_fit(digits):
    x, y = digits
    with pytest.raises(ValueError, match="image_shape"):
        CNNClassifier(image_shape=(1, 3, 3)).fit(x.reshape(len(x), -1), y)

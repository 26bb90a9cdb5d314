"""Data sets and their file formats, good and hostile, and what is done to images."""

import gzip
import os
import struct
import tracemalloc

import numpy as np
import pytest

import pyconv as pc
from pyconv import data


def idx(array, *, kind=8, shape=None):
    shape = array.shape if shape is None else shape
    return struct.pack(f">HBB{len(shape)}I", 0, kind, len(shape), *shape) + array.tobytes()


def mnist(folder, count=10, labels=None):
    """A tiny data set in MNIST's four files, the test split compressed."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for prefix, squeeze, end in (("train", bytes, ""), ("t10k", gzip.compress, ".gz")):
        x = rng.integers(0, 256, (count, 28, 28), np.uint8)
        y = np.arange(count, dtype=np.uint8) % 10 if labels is None else labels
        (folder / f"{prefix}-images-idx3-ubyte{end}").write_bytes(squeeze(idx(x)))
        (folder / f"{prefix}-labels-idx1-ubyte{end}").write_bytes(squeeze(idx(y)))


# Digits


def test_digits_are_the_published_ones_and_split_by_class():
    train, test = data.load("digits"), data.load("digits", "test")
    assert train.x.shape == (1438, 1, 8, 8)
    assert test.x.shape == (359, 1, 8, 8)
    assert train.x.dtype == np.uint8
    assert train.y.dtype == np.int64
    assert train.classes == tuple("0123456789")
    counts = np.bincount(np.concatenate([train.y, test.y]))
    # The class counts of the UCI test set
    assert counts.tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert np.abs(np.bincount(test.y) / counts - 0.2).max() < 0.005
    assert data.load("digits", "test").x.tobytes() == test.x.tobytes()


def test_digits_against_scikit_learn():
    datasets = pytest.importorskip("sklearn.datasets")
    x = datasets.load_digits().images
    ours = np.concatenate([data.load("digits").x, data.load("digits", "test").x])[:, 0]
    expected = np.minimum(16 * x, 255).astype(np.uint8)
    assert sorted(image.tobytes() for image in ours) == sorted(
        image.tobytes() for image in expected
    )


# IDX


@pytest.mark.parametrize("squeeze", [bytes, gzip.compress])
def test_idx_is_read(tmp_path, squeeze):
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    path = tmp_path / "file"
    path.write_bytes(squeeze(idx(array)))
    np.testing.assert_array_equal(data.read_idx(path), array)


GOOD = idx(np.arange(6, dtype=np.uint8).reshape(2, 3))
HOSTILE = {
    "empty": (b"", "byte 0, magic"),
    "foreign": (b"PK\3\4" + bytes(20), "byte 0, magic"),
    "float data": (idx(np.zeros(2, np.uint8), kind=0x0D), "byte 2, type: .* got 0d"),
    "no axes": (b"\0\0\x08\0", "byte 3, axes"),
    "255 axes": (b"\0\0\x08\xff" + bytes(2000), "byte 3, axes"),
    "header cut": (GOOD[:7], "sizes: the file ends inside"),
    "data cut": (GOOD[:-1], "means 6 bytes, found 5"),
    "data added": (GOOD + b"x", "means 6 bytes, found more"),
    "claims 1 GB": (idx(np.zeros(2, np.uint8), shape=(2**30,)), "found 2"),
    "claims 2**96": (idx(np.zeros(2, np.uint8), shape=(2**32 - 1,) * 3), "beyond the limit"),
    "bomb": (gzip.compress(idx(np.zeros(10**7, np.uint8), shape=(3,))), "found more"),
    "gzip cut": (gzip.compress(GOOD)[:-9], "damaged gzip"),
    "gzip changed": (gzip.compress(GOOD)[:-5] + b"\1" * 5, "damaged gzip"),
    "gzip of nothing": (gzip.compress(b""), "byte 0, magic"),
    "gzip header only": (b"\x1f\x8b\x08", "damaged gzip"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_idx_files(tmp_path, name):
    content, text = HOSTILE[name]
    path = tmp_path / "file"
    path.write_bytes(content)
    tracemalloc.start()
    with pytest.raises(pc.FormatError, match=text) as error:
        data.read_idx(path)
    assert tracemalloc.get_traced_memory()[1] < 2**23  # what is claimed is not allocated
    tracemalloc.stop()
    assert str(path) in str(error.value)


# Data sets in folders


def test_mnist_and_fashion_are_found_where_they_lie(tmp_path, monkeypatch):
    monkeypatch.delenv("PYCONV_DATA", raising=False)
    mnist(tmp_path / "mnist")
    mnist(tmp_path / "FashionMNIST" / "raw", 20)
    train = data.load("mnist", data_dir=tmp_path)
    assert train.x.shape == (10, 1, 28, 28)
    assert train.y.tolist() == list(range(10))
    monkeypatch.setenv("PYCONV_DATA", str(tmp_path))
    assert len(data.load("fashion", "test")) == 20
    assert data.load("fashion").classes[9] == "ankle boot"


def test_absent_files_are_named_with_a_way_out(tmp_path, monkeypatch):
    monkeypatch.delenv("PYCONV_DATA", raising=False)
    with pytest.raises(FileNotFoundError, match="set PYCONV_DATA, data_dir= or --data-dir"):
        data.load("mnist")
    with pytest.raises(FileNotFoundError, match=r"test_batch\.bin") as error:
        data.load("cifar10", "test", tmp_path)
    assert str(tmp_path) in str(error.value)
    with pytest.raises(FileNotFoundError, match="not a directory"):
        data.load(f"folder:{tmp_path}/absent")
    with pytest.raises(FileNotFoundError, match="no images"):
        data.load(f"folder:{tmp_path}")


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        (np.full(10, 255, np.uint8), "byte 8, label: 255 is not in 0..9"),
        (np.zeros(9, np.uint8), r"\(9,\) labels for 10 images"),
        (np.zeros((10, 1), np.uint8), "labels for 10 images"),
    ],
)
def test_wrong_labels(tmp_path, labels, text):
    mnist(tmp_path, labels=labels)
    with pytest.raises(pc.FormatError, match=text):
        data.load("mnist", data_dir=tmp_path)


def test_images_must_be_images(tmp_path):
    mnist(tmp_path)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(np.zeros(10, np.uint8)))
    with pytest.raises(pc.FormatError, match="expected 3 for images, got 1"):
        data.load("mnist", data_dir=tmp_path)


def test_real_mnist():
    directory = os.environ.get("PYCONV_DATA")
    if directory is None:
        pytest.skip("PYCONV_DATA does not name a folder with MNIST")
    test = data.load("mnist", "test", directory)
    assert test.x.shape == (10_000, 1, 28, 28)
    assert np.bincount(test.y).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


def test_cifar10(tmp_path):
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 256, (4, 3073), np.uint8)
    rows[:, 0] = [9, 0, 3, 1]
    (tmp_path / "test_batch.bin").write_bytes(rows.tobytes())
    test = data.load("cifar10", "test", tmp_path)
    np.testing.assert_array_equal(test.x, rows[:, 1:].reshape(4, 3, 32, 32))
    assert [test.classes[label] for label in test.y] == ["truck", "airplane", "cat", "automobile"]
    (tmp_path / "test_batch.bin").write_bytes(rows.tobytes()[:-1])
    with pytest.raises(pc.FormatError, match="expected 1 to 10000 rows"):
        data.load("cifar10", "test", tmp_path)
    rows[2, 0] = 10
    (tmp_path / "test_batch.bin").write_bytes(rows.tobytes())
    with pytest.raises(pc.FormatError, match="byte 6146, label: 10"):
        data.load("cifar10", "test", tmp_path)


def test_image_folders(tmp_path):
    image = pytest.importorskip("PIL.Image")
    for place, name in enumerate(("cat", "dog")):
        (tmp_path / name).mkdir()
        for i in range(5):
            pixels = np.full((4, 6, 3), 100 * place + i, np.uint8)
            image.fromarray(pixels).save(tmp_path / name / f"{i}.png")
    (tmp_path / "cat" / "notes.txt").write_text("not an image")
    train, test = (data.load(f"folder:{tmp_path}", split) for split in ("train", "test"))
    assert train.classes == ("cat", "dog")
    assert train.x.shape == (8, 3, 4, 6)
    assert test.y.tolist() == [0, 1]
    assert test.x[:, 0, 0, 0].tolist() == [2, 102]
    assert data.read_image(tmp_path / "dog" / "1.png", 1, (2, 3)).tolist() == [[[101] * 3] * 2]
    image.fromarray(np.zeros((4, 5, 3), np.uint8)).save(tmp_path / "cat" / "0.png")
    with pytest.raises(ValueError, match="must have one size"):
        data.load(f"folder:{tmp_path}")
    (tmp_path / "cat" / "0.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(50))
    with pytest.raises(pc.FormatError, match=r"0\.png: not a readable image"):
        data.load(f"folder:{tmp_path}")


def test_an_image_of_too_many_pixels_is_refused(tmp_path):
    pytest.importorskip("PIL")
    path = tmp_path / "huge.pgm"
    path.write_bytes(b"P5 100000 100000 255\n" + bytes(10))
    with pytest.raises(pc.FormatError, match="not a readable image"):
        data.read_image(path)


def test_names_and_splits_are_checked():
    with pytest.raises(ValueError, match="name must be digits"):
        data.load("imagenet")
    with pytest.raises(ValueError, match="split must be"):
        data.load("digits", "validation")
    with pytest.raises(ValueError, match="2 images but 1 labels"):
        data.Dataset(np.zeros((2, 1, 1, 1)), np.zeros(1), ("a",))


# Transforms


def test_fit_size_enlarges_and_centres():
    x = data.load("digits", "test").x
    large = data.fit_size(x, (32, 32))
    np.testing.assert_array_equal(large[:, :, 1::4, 3::4], x)
    framed = data.fit_size(np.ones((1, 1, 28, 27), np.uint8), (32, 32))
    assert framed.sum() == 28 * 27
    assert framed[0, 0, 2:30, 3:30].all()
    with pytest.raises(ValueError, match="larger than"):
        data.fit_size(x, (7, 32))


def test_standardize_gives_mean_0_and_standard_deviation_1():
    x = np.random.default_rng(0).integers(0, 200, (50, 3, 4, 5), np.uint8)
    prepare = data.Standardize.of(x)
    np.testing.assert_allclose(prepare.mean, x.mean((0, 2, 3)))
    np.testing.assert_allclose(prepare.std, x.std((0, 2, 3)))
    y = prepare(x)
    assert y.dtype == np.float32
    np.testing.assert_allclose(y.mean((0, 2, 3)), 0, atol=1e-5)
    assert np.isfinite(data.Standardize.of(np.zeros_like(x))(x)).all()


def test_shift_moves_each_image_as_a_whole():
    x = np.zeros((200, 2, 7, 7), np.uint8)
    x[:, :, 3, 3] = [7, 9]
    moved = data.Shift(2)(x, np.random.default_rng(0))
    assert moved.sum() == x.sum()
    places = {tuple(np.argwhere(image[1] == 9)[0]) for image in moved}
    assert places == {(i, j) for i in range(1, 6) for j in range(1, 6)}
    np.testing.assert_array_equal(moved[:, 0] * 9, moved[:, 1] * 7)

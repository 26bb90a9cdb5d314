"""Data sets and their file formats, good and hostile, and what is done to images."""

import gzip
import hashlib
import io
import os
import pickle
import struct
import tarfile
import tracemalloc
import zipfile

import numpy as np
import pytest

import pyconv as pc
from pyconv import data
from pyconv.data.download import SOURCES, File


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


def pickled(labels, key=b"labels", shape=None, content=None):
    """A batch, its array pickled as NumPy does."""
    x = np.arange(len(labels) * 3072, dtype=np.uint8).reshape(-1, 3072)

    class Made:
        def __reduce__(self):
            state = (1, shape or x.shape, "u1", False, x.tobytes() if content is None else content)
            return np.ndarray, (0,), state

    return x, pickle.dumps({b"data": Made(), key: labels}, protocol=3)


def test_cifar100_in_both_layouts(tmp_path):
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 20, (3, 3074), np.uint8)
    rows[:, 1] = [99, 0, 50]
    (tmp_path / "train.bin").write_bytes(rows.tobytes())
    train = data.load("cifar100", "train", tmp_path)
    assert [train.classes[label] for label in train.y] == ["worm", "apple", "mouse"]
    np.testing.assert_array_equal(train.x.reshape(3, -1), rows[:, 2:])
    x, content = pickled([5, 99], b"fine_labels")
    (tmp_path / "cifar-100-python").mkdir()
    (tmp_path / "cifar-100-python" / "test").write_bytes(content)
    test = data.load("cifar100", "test", tmp_path)
    assert test.y.tolist() == [5, 99]
    np.testing.assert_array_equal(test.x.reshape(2, -1), x)


class Evil:
    def __reduce__(self):
        return os.system, ("touch hacked",)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80\x02",
        pickle.dumps(Evil()),
        pickle.dumps({b"labels": [1], b"data": Evil()}),
        pickle.dumps({b"labels": [1], b"data": b"x" * 3072}),
        pickled([1], shape=(2**40, 3072))[1],
        pickled([1], content=b"short")[1],
        pickled(["one"])[1],
        pickled([10])[1],
        pickled([1])[1][:-40],
        b"\x80\x02N" + b"r\xff\xff\xff\xff.",  # a memo of 2**32 places
    ],
)
def test_pickles_of_anything_else_are_refused_and_never_run(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "test_batch").write_bytes(content)
    with pytest.raises(pc.FormatError, match="test_batch"):
        data.load("cifar10", "test", tmp_path)
    assert not (tmp_path / "hacked").exists()


def test_npz(tmp_path):
    path = tmp_path / "data.npz"
    x = np.random.default_rng(0).integers(0, 256, (10, 5, 4, 3), np.uint8)
    np.savez_compressed(path, x_train=x, y_train=np.arange(10)[:, None], x_test=x[:2, ..., 0],
                        y_test=np.array([1, 0]))  # fmt: skip
    train, test = (data.load(f"npz:{path}", split) for split in ("train", "test"))
    np.testing.assert_array_equal(train.x, x.transpose(0, 3, 1, 2))
    assert train.y.tolist() == list(range(10))
    assert len(train.classes) == 10
    assert test.x.shape == (2, 1, 5, 4)
    np.savez(path, x=x, y=np.arange(10) % 2)
    assert len(data.load(f"npz:{path}", "test")) == 2
    huge = np.lib.format.header_data_from_array_1_0(x) | {"shape": (2**40, 5, 4, 3)}
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, huge)
    for member, text in (
        (header.getvalue() + bytes(100), "claims"),
        (b"no array", "not such an archive"),
    ):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x.npy", member)
        with pytest.raises(pc.FormatError, match=text):
            data.load(f"npz:{path}")
    for arrays in ({"x": x}, {"x": x / 255, "y": np.arange(10)}, {"x": x, "y": np.arange(9)},
                   {"x": np.array([{}]), "y": np.arange(1)}):  # fmt: skip
        np.savez(path, **arrays)
        with pytest.raises(pc.FormatError):
            data.load(f"npz:{path}")
    path.write_bytes(b"PK")
    with pytest.raises(pc.FormatError):
        data.load(f"npz:{path}")


def test_tar_shards_are_read_where_they_lie(tmp_path):
    image = pytest.importorskip("PIL.Image")
    pixels = np.random.default_rng(0).integers(0, 256, (12, 6, 5, 3), np.uint8)
    for shard in range(2):
        with tarfile.open(tmp_path / f"{shard}.tar", "w") as archive:
            for i in range(shard, 12, 2):
                file = io.BytesIO()
                image.fromarray(pixels[i]).save(file, "png")
                split = "test" if i > 9 else "train"
                member = tarfile.TarInfo(f"./set/{split}/{'ab'[i % 3 > 0]}/{i:02d}.png")
                member.size = file.tell()
                file.seek(0)
                archive.addfile(member, file)
    train, test = (data.load(f"tar:{tmp_path}", split) for split in ("train", "test"))
    order = [*range(0, 10, 2), *range(1, 10, 2)]
    assert train.x.shape == (10, 3, 6, 5)
    assert train.y.tolist() == [int(i % 3 > 0) for i in order]
    expected = pixels[order].transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(train.x[:], expected)
    np.testing.assert_array_equal(train.x[np.array([7, 0, 3])], expected[[7, 0, 3]])
    np.testing.assert_array_equal(train.x[4], expected[4])
    np.testing.assert_array_equal(train.x.mapped(lambda x: x[..., 1:])[2:4], expected[2:4, ..., 1:])
    assert len(test) == 2
    assert data.Standardize.of(train.x) == data.Standardize.of(expected)
    with tarfile.open(tmp_path / "packed.tar", "w:gz") as archive:
        archive.add(tmp_path / "0.tar", "a/0.png")
    with pytest.raises(pc.FormatError, match="not an uncompressed tar"):
        data.load(f"tar:{tmp_path / 'packed.tar'}")
    with tarfile.open(tmp_path / "bad.tar", "w") as archive:
        archive.add(tmp_path / "0.tar", "a/0.png")
    with pytest.raises(pc.FormatError, match=r"bad\.tar: byte \d+: not a readable image"):
        data.load(f"tar:{tmp_path / 'bad.tar'}", "train")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(FileNotFoundError, match="no images"):
        data.load(f"tar:{empty}")


def test_shards_are_the_whole():
    train = data.load("digits")
    shards = [train.shard(i, 3) for i in range(3)]
    assert sum(map(len, shards)) == len(train)
    np.testing.assert_array_equal(shards[1].x, train.x[1::3])
    with pytest.raises(ValueError, match="index must be in 0"):
        train.shard(3, 3)


# Downloads


def served(tmp_path, monkeypatch, name, files):
    """Publish files at file: addresses, with their digests."""
    published = []
    for file, content in files.items():
        (tmp_path / file).write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        published.append(File(f"{tmp_path.as_uri()}/{file}", digest, "there"))
    monkeypatch.setitem(SOURCES, name, published)


def test_downloads_are_checked_and_unpacked(tmp_path, monkeypatch, capsys):
    rows = np.zeros((2, 3074), np.uint8)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name in ("cifar-100-binary/train.bin", "../../test.bin", "../evil", "/etc/evil"):
            member = tarfile.TarInfo(name)
            member.size = rows.nbytes
            archive.addfile(member, io.BytesIO(rows.tobytes()))
    (tmp_path / "site").mkdir()
    target = tmp_path / "target"
    served(tmp_path / "site", monkeypatch, "cifar100", {"c.tar.gz": packed.getvalue()})
    data.download("cifar100", target)
    assert sorted(p.name for p in (target / "there").iterdir()) == ["test.bin", "train.bin"]
    (tmp_path / "site" / "c.tar.gz").write_bytes(packed.getvalue() + b"x")
    with pytest.raises(pc.FormatError, match="not the published file"):
        data.download("cifar100", tmp_path / "other")
    assert not list((tmp_path / "other" / "there").iterdir())


def test_without_a_network_the_way_out_is_told(tmp_path, monkeypatch):
    absent = File("http://127.0.0.1:9/cifar.tar.gz", "0" * 64, "there")
    monkeypatch.setitem(SOURCES, "cifar10", [absent])
    with pytest.raises(ConnectionError, match="where there is no network, put that file"):
        data.load("cifar10", data_dir=tmp_path, fetch=True)
    monkeypatch.delenv("PYCONV_DATA", raising=False)
    with pytest.raises(ValueError, match="no directory"):
        data.download("mnist")
    with pytest.raises(ValueError, match="name must be one of mnist"):
        data.download("imagenet", tmp_path)

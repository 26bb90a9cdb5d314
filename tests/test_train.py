"""Training: it learns, repeats itself bit for bit, survives interruption; files and faults."""

import csv
import hashlib
import json
import pickle
import re
import sys

import numpy as np
import pytest

import pyconv as pc
from pyconv import data, nn, optim
from pyconv.nn.files import read, write
from pyconv.train import Callback, History, Progress, Trainer

safetensors = pytest.importorskip("safetensors.numpy")


def small_net(seed=0):
    nn.init.seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.1),
        nn.Linear(36, 10),
    )


def small_trainer(**options):
    net = small_net()
    given = {"batch_size": 50, "augment": data.Shift(1)} | options
    return Trainer(net, optim.AdamW(net.parameters(), optim.cosine(0.02, 240)), **given)


def bits(*arrays):
    return hashlib.sha256(b"".join(np.ascontiguousarray(a).tobytes() for a in arrays)).hexdigest()


def state_bits(trainer):
    state = trainer.net.state_dict() | trainer.optimizer.state_dict()
    return bits(*(state[name] for name in sorted(state)))


class StopAt(Callback):
    def __init__(self, step):
        self.step = step

    def on_step(self, trainer, loss):
        if trainer.optimizer.steps == self.step:
            trainer.stop()


@pytest.fixture(scope="module")
def digits():
    return data.load("digits"), data.load("digits", "test")


def test_it_learns(digits):
    trainer = small_trainer(augment=None, batch_size=25)
    history = trainer.fit(*digits, epochs=4)
    assert history["val_accuracy"][-1] > 0.9
    assert history["loss"][-1] < 0.5 * history["loss"][0]
    found = trainer.evaluate(digits[1])
    assert found["accuracy"] == history["val_accuracy"][-1]
    guesses = trainer.predict(digits[1].x).argmax(1)
    assert found["accuracy"] == (guesses == digits[1].y).mean()
    assert not trainer.net.training


def test_regression_with_another_loss():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 3)).astype(np.float32)
    y = x @ np.array([[1], [-2], [0.5]], np.float32)
    nn.init.seed(0)
    net = nn.Linear(3, 1)
    trainer = Trainer(net, optim.SGD(net.parameters(), 0.1), loss=nn.mse, batch_size=16)
    history = trainer.fit((x, y), epochs=30)
    assert "accuracy" not in history.rows[0]
    np.testing.assert_allclose(net.w.value, [[1, -2, 0.5]], atol=1e-3)


def test_the_same_seed_gives_the_same_bits_for_any_number_of_threads(digits, threads):
    found = set()
    for count in (1, 2, 3):
        threads(count)
        trainer = small_trainer()
        trainer.fit(digits[0], epochs=1)
        found.add((state_bits(trainer), bits(trainer.predict(digits[1].x))))
    assert len(found) == 1
    other = small_trainer(seed=1)
    other.fit(digits[0], epochs=1)
    assert state_bits(other) not in {state for state, _ in found}


def test_an_images_result_does_not_depend_on_its_batch(digits):
    net = pc.models.lenet5().eval()
    x = data.fit_size(digits[1].x[:9], (32, 32)).astype(np.float32)
    with nn.no_grad():
        whole = net(x)
        for i in range(9):
            np.testing.assert_array_equal(net(x[i : i + 1])[0], whole[i])


@pytest.mark.parametrize("step", [29, 40])  # the end of an epoch, and the middle of one
def test_a_resumed_run_equals_an_uninterrupted_one(digits, tmp_path, step):
    whole = small_trainer()
    whole.fit(*digits, epochs=2)
    first = small_trainer(callbacks=[StopAt(step)])
    first.fit(*digits, epochs=2)
    assert first.optimizer.steps == step
    first.save(tmp_path / "state")
    second = small_trainer()
    second.load(tmp_path / "state")
    second.fit(*digits, epochs=2 - second.epoch)
    assert state_bits(second) == state_bits(whole)
    for name in ("loss", "accuracy", "val_loss", "val_accuracy", "lr", "steps"):
        assert second.history[name] == whole.history[name]


def test_stopped_before_it_begins_it_does_nothing(digits):
    trainer = small_trainer()
    trainer.stop()
    assert len(trainer.fit(digits[0])) == trainer.optimizer.steps == 0
    assert len(trainer.fit(digits[0])) == 1


def test_resuming_checks_what_it_resumes(digits, tmp_path):
    small_trainer().save(tmp_path / "state")
    with pytest.raises(ValueError, match="batch_size is 50 there and 10 here"):
        small_trainer(batch_size=10).load(tmp_path / "state")
    with pytest.raises(ValueError, match="seed is 0 there and 5 here"):
        small_trainer(seed=5).load(tmp_path / "state")
    write(tmp_path / "cut", {}, {"trainer": small_trainer()._identity()})
    with pytest.raises(pc.FormatError, match="not a training state"):
        small_trainer().load(tmp_path / "cut")
    pc.save(small_net(), tmp_path / "net")
    with pytest.raises(pc.FormatError, match="holds no training state"):
        small_trainer().load(tmp_path / "net")


def test_a_loss_that_is_not_finite_stops_before_it_does_harm(digits):
    trainer = small_trainer()
    trainer.fit(digits[0], epochs=1)
    x = digits[0].x.astype(np.float32)
    trainer.augment = None
    x[np.random.default_rng((0, 0, 1)).permutation(len(x))[10]] = np.nan
    with pytest.raises(FloatingPointError, match="loss is nan in epoch 2, step 30, batch 1"):
        trainer.fit((x, digits[0].y), epochs=1)
    parameters = [p.value for p in trainer.net.parameters().values()]
    assert all(np.isfinite(value).all() for value in parameters)
    assert trainer.optimizer.steps == 29


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"device": "tpu"}, "device must be 'cpu'"),
        ({"batch_size": 0}, "batch_size"),
        ({"seed": -1}, "seed"),
    ],
)
def test_wrong_options(options, text):
    with pytest.raises(ValueError, match=text):
        small_trainer(**options)


def test_wrong_examples():
    with pytest.raises(ValueError, match="nothing to train on"):
        small_trainer().fit((np.zeros((0, 1, 8, 8), np.uint8), np.zeros(0, np.int64)))
    with pytest.raises(ValueError, match="2 inputs but 1 targets"):
        small_trainer().fit((np.zeros((2, 1, 8, 8), np.uint8), np.zeros(1, np.int64)))


@pytest.mark.parametrize("installed", [True, False])
def test_progress_prints_a_line_an_epoch(digits, capsys, monkeypatch, installed):
    if not installed:
        monkeypatch.setitem(sys.modules, "tqdm", None)
    small_trainer(callbacks=[Progress()], batch_size=200).fit(*digits, epochs=2)
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith("epoch 1/2  loss ")
    assert re.fullmatch(
        r"epoch 2/2  loss [\d.]+  accuracy +[\d.]+ %  "
        r"test loss [\d.]+  test accuracy +[\d.]+ %  [\d.]+ s",
        last,
    )


def test_history_files(tmp_path):
    history = History([{"epoch": 1, "loss": 0.1}, {"epoch": 2, "loss": 1 / 3, "val_loss": 0.2}])
    history.write(tmp_path)
    assert json.loads((tmp_path / "history.json").read_text()) == history.rows
    with open(tmp_path / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert float(rows[1]["loss"]) == 1 / 3
    assert rows[0]["val_loss"] == ""


# Files


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_save_and_load(tmp_path, dtype, digits):
    net = pc.models.resnet20(channels=1).to(dtype)
    x = np.random.default_rng(0).normal(size=(2, 1, 32, 32)).astype(dtype)
    net(x)  # moves the running statistics
    pc.save(net, tmp_path / "net.safetensors")
    again = pc.load(tmp_path / "net.safetensors")
    assert again.architecture() == net.architecture()
    for name, value in net.state_dict().items():
        np.testing.assert_array_equal(again.state_dict()[name], value)
        assert again.state_dict()[name].dtype == dtype
    np.testing.assert_array_equal(again(x), net.eval()(x))
    pc.save(again, tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (
        tmp_path / "net.safetensors"
    ).read_bytes()


class Doubled(nn.Layer):
    """A layer that this module adds."""

    def __init__(self, times=2):
        self.times = times

    def forward(self, x):
        return self.times * x

    def backward(self, dy):
        return self.times * dy


def test_layers_of_ones_own_are_saved_too(tmp_path):
    pc.save(nn.Sequential(Doubled(3)), tmp_path / "net")
    assert pc.load(tmp_path / "net")(np.ones(1)) == 3
    registry = nn.Layer.registry
    name = next(key for key in registry if key.endswith("Doubled"))
    own = registry.pop(name)
    with pytest.raises(pc.FormatError, match="unknown layer type"):
        pc.load(tmp_path / "net")
    registry[name] = own


def test_every_changed_byte_and_every_cut_is_found(tmp_path):
    path = tmp_path / "net"
    pc.save(nn.Sequential(nn.Linear(3, 2), nn.Tanh()), path)
    content = path.read_bytes()
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 1 << place % 8
        path.write_bytes(changed)
        with pytest.raises(pc.FormatError):
            pc.load(path)
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(pc.FormatError):
            pc.load(path)
    path.write_bytes(content + b"\0")
    with pytest.raises(pc.FormatError):
        pc.load(path)


def described(**changes):
    return nn.Linear(3, 2).architecture() | changes


LINEAR = {"w": np.zeros((2, 3), np.float32), "b": np.zeros(2, np.float32)}
FOREIGN = {
    "no layer": ({}, {"architecture": 3}, "must be an object"),
    "no network": ({}, {}, "holds no network"),
    "unknown": ({}, {"architecture": {"type": "os.system"}}, "unknown layer type"),
    "abstract": ({}, {"architecture": {"type": "Layer"}}, "unknown layer type"),
    "arguments": (LINEAR, {"architecture": {"type": "Linear"}}, "takes in_features"),
    "shape": (LINEAR, {"architecture": described(in_features=4)}, r"w must be \(2, 4\)"),
    "missing": ({"w": LINEAR["w"]}, {"architecture": described()}, "missing b"),
    "extra": (LINEAR | {"c": np.zeros(1)}, {"architecture": described()}, "float32 or all"),
    "integers": (
        {name: value.astype(np.int32) for name, value in LINEAR.items()},
        {"architecture": described()},
        "float32 or all float64",
    ),
    "huge": (LINEAR, {"architecture": described(in_features=2**40)}, "w must be"),
    "wraps": (LINEAR, {"architecture": described(in_features=2**62)}, "net"),
    "huge, once masked": (
        LINEAR,
        {
            "architecture": nn.Conv2d(1, 1, 1, connections=((1,),)).architecture()
            | {"kernel_size": [2**16, 2**16]}
        },
        "w must be",
    ),
    "huge, once scaled": (
        {"w": np.ones(1, np.float32), "b": np.ones(1, np.float32)},
        {"architecture": nn.SubSample2d(1).architecture() | {"channels": 2**33}},
        "w must be",
    ),
    "negative": (LINEAR, {"architecture": described(in_features=-3)}, "at least 1"),
    "text": (LINEAR, {"architecture": described(in_features="3")}, "net"),
    "null": (LINEAR, {"architecture": described(out_features=None)}, "net"),
    "no child": (
        {},
        {"architecture": {"type": "Sequential", "layers": [1], "named": {}}},
        "not a Layer",
    ),
    "no list": ({}, {"architecture": {"type": "Sequential", "layers": 1, "named": {}}}, "net"),
    "bad names": ({}, {"architecture": {"type": "Sequential", "layers": [], "named": 3}}, "net"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_architectures(tmp_path, name):
    tensors, header, text = FOREIGN[name]
    write(tmp_path / "net", tensors, header)
    with pytest.raises(pc.FormatError, match=text):
        pc.load(tmp_path / "net")


def test_deeply_nested_architectures_are_refused(tmp_path):
    inner = {"type": "Tanh"}
    for _ in range(400):
        inner = {"type": "Residual", "body": inner, "shortcut": None}
    write(tmp_path / "net", {}, {"architecture": inner})
    with pytest.raises(pc.FormatError):
        pc.load(tmp_path / "net")


def test_foreign_files(tmp_path):
    path = tmp_path / "net"
    for content in (
        b"",
        b"\0" * 7,
        b"\xff" * 100,
        pickle.dumps({"w": np.zeros(3)}),
        safetensors.save({"w": np.zeros(3)}),
        safetensors.save({"w": np.zeros(3)}, {"pyconv": "no JSON"}),
        safetensors.save({"w": np.zeros(3)}, {"pyconv": "[]"}),
        safetensors.save({"w": np.zeros(3)}, {"pyconv": '{"sha256": 3, "format": 1}'}),
    ):
        path.write_bytes(content)
        with pytest.raises(pc.FormatError, match=str(path)):
            pc.load(path)
    write(path, {}, {"format": 99})
    with pytest.raises(pc.FormatError, match="format 99; this version of pyconv reads 1"):
        pc.load(path)
    with pytest.raises(FileNotFoundError):
        pc.load(tmp_path / "absent")


def test_a_failed_save_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "net"
    pc.save(nn.Linear(2, 2), path)
    before = path.read_bytes()

    def fail(*arguments):
        raise OSError(28, "No space left on device")

    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(f"os.{name}", fail)
            with pytest.raises(OSError, match="No space left"):
                pc.save(nn.Linear(3, 3), path)
        assert path.read_bytes() == before
        assert list(tmp_path.iterdir()) == [path]
    tensors, header = read(path)
    assert header["architecture"]["type"] == "Linear"
    assert tensors["w"].shape == (2, 2)

"""What a training run may have beside the plain loop: averages, parts, clipping, logs, faults."""

import json
import math
import os
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import numpy as np
import pytest
from test_train import StopAt, small_net, state_bits

import pyconv as pc
from pyconv import data, nn, optim
from pyconv.nn.models import CATALOGUE
from pyconv.train import (
    Average,
    Callback,
    Checkpoint,
    EarlyStopping,
    Log,
    Lookahead,
    TensorBoard,
    Trainer,
    watched,
)
from pyconv.train.build import make_trainer
from pyconv.train.config import Config
from pyconv.train.whiten import whiten

pytest.importorskip("safetensors.numpy")


@pytest.fixture(scope="module")
def digits():
    return data.load("digits"), data.load("digits", "test")


def full_trainer(**options):
    """Everything at once."""
    net = small_net()
    groups = [optim.Group("*.b", lr=4, weight_decay=0), optim.Group("0.w", steps=40)]
    optimizer = optim.Muon(net.parameters(), optim.one_cycle(0.02, 60), groups=groups, adamw=["6*"])
    augment = data.Chain(data.AlternatingFlip(), data.Shift(1, "reflect"), data.Mixup(0.4, 10))
    given = {
        "batch_size": 50,
        "augment": augment,
        "parts": 2,
        "clip": 1.0,
        "average": Lookahead(steps=58, every=3),
    }
    return Trainer(net, optimizer, **given | options)


@pytest.mark.parametrize("average", [Average(0.99), Lookahead(steps=58, every=3)])
def test_resuming_continues_bit_for_bit_with_everything(digits, tmp_path, threads, average):
    def trainer(**options):
        return full_trainer(average=type(average)(**{**vars(average), "state": {}}), **options)

    whole = trainer()
    whole.fit(*digits, epochs=2)
    threads(1)
    first = trainer(callbacks=[StopAt(41)])
    first.fit(*digits, epochs=2)
    first.save(tmp_path / "state")
    second = trainer()
    second.load(tmp_path / "state")
    second.fit(*digits, epochs=1)
    assert state_bits(second) == state_bits(whole)
    for name, value in whole.average.state.items():
        np.testing.assert_array_equal(second.average.state[name], value)
    for name in ("loss", "accuracy", "val_loss", "val_accuracy", "lr"):
        assert second.history[name] == whole.history[name]
    with pytest.raises(ValueError, match="average is"):
        full_trainer(average=None).load(tmp_path / "state")


def test_the_average_follows_its_formula_and_is_what_is_evaluated():
    nn.init.seed(0)
    net = nn.Linear(2, 1)
    x, y = np.ones((64, 2), np.float32), np.ones((64, 1), np.float32)
    seen = [net.w.value.astype(np.float64)]

    class See(Callback):
        def on_step(self, trainer, loss):
            seen.append(net.w.value.astype(np.float64))

    optimizer = optim.SGD(net.parameters(), 0.1)
    trainer = Trainer(
        net, optimizer, loss=nn.mse, batch_size=4, callbacks=[See()], average=Average(0.5)
    )
    trainer.fit((x, y), epochs=1)
    expected = seen[0]
    for step, w in enumerate(seen[1:], 1):
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * w
    with trainer.averaged():
        np.testing.assert_allclose(net.w.value, expected, rtol=1e-6)
        loss = nn.mse(net(x), y)[0]
    np.testing.assert_array_equal(net.w.value, seen[-1])
    assert trainer.evaluate((x, y))["loss"] == pytest.approx(loss, rel=1e-6)


def test_lookahead_leaves_the_network_at_its_average():
    net = nn.Linear(2, 1)
    average = Lookahead(decay=0.5, steps=4, every=2)
    average.begin(net)
    start = net.w.value.copy()
    for step in range(1, 5):
        net.w.value += 1
        average.update(net, step)
        if step == 2:
            decay = 0.5 * (2 / 4) ** 3
            np.testing.assert_allclose(net.w.value, start + 2 * (1 - decay), rtol=1e-6)
    np.testing.assert_array_equal(net.w.value, average.state["w"])


def test_parts_add_up_to_the_whole_batch():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(70, 5)), rng.integers(0, 3, 70)
    found = []
    for parts in (1, 3, 7):
        nn.init.seed(1)
        net = nn.Linear(5, 3).to(np.float64)
        trainer = Trainer(net, optim.SGD(net.parameters(), 0.5), batch_size=32, parts=parts)
        history = trainer.fit((x, y), epochs=2)
        found.append((net.w.value, history["loss"], history["accuracy"]))
    for w, loss, accuracy in found[1:]:
        np.testing.assert_allclose(w, found[0][0], rtol=1e-12)
        np.testing.assert_allclose(loss, found[0][1], rtol=1e-12)
        assert accuracy == found[0][2]
    with pytest.raises(ValueError, match="parts must be 1 to batch_size"):
        Trainer(net, optim.SGD({}, 0.1), batch_size=4, parts=5)


def test_clipping_limits_a_step_and_refuses_what_is_not_finite():
    net = nn.Linear(2, 1)
    before = net.w.value.copy()
    trainer = Trainer(net, optim.SGD(net.parameters(), 1.0), loss=nn.mse, clip=0.01)
    trainer.fit((np.full((8, 2), 1e3, np.float32), np.zeros((8, 1), np.float32)))
    assert np.linalg.norm(net.w.value - before) <= 0.0101
    net.w.value[...] = 1
    x = np.full((1, 2), 1e19, np.float32)  # its square is finite in float64, not in float32
    trainer.loss = lambda y, target: (0.0, np.full_like(y, 1e30))
    with np.errstate(over="ignore"), pytest.raises(FloatingPointError, match="the gradient of w"):
        trainer.fit((x, np.zeros((1, 1), np.float32)))
    np.testing.assert_array_equal(net.w.value, 1)


@pytest.mark.parametrize(
    ("place", "text"),
    [
        (None, "the input"),
        ("3.w", "the weights 3.w"),
        ("1", r"the output of layer 1 \(Overflow\)"),
        ("block.1", r"the output of layer block.1 \(Overflow\)"),
    ],
)
def test_the_first_bad_layer_is_named(place, text):
    class Overflow(nn.Layer):
        def forward(self, x):
            return x * np.float32(np.inf) if self.bad else x

        bad = False

    net = nn.Sequential(
        nn.Conv2d(1, 2, 3),
        Overflow(),
        nn.Flatten(),
        nn.Linear(8, 3),
        block=nn.Sequential(nn.ReLU(), Overflow()),
    )
    x = np.random.default_rng(0).normal(size=(4, 1, 4, 4)).astype(np.float32)
    if place is None:
        x[2, 0, 1, 1] = np.nan
    elif place.endswith("w"):
        net.parameters()[place].value[0, 0] = np.nan
    else:
        dict(net.modules())[place].bad = True
    trainer = Trainer(net, optim.SGD(net.parameters(), 0.1))
    with np.errstate(all="ignore"), pytest.raises(FloatingPointError, match=f"first: {text}"):
        trainer.fit((x, np.zeros(4, np.int64)))


def test_a_bad_run_keeps_the_last_good_checkpoint(digits, tmp_path):
    class Poison(data.Augmentation):
        def on_batch(self, batch):
            return batch if batch.epoch < 1 else data.Batch(
                batch.x * np.float32(np.nan), batch.y, batch.index, batch.epoch, batch.rng
            )  # fmt: skip

    trainer = full_trainer(augment=Poison(), callbacks=[Checkpoint(tmp_path)])
    with np.errstate(all="ignore"), pytest.raises(FloatingPointError, match="first: the input"):
        trainer.fit(*digits, epochs=3)
    again = full_trainer()
    again.load(tmp_path / "checkpoint.safetensors")
    assert again.epoch == 1
    assert all(np.isfinite(v).all() for v in again.net.state_dict().values())
    with np.errstate(all="ignore"), again.averaged():
        assert again.evaluate(digits[1])["loss"] < math.inf


def test_watching_sees_every_layer_and_leaves_no_trace():
    net = pc.models.resnet20(channels=1)
    before = {name: set(vars(layer)) for name, layer in net.modules()}
    seen = []
    with watched(net, lambda name, layer, y, seconds: seen.append((name, y.shape, seconds))):
        net(np.zeros((2, 1, 32, 32), np.float32))
    leaves = [name for name, layer in net.modules() if not layer.children()]
    names = [name for name, _, _ in seen]
    assert len(set(names)) == len(names)
    convolutions = {n for n, layer in net.modules() if isinstance(layer, nn.Conv2d)}
    assert convolutions <= set(names) <= set(leaves)
    assert all(seconds >= 0 for _, _, seconds in seen)
    assert {name: set(vars(layer)) - {"_kept"} for name, layer in net.modules()} == {
        name: found - {"_kept"} for name, found in before.items()
    }


# Callbacks


def with_history(column, values):
    trainer = full_trainer()
    trainer.history.rows = [{column: value} for value in values]
    return trainer


@pytest.mark.parametrize(
    ("column", "values", "stops"),
    [
        ("val_loss", [3, 2, 2.5], False),
        ("val_loss", [3, 2, 2.5, 2.1], True),
        ("val_loss", [3, 2, 2.5, 1.9], False),
        ("val_accuracy", [0.5, 0.7, 0.6, 0.7], True),
        ("val_accuracy", [0.5, 0.7, 0.6, 0.8], False),
    ],
)
def test_early_stopping(column, values, stops):
    trainer = with_history(column, values)
    EarlyStopping(2, column).on_epoch(trainer, {})
    assert trainer.stopped == stops


def test_a_run_stopped_early_stays_stopped_when_resumed(digits):
    trainer = full_trainer(callbacks=[EarlyStopping(1, "loss")])
    trainer.history.rows = [{"loss": 1.0}, {"loss": 2.0}]
    assert len(trainer.fit(digits[0], epochs=2)) == 2
    with pytest.raises(ValueError, match="patience"):
        EarlyStopping(0)


def test_the_log_has_a_line_for_steps_and_epochs_and_none_twice(digits, tmp_path):
    first = full_trainer(callbacks=[Log(tmp_path, 2), StopAt(41)])
    first.fit(*digits, epochs=2)
    first.save(tmp_path / "state")
    with open(tmp_path / "log.jsonl", "a") as file:
        file.write('{"step": 44, "loss": 0.1}\n{"step": 4')  # the process was killed here
    second = full_trainer(callbacks=[Log(tmp_path, 2)])
    second.load(tmp_path / "state")
    second.fit(*digits, epochs=1)
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "epoch" not in row] == list(range(2, 59, 2))
    assert [row["epoch"] for row in rows if "epoch" in row] == [1, 2]
    assert [r["val_loss"] for r in rows if "epoch" in r] == second.history["val_loss"]


def test_tensorboard(digits, tmp_path, monkeypatch):
    pytest.importorskip("tensorboardX")
    full_trainer(callbacks=[TensorBoard(tmp_path)]).fit(*digits, epochs=1)
    (events,) = tmp_path.glob("events.out.tfevents.*")
    content = events.read_bytes()
    for tag in (b"step/loss", b"epoch/val_accuracy", b"epoch/lr"):
        assert tag in content


def test_tensorboard_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ImportError, match="pyconv-engine\\[tensorboard\\]"):
        TensorBoard(tmp_path)


def test_checkpoints_within_long_epochs_and_no_stale_files(digits, tmp_path):
    stale = tmp_path / ".checkpoint.safetensors.0123.tmp"
    stale.write_bytes(b"half")
    full_trainer(callbacks=[Checkpoint(tmp_path, seconds=0), StopAt(3)]).fit(digits[0])
    assert not stale.exists()
    again = full_trainer()
    again.load(tmp_path / "checkpoint.safetensors")
    assert (again.epoch, again.position) == (0, 3)


# Prefetching


def test_prefetching_keeps_order_and_errors_and_ends_with_its_reader():
    assert list(data.prefetch(iter(range(100)), depth=3)) == list(range(100))
    closed = []

    def items(fail):
        try:
            for i in range(1000):
                if i == fail:
                    raise ZeroDivisionError("in the thread")
                yield i
        finally:
            closed.append(True)

    got = []
    with pytest.raises(ZeroDivisionError, match="in the thread"):
        got.extend(data.prefetch(items(5)))
    reader = data.prefetch(items(None))
    assert next(reader) == 0
    reader.close()
    time.sleep(0.01)
    assert len(closed) >= 1


# kill -9

WRITER = """
import os, signal, sys, time
import numpy as np
import pyconv as pc
from pyconv import nn

path = sys.argv[1]
rng = np.random.default_rng(0)
pc.save(nn.Linear(100, 100), path)
loaded = set()
for kill in range(200):
    child = os.fork()
    if not child:
        net = nn.Linear(100, 100)
        while True:
            net.b.value[...] = kill
            pc.save(net, path)
    time.sleep(rng.uniform(0.001, 0.03))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    found = pc.load(path).b.value
    assert (found == found[0]).all()
    loaded.add(float(found[0]))
print(len(loaded))
"""


def test_killed_at_any_moment_the_file_loads(tmp_path, child_environment):
    done = subprocess.run(
        [sys.executable, "-P", "-W", "ignore", "-c", WRITER, str(tmp_path / "net")],
        capture_output=True,
        text=True,
        timeout=120,
        env=child_environment,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 20  # the writers did write
    assert any(name.endswith(".tmp") for name in os.listdir(tmp_path))  # and were killed doing so


# Settings


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"schedule": "square"}, "schedule must be one of constant, step"),
        ({"lr": -1.0}, "lr must be at least 0, got -1.0"),
        ({"lr": math.nan}, "lr must be at least 0, got nan"),
        ({"group": ("x lr",)}, "group must be 'PATTERN lr=F"),
        ({"group": ("x speed=2",)}, "group must be 'PATTERN lr=F"),
        ({"group": ("x lr=fast",)}, "group must be 'PATTERN lr=F"),
    ],
)
def test_settings_are_checked(given, text):
    with pytest.raises(ValueError, match=text):
        Config.of(given)


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parents[1] / "benchmarks" / "recipes").glob("*.toml")), ids=str
)
def test_recipes_make_trainers(path):
    given = tomllib.loads(path.read_text())
    config = Config.of(given | {"group": tuple(given.get("group", ()))})
    x = np.random.default_rng(0).integers(0, 256, (64, 3, 32, 32), np.uint8)
    train = data.Dataset(x, np.arange(64) % 10, tuple("0123456789"))
    trainer = make_trainer(config, train, CATALOGUE[config.model].size)
    decayed = [n for n, g in trainer.optimizer.groups.items() if g.weight_decay == 1]
    assert decayed
    assert (len(decayed) < len(trainer.optimizer.groups)) == bool(config.group)


def test_whitened_patches_have_unit_variance_and_no_correlation(threads):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 3, 9, 8)).cumsum(3).cumsum(2).astype(np.float32)
    found = set()
    for count in (1, 2):
        threads(count)
        layer = nn.Conv2d(3, 24, 2)
        whiten(layer, x, eps=0.0)
        found.add(layer.w.value.tobytes())
    assert len(found) == 1
    assert not layer.w.trainable
    y = layer(x).transpose(1, 0, 2, 3).reshape(24, -1)[:12].astype(np.float64)
    np.testing.assert_allclose(y @ y.T / y.shape[1], np.eye(12), atol=1e-3)
    with pytest.raises(ValueError, match="must have 24 filters, twice the numbers"):
        whiten(nn.Conv2d(3, 8, 2), x)

"""The command `pyconv`, as a user starts it."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib

import numpy as np
import pytest

import pyconv as pc
from pyconv import _gpu
from pyconv.cli import main

for needed in ("safetensors", "matplotlib", "PIL.Image"):
    pytest.importorskip(needed)

SHORT = ("--model", "lenet5_modern", "--epochs", "2", "--seed", "3")


def pyconv(*arguments, cwd=None, **environment):
    return subprocess.run(
        [sys.executable, "-P", "-W", "error", "-m", "pyconv", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=cwd,
        env={**os.environ, **environment},
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A short run, and what it printed."""
    folder = tmp_path_factory.mktemp("cli")
    done = pyconv("train", *SHORT, "--threads", "1", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "runs" / "lenet5_modern-digits", done.stdout


def test_train_leaves_all_its_files(trained):
    directory, text = trained
    assert {path.name for path in directory.iterdir()} == {
        "model.safetensors",
        "checkpoint.safetensors",
        "previous.safetensors",
        "config.json",
        "history.csv",
        "history.json",
        "log.jsonl",
        "curves.png",
        "confusion.png",
        "filters.png",
    }
    rows = json.loads((directory / "history.json").read_text())
    accuracy = float(re.search(r"^test accuracy ([\d.]+) %", text, re.MULTILINE)[1])
    assert accuracy == round(100 * rows[-1]["val_accuracy"], 2) > 80
    for name in ("curves", "confusion", "filters"):
        assert (directory / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_the_number_of_threads_changes_no_bit(trained, tmp_path):
    done = pyconv("train", *SHORT, "--threads", "2", "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    for name in ("model.safetensors",):
        assert (tmp_path / "run" / name).read_bytes() == (trained[0] / name).read_bytes()


def test_eval_prints_what_training_printed(trained, capsys):
    directory, text = trained
    assert main(["eval", str(directory)]) == 0
    assert capsys.readouterr().out.strip() in text


def test_predict_recognises_digits(trained, tmp_path, capsys):
    from PIL import Image

    test = pc.data.load("digits", "test")
    files = [str(tmp_path / f"{i}.png") for i in range(20)]
    for file, image in zip(files, test.x, strict=False):
        Image.fromarray(image[0]).save(file)
    assert main(["predict", str(trained[0]), *files]) == 0
    lines = capsys.readouterr().out.splitlines()
    guesses = [line.split()[1] for line in lines]
    assert np.mean([g == test.classes[y] for g, y in zip(guesses, test.y, strict=False)]) >= 0.8
    assert main(["predict", str(trained[0]), str(trained[0] / "history.csv")]) == 1
    assert "not a readable image" in capsys.readouterr().err


def test_summary_of_a_model_and_of_a_run(trained, capsys):
    assert main(["summary", "lenet5"]) == 0
    assert "60,850" in capsys.readouterr().out
    assert main(["summary", str(trained[0])]) == 0
    assert "61,706" in capsys.readouterr().out
    assert main(["summary", "lenet6"]) == 1
    assert "'lenet6' is no run and none of lenet5" in capsys.readouterr().err


def test_report_is_one_file_with_everything(trained, capsys):
    assert main(["report", str(trained[0])]) == 0
    text = (trained[0] / "report.html").read_text()
    (trained[0] / "report.html").unlink()
    for title in ("Curves", "Confusion", "Worst mistakes", "filters", "Feature maps", "Fergus",
                  "Time of each layer", "Settings"):  # fmt: skip
        assert title in text
    assert text.count("data:image/png") > 40
    assert not re.search(r"(src|href)=.?https?:", text)


def test_info(capsys):
    assert main(["info"]) == 0
    assert pc.__version__ in capsys.readouterr().out


def test_ctrl_c_saves_and_resume_gives_the_same_bits(trained, tmp_path):
    run = tmp_path / "run"
    command = [sys.executable, "-P", "-m", "pyconv", "train", *SHORT, "--out", str(run)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (run / "checkpoint.safetensors").exists() and time.monotonic() < deadline:
        time.sleep(0.002)  # the first of two epochs
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "stopped by SIGINT; state saved" in errors
    assert not (run / "model.safetensors").exists()
    done = pyconv("train", "--resume", "--out", run)
    assert done.returncode == 0, done.stderr
    assert (run / "model.safetensors").read_bytes() == (
        trained[0] / "model.safetensors"
    ).read_bytes()


def test_resume_goes_on_from_the_checkpoint_before_a_damaged_one(trained, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(trained[0], run)
    whole = (run / "checkpoint.safetensors").read_bytes()
    before = (run / "previous.safetensors").read_bytes()
    (run / "checkpoint.safetensors").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    (run / "model.safetensors").unlink()
    assert main(["train", "--resume", "--out", str(run)]) == 0
    assert "damaged" in capsys.readouterr().err
    assert (run / "model.safetensors").read_bytes() == (
        trained[0] / "model.safetensors"
    ).read_bytes()
    assert (run / "previous.safetensors").read_bytes() == before
    (run / "previous.safetensors").unlink()
    (run / "checkpoint.safetensors").write_bytes(whole[:1000])
    assert main(["train", "--resume", "--out", str(run)]) == 1
    assert "checkpoint.safetensors" in capsys.readouterr().err


def test_a_run_is_not_overwritten_and_resume_does_not_change_it(trained, capsys):
    directory = str(trained[0])
    assert main(["train", "--out", directory]) == 1
    assert "holds a run" in capsys.readouterr().err
    assert main(["train", "--out", directory, "--resume", "--lr", "0.5"]) == 1
    assert "the run has lr = 0.002, not 0.5" in capsys.readouterr().err
    assert main(["train", "--resume"]) == 1
    assert "--resume needs --out" in capsys.readouterr().err


def test_options_from_a_file(tmp_path, capsys):
    config = tmp_path / "config.toml"
    config.write_text('data = "mnist"\nbatch_size = 16\n')
    assert main(["train", "--config", str(config), "--data-dir", str(tmp_path)]) == 1
    assert "mnist needs train-images-idx3-ubyte" in capsys.readouterr().err
    for text, message in (("batch_size = 0", "at least 1"), ("depth = 3", "unrecognized")):
        config.write_text(text)
        with pytest.raises(SystemExit) as exit_code:
            main(["train", "--config", str(config)])
        assert exit_code.value.code == 2
        assert message in capsys.readouterr().err
    for text in ("lr = [1]", "lr = ", 'group = ["x lr"]', 'group = ["nothing lr=2"]'):
        config.write_text(text)
        assert main(["train", "--config", str(config)]) == 1
        assert "pyconv: error: " in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [(), ("fly",), ("train", "--epochs", "0"), ("train", "--seed", "-1"), ("predict", "run")],
)
def test_wrong_usage_exits_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as exit_code:
        main(arguments)
    assert exit_code.value.code == 2
    assert "usage: pyconv" in capsys.readouterr().err


def test_damaged_runs_are_named(trained, tmp_path, capsys):
    assert main(["eval", str(tmp_path)]) == 1
    assert "config.json" in capsys.readouterr().err
    for text in ("{", "[]", '{"image": [1]}', '{"image": 3}'):
        (tmp_path / "config.json").write_text(text)
        assert main(["eval", str(tmp_path)]) == 1
        assert "not the description of a run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("module", "extra"), [("safetensors", "train"), ("matplotlib", "plot"), ("PIL", "train")]
)
def test_a_missing_extra_says_what_to_install(trained, tmp_path, module, extra):
    code = f"import sys; sys.modules[{module!r}] = None; from pyconv.cli import main; "
    image = tmp_path / "image.png"
    image.write_bytes(b"")
    arguments = {
        "safetensors": ["eval", str(trained[0])],
        "matplotlib": ["train", "--resume", "--out", str(trained[0])],
        "PIL": ["predict", str(trained[0]), str(image)],
    }[module]
    done = subprocess.run(
        [sys.executable, "-P", "-c", f"{code} sys.exit(main({arguments!r}))"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == (0 if module == "matplotlib" else 1)
    assert f"pip install 'pyconv-engine[{extra}]'" in done.stderr


def test_an_unknown_or_absent_device_is_told_before_anything_is_done(tmp_path, capsys):
    directory = tmp_path / "run"
    for device, text in {"gpu": "--device: device must be 'cpu'", "cuda:": "must be"}.items():
        assert main(["train", "--device", device, "--out", str(directory)]) == 1
        assert text in capsys.readouterr().err
    try:
        _gpu.device_of("test", "cuda")
    except RuntimeError:
        assert main(["train", "--device", "cuda", "--out", str(directory)]) == 1
        assert "--device: device is 'cuda', but" in capsys.readouterr().err
    assert not directory.exists()


def test_train_tells_of_a_missing_extra_before_it_trains(tmp_path):
    code = "import sys; sys.modules['safetensors'] = None; from pyconv.cli import main; "
    code += f"sys.exit(main(['train', '--out', {str(tmp_path / 'run')!r}]))"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert "pip install 'pyconv-engine[train]'" in done.stderr
    assert not (tmp_path / "run").exists()


EVERYTHING = """
model = "fast_cifar"
epochs = 1
batch_size = 479
parts = 2
optimizer = "sgd"
momentum = 0.85
nesterov = true
lr = 0.3
weight_decay = 0.001
group = ["whiten.b epochs=1", "*.b lr=8 weight_decay=0"]
clip = 5.0
schedule = "one_cycle"
rise = 0.25
start = 0.2
floor = 0.07
warmup = 0.5
label_smoothing = 0.2
lookahead = 2
patience = 9
shift = 2
border = "reflect"
flip = "alternating"
cutout = 3
brightness = 5.0
contrast = 0.1
mixup = 0.2
whiten = true
views = 2
seed = 4
"""


def test_every_option_in_a_file(tmp_path, capsys):
    (tmp_path / "config.toml").write_text(EVERYTHING)
    config = ["--config", str(tmp_path / "config.toml")]
    assert main(["train", *config, "--out", str(tmp_path / "whole")]) == 0
    text = capsys.readouterr().out
    stored = json.loads((tmp_path / "whole" / "config.json").read_text())
    for name, value in tomllib.loads(EVERYTHING).items():
        assert stored[name] == value
    run = str(tmp_path / "whole")
    assert main(["eval", run]) == 0
    assert capsys.readouterr().out.splitlines()[-1] in text
    assert main(["train", "--resume", "--no-nesterov", "--out", run]) == 1
    assert "the run has nesterov = True, not False" in capsys.readouterr().err
    assert main(["train", "--resume", *config, "--out", run]) == 0
    assert capsys.readouterr().out.splitlines()[-2] in text


def test_images_larger_than_the_network_reads_are_cut(tmp_path, capsys):
    image = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(0)
    for label in ("a", "b"):
        (tmp_path / "images" / label).mkdir(parents=True)
        for i in range(10):
            pixels = rng.integers(0, 256, (28, 26, 3), np.uint8)
            image.fromarray(pixels).save(tmp_path / "images" / label / f"{i}.png")
    arguments = ["--model", "klein1", "--epochs", "1", "--standardize", "image"]
    run = str(tmp_path / "run")
    assert main(["train", *arguments, "--data", f"folder:{tmp_path}/images", "--out", run]) == 0
    assert main(["predict", run, str(tmp_path / "images" / "a" / "0.png")]) == 0
    assert main(["eval", run]) == 0

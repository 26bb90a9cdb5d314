"""`pyconv bench`: what it measures, says and writes; never how fast anything was."""

import json
from dataclasses import replace

import pytest

import pyconv as pc
from pyconv.bench import cases, measure, peers, report
from pyconv.cli import main

TINY = ["--seconds", "0", "--only", "lenet-c1,lenet-pool", "--batch", "2,1", "--threads", "1"]


@pytest.fixture(autouse=True)
def _quick(threads, monkeypatch):
    """Puts the number of threads back; the machine is measured in a test of its own."""
    monkeypatch.setattr(measure, "peak_gflops", lambda threads: 100.0)
    monkeypatch.setattr(measure, "copy_gbs", lambda threads: 10.0)


@pytest.mark.parametrize("measured", [measure.peak_gflops, measure.copy_gbs])
def test_the_machine(measured):
    assert 0.1 < measured(1) < 1e4


def bench(tmp_path, *options, code=0):
    stem = tmp_path / "found"
    assert main(["bench", *TINY, "--out", str(stem), *options]) == code
    return report.read(stem.with_suffix(".json"))


def test_layers(tmp_path, capsys):
    found = bench(tmp_path, "--against", "")
    shown = capsys.readouterr().out
    assert {(row["name"], row["pass"], row["batch"]) for row in found["rows"]} == {
        (name, direction, batch)
        for name, passes in (("lenet-c1", cases.PASSES), ("lenet-pool", cases.PASSES[:2]))
        for direction in passes
        for batch in (1, 2)
    }
    for row in found["rows"]:
        assert row["flops"] > 0
        assert all(len(samples) >= 2 and min(samples) > 0 for samples in row["samples"].values())
        names = {f"pyconv {layout}{kind}" for layout in ("nchw", "nhwc") for kind in ("", " out")}
        assert names <= set(row["samples"])
        assert row["name"] in shown
    assert found["machine"]["peak_gflops"] == 100
    assert found["machine"]["pyconv"]["threads"] == 1


@pytest.mark.parametrize("peer", ["torch", "onnxruntime", "jax"])
def test_a_peer_agrees_and_is_timed(peer):
    pytest.importorskip(peer)
    if peer == "onnxruntime":
        pytest.importorskip("onnx")
    kinds = {(layer.label, layer.kind): layer for layer in cases.LAYERS}
    for layer in kinds.values():
        small = tuple(min(size, 16) for size in layer.x[2:])
        layer = replace(layer, x=(2, *layer.x[1:2], *small))
        given = peers.arrays(layer)
        for direction in layer.passes:
            found = peers.PEERS[peer](layer, given, direction)
            runs, _, left_out = measure.checked([*peers.pyconv(layer, given, direction), *found])
            assert not left_out, (layer.name, left_out)
            of_it = [name for name in runs if name.startswith(peer)]
            assert bool(of_it) == (peer != "onnxruntime" or direction == "fwd"), layer.name


def test_a_wrong_result_is_not_timed():
    one = ("torch nchw", lambda: [1.0, 2.0], False)
    wrong = ("jax", lambda: [1.0, 2.1], False)
    fails = ("onnxruntime", lambda: [][1], False)
    runs, first, left_out = measure.checked([one, wrong, fails])
    assert list(runs) == ["torch nchw"]
    assert set(first) == {"torch nchw", "jax"}
    assert "differs by 0.05" in left_out["jax"]
    assert "IndexError" in left_out["onnxruntime"]
    with pytest.raises(ArithmeticError, match="pyconv nchw: it differs"):
        measure.checked([("pyconv nchw", lambda: [1.0, 2.1], False), one])


def test_ratios_and_their_means():
    def row(name, label, direction, **samples):
        names = {key.replace("_", " "): [1.0, time, 9.0] for key, time in samples.items()}
        found = {"name": name, "label": label, "pass": direction, "batch": 1, "own_batch": True}
        return found | {"samples": names, "left_out": {}, "flops": 1, "bytes": 1}

    first = row("a", "5x5", "fwd", pyconv_nchw=4.0, pyconv_nhwc=2.0, torch_nchw=8.0, jax=6.0)
    second = row("b", "LeNet", "fwd", pyconv_nchw=3.0, pyconv_nchw_out=2.0, torch_nchw=4.0)
    assert report.ratio(first) == 3
    assert report.ratio(second, "out") == 2
    assert report.ratio(second, "kept") is None
    assert report.against(first, "torch nchw") == 2
    by_class, _, overall = report.tables([first, second])
    assert by_class[2][0][:4] == ["5x5", "1", "3.00", "1.5"]
    assert by_class[2][-1][:3] == ["all", "2", "2.00"]
    assert overall[2][0][2] == "2.00"


def test_every_class_has_a_goal_and_every_layer_a_name_of_its_own():
    assert {layer.label for layer in cases.LAYERS} | {"3x3, kept weights"} == set(cases.GOALS)
    assert len({layer.name for layer in cases.LAYERS}) == len(cases.LAYERS)
    assert all(min(layer.y) > 0 for layer in cases.LAYERS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--suite", "all"], "--suite must be of layers"),
        (["--against", "tensorflow"], "--against must be of torch"),
        (["--passes", "fwd,backward"], "--passes must be of fwd"),
        (["--threads", "-1"], "set_num_threads"),
        (["--only", "nothing"], "--only: no layer"),
        (["--batch", "-1"], "--batch"),
    ],
)
def test_what_it_does_not_know_it_says(options, message, capsys):
    assert main(["bench", *options]) == 1
    assert message in capsys.readouterr().err


def test_ctrl_c_leaves_what_there_is(tmp_path, monkeypatch):
    race = measure.race
    races = []

    def interrupted(runs, first, seconds):
        if races and "pyconv nchw" in runs:
            raise KeyboardInterrupt
        races.extend(name for name in runs if name.startswith("pyconv"))
        return race(runs, first, seconds)

    monkeypatch.setattr(measure, "race", interrupted)
    assert len(bench(tmp_path, "--against", "", code=130)["rows"]) == 1


def test_a_report_is_read_with_care(tmp_path):
    path = tmp_path / "report.json"
    for text in ("{", "[]", '{"rows": 3}', '{"rows": [{"samples": {}}]}', json.dumps({})):
        path.write_text(text)
        with pytest.raises(pc.FormatError, match="no report of pyconv bench"):
            report.read(path)

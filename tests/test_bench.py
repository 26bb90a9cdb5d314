"""`pyconv bench`: what it measures, says and writes; never how fast anything was."""

import importlib.util
import json
import math
import pathlib
import sys
from dataclasses import replace

import pytest

import pyconv as pc
from pyconv.bench import cases, compare, measure, memory, networks, peers, report, views
from pyconv.cli import main

TINY = ["--seconds", "0", "--only", "lenet-c1,lenet-pool", "--batch", "2,1", "--threads", "1"]


@pytest.fixture(autouse=True)
def _quick(threads, monkeypatch):
    """Puts the number of threads back; the machine is measured in a test of its own."""
    monkeypatch.setattr(measure, "LONG_REST", 0.0)
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
            absent = {
                "torch": False,
                "onnxruntime": direction != "fwd",
                "jax": direction == "bwd_weight" and layer.groups > 1,
            }
            assert bool(of_it) != absent[peer], layer.name


def test_a_wrong_result_is_not_timed():
    one = ("torch nchw", lambda: [1.0, 2.0], False)
    wrong = ("jax", lambda: [1.0, 2.1], False)
    fails = ("onnxruntime", lambda: [][1], False)
    runs, first, left_out = measure.checked([one, wrong, fails])
    assert list(runs) == ["torch nchw"]
    assert set(first) == {"torch nchw", "jax"}
    assert "differs by 0.05" in left_out["jax"]
    assert "IndexError" in left_out["onnxruntime"]
    with pytest.raises(FloatingPointError, match="pyconv nchw: it differs"):
        measure.checked([("pyconv nchw", lambda: [1.0, 2.1], False), one])


def row(name, label, direction, **samples):
    names = {key.replace("_", " "): [time] * 3 for key, time in samples.items()}
    found = {"name": name, "label": label, "pass": direction, "batch": 1, "own_batch": True}
    found |= {"left_out": {}, "flops": 1, "bytes": 1, "times": 1, "pools": False}
    return found | {"samples": names}


def test_ratios_and_their_means():
    first = row("a", "5x5", "fwd", pyconv_nchw=4.0, pyconv_nhwc=2.0, torch_nchw=8.0, jax=6.0)
    second = row("b", "LeNet", "fwd", pyconv_nchw=3.0, pyconv_nchw_out=2.0, torch_nchw=4.0)
    assert report.ratio(first) == 3
    assert report.ratio(second, "out") == 2
    assert report.ratio(second, "kept") is None
    assert report.against(first, "torch nchw") == 4
    assert report.against(first, "torch nchw", "pyconv nchw") == 2
    by_class, _, overall, by_peer = views.layer_tables([first, second])
    assert by_class[2][0][:4] == ["5x5", "1", "3.00", "1.5"]
    assert by_class[2][-1][:3] == ["all", "2", "2.00"]
    assert overall[2][0][2] == "2.00"
    assert [line[:3] for line in by_peer[2]] == [["torch nchw", "2", "2.31"], ["jax", "1", "3.00"]]


def test_every_class_has_a_goal_and_every_layer_a_name_of_its_own():
    assert {layer.label for layer in cases.LAYERS} | {"3x3, kept weights"} == set(cases.GOALS)
    assert len({layer.name for layer in cases.LAYERS}) == len(cases.LAYERS)
    assert all(min(layer.y) > 0 for layer in cases.LAYERS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--suite", "all"], "--suite must be of layers"),
        (["--suite", "scaling", "--threads", "1"], "needs more than one thread"),
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
    machine = {"cpu": "", "threads": 1, "peak_gflops": 1.0, "copy_gbs": 1.0, "load": 0.0}
    whole = {"suite": "layers", "machine": machine, "rows": [row("a", "5x5", "fwd", jax=1.0)]}
    path.write_text(json.dumps(whole))
    assert report.read(path) == whole
    damaged = [{key: value for key, value in whole.items() if key != left} for left in whole]
    damaged += [whole | {"suite": "all"}, whole | {"machine": {}}, whole | {"rows": [{}]}, []]
    for text in ("{", *map(json.dumps, damaged)):
        path.write_text(text)
        with pytest.raises(pc.FormatError, match="no report of pyconv bench"):
            report.read(path)


@pytest.mark.parametrize("suite", ["overhead", "scaling", "numpy", "networks", "memory"])
def test_every_suite_leaves_a_report_and_its_pictures(suite, tmp_path, monkeypatch, capsys):
    if suite == "memory" and sys.platform != "linux":
        pytest.skip("reads /proc")
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(memory, "RANDOM_SHAPES", 1)
    only = {"networks": "LeNet-5", "overhead": "conv2d"}.get(suite, "lenet-c3")
    options = ["--suite", suite, "--only", only, "--batch", "1", "--against", ""]
    if suite == "scaling":
        options += ["--threads", "2"]
    if suite == "numpy":
        options += ["--against", "numpy,fft,loops"]
    found = bench(tmp_path, *options)
    assert found["rows"]
    assert all(row["samples"] for row in found["rows"])
    assert not any(row["left_out"] for row in found["rows"])
    assert (tmp_path / "found.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "found.html").read_text()
    assert "<svg" in page
    assert found["rows"][0]["name"] in page
    stem = str(tmp_path / "found.json")
    capsys.readouterr()
    assert main(["bench", "--load", stem, "--out", str(tmp_path / "again")]) == 0
    assert report.text(views.VIEWS[suite].tables(found["rows"])[0]) in capsys.readouterr().out
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "found.json").read_bytes()
    timed = views.VIEWS[suite].timed
    assert main(["bench", "--load", stem, "--compare", stem]) == (0 if timed else 1)
    assert ("losses first" if timed else "of the times of") in "".join(capsys.readouterr())


def test_on_a_terminal_the_tables_stay_below(tmp_path, monkeypatch, capsys):
    pytest.importorskip("rich")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "150")
    bench(tmp_path, "--against", "numpy")
    shown = capsys.readouterr().out
    assert "\x1b[" in shown
    assert shown.count("geometric means") > 10


@pytest.mark.parametrize("layer", [layer for layer in cases.LAYERS if layer.kind == "conv"][::4])
def test_the_versions_in_numpy_agree(layer):
    small = tuple(min(size, 9) for size in layer.x[2:])
    layer = replace(layer, x=(2, layer.x[1], *small))
    given = peers.arrays(layer)
    for direction in layer.passes:
        found = [next(iter(peers.pyconv(layer, given, direction)))]
        for name in ("numpy", "fft", "loops", "scipy"):
            if peers.installed(name):
                found += peers.PEERS[name](layer, given, direction)
        assert len(found) > 1
        assert not measure.checked(found)[2]


def test_networks_have_the_operations_their_papers_say():
    # Multiply-adds of an image in millions and weights in thousands, of the convolutions alone.
    known = {
        "VGG-16": (15347, 14710),
        "ResNet-18": (1814, 11167),
        "ResNet-50": (4087, 23455),
        "GoogLeNet": (1582, 5966),
        "MobileNetV2": (299, 2190),
        "ConvNeXt-T": (4455, 27756),
    }
    for name, (operations, weights) in known.items():
        layers = [x for x in networks.LAYERS if x.label == name and not x.pools]
        assert round(sum(x.times * x.flops / x.x[0] for x in layers) / 2e6) == operations
        assert round(sum(x.times * math.prod(x.w) for x in layers) / 1e3) == weights
    assert len({layer.name for layer in networks.LAYERS}) == len(networks.LAYERS)


def test_gains_and_losses():
    machine = {"peak_gflops": 100.0}
    old = [row("a", "5x5", "fwd", pyconv_nchw=4.0), row("b", "5x5", "fwd", pyconv_nchw=4.0)]
    new = [row("a", "5x5", "fwd", pyconv_nchw=2.0), row("c", "5x5", "fwd", pyconv_nchw=4.0)]
    sure, by_class = compare.compare(
        {"suite": "layers", "machine": machine, "rows": old},
        {"suite": "layers", "machine": machine, "rows": new},
    )
    assert sure[2] == [["a", "fwd", "1", "2.00", "4 s", "2 s"]]
    assert by_class[2][-1] == ["all", "1", "2.00", "-", "-", "2.00", "-", "-"]


def test_memory_has_limits():
    def sizes(**found):
        return row("a", "5x5", "fwd", **{name: 1e6 * mb for name, mb in found.items()})

    assert not views.too_much(sizes(pyconv_nchw=130, torch_nchw=100, pyconv_nhwc=500))
    assert views.too_much(sizes(pyconv_nchw=133, torch_nchw=100))
    assert not views.too_much(sizes(pyconv_nhwc=499, torch_nhwc=400))
    assert views.too_much(sizes(pyconv_nchw=51) | {"pass": "leak"})


def test_the_figures_in_the_readme_are_those_of_the_results(tmp_path):
    root = pathlib.Path(__file__).parents[1]
    spec = importlib.util.spec_from_file_location("readme", root / "benchmarks" / "readme.py")
    readme = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(readme)
    bench(tmp_path, "--against", "", "--batch", "0")
    assert "| LeNet | - | - | - |" in readme.block(tmp_path)
    if not (root / "benchmarks" / "results").is_dir():
        pytest.skip("the results are not in a source distribution")
    text = (root / "README.md").read_text()
    new = {"benchmarks": readme.block(), "frameworks": readme.frameworks()}
    new["training"] = readme.training()
    assert readme.filled(text, **new) == text, "run: python benchmarks/readme.py"

"""Networks written as ONNX: valid by its checker, and run by onnxruntime to the same numbers."""

import doctest
import json

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="pip install 'pyconv-engine[onnx]'")

import pyconv as pc  # noqa: E402
import pyconv.onnx  # noqa: E402
from pyconv import nn  # noqa: E402
from pyconv.nn import models  # noqa: E402
from pyconv.onnx import _export  # noqa: E402

runtime = pytest.importorskip("onnxruntime", reason="pip install 'pyconv-engine[test-all]'")

LAYERS = {
    "conv": (nn.Conv2d(4, 6, (3, 2), (2, 1), ((1, 0), (2, 3)), (1, 2), groups=2), (2, 4, 9, 8)),
    "conv same": (nn.Conv2d(3, 5, 4, 3, "same", bias=False), (1, 3, 10, 11)),
    "conv same_lower": (nn.Conv1d(3, 5, 4, padding="same_lower"), (1, 3, 10)),
    "conv full": (nn.Conv3d(2, 3, 2, padding="full"), (1, 2, 3, 4, 5)),
    "conv reflect": (nn.Conv2d(3, 5, 3, padding=1, padding_mode="reflect"), (1, 3, 6, 7)),
    "conv circular": (nn.Conv1d(3, 5, 4, padding="same", padding_mode="circular"), (2, 3, 7)),
    "transposed": (nn.ConvTranspose2d(4, 6, 3, 2, 1, 1, groups=2), (2, 4, 5, 6)),
    "transposed same": (nn.ConvTranspose1d(3, 2, 2, 3, "same"), (2, 3, 5)),
    "transposed dilated": (nn.ConvTranspose2d(3, 2, 3, dilation=2, bias=False), (1, 3, 5, 4)),
    "linear": (nn.Linear(6, 4), (3, 6)),
    "linear on rows": (nn.Linear(6, 4), (3, 5, 6)),
    "linear without bias": (nn.Linear(6, 4, bias=False), (3, 5, 6)),
    "max pool": (nn.MaxPool2d(3, 2, 1, 1, ceil_mode=True), (1, 3, 8, 7)),
    "max pool dilated": (nn.MaxPool1d(3, 1, 2, 2), (1, 3, 9)),
    "average pool": (nn.AvgPool2d(3, 2, 1, True), (1, 3, 8, 7)),
    "average pool of the input": (nn.AvgPool2d(3, 2, 1, False, False), (1, 3, 8, 7)),
    "average pool divided": (nn.AvgPool3d(2, 1, 1, divisor_override=3), (1, 3, 4, 3, 3)),
    "subsampling": (nn.SubSample2d(3), (2, 3, 6, 8)),
    "global pool": (nn.GlobalAvgPool(), (2, 3, 5, 6)),
    "batch norm": (nn.BatchNorm3d(3, 1e-3), (2, 3, 4, 3, 2)),
    "layer norm": (nn.LayerNorm((3, 4)), (2, 3, 4)),
    "local response norm": (nn.LocalResponseNorm(5, 0.1, 0.6, 2.0), (2, 7, 3, 3)),
    "dropout": (nn.Dropout(0.5), (2, 3)),
    "flatten": (nn.Flatten(), (2, 3, 4)),
    "relu": (nn.ReLU(), (2, 3)),
    "leaky relu": (nn.LeakyReLU(0.2), (2, 3)),
    "tanh": (nn.Tanh(), (2, 3)),
    "sigmoid": (nn.Sigmoid(), (2, 3)),
    "gelu": (nn.GELU(), (2, 3)),
    "silu": (nn.SiLU(), (2, 3)),
    "relu6": (nn.Sequential(nn.Scale(5.0), nn.ReLU6()), (2, 3)),
    "softmax": (nn.Softmax(), (2, 3, 4)),
    "scale": (nn.Scale(0.3), (2, 3)),
    "upsample": (nn.Upsample(3), (1, 2, 4, 3)),
    "upsample linear": (nn.Upsample(2, "linear"), (1, 2, 4, 3)),
    "concat": (nn.Concat(nn.Conv2d(3, 2, 1), nn.MaxPool2d(3, 1, 1)), (1, 3, 5, 5)),
    "residual": (nn.Residual(nn.Tanh(), nn.Scale(2.0)), (2, 3)),
    "graph": (
        nn.Graph({"a": (nn.ReLU(), "input"), "s": (nn.Add(), "a", "input"),
                  "c": (nn.Cat(), "s", "a")}, "c"), (2, 3, 4),
    ),
}  # fmt: skip


def scrambled(net, rng):
    """With statistics and biases that would be missed."""
    for name, value in net.state_dict().items():
        if value.ndim == 1:
            near = 1 if name.endswith(("variance", ".w")) or name == "w" else 0
            value[...] = near + 0.2 * rng.standard_normal(value.shape)
    return net.eval()


def assert_written(net, shape, rng, given, tolerance=1e-5):
    made = _export.model(net, given)
    onnx.checker.check_model(made, full_check=True)
    assert [entry.version for entry in made.opset_import] == [_export.OPSET]
    x = rng.standard_normal((3, *shape[1:])).astype(np.float32)  # the batch is open
    with nn.no_grad():
        expected = net(x)
    [found] = runtime.InferenceSession(made.SerializeToString()).run(None, {"input": x})
    assert found.shape == expected.shape
    scale = np.abs(expected).max()
    assert np.abs(found - expected).max() <= tolerance * scale > 0
    assert np.abs(pyconv.onnx.prepare(made)(x) - expected).max() <= tolerance * scale


@pytest.mark.parametrize("name", LAYERS)
def test_every_layer(name):
    layer, shape = LAYERS[name]
    rng = np.random.default_rng(0)
    assert_written(scrambled(layer, rng), shape, rng, shape)


def test_no_layer_is_forgotten():
    abstract = (nn.Join, nn.Layer)
    kinds = {v for v in vars(nn).values() if isinstance(v, type) and issubclass(v, nn.Layer)}
    served = {kind for kind in kinds if any(base in _export._LAYERS for base in kind.__mro__)}
    assert kinds - served == set(abstract)


# The smallest images that these take, where their own size would take long.
SMALL = {"vgg16": None, "unet": (32, 48), "colorization": (32, 40), "resnet18": (64, 64),
         "resnet34": (64, 64), "resnet50": (64, 64), "alexnet": None, "zfnet": None}  # fmt: skip
LONG = ("vgg16", "alexnet", "zfnet")


@pytest.mark.parametrize("name", models.CATALOGUE)
def test_every_model(name, request):
    if name in LONG and not request.config.getoption("--slow"):
        pytest.skip("half a gigabyte of weights: --slow")
    entry, rng = models.CATALOGUE[name], np.random.default_rng(1)
    channels = 70 if name == "char_cnn" else 3
    size = SMALL.get(name) or entry.size
    net = scrambled(entry.build(10, channels), rng)
    assert_written(net, (1, channels, *size), rng, (1, channels, *size))
    if name in SMALL:
        assert_written(net, (1, channels, *size), rng, None)


def test_what_onnx_cannot_say_is_an_error(tmp_path):
    for net, shape, error, told in [
        (nn.LocalResponseNorm(4), (1, 5, 2, 2), NotImplementedError, "even number"),
        (
            nn.Conv2d(3, 2, 3, padding=1, padding_mode="symmetric"),
            None,
            NotImplementedError,
            "mode",
        ),
        (nn.AvgPool2d(3, 2, 0, True, divisor_override=2), (1, 3, 8, 8), NotImplementedError, "div"),
        (nn.Conv2d(3, 2, 3, 2, "same"), None, ValueError, "give input_shape"),
        (nn.ReLU(), None, ValueError, "give input_shape"),
    ]:
        with pytest.raises(error, match=told):
            pyconv.onnx.export(net, tmp_path / "net.onnx", shape)

    class Mine(nn.Layer):
        pass

    with pytest.raises(NotImplementedError, match=r"layers\.0 is a Mine"):
        pyconv.onnx.export(nn.Sequential(layers=nn.Sequential(Mine())), "net.onnx", (1, 2))
    assert not list(tmp_path.iterdir())


def test_a_file_keeps_names_and_metadata(tmp_path):
    net = models.lenet5_modern()
    path = tmp_path / "lenet5.onnx"
    pyconv.onnx.export(net, path, (1, 1, 32, 32), metadata={"classes": "[0, 1]"})
    made = onnx.load(path)
    assert {t.name for t in made.graph.initializer} == set(net.state_dict())
    assert made.producer_name, made.producer_version == ("pyconv", pc.__version__)
    assert [(p.key, p.value) for p in made.metadata_props] == [("classes", "[0, 1]")]
    x = np.ones((2, 1, 32, 32), np.float32)
    np.testing.assert_allclose(pyconv.onnx.load(path)(x), net(x), 1e-5, 1e-6)


def test_float64(tmp_path):
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Scale(0.5), nn.Tanh()).to(np.float64)
    pyconv.onnx.export(net, tmp_path / "net.onnx")
    x = np.random.default_rng(0).standard_normal((2, 1, 5, 5))
    np.testing.assert_allclose(pyconv.onnx.load(tmp_path / "net.onnx")(x), net(x), 1e-14)


def test_the_command(tmp_path, monkeypatch, capsys):
    for needed in ("safetensors", "matplotlib"):
        pytest.importorskip(needed, reason="pip install 'pyconv-engine[test]'")
    from pyconv.cli import main

    monkeypatch.chdir(tmp_path)
    train = ("train", "--model", "lenet5_modern", "--epochs", "1", "--out", "run")
    assert main(train) == 0
    assert main(["export", "run", "net.onnx"]) == 0
    assert "written to net.onnx" in capsys.readouterr().out
    told = {p.key: json.loads(p.value) for p in onnx.load("net.onnx").metadata_props}
    assert told["classes"] == [str(digit) for digit in range(10)]
    assert len(told["mean"]) == len(told["std"]) == 1
    x = np.random.default_rng(0).standard_normal((2, 1, 32, 32)).astype(np.float32)
    expected = pc.load("run/model.safetensors")(x)
    [found] = runtime.InferenceSession("net.onnx").run(None, {"input": x})
    np.testing.assert_allclose(found, expected, 1e-4, 1e-5)


@pytest.mark.parametrize("module", [_export, pyconv.onnx], ids=lambda m: m.__name__)
def test_the_examples_in_the_docs(module):
    assert doctest.testmod(module).failed == 0

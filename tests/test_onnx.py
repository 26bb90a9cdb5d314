"""pyconv.onnx against ONNX's own backend tests, and random nodes of it against onnxruntime."""

import subprocess
import sys
import warnings

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="pip install 'pyconv-engine[onnx]'")

from onnx import helper, numpy_helper, parser  # noqa: E402

import pyconv as pc  # noqa: E402
import pyconv.onnx  # noqa: E402
from pyconv.onnx._table import TABLE  # noqa: E402

# What issue 5 names.
OPERATORS = """Conv ConvTranspose ConvInteger QLinearConv MaxPool AveragePool LpPool MaxUnpool
    GlobalAveragePool GlobalMaxPool GlobalLpPool Col2Im LRN BatchNormalization InstanceNormalization
    Gemm MatMul Softmax LogSoftmax Relu LeakyRelu PRelu Elu Selu Sigmoid Tanh HardSwish Clip Add Sub
    Mul Div Sum Max Concat Split Slice Pad Reshape Flatten Squeeze Unsqueeze Transpose Dropout
    Identity Constant Shape Gather Cast ReduceMean Resize ConstantOfShape"""
NEWEST = onnx.defs.onnx_opset_version()


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # from what makes the test data
        patch.setenv("ONNX_MODELS", str(tmp_path_factory.mktemp("onnx")))
        import onnx_suite

        yield onnx_suite.cases()


def test_onnx_own_backend_tests_pass(suite):
    failed = {}
    for name, (case, _) in suite.items():
        try:
            case.debug()
        except Exception as error:  # SkipTest too: what is left out is named in onnx_suite
            failed[name] = repr(error)[:1000]
    assert not failed
    assert len(suite) > 700


def test_the_backend_tests_cover_every_operator(suite):
    seen = set().union(*(operators for _, operators in suite.values()))
    wanted = set(OPERATORS.split())
    assert wanted <= TABLE.keys()
    assert wanted - seen == {"GlobalLpPool"}  # ONNX has no test of it; see OLD_FORMS


def model(op, inputs, opset=NEWEST, outputs=1, constants=(), **attributes):
    """One node; inputs by name, those in `constants` as initializers."""
    names = [f"y{i}" for i in range(outputs)]
    node = helper.make_node(op, list(inputs), names, name="it", **attributes)
    kind = helper.np_dtype_to_tensor_dtype
    given = [
        helper.make_tensor_value_info(n, kind(a.dtype), a.shape)
        for n, a in inputs.items()
        if n not in constants
    ]
    kept = [numpy_helper.from_array(inputs[n], n) for n in constants]
    results = [onnx.ValueInfoProto(name=name) for name in names]
    graph = helper.make_graph([node], "g", given, results, kept)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    made.ir_version = min(made.ir_version, 10)  # an older runtime reads it too
    inferred = onnx.shape_inference.infer_shapes(made)
    for result, found in zip(made.graph.output, inferred.graph.output):
        result.type.CopyFrom(found.type)
    return made


def floats(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


def geometry(rng, axes, op):
    """Random attributes of a window."""
    kernel = rng.integers(1, 5, axes)
    found = {"kernel_shape": kernel.tolist(), "strides": rng.integers(1, 4, axes).tolist()}
    dilation = rng.integers(1, 3, axes) if rng.random() < 0.4 else np.ones(axes, int)
    found["dilations"] = dilation.tolist()
    extent = (kernel - 1) * dilation + 1
    how = rng.choice(["NOTSET", "NOTSET", "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"])
    if how.startswith("SAME"):  # onnxruntime knows it neither dilated nor with gaps between windows
        found["dilations"], extent = [1] * axes, kernel
        found["strides"] = [int(rng.integers(1, k + 1)) for k in kernel]
    if how != "NOTSET":
        found["auto_pad"] = str(how)
    else:  # nor padding as large as the kernel
        found["pads"] = [int(rng.integers(0, k)) for k in (*kernel, *kernel)]
    if op.endswith("Pool"):
        found["ceil_mode"] = int(rng.integers(0, 2))
    return found, extent


def pooling(rng, op):
    axes = int(rng.integers(1, 4))
    attributes, extent = geometry(rng, axes, op)
    x = floats(rng, 2, 3, *(int(e + rng.integers(0, 7)) for e in extent))
    outputs = 1
    if op == "MaxPool":
        outputs = int(rng.integers(1, 3))
        attributes["storage_order"] = int(rng.integers(0, 2))
    elif op == "AveragePool":
        attributes["count_include_pad"] = int(rng.integers(0, 2))
    else:
        attributes["p"] = int(rng.integers(1, 4))
    if attributes.get("auto_pad", "NOTSET") != "NOTSET":
        attributes["ceil_mode"] = 0  # see test_automatic_padding_leaves_nothing_to_round
    return model(op, {"x": x}, 22, outputs, **attributes), {"x": x}


def convolution(rng, op):
    axes, groups = int(rng.integers(1, 4)), int(rng.integers(1, 4))
    attributes, extent = geometry(rng, axes, op)
    c, k = (groups * int(rng.integers(1, 5)) for _ in range(2))
    kernel = attributes["kernel_shape"]
    x = floats(rng, 2, c, *(int(e + rng.integers(0, 7)) for e in extent))
    w = floats(rng, *((k, c // groups) if op == "Conv" else (c, k // groups)), *kernel)
    attributes["group"] = groups
    if op == "ConvTranspose":
        if rng.random() < 0.5 and "pads" in attributes:
            attributes["output_padding"] = [int(rng.integers(0, s)) for s in attributes["strides"]]
        elif rng.random() < 0.5 and "pads" in attributes:
            del attributes["pads"]
            natural = (
                (n - 1) * s + e for n, s, e in zip(x.shape[2:], attributes["strides"], extent)
            )
            attributes["output_shape"] = [int(max(n - rng.integers(0, 3), 1)) for n in natural]
    inputs = {"x": x, "w": w}
    if rng.random() < 0.5:
        inputs["b"] = floats(rng, k)
    constants = [n for n in inputs if n != "x"] if rng.random() < 0.5 else []
    made = model(op, inputs, 22, constants=constants, **attributes)
    return made, {n: a for n, a in inputs.items() if n not in constants}


def resizing(rng, op):
    axes = int(rng.integers(1, 3))
    x = floats(rng, 1, 2, *(int(n) for n in rng.integers(2, 7, axes)))
    mode = str(rng.choice(["nearest", "linear"]))
    how = [
        "half_pixel",
        "asymmetric",
        "align_corners",
        "pytorch_half_pixel",
        "half_pixel_symmetric",
    ]
    attributes = {"mode": mode, "coordinate_transformation_mode": str(rng.choice(how))}
    if mode == "nearest":
        how = how[:2]  # the others round ties by the last bit of a float32
        attributes["coordinate_transformation_mode"] = str(rng.choice(how))
        rounding = ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]
        attributes["nearest_mode"] = str(rng.choice(rounding))
    inputs = {"x": x, "roi": np.zeros(0, np.float32)}
    # Where scale times size is no integer, onnxruntime aligns corners otherwise than ONNX's tests.
    aligned = attributes["coordinate_transformation_mode"] == "align_corners"
    if mode == "nearest" or (not aligned and rng.random() < 0.5):
        inputs["scales"] = np.array([1, 1, *rng.choice([0.5, 2, 4], axes)], np.float32)
    else:
        inputs["scales"] = np.zeros(0, np.float32)
        sizes = rng.integers(1, 12, axes)
        inputs["sizes"] = np.array([1, 2, *sizes], np.int64)
    constants = [n for n in inputs if n != "x"]
    return model(op, inputs, 19, constants=constants, **attributes), {"x": x}


MAKERS = {
    "MaxPool": pooling,
    "AveragePool": pooling,
    "LpPool": pooling,
    "Conv": convolution,
    "ConvTranspose": convolution,
    "Resize": resizing,
}


def onnxruntime_of(made):
    runtime = pytest.importorskip("onnxruntime", reason="pip install 'pyconv-engine[test-all]'")
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    return runtime.InferenceSession(made.SerializeToString(), options, ["CPUExecutionProvider"])


@pytest.mark.parametrize("op", MAKERS)
def test_random_nodes_against_onnxruntime(op, request):
    rng = np.random.default_rng(len(op))
    wanted, compared = 2000 if request.config.getoption("--slow") else 150, 0
    pytest.importorskip("onnxruntime", reason="pip install 'pyconv-engine[test-all]'")
    for _ in range(wanted):
        made, inputs = MAKERS[op](rng, op)
        try:
            expected = onnxruntime_of(made).run(None, inputs)
        except Exception as error:
            if "NOT_IMPLEMENTED" in str(error) or "not supported" in str(error).lower():
                continue
            with pytest.raises(ValueError, match=op):
                pyconv.onnx.run_model(made, inputs)
            continue
        found = pyconv.onnx.run_model(made, inputs)
        assert len(found) == len(expected)
        for mine, theirs in zip(found, expected):
            assert mine.dtype == theirs.dtype
            message = f"{made.graph.node[0]}{[a.shape for a in inputs.values()]}"
            np.testing.assert_allclose(mine, theirs, 1e-4, 1e-5, err_msg=message)
        compared += 1
    assert compared > wanted / 2


X = np.linspace(-3, 5, 48, dtype=np.float32).reshape(2, 3, 8)
IMAGE = np.linspace(-2, 3, 48, dtype=np.float32).reshape(1, 3, 4, 4)
# Operators whose arguments were attributes in older opsets, and one that ONNX does not test.
OLD_FORMS = [
    ("GlobalLpPool", {"x": IMAGE}, 21, {"p": 3}),
    ("Clip", {"x": X}, 7, {"min": -1.0, "max": 1.5}),
    ("Clip", {"x": X}, 10, {"max": 1.5}),
    ("Squeeze", {"x": X[:1]}, 11, {"axes": [0]}),
    ("Squeeze", {"x": X[:1]}, 7, {}),
    ("Unsqueeze", {"x": X}, 11, {"axes": [0, 2]}),
    ("ReduceMean", {"x": X}, 7, {"axes": [1, 2], "keepdims": 0}),
    ("ReduceMean", {"x": X}, 13, {"axes": [-1]}),
    ("Pad", {"x": X}, 7, {"pads": [0, 1, 2, 0, 0, 3], "value": 2.5}),
    ("Pad", {"x": X}, 10, {"pads": [0, 0, -2, 0, 1, 2], "mode": "edge"}),
    ("Slice", {"x": X}, 9, {"starts": [1, -5], "ends": [9, -1], "axes": [1, 2]}),
    ("Split", {"x": X}, 7, {"axis": 2, "split": [1, 5, 2], "outputs": 3}),
    ("Split", {"x": X}, 11, {"axis": 1, "outputs": 3}),
    ("Softmax", {"x": X}, 11, {}),
    ("LogSoftmax", {"x": X}, 7, {"axis": 2}),
    ("Dropout", {"x": X}, 7, {"ratio": 0.7}),
    ("Upsample", {"x": IMAGE}, 7, {"scales": [1.0, 1.0, 2.0, 3.0], "mode": "nearest"}),
    ("Upsample", {"x": IMAGE, "s": np.float32([1, 1, 2, 3])}, 9, {"mode": "linear"}),
    ("Resize", {"x": IMAGE, "s": np.float32([1, 1, 0.5, 3])}, 10, {"mode": "nearest"}),
    ("Cast", {"x": X}, 8, {"to": onnx.TensorProto.INT32}),
    ("Gemm", {"x": X[0], "w": X[1], "b": X[0, 0, :3]}, 7, {"transB": 1, "alpha": 0.5, "beta": 2.0}),
    ("BatchNormalization", {"x": IMAGE, **{n: X[1, i, 1:4] for i, n in enumerate("sbm")},
                            "v": X[1, 2, 1:4]}, 8, {"epsilon": 0.25}),
    ("AveragePool", {"x": IMAGE}, 7, {"kernel_shape": [3, 2], "pads": [1, 0, 0, 1]}),
]  # fmt: skip


@pytest.mark.parametrize(("op", "inputs", "opset", "options"), OLD_FORMS, ids=lambda v: str(v)[:12])
def test_every_form_against_onnxruntime(op, inputs, opset, options):
    made = model(op, inputs, opset, **options)
    [expected, *_] = onnxruntime_of(made).run(None, inputs)
    [found, *_] = pyconv.onnx.run_model(made, inputs)
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(found, expected, 1e-5, 1e-6)


def test_normalisation_over_an_even_number_of_channels():
    """Which onnxruntime lacks: the extra channel is the one after."""
    made = model("LRN", {"x": IMAGE}, 13, size=2, alpha=0.5, beta=0.5, bias=2.0)
    square = IMAGE.astype(np.float64) ** 2
    total = square + np.concatenate([square[:, 1:], 0 * square[:, :1]], 1)
    expected = IMAGE / np.sqrt(2 + 0.25 * total)
    np.testing.assert_allclose(pyconv.onnx.run_model(made, [IMAGE])[0], expected, 1e-6)


def test_a_window_wholly_in_the_padding():
    x = np.ones((1, 1, 4), np.float32)
    for op, expected in {
        "MaxPool": [-np.inf, 1, 1, -np.inf, -np.inf],
        "LpPool": [0, 2**0.5, 2**0.5, 0, 0],
        "AveragePool": [np.nan, 1, 1, np.nan, np.nan],
    }.items():
        made = model(op, {"x": x}, 22, kernel_shape=[2], pads=[2, 5], strides=[2])
        [found] = pyconv.onnx.run_model(made, [x])
        np.testing.assert_array_equal(found.ravel(), np.float32(expected), err_msg=op)


def test_automatic_padding_leaves_nothing_to_round():
    """The specification's formulas for auto_pad with ceil_mode give what they give without."""
    x = np.arange(6, dtype=np.float32).reshape(1, 1, 6)
    for pad, expected in {
        "VALID": [2, 4],
        "SAME_UPPER": [2, 4, 5],
        "SAME_LOWER": [1, 3, 5],
    }.items():
        made = model("MaxPool", {"x": x}, kernel_shape=[3], strides=[2], auto_pad=pad, ceil_mode=1)
        np.testing.assert_array_equal(pyconv.onnx.run_model(made, [x])[0].ravel(), expected)


def test_run_node_takes_the_opset():
    node = helper.make_node("Clip", ["x"], ["y"], min=0.0, max=2.0)
    [found] = pyconv.onnx.run_node(node, [X], opset_version=9)
    np.testing.assert_array_equal(found, X.clip(0, 2))
    with pytest.raises(pc.FormatError, match="Clip has no attribute"):
        pyconv.onnx.run_node(node, [X])


def parsed(nodes, x="float[N, 3, 8, 8] x", opset=21):
    return parser.parse_model(
        f'<ir_version: 10, opset_import: ["": {opset}]> g ({x}) => (y) {{ {nodes} }}'
    )


def test_what_is_not_served_says_so():
    made = parsed("h = Relu(x) y = RoiAlign(h, h, h)")
    with pytest.raises(NotImplementedError, match=r"RoiAlign is not served: .*opset 21.*writes y"):
        pyconv.onnx.prepare(made)
    assert not pyconv.onnx.is_compatible(made)
    assert pyconv.onnx.is_compatible(parsed("y = Relu(x)"))
    assert pyconv.onnx.supports_device("CPU")
    assert not pyconv.onnx.supports_device("CUDA:1")
    with pytest.raises(ValueError, match="device"):
        pyconv.onnx.prepare(parsed("y = Relu(x)"), "CUDA")
    with pytest.raises(TypeError, match="ModelProto"):
        pyconv.onnx.prepare("net.onnx")


def test_inputs_are_checked():
    net = pyconv.onnx.prepare(parsed("y = Relu(x)"))
    x = np.ones((2, 3, 8, 8), np.float32)
    np.testing.assert_array_equal(net(x), x)
    np.testing.assert_array_equal(net.run({"x": x})[0], x)
    for wrong, error in [
        ([x, x], ValueError),
        ([x[:, :2]], ValueError),
        ([x.astype(np.float64)], TypeError),
        ({"z": x}, ValueError),
        (["x"], TypeError),
    ]:
        with pytest.raises(error, match="x"):
            net.run(wrong)


def test_a_node_that_cannot_serve_is_named():
    net = pyconv.onnx.prepare(parsed("y = Gemm(x, x)"))
    with pytest.raises(ValueError, match=r"Gemm \(opset 21\), which writes y"):
        net(np.ones((2, 3, 8, 8), np.float32))


def test_without_onnx_the_pip_line_is_told():
    code = "import sys; sys.modules['onnx'] = None\nimport pyconv.onnx"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert "pip install 'pyconv-engine[onnx]'" in done.stderr.splitlines()[-1]

"""What pyconv.onnx makes of a graph before it runs, and what it makes of hostile files."""

import os
import pickle
import threading

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="pip install 'pyconv-engine[onnx]'")

from onnx import TensorProto, helper, numpy_helper, parser  # noqa: E402

import pyconv as pc  # noqa: E402
import pyconv.onnx  # noqa: E402
from pyconv.nn import models  # noqa: E402
from pyconv.onnx import _export  # noqa: E402

RNG = np.random.default_rng(0)
CONSTANTS = {
    "w": RNG.standard_normal((4, 4, 3, 3)).astype(np.float32),
    "v": RNG.standard_normal((4, 4, 1, 1)).astype(np.float32),
    "b": RNG.standard_normal(4).astype(np.float32),
    "s": RNG.uniform(0.5, 1.5, 4).astype(np.float32),
    "m": RNG.standard_normal(4).astype(np.float32),
    "u": RNG.uniform(0.5, 1.5, 4).astype(np.float32),
    "zero": np.float32(0),
    "six": np.float32(6),
    "four": np.float32(4),
    "image": RNG.standard_normal((1, 4, 1, 1)).astype(np.float32),
    "more": RNG.standard_normal((3, 4, 6, 7)).astype(np.float32),
    "matrix": RNG.standard_normal((7, 5)).astype(np.float32),
    "row": RNG.standard_normal((1, 5)).astype(np.float32),
    "ints": np.array([0, -1], np.int64),
}
X = RNG.standard_normal((3, 4, 6, 7)).astype(np.float32)
SAME = "<pads = [1, 1, 1, 1]>"

# A graph from x to y, and the operators that are left of it.
GRAPHS = {
    "conv, norm, relu": (
        f"c = Conv {SAME} (x, w, b) n = BatchNormalization (c, s, b, m, u) y = Relu (n)",
        "pyconv.Conv",
    ),
    "residual": (
        f"c = Conv {SAME} (x, w) n = BatchNormalization <epsilon = 0.1> (c, s, b, m, u)"
        " a = Add (x, n) y = Relu (a)",
        "pyconv.Conv",
    ),
    "two convolutions into one sum": (
        f"c = Conv {SAME} (x, w) d = Conv (x, v, b) a = Add (c, d) y = Relu (a)",
        "pyconv.Conv pyconv.Conv",
    ),
    "the sum's other input comes later": (
        f"c = Conv {SAME} (x, w) r = Sigmoid (x) y = Add (c, r)",
        "Sigmoid pyconv.Conv",
    ),
    "a sum that spreads": (
        f"c = Conv {SAME} (x, w) p = GlobalMaxPool (x) a = Add (c, p) y = Tanh (a)",
        "GlobalMaxPool pyconv.Conv",
    ),
    "a sum that is spread": (
        "p = GlobalMaxPool (x) c = Conv (p, v, b) a = Add (c, x) y = Relu (a)",
        "GlobalMaxPool pyconv.Conv",
    ),
    "a constant added": (f"c = Conv {SAME} (x, w) y = Add (c, image)", "pyconv.Conv Add"),
    "clip": (f"c = Conv {SAME} (x, w) y = Clip (c, zero, six)", "pyconv.Conv"),
    "another clip": (f"c = Conv {SAME} (x, w) y = Clip (c, zero, four)", "pyconv.Conv Clip"),
    "clip from above": (f"c = Conv {SAME} (x, w) y = Clip (c, , six)", "pyconv.Conv Clip"),
    "relu and clip": (f"c = Conv {SAME} (x, w) r = Relu(c) y = Clip (r, zero, six)", "pyconv.Conv"),
    "silu": (f"c = Conv {SAME} (x, w) g = Sigmoid (c) y = Mul (c, g)", "pyconv.Conv"),
    "no silu": (
        f"c = Conv {SAME} (x, w) g = Sigmoid (c) h = Mul (c, g) y = Add (h, g)",
        "pyconv.Conv Sigmoid Mul Add",
    ),
    "gelu": (f"c = Conv {SAME} (x, w) y = Gelu (c)", "pyconv.Conv"),
    "gelu by tanh": (
        f'c = Conv {SAME} (x, w) y = Gelu <approximate = "tanh"> (c)',
        "pyconv.Conv Gelu",
    ),
    "leaky": (f"c = Conv {SAME} (x, w) y = LeakyRelu <alpha = 0.01> (c)", "pyconv.Conv"),
    "leakier": (f"c = Conv {SAME} (x, w) y = LeakyRelu <alpha = 0.2> (c)", "pyconv.Conv LeakyRelu"),
    "read twice": (f"c = Conv {SAME} (x, w) r = Relu (c) y = Add (r, c)", "pyconv.Conv Relu Add"),
    "twice itself": (f"c = Conv {SAME} (x, w) y = Add (c, c)", "pyconv.Conv Add"),
    "activation before the sum": (
        f"c = Conv {SAME} (x, w) r = Relu (c) y = Add (r, x)",
        "pyconv.Conv Add",
    ),
    "weights that are computed": (
        f"h = Neg (w) k = Transpose <perm = [1, 0, 2, 3]> (h) y = Conv {SAME} (x, k)",
        "pyconv.Conv",
    ),
    "weights that depend on x": (
        "k = GlobalMaxPool (x) j = Slice (k, zeros, ones) i = Transpose <perm = [1, 0, 2, 3]> (j)"
        " y = Conv <group = 4> (x, i)",
        "GlobalMaxPool Slice Transpose Conv",
    ),
    "rows times a matrix": ("p = MatMul (x, matrix) y = Relu (p)", "pyconv.Linear"),
    "flattened": (
        "p = GlobalAveragePool (x) f = Flatten (p) y = Gemm <alpha = 0.5> (f, w2, b2)",
        "GlobalAveragePool Flatten pyconv.Linear",
    ),
    "shapes": (
        "h = Identity (x) i = Dropout (h) n = Shape (w) k = Gather (n, ints) r = Relu (i)"
        " f = Cast <to = 1> (k) t = ReduceMean <keepdims = 0> (f) y = Mul (r, t)",
        "Relu ReduceMean Mul",
    ),
}


def graph(text, opset=20):
    made = parser.parse_model(
        f'<ir_version: 9, opset_import: ["": {opset}]> g (float[N, 4, 6, 7] x) => (float[] y)'
        f" {{ {text} }}"
    )
    made.graph.output[0].type.tensor_type.ClearField("shape")
    more = {"w2": CONSTANTS["w"][0, :, :, 0].copy().reshape(4, 3), "b2": np.float32([1, 2, 3]),
            "zeros": np.zeros(1, np.int64), "ones": np.ones(1, np.int64)}  # fmt: skip
    constants = CONSTANTS | more
    names = {name for node in made.graph.node for name in node.input}
    for name in names & constants.keys():
        made.graph.initializer.append(numpy_helper.from_array(constants[name], name))
    return made


@pytest.mark.parametrize("name", GRAPHS)
def test_joined_nodes_compute_the_same(name):
    runtime = pytest.importorskip("onnxruntime", reason="pip install 'pyconv-engine[test-all]'")
    text, left = GRAPHS[name]
    made = graph(text)
    net = pyconv.onnx.prepare(made)
    assert [step.node.op for step in net._steps] == left.split()
    session = runtime.InferenceSession(made.SerializeToString())
    for n in (3, 1, 2, 3):  # from the kept weights too, and into memory that was used
        [expected] = session.run(None, {"x": X[:n]})
        found = net(X[:n])
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, 1e-4, 1e-5)
    if "Slice" not in left and "Linear" not in left:
        assert net(X[:0]).shape == (0, *expected.shape[1:])


def test_results_stay_when_the_net_runs_again():
    text = f"c = Conv {SAME} (x, w) r = Relu (c) d = Conv {SAME} (r, w) y = Transpose (d)"
    net = pyconv.onnx.prepare(graph(text))
    first = net(X)
    copy = first.copy()
    for _ in range(3):
        net(X + 1)
    np.testing.assert_array_equal(first, copy)
    arena = net._steps[0].run.arena
    assert len(arena._pieces) <= 4  # two for the nodes, and the results that are still held


@pytest.mark.parametrize("name", ["two convolutions into one sum", "clip", "flattened", "shapes"])
def test_a_net_is_pickled_as_its_graph(name):
    net = pyconv.onnx.prepare(graph(GRAPHS[name][0]))
    again = pickle.loads(pickle.dumps(net))
    np.testing.assert_array_equal(again(X), net(X))


def test_threads_may_share_a_net():
    net = pyconv.onnx.prepare(_export.model(models.resnet20(), (1, 3, 32, 32)))
    xs = [RNG.standard_normal((n, 3, 32, 32)).astype(np.float32) for n in (1, 2, 3, 1)]
    expected = [net(x) for x in xs]
    wrong = []

    def work(i):
        for _ in range(10):
            if not np.array_equal(net(xs[i]), expected[i]):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(xs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_an_image_may_be_made_independent_of_its_batch():
    net = pyconv.onnx.prepare(graph(f"y = Conv {SAME} (x, w)"))
    with pc.config(batch_invariant=True):
        np.testing.assert_array_equal(net(X)[:1], net(X[:1]))


# Hostile files


def broken(change, text="y = Relu (x)"):
    made = graph(text)
    change(made)
    return made


def tensor(made, **fields):
    """Give the graph one more initializer with these fields."""
    found = made.graph.initializer.add(name="t", data_type=TensorProto.FLOAT)
    for name, value in fields.items():
        if isinstance(value, list):
            getattr(found, name).extend(value)
        else:
            setattr(found, name, value)
    return found


def outside(made, **keys):
    found = tensor(made, dims=[2], data_location=TensorProto.EXTERNAL)
    for key, value in keys.items():
        found.external_data.add(key=key, value=value)


WRONG = {
    "cycle": (lambda m: m.graph.node.insert(0, helper.make_node("Neg", ["y"], ["z"])), "before it"),
    "missing input": (lambda m: m.graph.node[0].input.__setitem__(0, "q"), "'q'"),
    "written twice": (lambda m: m.graph.node.append(m.graph.node[0]), "written before"),
    "no output": (lambda m: m.graph.ClearField("output"), "no output"),
    "output of nothing": (lambda m: setattr(m.graph.output[0], "name", "q"), "'q'"),
    "too many inputs": (lambda m: m.graph.node[0].input.append("x"), "has 2 inputs"),
    "unknown attribute": (
        lambda m: m.graph.node[0].attribute.append(helper.make_attribute("alpha", 1.0)),
        "no attribute alpha",
    ),
    "two opsets": (lambda m: m.opset_import.add(domain="ai.onnx", version=9), "twice"),
    "old opset": (lambda m: setattr(m.opset_import[0], "version", 6), "opset is 6"),
    "new opset": (lambda m: setattr(m.opset_import[0], "version", 2**40), "opset is"),
    "negative size": (lambda m: tensor(m, dims=[-1]), r"\(-1,\)"),
    "too few bytes": (lambda m: tensor(m, dims=[2**40, 2**40], raw_data=b"1234"), "has 4"),
    "sizes that wrap": (lambda m: tensor(m, dims=[2**62, 4], raw_data=b""), "bytes and has 0"),
    "no bytes, absurd sizes": (lambda m: tensor(m, dims=[0, 2**62, 2**62]), "t"),
    "two forms of values": (
        lambda m: tensor(m, dims=[1], raw_data=b"1234", float_data=[1.0]),
        "float_data",
    ),
    "values of another type": (lambda m: tensor(m, dims=[1], int64_data=[1]), "int64_data"),
    "no such type": (lambda m: setattr(tensor(m, dims=[0]), "data_type", 99), "type 99"),
    "a folder in memory": (lambda m: outside(m, location="data"), "no folder"),
    "unknown key": (lambda m: outside(m, location="data", exec="rm"), "unknown key 'exec'"),
    "two of a name": (lambda m: [tensor(m, dims=[0]), tensor(m, dims=[0])], "two initializers"),
    "a shape below zero": (
        lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[1], "dim_value", -5),
        "shape",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_model_is_a_format_error(name):
    change, told = WRONG[name]
    with pytest.raises(pc.FormatError, match=told):
        pyconv.onnx.prepare(broken(change))


@pytest.mark.parametrize("data", [b"", b"\xff" * 100, b"\x08", os.urandom(50)], ids=repr)
def test_what_is_no_onnx_file(tmp_path, data):
    (tmp_path / "net.onnx").write_bytes(data)
    with pytest.raises(pc.FormatError, match=r"net\.onnx"):
        pyconv.onnx.load(tmp_path / "net.onnx")


def test_a_wrong_type_of_an_attribute_and_one_named_twice():
    for attributes, told in [
        ([helper.make_attribute("axis", 1.0)], "wrong type"),
        ([helper.make_attribute("axis", 1)] * 2, "twice"),
        ([], "axis is missing"),
    ]:
        made = graph("y = Concat <axis = 1> (x, x)")
        del made.graph.node[0].attribute[:]
        made.graph.node[0].attribute.extend(attributes)
        with pytest.raises(pc.FormatError, match=told):
            pyconv.onnx.prepare(made)


@pytest.mark.parametrize(
    "text",
    [
        "q = Constant <value_ints = [1000000000000, 1000000]> () c = ConstantOfShape (q)"
        " y = Add (x, c)",
        "q = Constant <value_ints = [100000, 100000]> () a = ConstantOfShape (q) y = Add (x, a)",
        "q = Constant <value_ints = [-3]> () c = ConstantOfShape (q) y = Add (x, c)",
        "q = Constant <value_ints = [4000000000000, 4, 6, 7]> () y = Expand (x, q)",
        "y = Conv <pads = [4000000000000, 0, 4000000000000, 0]> (x, w)",
        "y = Conv <strides = [0, 1]> (x, w)",
        "y = Conv <dilations = [4611686018427387904, 1]> (x, w)",
        "y = MaxPool <kernel_shape = [2, 2], pads = [0, 4000000000000, 0, 4000000000000]> (x)",
        "y = AveragePool <kernel_shape = [0, 2]> (x)",
        "y = ConvTranspose <strides = [4000000000000, 1]> (x, w)",
        "y = Transpose <perm = [0, 0, 1, 2]> (x)",
    ],
)
def test_absurd_numbers_are_refused_before_they_are_allocated(text):
    net = pyconv.onnx.prepare(graph(text))  # nothing is computed at once that is not small
    with pytest.raises((ValueError, MemoryError)):
        net(X)


class TestExternalData:
    def file(self, folder, **keys):
        made = graph("y = Add (x, t)")
        outside(made, **{"location": "data"} | keys)
        made.graph.initializer[-1].dims[:] = [7]
        path = folder / "net.onnx"
        path.write_bytes(made.SerializeToString())
        return path

    def test_it_is_read(self, tmp_path):
        values = np.arange(9, dtype=np.float32)
        (tmp_path / "sub").mkdir()
        values.tofile(tmp_path / "sub" / "data")
        path = self.file(tmp_path, location="sub/data", offset="8", length="28")
        np.testing.assert_array_equal(pyconv.onnx.load(path)(X), X + values[2:])

    @pytest.mark.parametrize(
        ("keys", "told"),
        [
            ({"location": "../secret"}, "leaves"),
            ({"location": "sub/../../secret"}, "leaves"),
            ({"location": "/etc/passwd"}, "leaves"),
            ({"location": ""}, "leaves"),
            ({"location": "sub/link"}, "links"),
            ({"location": "folder/secret"}, "links"),
            ({"location": "hard"}, "single name"),
            ({"location": "sub"}, "plain file"),
            ({"location": "pipe"}, "plain file"),
            ({"location": "absent"}, "cannot be read"),
            ({"location": "a\0b"}, "leaves"),
            ({"offset": "-1"}, "offset"),
            ({"offset": "9"}, "28 bytes, but the tensor ends at 37"),
            ({"offset": "9999999999999999999"}, "ends at"),
            ({"length": "27"}, "has 27"),
            ({"length": "1e3"}, "length"),
            ({"executable": "1"}, "unknown key"),
        ],
    )
    def test_it_cannot_be_elsewhere(self, tmp_path, keys, told):
        folder = tmp_path / "model"
        (folder / "sub").mkdir(parents=True)
        (tmp_path / "secret").write_bytes(b"1234" * 7)
        (folder / "data").write_bytes(b"1234" * 7)
        (folder / "sub" / "link").symlink_to("../data")
        (folder / "folder").symlink_to("..")
        os.link(tmp_path / "secret", folder / "hard")
        os.mkfifo(folder / "pipe")
        with pytest.raises(pc.FormatError, match=told):
            pyconv.onnx.load(self.file(folder, **keys))

    def test_parts_must_not_overlap_without_end(self, tmp_path):
        (tmp_path / "data").write_bytes(b"1234" * 8)
        made = graph("y = Relu (x)")
        for i in range(3):
            outside(made, location="data", offset=str(i), length="28")
            made.graph.initializer[-1].dims[:] = [7]
            made.graph.initializer[-1].name = f"t{i}"
        (tmp_path / "net.onnx").write_bytes(made.SerializeToString())
        with pytest.raises(pc.FormatError, match="another's too"):
            pyconv.onnx.load(tmp_path / "net.onnx")


def test_changed_bytes_end_in_documented_errors(request):
    """Truncated and flipped: refused, or a net that runs or says why not."""
    rng = np.random.default_rng(3)
    seeds = [
        _export.model(models.lenet5_modern(), (1, 1, 32, 32)),
        graph(GRAPHS["residual"][0]),
        graph(GRAPHS["shapes"][0]),
        graph("y = MaxPool <kernel_shape = [2, 2], pads = [0, 1, 0, 1], ceil_mode = 1> (x)"),
        graph("y = Resize <mode = \"linear\"> (x, , r)".replace("r)", "image)")),
    ]  # fmt: skip
    for made in seeds[:1]:
        for one in made.graph.initializer:  # the structure is what is to be hit
            one.dims[:] = [min(d, 2) for d in one.dims]
            one.raw_data = one.raw_data[: 4 * int(np.prod(one.dims))]
    refused = ran = 0
    for _ in range(20000 if request.config.getoption("--slow") else 3000):
        data = bytearray(seeds[rng.integers(len(seeds))].SerializeToString())
        if rng.random() < 0.2:
            del data[rng.integers(len(data)) :]
        for _ in range(rng.integers(1, 6)):
            if data:
                data[rng.integers(len(data))] = rng.integers(256)
        try:
            net = pyconv.onnx.Net(pyconv.onnx._read.read_bytes(bytes(data)))
        except (pc.FormatError, NotImplementedError):
            refused += 1
            continue
        shapes = [tuple(n or 1 for n in v.shape or (1, 1)) for v in net.inputs]
        if sum(map(np.prod, shapes)) < 1e6:
            try:
                net.run([np.ones(s, v.dtype or np.float32) for s, v in zip(shapes, net.inputs)])
                ran += 1
            except (ValueError, TypeError, MemoryError, NotImplementedError):
                pass
    assert refused > 500
    assert ran > 50

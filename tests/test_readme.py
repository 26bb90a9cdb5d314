"""The README's example is the first thing a user types."""

import pathlib
import re

import numpy as np
import pytest
import test_embedding

import pyconv as pc

README = pathlib.Path(__file__).parents[1] / "README.md"


def test_the_example_computes_the_gradient_it_says():
    code = re.search(r"```python\n(.*?)```", README.read_text(), re.S)[1]
    names = {}
    exec(code, names)
    x, w, b = (names[name].astype(np.float64) for name in "xwb")
    gradients = [names[name] for name in ("dx", "dw", "db")]
    assert [g.shape for g in gradients] == [x.shape, w.shape, b.shape]

    def loss(x, w, b):
        y = pc.conv2d(x, w, b, padding="same", activation="relu")
        return (pc.max_pool2d(y, 2) ** 2).sum() / 2

    # Along one direction in all three at once, by central differences in float64.
    rng = np.random.default_rng(2)
    direction = [rng.standard_normal(a.shape) for a in (x, w, b)]
    step = 1e-6
    ahead = loss(*(a + step * d for a, d in zip((x, w, b), direction)))
    behind = loss(*(a - step * d for a, d in zip((x, w, b), direction)))
    expected = sum((g * d).sum() for g, d in zip(gradients, direction))
    assert abs((ahead - behind) / (2 * step) - expected) < 1e-4 * abs(expected)


SHAPES = {
    "torch": (8, 16, 15, 15),
    "jax": (8, 16, 15, 15),
    "onnx": (8, 10),
    "scipy": (256, 256),
    "sklearn": (297,),
}
MARKS = {"scipy": "ndimage"}  # what our side is called, if not as the framework


@pytest.mark.parametrize("framework", SHAPES)
def test_the_examples_inside_other_frameworks(framework, tmp_path, monkeypatch):
    pytest.importorskip(framework, reason=f"pip install 'pyconv-engine[{framework}]'")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.S)
    mark = MARKS.get(framework, f"pyconv.{framework}")
    [code] = [block for block in blocks if mark in block]
    names = {}
    exec(code, names)
    assert names["y"].shape == SHAPES[framework]


def test_the_lines_for_cmake_are_those_of_a_project_that_builds():
    [code] = re.findall(r"```cmake\n(.*?)```", README.read_text(), re.S)
    lines = [line for line in code.splitlines() if not line.startswith("#")]
    assert "\n".join(lines) in test_embedding.CMAKE

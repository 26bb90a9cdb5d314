"""At most 16 MB of scratch a thread, whatever the shape: every algorithm, pass, layout and dtype.

Plans are made, not run: that a run stays inside the bytes its plan asks for is a test of its own in
test_conv.py.
"""

import itertools
import math
from collections import Counter

import cases
import contract
import numpy as np
import pytest

from pyconv import _core

MOST = 16 << 20
PASSES = ("fwd", "bwd_data", "bwd_weight")

# (x, w, stride, padding, dilation, groups): each takes one number as far as it goes.
ABSURD = [
    ((1, 1, 1), (1, 1, 1), 1, 0, 1, 1),
    ((2**40, 1, 1), (1, 1, 1), 1, 0, 1, 1),
    ((2**20, 3, 8, 8), (16, 3, 3, 3), 1, 1, 1, 1),
    ((1, 2**20, 8), (2**10, 2**20, 1), 1, 0, 1, 1),
    ((1, 2**10, 8, 8), (2**20, 2**10, 3, 3), 1, 1, 1, 1),
    ((1, 2**17, 8, 8), (2**17, 2**17, 3, 3), 1, 1, 1, 1),
    ((1, 2**22, 8, 8), (2**22, 1, 3, 3), 1, 1, 1, 2**22),
    ((1, 1, 2**40), (1, 1, 3), 1, 1, 1, 1),
    ((1, 8, 2**30), (8, 8, 2**20), 1, 2**19, 1, 1),
    ((1, 1, 2**30), (1, 1, 2**30), 1, 0, 1, 1),
    ((1, 16, 2**20, 2**20), (16, 16, 3, 3), 1, 1, 1, 1),
    ((1, 1, 2**20, 2**20), (1, 1, 31, 31), 1, 15, 1, 1),
    ((1, 64, 5000, 5000), (64, 64, 4000, 4000), 1, 0, 1, 1),
    ((1, 16, 2, 2**30), (16, 16, 1, 5), 1, 2, 1, 1),
    ((1, 16, 2**30, 2), (16, 16, 5, 1), 1, 2, 1, 1),
    ((1, 16, 300, 300, 300), (16, 16, 200, 200, 200), 1, 0, 1, 1),
    ((1, 16, 2**20, 5, 5), (16, 16, 2**19, 3, 3), 1, 1, 1, 1),
    ((1, 4, 2**16, 2**16), (4, 4, 3, 3), 2**15, 1, 1, 1),
    ((1, 4, 2**30), (4, 4, 2**15), 2**15 + 1, 1, 1, 1),
    ((1, 4, 2**16, 2**16), (4, 4, 3, 3), 1, 1, 2**15 - 1, 1),
    ((1, 4, 2**30), (4, 4, 2**10), 3, 1, 2**20 - 1, 1),
    ((1, 1, 1, 1), (1, 1, 1, 1), 1, 2**28, 1, 1),
]


def random_shapes(count):
    """Sizes whose logarithms are even: as many below ten as between 10,000 and 100,000."""
    generator = np.random.default_rng(0)

    def size(most):
        return int(math.exp(generator.uniform(0, math.log(most))))

    for _ in range(count):
        axes = size(3.99)
        groups = generator.choice([1, 1, 1, size(1000)])
        c, k, n = size(3000), size(3000), size(1000)
        if groups > 1 and generator.integers(2):
            c = k = 1
        image = [size((10**7, 10**5, 10**3)[axes - 1]) for _ in range(axes)]
        kernel = [generator.choice([1, 3, 5, size(i)]) for i in image]
        padding = [k // 2 for k in kernel]
        stride = [generator.choice([1, 1, size(5)]) for _ in image]
        room = [(i - 1) // max(1, k - 1) for i, k in zip(image, kernel, strict=True)]
        dilation = [generator.choice([1, 1, size(max(1, r))]) for r in room]
        x, w = (n, c * groups, *image), (k * groups, c, *kernel)
        numbers = [tuple(map(int, a)) for a in (x, w, stride, padding, dilation)]
        yield (*numbers, int(groups))


SHAPES = [
    *[(c.x, c.w, c.stride, c.padding, c.dilation, c.groups) for c in cases.BENCH],
    *ABSURD,
    *random_shapes(300),
]


def plan(algorithm, direction, dtype, layout, shape):
    """None where the algorithm refuses."""
    x, w, stride, padding, dilation, groups = shape
    if layout == "NHWC":
        x = (x[0], *x[2:], x[1])
    arguments = (
        "conv", len(x) - 2, direction, False, dtype, layout, x, w, None, None, None,
        stride, padding, dilation, groups, "zeros", False, None,
    )  # fmt: skip
    return contract.forced(
        lambda algorithm: _core.plan_conv(*arguments, algorithm, 0, None, False, False),
        algorithm=algorithm,
    )


@pytest.mark.parametrize("algorithm", contract.ALGORITHMS)
def test_scratch_is_bounded(algorithm, threads, target):
    planned, scratch, most = Counter(), Counter(), 0
    for direction, dtype, layout, shape in itertools.product(
        PASSES, ("float32", "float64"), contract.LAYOUTS, SHAPES
    ):
        made = plan(algorithm, direction, dtype, layout, shape)
        if made is None:
            continue
        bytes_of = {}
        for count in (1, 2, 5):
            threads(count)
            bytes_of[count] = made.workspace_bytes
        one_more = bytes_of[2] - bytes_of[1]
        assert one_more >= 0
        assert bytes_of[5] - bytes_of[1] == 4 * one_more, (direction, dtype, layout, shape)
        own = bytes_of[1]  # one thread's and what all share; packed weights too where a call packs
        if own > MOST:
            own -= made.packed_bytes
        assert 0 <= own <= MOST, (direction, dtype, layout, shape)
        planned[direction] += 1
        scratch[direction] += bytes_of[1] > 0
        most = max(most, one_more)
    # What is bounded was there: hundreds of plans, most with scratch, and some of a size to mind.
    assert planned["fwd"] >= 20
    assert max(planned.values()) <= 4 * len(SHAPES)
    for direction, count in planned.items():
        assert scratch[direction] > count / 2, direction
    assert most >= 1 << 17
    if algorithm in contract.PLAIN:
        assert dict(planned) == dict.fromkeys(PASSES, 4 * len(SHAPES))

"""Memory stays bounded however shapes vary (Linux: read from /proc)."""

import subprocess
import sys
import textwrap

import pytest

SHAPES = """
    import random
    import numpy as np, pyconv as pc
    def resident():
        lines = open("/proc/self/status").read().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024
    def one(chosen):
        n, c, k, r = (chosen.randint(1, most) for most in (4, 48, 48, 5))
        h, w = chosen.randint(r, 48), chosen.randint(r, 48)
        x, f = np.ones((n, c, h, w), "f4"), np.ones((k, c, r, r), "f4")
        stride, padding = chosen.randint(1, 3), chosen.randint(0, 2)
        y = pc.conv2d(x, f, None, stride, padding)
        pc.conv2d_backward(y, x, f, stride, padding)
        top, indices = pc.max_pool2d(x, r, stride, r // 2, return_indices=True)
        pc.max_pool2d_backward(top, indices, x.shape)
    chosen = random.Random(0)
    for _ in range(20):
        one(chosen)
    before = resident()
    for _ in range(200):
        one(chosen)
    print(resident() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
def test_200_shapes_leave_memory_where_it_was():
    done = subprocess.run(
        [sys.executable, "-P", "-c", textwrap.dedent(SHAPES)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 50

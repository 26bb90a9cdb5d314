"""Memory stays bounded however shapes vary (Linux: read from /proc), and pools keep it."""

import os
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import pyconv as pc

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
    if os.environ.get("PYCONV_SANITIZED"):
        pytest.skip("AddressSanitizer keeps 256 MB of freed memory back")
    done = subprocess.run(
        [sys.executable, "-P", "-c", textwrap.dedent(SHAPES)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 50


def test_pooled_arrays_lie_where_the_ones_before_lay():
    pool = pc.MemoryPool()
    with pool:
        first = np.ones(1 << 22, np.float32)
        address = first.ctypes.data
        assert address % 64 == 0
        del first
        assert pool.idle_bytes >= 1 << 24
        second = np.empty((1 << 22) - 5, np.float32)
        assert second.ctypes.data == address
        third = np.empty(1 << 22, np.float32)
        assert third.ctypes.data != address
        with pool:
            assert not np.zeros(1 << 22).any()
        assert pc.conv1d(np.ones((1, 1, 1 << 20), "f4"), np.ones((1, 1, 1), "f4")).all()
    assert pool.idle_bytes == 0
    del third  # after the block: straight back
    assert pool.idle_bytes == 0
    del pool  # arrays outlive it
    second.fill(1)
    assert second.all()


def test_pooled_arrays_of_other_sizes_replace_each_other():
    """No more is kept than was in use at once."""
    with pc.MemoryPool() as pool:
        for megabytes in (8, 3, 5, 2, 7):
            np.ones(megabytes << 20, np.uint8)
            assert pool.idle_bytes <= 8 << 20
        two = [np.ones(4 << 20, np.uint8) for _ in range(2)]
        del two
        assert pool.idle_bytes == 8 << 20


def test_pooled_arrays_change_size():
    with pc.MemoryPool():
        array = np.arange(10.0)
        for size in (1 << 20, 1 << 10, 1 << 22, 1 << 21, 10):
            array.resize(size, refcheck=False)
            assert array[:10].tolist() == list(range(10))


def test_pooled_results_are_the_same_bits():
    generator = np.random.default_rng(0)
    x = generator.standard_normal((4, 16, 80, 80), np.float32)
    w = generator.standard_normal((16, 16, 3, 3), np.float32)
    want = pc.conv2d(x, w)
    with pc.MemoryPool():
        for _ in range(3):
            y = pc.conv2d(x, w)
            assert np.array_equal(y, want)
            y[...] = np.nan
            del y


def test_threads_share_a_pool():
    pool = pc.MemoryPool()

    def work(seed):
        generator = np.random.default_rng(seed)
        with pool:
            for _ in range(200):
                array = np.full(generator.integers(1 << 18, 1 << 20), seed, np.float64)
                assert (array == seed).all()

    with ThreadPoolExecutor(4) as executor:
        list(executor.map(work, range(4)))
    assert pool.idle_bytes == 0


def test_arrays_in_a_pool_never_share_memory():
    """Random sizes come and go, are copied to others and made anew; each keeps its number."""
    rng = np.random.default_rng(0)
    arrays: list[np.ndarray] = []
    with pc.MemoryPool() as pool:
        for number in range(400):
            if len(arrays) > 12 or (arrays and rng.random() < 0.45):
                array = arrays.pop(rng.integers(len(arrays)))
                assert (array == array[0]).all()
            elif arrays and rng.random() < 0.2:
                array = arrays[-1]
                array.resize(int(rng.integers(1, 1 << 20)), refcheck=False)
                array[:] = array[0]
            else:
                arrays.append(np.empty(int(rng.integers(1, 1 << 20))))
                arrays[-1][:] = number
        for array in arrays:
            assert (array == array[0]).all()
        live = sum(array.nbytes for array in arrays)
        most = 14 * 8 << 20
        assert pool.idle_bytes + live <= most
        first = np.empty(1 << 20)  # eight megabytes fit into a gap, or behind all others
        del arrays, first, array
        idle = pool.idle_bytes
        assert np.empty(1 << 17).nbytes == 1 << 20
        assert pool.idle_bytes == idle
    assert pool.idle_bytes == 0

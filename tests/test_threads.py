"""Same bits for every number of threads; concurrent callers; fork; the process's float state."""

import concurrent.futures
import os
import subprocess
import sys
import textwrap

import cases
import contract
import numpy as np
import pytest

import pyconv as pc
from pyconv import _core

# Large enough for several threads to have work: beyond the serial limit of the planner.
LARGE = [
    cases.Case("dense", (5, 16, 37, 41), (33, 16, 3, 3), 1, 1),
    cases.Case("stride", (3, 17, 64, 63), (24, 17, 5, 4), 2, 2),
    cases.Case("depthwise", (4, 33, 50, 51), (33, 1, 3, 3), 1, 1, 1, 33),
    cases.Case("groups", (3, 32, 40, 44), (64, 8, 3, 3), 1, 1, 1, 4),
    cases.Case("pointwise", (3, 64, 31, 29), (65, 64, 1, 1)),
    cases.Case("circular", (3, 8, 60, 61), (16, 8, 3, 3), 1, 1, padding_mode="circular"),
    cases.Case("one image", (1, 8, 150, 160), (16, 8, 3, 3)),
]


def everything(case, algorithm):
    """All results of one case, by that algorithm where it serves, and of pooling its input."""
    x, w, b = (a.astype(np.float32) for a in contract.random(case.name, case.x, case.w, case.w[:1]))
    with pc.config(algorithm=algorithm):
        y = pc.conv2d(x, w, b, **case.window)
        dy = np.ascontiguousarray(np.flip(y))
        gradients = pc.conv2d_backward(dy, x, w, **case.window)
    top, indices = pc.max_pool2d(x, 3, 2, return_indices=True)
    return [
        y,
        *gradients,
        top,
        indices,
        pc.max_pool2d_backward(top, indices, x.shape),
        pc.avg_pool2d(x, 3, 2, 1),
        pc.avg_pool2d_backward(top, x.shape, 3, 2),
        pc.lp_pool2d(x, 3, 2),
        pc.adaptive_avg_pool2d(x, (5, 7)),
    ]


@pytest.mark.parametrize("algorithm", contract.ALGORITHMS)
@pytest.mark.parametrize("case", LARGE, ids=cases.case_id)
def test_same_bits_for_every_number_of_threads(case, algorithm, threads, target):
    threads(1)
    wants = everything(case, algorithm)
    for count in (2, 3, 8):
        threads(count)
        assert pc.get_num_threads() == count
        for got, want in zip(everything(case, algorithm), wants, strict=True):
            contract.assert_same_bits(got, want)


@pytest.mark.parametrize("layout", contract.LAYOUTS)
@pytest.mark.parametrize("case", LARGE[:-1], ids=cases.case_id)
def test_a_batch_gives_the_bits_of_its_images(case, layout, target):
    x, w = (a.astype(np.float32) for a in contract.random(case.name, case.x, case.w))
    x = contract.to_layout(x, layout)
    with pc.config(batch_invariant=True):
        whole = pc.conv2d(x, w, **case.window, layout=layout)
        parts = [pc.conv2d(image[None], w, **case.window, layout=layout) for image in x]
        contract.assert_same_bits(np.concatenate(parts), whole)
        [dy] = contract.random("batch dy", whole.shape)
        dy = dy.astype(np.float32)
        options = {**case.window, "layout": layout, "needs": ("x",)}
        whole, *_ = pc.conv2d_backward(dy, x, w, **options)
        parts = [
            pc.conv2d_backward(d[None], i[None], w, **options)[0]
            for d, i in zip(dy, x, strict=True)
        ]
        contract.assert_same_bits(np.concatenate(parts), whole)


def test_kept_plans_are_batch_invariant():
    x, w = (a.astype(np.float32) for a in contract.random("plan", (6, 16, 30, 31), (24, 16, 3, 3)))
    whole = pc.plan_conv(x.shape, w.shape, padding=1)
    whole.set_weights(w)
    single = pc.plan_conv((1, *x.shape[1:]), w.shape, padding=1)
    single.set_weights(w)
    contract.assert_same_bits(np.concatenate([single(image[None]) for image in x]), whole(x))


def test_two_python_threads_at_once():
    """Each has arrays of its own but shares plans, the cache and the OpenMP runtime."""
    jobs = [(case, algorithm) for case in LARGE[:4] for algorithm in ("direct", "gemm")]
    wants = [everything(*job) for job in jobs]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            for want, got in zip(wants, pool.map(lambda job: everything(*job), jobs), strict=True):
                for a, b in zip(want, got, strict=True):
                    contract.assert_same_bits(b, a)


def test_one_plan_in_many_threads():
    x, w = (
        a.astype(np.float32) for a in contract.random("shared", (2, 16, 30, 31), (24, 16, 3, 3))
    )
    plan = pc.plan_conv(x.shape, w.shape)
    plan.set_weights(w)
    want = plan(x)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for got in pool.map(lambda _: plan(x), range(40)):
            contract.assert_same_bits(got, want)


def child(program, environment=None, timeout=60):
    """A Python program in a process of its own; its last line."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", textwrap.dedent(program)],
        env={**os.environ, **(environment or {})}, capture_output=True, text=True, timeout=timeout,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]


FORK = """
    import os, signal, sys, warnings
    import numpy as np, pyconv as pc
    warnings.simplefilter("ignore", DeprecationWarning)  # fork in a process with threads: the point
    x, w = np.ones((8, 16, 40, 40), "f4"), np.ones((32, 16, 3, 3), "f4")
    pc.set_num_threads(4)
    want = pc.conv2d(x, w)
    for _ in range(5):
        pid = os.fork()
        if pid == 0:
            signal.alarm(30)
            ok = np.array_equal(pc.conv2d(x, w), want) and pc.max_pool2d(x, 2).all()
            os._exit(0 if ok else 3)
        assert os.waitpid(pid, 0)[1] == 0
    assert np.array_equal(pc.conv2d(x, w), want)
    print("same")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_fork_after_a_parallel_call():
    """libgomp's threads do not survive a fork; a child that waits for them hangs."""
    assert child(FORK, timeout=180) == "same"


@pytest.mark.parametrize("count", [1, 2, 5])
def test_omp_num_threads(count):
    program = "import pyconv; print(pyconv.get_num_threads())"
    assert child(program, {"OMP_NUM_THREADS": str(count)}) == str(count)


def test_set_num_threads(threads):
    threads(3)
    assert pc.get_num_threads() == 3
    for bad in (-1, 2**40):
        with pytest.raises(ValueError, match="threads"):
            pc.set_num_threads(bad)
    for bad in (True, 1.5, "2", None):
        with pytest.raises(TypeError):
            pc.set_num_threads(bad)
    assert pc.get_num_threads() == 3


def test_threadpoolctl_limits_us():
    threadpoolctl = pytest.importorskip("threadpoolctl", reason="pip install 'pyconv-engine[test]'")
    if not _core.openmp:
        pytest.skip("built without OpenMP")
    with threadpoolctl.threadpool_limits(1, user_api="openmp"):
        assert pc.get_num_threads() == 1


SUBNORMAL = """
    import ctypes, ctypes.util
    import numpy as np
    libm = ctypes.CDLL(ctypes.util.find_library("m"))
    environment = lambda: bytes((libm.fegetenv(buffer), buffer)[1])
    buffer = ctypes.create_string_buffer(256)
    tiny = np.float32(1e-40)
    before, rounding = environment(), libm.fegetround()
    import pyconv as pc
    # x87 exception flags may be set by any arithmetic: compare the control words, MXCSR's included.
    def control(state): return state[0:2], int.from_bytes(state[28:32], "little") & 0xFFC0
    assert control(environment()) == control(before), "import changed the float state"
    x, w = np.full((4, 16, 40, 40), tiny), np.zeros((16, 16, 3, 3), "f4")
    w[range(16), range(16), 1, 1] = 1
    for algorithm in ("direct", "gemm"):
        y = pc.conv2d(x, w, padding=1, algorithm=algorithm)
        assert (y == tiny).all(), "a subnormal was lost"
        dx, _, _ = pc.conv2d_backward(y, x, w, padding=1, algorithm=algorithm)
        assert (dx == tiny).all()
    assert (pc.max_pool2d(x, 2) == tiny).all()
    assert (pc.avg_pool2d(x, 2) == tiny).all()
    assert control(environment()) == control(before), "an operation changed the float state"
    assert libm.fegetround() == rounding
    assert tiny * np.float32(1) == tiny and tiny / 2 > 0
    print("kept")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads glibc's floating-point environment")
def test_subnormals_and_the_float_state_survive():
    assert child(SUBNORMAL) == "kept"

"""The numerical contract, and arrays that catch whoever breaks it.

With u the unit roundoff, K the number of products in an output and S = sum |x||w| + |b|, every
output of a direct or GEMM path satisfies |error| <= gamma_{K+2} S, gamma_n = n u / (1 - n u), in
whatever order it sums (Higham, Accuracy and Stability, 3.1), and in practice
max |error| / S <= max(4, sqrt K) u. Algorithms that multiply transforms (Winograd, FFT) mix the
outputs of a tile, so theirs is a bound on the whole: 4e-6 of max |y|, and as many units in float64.
"""

import contextlib
import ctypes
import functools
import math
import mmap
import re
import zlib

import numpy as np

import pyconv as pc

UNIT = {np.dtype(np.float32): 2.0**-24, np.dtype(np.float64): 2.0**-53}
DTYPES = (np.float32, np.float64)
LAYOUTS = ("NCHW", "NHWC")
# Looped over inside a test: as parameters they would cost more than the calls they make.
VARIANTS = [(layout, dtype) for dtype in DTYPES for layout in LAYOUTS]
FLOAT32 = VARIANTS[:2]


def algorithms():
    """The names the core accepts, as it lists them itself: a new one is tested by being there."""
    try:
        pc.conv1d(np.ones((1, 1, 1)), np.ones((1, 1, 1)), algorithm="?")
    except ValueError as error:
        return re.findall(r'"(\w+)"', str(error).split("must be one of")[1])
    raise AssertionError("an unknown algorithm was accepted")


ALGORITHMS = algorithms()


PLAIN = ("auto", "direct", "gemm")  # "auto" as `forced` calls it: among the other two


def forced(call, *arrays, algorithm="auto", **options):
    """call(...) by that algorithm; None where it refuses and says why, as no plain one may."""
    try:
        with pc.config(precision="strict" if algorithm == "auto" else "default"):
            return call(*arrays, algorithm=algorithm, **options)
    except ValueError as error:
        refusal = str(error)
    assert algorithm not in PLAIN, refusal
    assert re.search(rf'algorithm "{algorithm}" cannot serve: \w+', refusal), refusal
    return None


def random(name, *shapes):
    """Normal float64 arrays that float32 holds exactly, the same for the same name."""
    generator = np.random.default_rng(zlib.crc32(name.encode()))
    return [generator.standard_normal(s).astype(np.float32).astype(np.float64) for s in shapes]


def integers(name, *shapes):
    """Small whole numbers: every partial sum below 2^24 is exact in float32."""
    generator = np.random.default_rng(zlib.crc32(name.encode()))
    return [generator.integers(-4, 5, s).astype(np.float64) for s in shapes]


def to_layout(x, layout):
    return np.ascontiguousarray(np.moveaxis(x, 1, -1)) if layout == "NHWC" else x


def from_layout(y, layout):
    return np.moveaxis(y, -1, 1) if layout == "NHWC" else y


def assert_accurate(got, want, scale, products, what="", algorithm="auto"):
    """`got` against float64 `want`, the bounds of its algorithm; scale is S, products is K."""
    assert got.shape == want.shape, (got.shape, want.shape, what)
    if algorithm not in PLAIN:
        return assert_transformed(got, want, scale, what)
    u = UNIT[got.dtype]
    error = np.abs(got - want)
    steps = products + 2
    bound = steps * u / (1 - steps * u) * scale
    if got.dtype == np.float64:
        bound = 2 * bound  # the reference rounds as well
    worst = np.max(error - bound, initial=-1)
    assert (error <= bound).all(), f"{what}: error exceeds gamma_{steps} S by {worst:.3g}"
    if got.dtype == np.float32:
        ratio = np.max(np.where(scale > 0, error / np.where(scale > 0, scale, 1), 0), initial=0) / u
        # Without fused multiply-add each product rounds too, by at most u of its part of S.
        unfused = pc._core.get_target() == "baseline"
        assert ratio <= max(4, math.sqrt(products)) + unfused, f"{what}: error / S is {ratio:.2f} u"


def assert_transformed(got, want, scale, what=""):
    """The bound of algorithms that mix outputs.

    Where all outputs happen to be small beside what was summed, S without its sqrt K stands for
    the size they would have; where nothing was summed (no tap meets a pixel), the inputs' size, 1.
    """
    error = np.max(abs(got - want), initial=0)
    size = max(np.max(abs(want), initial=0), np.max(scale, initial=0) / 8) or 1
    bound = 4e-6 * UNIT[got.dtype] / UNIT[np.dtype(np.float32)]
    assert error <= bound * size, f"{what}: max error is {error / size:.3g} of max |y|"


def assert_same_bits(got, want):
    assert got.dtype == want.dtype
    assert got.shape == want.shape
    assert np.array_equal(got, want), f"{np.sum(got != want)} of {got.size} elements differ"


@contextlib.contextmanager
def guarded(shape, dtype, size_of_guard=64):
    """An `out` full of NaN between canaries; on leaving, the canaries must be alive."""
    dtype = np.dtype(dtype)
    canary = dtype.type(-123456)
    memory = np.full(math.prod(shape) + 2 * size_of_guard, canary, dtype)
    out = memory[size_of_guard : memory.size - size_of_guard].reshape(shape)
    out[...] = np.nan if dtype.kind == "f" else -(2**62)
    yield out
    assert (memory[:size_of_guard] == canary).all(), "wrote before the array"
    assert (memory[memory.size - size_of_guard :] == canary).all(), "wrote behind the array"


class Walled:
    """Memory between two pages that cannot be read: a load beyond an array there is a signal."""

    def __init__(self, size=64 << 20):
        page = mmap.PAGESIZE
        self._memory = np.frombuffer(mmap.mmap(-1, size + 2 * page), np.uint8)
        protect = ctypes.CDLL(None, use_errno=True).mprotect
        for wall in (0, size + page):
            address = ctypes.c_void_p(self._memory.ctypes.data + wall)
            assert protect(address, ctypes.c_size_t(page), 0) == 0, ctypes.get_errno()
        self._inside = self._memory[page : page + size]
        self._at_end = True

    def copy(self, array):
        """A copy that ends at the second wall or, every other time, begins at the first."""
        if array is None or array.nbytes > self._inside.size:
            return array
        self._at_end = not self._at_end
        first = self._inside.size - array.nbytes if self._at_end else 0
        copy = self._inside[first : first + array.nbytes].view(array.dtype).reshape(array.shape)
        copy[...] = array
        return copy


@functools.cache
def walled(slot):
    return Walled()


def run_guarded(run, plan, a, b, bias, residual, out, aux, workspace=None, packed=False):
    """`run` of a plan on inputs between walls, with a workspace of just the bytes it asks for, NaN
    between canaries, and, unless `out` is given, a result between canaries."""
    a, bias, residual = (walled(i).copy(x) for i, x in enumerate((a, bias, residual)))
    b = b if packed else walled(3).copy(b)
    guard, size = 4096, plan.workspace_bytes
    memory = np.full(size + 2 * guard, 0xFF, np.uint8)  # 0xFF... is a NaN
    first = guard - memory.ctypes.data % 64
    if workspace is None:
        workspace = memory[first : first + size]
    if out is None:
        with guarded(plan.output_shape, a.dtype) as result:
            run(plan, a, b, bias, residual, result, aux, workspace, packed)
    else:
        result = run(plan, a, b, bias, residual, out, aux, workspace, packed)
    assert (memory[:first] == 0xFF).all(), "wrote before the workspace"
    assert (memory[first + size :] == 0xFF).all(), "wrote behind the workspace"
    return result

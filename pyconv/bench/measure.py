"""Fair times: a race of contestants in one process, and what the machine itself can do.

Whoever ran last may leave threads that spin on the cores of whoever is next: OpenMP's for 1 to 4 ms
and NumPy's OpenBLAS for 40 (a convolution of 8 ms took 14 after it). So between two contestants all
rest, and each runs once untimed where that costs little.
"""

from __future__ import annotations

import contextlib
import datetime
import gc
import importlib.metadata
import os
import pathlib
import platform
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import pyconv as pc
from pyconv.bench.cases import Contestant

REST, LONG_REST = 0.005, 0.1  # seconds
SPINNING = ("numpy", "onnxruntime", "jax")
TURN = 0.005  # seconds of calls before the next contestant's turn
HOPELESS = 4  # times slower than the fastest: after a fair try it can win nothing
MOST_ERROR = 2e-5  # of the largest value: float32 summed in another order, or by transforms

Samples = dict[str, list[float]]


def library(name: str) -> str:
    return name.split()[0]


def checked(contestants: list[Contestant]) -> tuple[dict[str, Callable[[], Any]], Samples, Any]:
    """Calls whose results agree, the seconds of their first call, and why others are left out.

    The standard is the first peer. Raises FloatingPointError where pyconv is the one that differs.
    """
    runs, first, left_out = {}, {}, {}
    standard: Any = None
    for name, run, last in sorted(contestants, key=lambda c: library(c[0]) == "pyconv"):
        mine = library(name) == "pyconv"
        start = time.perf_counter()
        try:
            result = np.asarray(run())
        except Exception as error:  # whatever a framework raises for what it cannot do
            if mine:
                raise
            left_out[name] = f"{type(error).__name__}: {str(error)[:200]}"
            continue
        first[name] = [time.perf_counter() - start]
        result = np.moveaxis(result, -1, 1) if last else result
        standard = result if standard is None else standard
        if wrong := difference(result, standard):
            if mine:
                raise FloatingPointError(f"{name}: {wrong}")
            left_out[name] = wrong
        else:
            runs[name] = run
        if library(name) in SPINNING:
            time.sleep(LONG_REST)
    return {name: runs[name] for name, *_ in contestants if name in runs}, first, left_out


def difference(result: Any, standard: Any) -> str:
    """Nothing where they agree."""
    if result.shape != standard.shape:
        return f"its shape is {result.shape}, not {standard.shape}"
    most = float(np.max(np.abs(standard), initial=0)) or 1.0
    share = float(np.max(np.abs(result - standard), initial=0)) / most
    return "" if share <= MOST_ERROR else f"it differs by {share:.2g} of the largest value"


def race(
    runs: dict[str, Callable[[], Any]], first: Samples, seconds: float, hopeless: float = HOPELESS
) -> Samples:
    """Seconds of single calls, in turns; of calls under 500 us the mean of as many as take that.

    At least three turns each, but one for the hopeless, and none for those whose first call, over
    a second, was.
    """
    samples: Samples = {name: [] for name in runs}
    guess = {name: first[name][0] for name in runs}
    turns, end = 0, time.perf_counter() + seconds
    with quiet():
        while turns < 3 or time.perf_counter() < end:
            best = min(guess.values())
            for name, run in runs.items():
                if guess[name] > hopeless * best and (turns >= 1 or guess[name] > 1):
                    continue
                time.sleep(REST)
                samples[name] += turn(run)
                guess[name] = statistics.median(samples[name])
                if library(name) in SPINNING:
                    time.sleep(LONG_REST)
            turns += 1
    return {name: found or first[name] for name, found in samples.items()}


def turn(run: Callable[[], Any]) -> list[float]:
    """The times of one contestant's turn."""
    once = timed(run)
    if once > 0.1:  # what waking the threads and warming the caches takes is lost in that
        return [once]
    several = max(1, int(5e-4 / once))
    found: list[float] = []
    end = time.perf_counter() + TURN
    while len(found) < 2 or time.perf_counter() < end:
        found.append(timed(run, several))
    return found


def timed(run: Callable[[], Any], several: int = 1) -> float:
    """The mean seconds of so many calls."""
    start = time.perf_counter()
    for _ in range(several):
        run()
    return (time.perf_counter() - start) / several


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No garbage collection."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


@contextlib.contextmanager
def blas_threads(threads: int) -> Iterator[None]:
    """NumPy's and SciPy's BLAS on so many threads, where threadpoolctl is there to say so."""
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        yield
        return
    with threadpool_limits(threads, "blas"):
        yield


def at_once(threads: int, work: Callable[[int], Any]) -> float:
    """The seconds that work(0), work(1), ... take side by side; they release the GIL."""
    crew = [threading.Thread(target=work, args=(i,)) for i in range(threads)]

    def start_and_join() -> None:
        for one in crew:
            one.start()
        for one in crew:
            one.join()

    return timed(start_and_join)


def peak_gflops(threads: int) -> float:
    """GFLOP/s of the best of ten products of 2048x2048, in which the packing is lost.

    By NumPy's BLAS, and PyTorch's where it takes part: 300 and 334 on two cores that do 340.
    """
    a, c = np.ones((2, 2048, 2048), np.float32)
    products: list[Callable[[], Any]] = [lambda: np.matmul(a, a, out=c)]
    if torch := sys.modules.get("torch"):
        ta, tc = torch.from_numpy(a), torch.from_numpy(c)
        products.append(lambda: torch.mm(ta, ta, out=tc))
    with blas_threads(threads):
        best = min(timed(product) for product in products for _ in range(10))
    time.sleep(LONG_REST)
    return 2 * 2048**3 / best / 1e9


def copy_gbs(threads: int) -> float:
    """GB/s read and written by copies of 128 MB on each thread."""
    source, target = np.ones((2, threads, 32 << 20), np.float32)

    def work(i: int) -> None:
        np.copyto(target[i], source[i])

    return 2 * source.nbytes / min(at_once(threads, work) for _ in range(4)) / 1e9


def load() -> float:
    """The average of the last minute."""
    return os.getloadavg()[0]


def machine(threads: int, libraries: list[str]) -> dict[str, Any]:
    """What a reader must know to judge the figures."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    model = next((line.split(": ")[1] for line in lines if line.startswith("model name")), "")
    versions = {}
    for name in libraries:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {
        "cpu": model or platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "system": platform.platform(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "load": load(),
        "pyconv": pc.show_config("dict"),
        "threads": threads,
        "versions": versions,
        "peak_gflops": peak_gflops(threads),
        "copy_gbs": copy_gbs(threads),
    }

"""How much memory a call takes at its peak, its result included; Linux only.

A child process for each contestant, because what one allocates another would find allocated. The
parent asks for a row by a line of JSON, the child answers with bytes, or null where it has none.
"""

from __future__ import annotations

import ctypes
import dataclasses
import gc
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pyconv.bench import peers
from pyconv.bench.cases import Layer, conv

CONTESTANTS = ("pyconv nchw", "torch nchw", "pyconv nhwc", "torch nhwc")
RANDOM_SHAPES = 200


def status(field: str) -> int:
    """Bytes, by the kernel: VmRSS now, VmHWM the most since `peak_of` last began."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


def settled() -> int:
    """Resident bytes after everything free has gone back to the system."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)
    return status("VmRSS")


def call_of(contestant: str, layer: Layer, direction: str) -> Any:
    given = peers.arrays(layer)
    library = peers.PEERS | {"pyconv": peers.pyconv}
    made = library[contestant.split()[0]](layer, given, direction)
    return next((call for name, call, _ in made if name == contestant), None)


def peak_of(contestant: str, layer: Layer, direction: str) -> int | None:
    small = dataclasses.replace(layer, x=(1, layer.x[1], *[min(size, 16) for size in layer.x[2:]]))
    for sample in (small, layer):  # the first call loads code and starts threads
        call = call_of(contestant, sample, direction)
        if call is None:
            return None
        before = settled()
        Path("/proc/self/clear_refs").write_text("5")
        result = call()
        peak = status("VmHWM") - before
        del result
    return max(peak, 0)


def leak_of(contestant: str) -> int | None:
    """How many bytes more are resident after the three passes of many random shapes."""
    rng, before = np.random.default_rng(0), 0
    for i in range(RANDOM_SHAPES + 10):
        n, c, k, height, width = (int(rng.integers(1, most)) for most in (5, 65, 65, 65, 65))
        r, stride = int(rng.choice([1, 3, 5])), int(rng.integers(1, 3))
        layer = conv("", "", n, c, (height, width), k, r, stride, r // 2)
        for direction in layer.passes:
            call = call_of(contestant, layer, direction)
            if call is None:
                return None
            call()
        if i == 9:
            before = settled()
    return max(settled() - before, 0)


def rows(layers: Iterator[Layer], passes: tuple[str, ...], threads: int, torch: bool) -> Any:
    """Pairs of a layer (None: random shapes) and pass with the bytes of each contestant."""
    names = [name for name in CONTESTANTS if torch or name.startswith("pyconv")]
    command = [sys.executable, "-P", "-m", "pyconv.bench.memory", str(threads)]
    pipe: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    crew: dict[str, Any] = {name: subprocess.Popen([*command, name], **pipe) for name in names}
    jobs = [(layer, direction) for layer in layers for direction in layer.passes]
    jobs = [job for job in jobs if job[1] in passes]
    try:
        for layer, direction in [*jobs, (None, "leak")]:
            asked = None if layer is None else dataclasses.asdict(layer)
            found = {}
            for name, child in crew.items():
                child.stdin.write(json.dumps([asked, direction]) + "\n")
                child.stdin.flush()
                found[name] = json.loads(child.stdout.readline() or "null")
            samples = {name: [float(v)] for name, v in found.items() if v is not None}
            yield layer, direction, samples
    finally:
        for child in crew.values():
            child.kill()
            child.communicate()


def answer(contestant: str, asked: dict[str, Any] | None, direction: str) -> int | None:
    if asked is None:
        return leak_of(contestant)
    shapes = {name: tuple(asked[name]) for name in ("x", "w")}
    return peak_of(contestant, Layer(**asked | shapes), direction)


if __name__ == "__main__":
    import pyconv

    pyconv.set_num_threads(int(sys.argv[1]))
    peers.use_threads((sys.argv[2].split()[0],), int(sys.argv[1]))
    for line in sys.stdin:
        print(json.dumps(answer(sys.argv[2], *json.loads(line))), flush=True)

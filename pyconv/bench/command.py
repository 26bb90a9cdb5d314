"""The command `pyconv bench`."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

DESCRIPTION = """Time layers and networks beside the peers that are installed: PyTorch, onnxruntime
and JAX, each checked before it is timed. Leaves all samples and the machine as JSON, and charts."""


def add_options(parser: argparse.ArgumentParser) -> None:
    option = parser.add_argument
    option("--suite", default="layers", metavar="S", help="layers (default)")
    option("--against", type=_words, metavar="P,...", help="peers; default: those installed")
    option(
        "--only", type=_words, default=(), metavar="L,...", help="beginnings of names, or classes"
    )
    option("--passes", type=_words, metavar="P,...", help="of fwd, bwd_data, bwd_weight")
    option("--threads", type=int, metavar="T", help="default: all cores")
    option("--seconds", type=float, default=1.0, metavar="S", help="a row, at least; default 1")
    option("--batch", type=_batches, default=(0, 1), metavar="N,...",
           help="images; 0 is the layer's own; default 0,1")  # fmt: skip
    option("--out", type=Path, metavar="STEM", help="default runs/bench-SUITE-TIME")


def _words(text: str) -> tuple[str, ...]:
    return tuple(filter(None, text.split(",")))


def _batches(text: str) -> tuple[int, ...]:
    return tuple(map(int, _words(text)))


def run(args: argparse.Namespace) -> int:
    import pyconv
    from pyconv.bench import measure, peers, report, suites
    from pyconv.bench.cases import PASSES
    from pyconv.bench.screen import Screen

    against = args.against
    if against is None:
        against = tuple(filter(peers.installed, peers.PEERS))
    _require("suite", [args.suite], suites.SUITES)
    _require("against", against, peers.PEERS)
    if min(args.batch, default=-1) < 0:
        raise ValueError(f"bench: --batch must be numbers from 0, got {args.batch}")
    _require("passes", args.passes or (), PASSES)
    pyconv.set_num_threads(args.threads or 0)
    threads = pyconv.get_num_threads()
    options = suites.Options(
        against=against,
        only=args.only,
        passes=args.passes or PASSES,
        threads=threads,
        seconds=args.seconds,
        batch=args.batch,
    )
    peers.use_threads(against, threads)
    found: dict[str, Any] = {"suite": args.suite, "options": vars(options)}
    found["machine"] = measure.machine(threads, ["pyconv-engine", "numpy", *against])
    rows: list[suites.Row] = []
    stem = args.out or Path("runs") / f"bench-{args.suite}-{time.strftime('%Y%m%d-%H%M%S')}"
    print(
        f"{found['machine']['cpu']}, {threads} threads, load {found['machine']['load']:.1f}: "
        f"{found['machine']['peak_gflops']:.0f} GFLOP/s, {found['machine']['copy_gbs']:.0f} GB/s"
    )
    stopped = False
    with Screen(report.cells, report.tables) as screen:
        screen.line(list(report.COLUMNS), "bold")
        try:
            for row in suites.SUITES[args.suite](options):
                rows.append(row)
                screen.row(row)
        except KeyboardInterrupt:
            stopped = True
    report.write(found | {"rows": rows}, stem.with_suffix(".json"))
    print(f"written: {stem}.json")
    return 130 if stopped else 0


def _require(option: str, given: Any, known: Any) -> None:
    for name in given:
        if name not in known:
            raise ValueError(f"bench: --{option} must be of {', '.join(known)}, got {name!r}")

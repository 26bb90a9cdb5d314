"""The command `pyconv bench`."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

DESCRIPTION = """Time layers and networks beside the peers that are installed: PyTorch, onnxruntime,
JAX, SciPy and NumPy, each checked before it is timed. Leaves all samples and the machine as JSON,
and charts. Ctrl-C ends it with what there is."""

SUITES = "layers (default), networks, numpy, overhead, scaling or memory"


def add_options(parser: argparse.ArgumentParser) -> None:
    option = parser.add_argument
    option("--suite", default="layers", metavar="S", help=SUITES)
    option("--against", type=_words, metavar="P,...", help="peers; default: those installed")
    option(
        "--only", type=_words, default=(), metavar="L,...", help="beginnings of names, or classes"
    )
    option("--passes", type=_words, metavar="P,...", help="of fwd, bwd_data, bwd_weight")
    option("--threads", type=int, metavar="T", help="default: all cores")
    option("--seconds", type=float, default=1.0, metavar="S", help="a row at least; default 1")
    option("--batch", type=_batches, metavar="N,...", help="images; 0 is the layer's own")
    option("--out", type=Path, metavar="STEM", help="of the files; default runs/bench-SUITE-TIME")
    option("--compare", type=Path, metavar="OLD.json", help="show gains and losses since that run")
    option("--load", type=Path, metavar="RUN.json", help="show that run instead of a new one")


def _words(text: str) -> tuple[str, ...]:
    return tuple(filter(None, text.split(",")))


def _batches(text: str) -> tuple[int, ...]:
    return tuple(map(int, _words(text)))


def run(args: argparse.Namespace) -> int:
    from pyconv.bench import report
    from pyconv.bench.compare import compare
    from pyconv.bench.views import VIEWS

    old, ended = report.read(args.compare) if args.compare else None, None
    if args.load:
        found = report.read(args.load)
        print(report.headline(found))
        print(*map(report.text, VIEWS[found["suite"]].tables(found["rows"])), sep="\n")
    else:
        found, ended = _measured(args)
    if old is not None:
        print(*map(report.text, compare(old, found)), sep="\n")
    if args.out or (found["rows"] and not args.load):
        name = f"bench-{found['suite']}-{time.strftime('%Y%m%d-%H%M%S')}"
        _leave(found, args.out or Path("runs") / name)
    if ended is not None:
        raise ended
    return 0


def _measured(args: argparse.Namespace) -> tuple[dict[str, Any], BaseException | None]:
    """The report, and what ended it too early."""
    import pyconv
    from pyconv.bench import measure, peers, report
    from pyconv.bench.cases import PASSES
    from pyconv.bench.screen import Screen
    from pyconv.bench.suites import SUITES, Options
    from pyconv.bench.views import VIEWS

    _require("suite", [args.suite], SUITES)
    rows_of, default_peers, default_batch = SUITES[args.suite]
    against = args.against
    if against is None:
        against = tuple(filter(peers.installed, default_peers))
    _require("against", against, peers.PEERS)
    _require("passes", args.passes or (), PASSES)
    batch = default_batch if args.batch is None else args.batch
    if min(batch, default=-1) < 0:
        raise ValueError(f"bench: --batch must be numbers from 0, got {batch}")
    pyconv.set_num_threads(args.threads or 0)
    threads = pyconv.get_num_threads()
    options = Options(against, args.only, args.passes or PASSES, threads, args.seconds, batch)
    peers.use_threads(against, threads)
    rows: list[report.Row] = []
    found = {
        "suite": args.suite,
        "options": vars(options),
        "machine": measure.machine(threads, ["pyconv-engine", "numpy", *against]),
        "rows": rows,
    }
    print(report.headline(found))
    ended: BaseException | None = None
    with measure.blas_threads(threads), Screen(VIEWS[args.suite]) as screen:
        try:
            for row in rows_of(options):
                rows.append(row)
                screen.row(row)
        except (Exception, KeyboardInterrupt) as error:  # raised again when the rows are safe
            ended = error
    found["machine"]["load_after"] = measure.load()
    return found, ended


def _leave(found: dict[str, Any], stem: Path) -> None:
    from pyconv.bench import chart, report

    path = {kind: stem.with_name(f"{stem.name}.{kind}") for kind in ("json", "html", "png")}
    report.write(found, path["json"])
    chart.page(found, path["html"])
    try:
        chart.draw(found).savefig(path["png"], dpi=120)
    except ImportError:
        print("no pictures: pip install 'pyconv-engine[bench]'")
    print(f"written: {stem}.*")


def _require(option: str, given: Any, known: Any) -> None:
    for name in given:
        if name not in known:
            raise ValueError(f"bench: --{option} must be of {', '.join(known)}, got {name!r}")

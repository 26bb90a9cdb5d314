"""From samples to ratios, and a report to a file and back.

A ratio is the best other time over ours: above 1, we win.
"""

from __future__ import annotations

import json
import math
import os
import pathlib
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

Row = dict[str, Any]
Report = dict[str, Any]
Table = tuple[str, Sequence[str], list[list[str]]]  # title, columns, lines


def medians(row: Row) -> dict[str, float]:
    return {name: statistics.median(found) for name, found in row["samples"].items() if found}


def ours(row: Row, kind: str = "") -> float | None:
    """Our better layout's median: of plain calls, or with kind "out" or "kept"."""
    names = [f"pyconv {layout} {kind}".strip() for layout in ("nchw", "nhwc")]
    found = medians(row)
    return min((found[name] for name in names if name in found), default=None)


def best_peer(row: Row) -> tuple[str, float] | None:
    others = {n: t for n, t in medians(row).items() if not n.startswith("pyconv")}
    return min(others.items(), key=lambda item: item[1]) if others else None


def ratio(row: Row, kind: str = "") -> float | None:
    peer, own = best_peer(row), ours(row, kind)
    return peer[1] / own if peer and own else None


def against(row: Row, peer: str, mine: str = "") -> float | None:
    """One peer's time over ours, or over one of our layouts."""
    found = medians(row)
    own = found.get(mine) if mine else ours(row)
    return found[peer] / own if peer in found and own else None


def geomean(ratios: Iterable[float | None]) -> float | None:
    found = [value for value in ratios if value]
    return statistics.geometric_mean(found) if found else None


def shown(value: float | None, form: str = ".2f") -> str:
    return "-" if value is None else format(value, form)


def seconds(value: float) -> str:
    unit, scale = next(
        (u, s) for u, s in (("s", 1), ("ms", 1e-3), ("us", 1e-6)) if value >= s or s == 1e-6
    )
    return f"{value / scale:.4g} {unit}"


def rate(row: Row, time: float) -> str:
    if row["pools"]:
        return f"{row['bytes'] / time / 1e9:.4g} GB/s"
    return f"{row['flops'] / time / 1e9:.4g} GFLOP/s"


def text(table: Table) -> str:
    title, columns, lines = table
    grid = [list(columns), *lines]
    wide = [max(len(line[i]) for line in grid) for i in range(len(columns))]
    rows = ("  ".join(cell.ljust(w) for cell, w in zip(line, wide)).rstrip() for line in grid)
    return "\n".join([f"\n{title}", *rows])


def write(report: Report, path: pathlib.Path) -> None:
    """Whole or not at all, with 4 digits of every sample and a line for every row."""

    def rounded(value: Any) -> Any:
        if isinstance(value, float):
            return float(f"{value:.4g}") if math.isfinite(value) else None
        if isinstance(value, dict):
            return {key: rounded(item) for key, item in value.items()}
        return [rounded(item) for item in value] if isinstance(value, list | tuple) else value

    path.parent.mkdir(parents=True, exist_ok=True)
    rows = ",\n".join(json.dumps(rounded(row)) for row in report["rows"])
    head = json.dumps(rounded({k: v for k, v in report.items() if k != "rows"}), indent=1)
    temporary = path.with_name(path.name + ".new")
    temporary.write_text(f'{head[:-2]},\n "rows": [\n{rows}\n]}}\n')
    os.replace(temporary, path)


def read(path: pathlib.Path) -> Report:
    """Raises FormatError for what `write` did not write."""
    from pyconv import FormatError
    from pyconv.bench.views import VIEWS

    try:
        report: Report = json.loads(path.read_text())
        view, machine = VIEWS[report["suite"]], report["machine"]
        machine["cpu"], machine["threads"] + 0, machine["peak_gflops"] + 0, machine["copy_gbs"] + 0
        for row in report["rows"]:
            view.cells(row)
        view.tables(report["rows"])
        return report
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        raise FormatError(f"{path} is no report of pyconv bench: {error!r}") from None


def headline(report: Report) -> str:
    machine = report["machine"]
    return (
        f"{machine['cpu']}, {machine['threads']} threads, load {machine['load']:.1f}: "
        f"{machine['peak_gflops']:.0f} GFLOP/s, {machine['copy_gbs']:.0f} GB/s copied"
    )

"""From samples to ratios and tables. A ratio is the best other time over ours: above 1, we win."""

from __future__ import annotations

import json
import math
import os
import pathlib
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from pyconv.bench.cases import GOAL_AT_BATCH_1, GOALS, PASSES

Row = dict[str, Any]
Report = dict[str, Any]
PASS_NAMES = dict(zip(PASSES, ("forward", "input gradient", "weight gradient")))


def medians(row: Row) -> dict[str, float]:
    return {name: statistics.median(found) for name, found in row["samples"].items() if found}


def ours(row: Row, kind: str = "") -> float | None:
    """Our better layout's median: of plain calls, or with kind "out" or "kept"."""
    names = [f"pyconv {layout} {kind}".strip() for layout in ("nchw", "nhwc", "")]
    found = medians(row)
    return min((found[name] for name in names if name in found), default=None)


def best_peer(row: Row) -> tuple[str, float] | None:
    others = {n: t for n, t in medians(row).items() if not n.startswith("pyconv")}
    return min(others.items(), key=lambda item: item[1]) if others else None


def ratio(row: Row, kind: str = "") -> float | None:
    peer, own = best_peer(row), ours(row, kind)
    return peer[1] / own if peer and own else None


def against(row: Row, peer: str, mine: str = "pyconv nchw") -> float | None:
    found = medians(row)
    return found[peer] / found[mine] if peer in found and mine in found else None


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
    if row["label"] == "pooling":
        return f"{row['bytes'] / time / 1e9:.4g} GB/s"
    return f"{row['flops'] / time / 1e9:.4g} GFLOP/s"


COLUMNS = ("layer", "pass", "N", "ratio", "out=", "kept", "ours", "", "best peer", "")


def cells(row: Row) -> list[str]:
    """A row of the live table."""
    own, peer = ours(row), best_peer(row)
    found = [row["name"], row["pass"], str(row["batch"])]
    found += [shown(ratio(row, kind)) for kind in ("", "out", "kept")]
    found += [seconds(own), rate(row, own)] if own else ["", ""]
    return found + ([f"{peer[0]} {seconds(peer[1])}", rate(row, peer[1])] if peer else ["", ""])


Table = tuple[str, Sequence[str], list[list[str]]]  # title, columns, lines


def class_table(title: str, rows: list[Row], goals: bool) -> Table:
    """The geometric mean of every class and pass, and what it shall be."""

    def line(name: str, label: str, kind: str) -> list[str]:
        mine = [row for row in rows if label in ("", row["label"])]
        found = [name, str(len({row["name"] for row in mine}))]
        for i, direction in enumerate(PASSES):
            ratios = [ratio(row, kind) for row in mine if row["pass"] == direction]
            goal = GOALS.get(name, ())[i : i + 1] if goals else ()
            found += [shown(geomean(ratios)), *([shown(goal[0], "g")] if goal else [""])]
        return found

    labels = list(dict.fromkeys(row["label"] for row in rows))
    lines = []
    for label in labels:
        lines.append(line(label, label, ""))
        if f"{label}, kept weights" in GOALS:
            lines.append(line(f"{label}, kept weights", label, "kept"))
    if len(labels) > 1:
        lines.append(line("all", "", ""))
    columns = ["class", "layers"]
    for direction in PASSES:
        columns += [PASS_NAMES[direction], "goal"]
    return title, columns, lines


def tables(rows: list[Row]) -> list[Table]:
    """What there is to say of a suite of layers."""
    full, single = [r for r in rows if r["own_batch"]], [r for r in rows if r["batch"] == 1]
    what = "best peer's time / ours, geometric means"
    found = []
    if full:
        found.append(class_table(f"Layers: {what}", full, goals=True))
    if single:
        found.append(class_table(f"The same at batch 1: {what}", single, goals=False))
    lines = []
    for name, some, value, goal in (
        ("best peer", full, ratio, 0.0),
        ("best peer, out= given", full, lambda row: ratio(row, "out"), 0.0),
        ("best peer at batch 1", single, ratio, GOAL_AT_BATCH_1),
        ("torch nchw, ours nchw", full, lambda row: against(row, "torch nchw"), 2.5),
    ):
        ratios = {f"{row['name']} {row['pass']}": value(row) for row in some}
        known = {name: found for name, found in ratios.items() if found}
        if known:
            worst = min(known, key=lambda name: known[name])
            lost = sum(found < 0.95 for found in known.values())
            line = [name, str(len(known)), shown(geomean(known.values()))]
            lines.append(
                [*line, shown(goal or None, "g"), str(lost), f"{known[worst]:.2f} {worst}"]
            )
    columns = ("over all layers and passes", "rows", "ratio", "goal", "below 0.95", "lowest")
    return [*found, ("Overall", columns, lines)]


def text(table: Table) -> str:
    title, columns, lines = table
    grid = [list(columns), *lines]
    wide = [max(len(line[i]) for line in grid) for i in range(len(columns))]
    rows = ("  ".join(cell.ljust(w) for cell, w in zip(line, wide)).rstrip() for line in grid)
    return "\n".join([f"\n{title}", *rows])


def write(report: Report, path: pathlib.Path) -> None:
    """Whole or not at all, with 4 digits of every sample."""

    def rounded(value: Any) -> Any:
        if isinstance(value, float):
            return float(f"{value:.4g}") if math.isfinite(value) else None
        if isinstance(value, dict):
            return {key: rounded(item) for key, item in value.items()}
        return [rounded(item) for item in value] if isinstance(value, list | tuple) else value

    path.parent.mkdir(parents=True, exist_ok=True)
    rows = ",\n".join(json.dumps(rounded(row)) for row in report["rows"])
    head = json.dumps({key: value for key, value in report.items() if key != "rows"}, indent=1)
    temporary = path.with_name(path.name + ".new")
    temporary.write_text(f'{head[:-2]},\n "rows": [\n{rows}\n]}}\n')
    os.replace(temporary, path)


def read(path: pathlib.Path) -> Report:
    from pyconv import FormatError

    try:
        report: Report = json.loads(path.read_text())
        for row in report["rows"]:
            medians(row), row["name"], row["pass"], row["batch"], row["label"]
        return report
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FormatError(f"{path} is no report of pyconv bench: {error!r}") from None

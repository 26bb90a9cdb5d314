"""A report as a picture, and as an HTML page of its own with that picture as SVG."""

from __future__ import annotations

import html
import io
from pathlib import Path
from typing import Any

from pyconv.bench.report import Report, Row, best_peer, headline, ours
from pyconv.bench.views import PASS_NAMES, VIEWS, labels, of

COLOURS = ("#1b6ca8", "#e07b39", "#4c9f70")


def draw(report: Report) -> Any:
    """Bars of every class and pass, and beside it, of times, the roofline. Needs matplotlib."""
    from matplotlib.figure import Figure

    view, rows = VIEWS[report["suite"]], report["rows"]
    names = labels(rows)
    figure = Figure(
        (16 if view.timed else 8, max(5.0, 0.45 * len(names) + 2)), layout="constrained"
    )
    figure.suptitle(headline(report), fontsize=10)
    bars = figure.add_subplot(1, 2 if view.timed else 1, 1)
    directions = [name for name in PASS_NAMES if of(rows, name)]
    height = 0.8 / max(1, len(directions))
    for i, direction in enumerate(directions):
        for place, name in enumerate(names):
            value = view.mean([row for row in of(rows, direction) if row["label"] == name])
            if value is not None:
                y = place + (i - (len(directions) - 1) / 2) * height
                bars.barh(y, value, height, color=COLOURS[i % 3])
                bars.text(value, y, f" {value:.2f}", va="center", fontsize=7)
        bars.barh(0, 0, color=COLOURS[i % 3], label=PASS_NAMES[direction])
    bars.axvline(1, color="black", linewidth=0.8)
    bars.set_yticks(range(len(names)), names)
    bars.invert_yaxis()
    bars.set_xlabel(view.what)
    bars.legend(fontsize=8)
    if view.timed:
        _roofline(figure.add_subplot(1, 2, 2), rows, report["machine"])
    return figure


def _roofline(axes: Any, rows: list[Row], machine: dict[str, Any]) -> None:
    """GFLOP/s over the FLOP for each byte that must move: nothing plain is above the roof."""
    rows = [row for row in rows if not row["pools"]]
    intensity = [row["flops"] / row["bytes"] for row in rows]
    peak, width = machine["peak_gflops"], machine["copy_gbs"]
    low, high = min([1.0, *intensity]), max([peak / width, *intensity]) * 2
    axes.plot([low, peak / width, high], [low * width, peak, peak], color="black", linewidth=0.8)
    peers = [peer[1] if (peer := best_peer(row)) else None for row in rows]
    mine = [ours(row) for row in rows]
    for times, colour, marker, label in (
        (peers, "#999999", "x", "best peer"),
        (mine, COLOURS[0], ".", "pyconv, better layout"),
    ):
        known = [(i, row["flops"] / t / 1e9) for i, row, t in zip(intensity, rows, times) if t]
        if known:
            axes.scatter(*zip(*known), s=24, color=colour, marker=marker, label=label)
    axes.set(xscale="log", yscale="log", xlabel="FLOP / byte", ylabel="GFLOP/s by the definition")
    axes.set_title(f"roof: {peak:.0f} GFLOP/s of BLAS, {width:.0f} GB/s of copying", fontsize=9)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)


def page(report: Report, path: Path) -> None:
    """Tables and every row; the pictures where matplotlib is installed."""
    view, rows = VIEWS[report["suite"]], report["rows"]
    tables = [*view.tables(rows), ("Rows", view.columns, [view.cells(row) for row in rows])]
    title = html.escape(f"pyconv bench: {report['suite']}")
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title>",
        "<style>body{font:14px sans-serif;margin:2em}td,th{padding:1px 10px;text-align:left}"
        "tr:nth-child(even){background:#f3f3f3}svg{max-width:100%;height:auto}</style>",
        f"<h1>{title}</h1><p>{html.escape(headline(report))}, {report['machine']['date']}</p>",
    ]
    try:
        picture = io.StringIO()
        draw(report).savefig(picture, format="svg")
        parts.append(picture.getvalue()[picture.getvalue().index("<svg") :])
    except ImportError:
        parts.append("<p>Pictures need matplotlib.</p>")
    for heading, columns, lines in tables:
        parts.append(f"<h2>{html.escape(heading)}</h2><table>")
        for tag, line in [("th", columns), *(("td", line) for line in lines)]:
            cells = "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in line)
            parts.append(f"<tr>{cells}</tr>")
        parts.append("</table>")
    versions = {"pyconv": report["machine"]["pyconv"], **report["machine"]["versions"]}
    parts.append(f"<p>{html.escape(str(versions))}</p></html>")
    path.write_text("\n".join(parts))

"""Gains and losses of our times from one report to another."""

from __future__ import annotations

import statistics

from pyconv.bench.report import Report, Row, Table, geomean, medians, ours, seconds, shown
from pyconv.bench.views import PASS_NAMES, VIEWS, labels

KINDS = ("", "out", "kept")


def gain(old: Row, new: Row, kind: str = "") -> float | None:
    before, after = ours(old, kind), ours(new, kind)
    return before / after if before and after else None


def certain(old: Row, new: Row) -> bool:
    """Whether the middle halves of the samples of our better layouts lie apart."""

    def middle(row: Row) -> tuple[float, float]:
        times = medians(row)
        name = min(times.keys() & {"pyconv nchw", "pyconv nhwc"}, key=lambda name: times[name])
        low, _, high = statistics.quantiles(row["samples"][name] * 2, n=4)  # of one sample too
        return low, high

    (old_low, old_high), (new_low, new_high) = middle(old), middle(new)
    return old_high < new_low or new_high < old_low


def compare(old: Report, new: Report) -> list[Table]:
    """Old time over new, of the rows that both have: above 1 is a gain."""

    if old["suite"] != new["suite"] or not VIEWS[new["suite"]].timed:
        raise ValueError(
            f"bench: --compare is of the times of one suite, not of {old['suite']} "
            f"and {new['suite']}"
        )

    def key(row: Row) -> tuple[str, str, int]:
        return row["name"], row["pass"], row["batch"]

    before = {key(row): row for row in old["rows"]}
    pairs = [(before[key(row)], row) for row in new["rows"] if key(row) in before]
    lines = []
    for label in [*labels([row for _, row in pairs]), "all"]:
        some = [pair for pair in pairs if label in ("all", pair[1]["label"])]
        found = [label, str(len(some))]
        for direction in PASS_NAMES:
            found.append(shown(geomean(gain(*p) for p in some if p[1]["pass"] == direction)))
        lines.append(found + [shown(geomean(gain(*p, kind) for p in some)) for kind in KINDS])
    peaks = [report["machine"]["peak_gflops"] for report in (old, new)]
    title = f"Old time / new, geometric means; the machine's peak went from {peaks[0]:.0f} to "
    title += f"{peaks[1]:.0f} GFLOP/s ({peaks[1] / peaks[0]:.2f})"
    by_class = (title, ["class", "rows", *PASS_NAMES.values(), "all", "out=", "kept"], lines)
    changed = []
    for pair in pairs:
        change = gain(*pair)
        if change and abs(change - 1) > 0.05 and certain(*pair):
            times = [seconds(ours(row) or 0) for row in pair]
            cells = [pair[1]["name"], pair[1]["pass"], str(pair[1]["batch"])]
            changed.append((change, [*cells, shown(change), *times]))
    sure = [cells for _, cells in sorted(changed, key=lambda item: item[0])]
    columns = ["layer", "pass", "N", "old / new", "old", "new"]
    return [("Changed by over 5 %, quartiles apart, losses first", columns, sure), by_class]

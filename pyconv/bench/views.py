"""What is shown of each suite: the columns of its rows, its tables and the mean of a class."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from pyconv.bench.cases import GOAL_AT_BATCH_1, GOALS, PASSES
from pyconv.bench.report import (
    Row,
    Table,
    against,
    best_peer,
    geomean,
    medians,
    ours,
    rate,
    ratio,
    seconds,
    shown,
)

PASS_NAMES = dict(zip(PASSES, ("forward", "input gradient", "weight gradient")))
MEAN = "best peer's time / ours, geometric means"
MB = 1e6


def layer_cells(row: Row) -> list[str]:
    own, peer = ours(row), best_peer(row)
    found = [row["name"], row["pass"], str(row["batch"])]
    found += [shown(ratio(row, kind)) for kind in ("", "out", "kept")]
    found += [seconds(own), rate(row, own)] if own else ["", ""]
    return found + ([f"{peer[0]} {seconds(peer[1])}", rate(row, peer[1])] if peer else ["", ""])


def of(rows: list[Row], direction: str) -> list[Row]:
    return [row for row in rows if row["pass"] == direction]


def labels(rows: list[Row]) -> list[str]:
    return list(dict.fromkeys(row["label"] for row in rows))


def class_table(title: str, rows: list[Row], goals: bool) -> Table:
    """The geometric mean of every class and pass, and what it shall be."""

    def line(name: str, label: str, kind: str = "") -> list[str]:
        mine = [row for row in rows if label in ("", row["label"])]
        found = [name, str(len({row["name"] for row in mine}))]
        for i, direction in enumerate(PASSES):
            found.append(shown(geomean(ratio(row, kind) for row in of(mine, direction))))
            goal = GOALS.get(name, ())[i : i + 1] if goals else ()
            found.append(shown(goal[0], "g") if goal else "")
        return found

    lines = []
    for label in labels(rows):
        lines.append(line(label, label))
        if f"{label}, kept weights" in GOALS:
            lines.append(line(f"{label}, kept weights", label, "kept"))
    lines.append(line("all", ""))
    columns = ["class", "layers"]
    for direction in PASSES:
        columns += [PASS_NAMES[direction], "goal"]
    return title, columns, lines


def peer_table(rows: list[Row]) -> Table:
    """One line for each peer."""
    names = dict.fromkeys(n for row in rows for n in row["samples"] if not n.startswith("pyconv"))
    lines = []
    for name in names:
        ratios = [(row, against(row, name)) for row in rows]
        line = [name, str(sum(found is not None for _, found in ratios))]
        for direction in PASSES:
            line.append(shown(geomean(r for row, r in ratios if row["pass"] == direction)))
        lines.append([*line, shown(geomean(r for _, r in ratios))])
    columns = ["peer", "rows", *PASS_NAMES.values(), "all"]
    return "Each peer's time / our better layout's, geometric means", columns, lines


def overall_line(
    name: str, rows: list[Row], value: Callable[[Row], float | None], goal: str = "-"
) -> list[list[str]]:
    ratios = {f"{row['name']} {row['pass']}": value(row) for row in rows}
    known = {name: found for name, found in ratios.items() if found}
    if not known:
        return []
    worst = min(known, key=lambda name: known[name])
    lost = sum(found < 0.95 for found in known.values())
    mean = shown(geomean(known.values()))
    return [[name, str(len(known)), mean, goal, str(lost), f"{known[worst]:.2f} {worst}"]]


def layer_tables(rows: list[Row]) -> list[Table]:
    full, single = [r for r in rows if r["own_batch"]], [r for r in rows if r["batch"] == 1]
    found = []
    if full:
        found.append(class_table(f"Layers: {MEAN}", full, goals=True))
    if single:
        found.append(class_table(f"The same at batch 1: {MEAN}", single, goals=False))
    lines = overall_line("best peer", full, ratio)
    lines += overall_line("best peer, out= given", full, lambda row: ratio(row, "out"))
    lines += overall_line("best peer, at batch 1", single, ratio, f"{GOAL_AT_BATCH_1}")
    plain = "torch nchw", "pyconv nchw"
    lines += overall_line(" against ".join(plain), full, lambda row: against(row, *plain), "2.5")
    columns = ("over all layers and passes", "rows", "ratio", "goal", "below 0.95", "lowest")
    found.append(("Overall", columns, lines))
    return [*found, peer_table(full or single)]


def totals(rows: list[Row]) -> dict[str, float]:
    """The seconds of a network's layers, for each contestant that has a time for all of them."""
    times = [(row["times"], medians(row)) for row in rows]
    names = set.intersection(*(set(found) for _, found in times)) if times else set()
    return {name: sum(n * found[name] for n, found in times) for name in sorted(names)}


def network_ratio(rows: list[Row]) -> float | None:
    """The best peer's whole network over ours in the better layout; of several, the mean."""
    ratios = []
    for label in labels(rows):
        for direction in PASSES:
            found = totals([row for row in of(rows, direction) if row["label"] == label])
            own = [found[n] for n in ("pyconv nchw", "pyconv nhwc") if n in found]
            others = [time for name, time in found.items() if not name.startswith("pyconv")]
            if own and others:
                ratios.append(min(others) / min(own))
    return geomean(ratios)


def network_tables(rows: list[Row]) -> list[Table]:
    names = sorted({n for row in rows for n in row["samples"] if not n.endswith((" out", " kept"))})
    lines = []
    for label in labels(rows):
        for batch in sorted({row["batch"] for row in rows if row["label"] == label}, reverse=True):
            for direction in PASSES:
                some = [row for row in of(rows, direction) if row["label"] == label]
                some = [row for row in some if row["batch"] == batch]
                if some:
                    found = totals(some)
                    line = [label, str(batch), direction, shown(network_ratio(some))]
                    lines.append(line + [seconds(found[n]) if n in found else "-" for n in names])
    columns = ["network", "N", "pass", "ratio", *names]
    return [("Networks: their convolutions and poolings, sums of medians", columns, lines)]


def overhead_tables(rows: list[Row]) -> list[Table]:
    lines = []
    for row in rows:
        found = medians(row)
        own, kept, peer = ours(row), ours(row, "kept"), found.get("torch nchw")
        share = shown(own / peer, ".0%") if own and peer else "-"
        times = [shown(value and 1e6 * value) for value in (own, kept, peer)]
        lines.append([row["name"], row["pass"], *times, share])
    columns = ("call", "pass", "pyconv us", "plan us", "torch us", "of torch's")
    return [("Whole calls on tiny arrays; goal 6 us and 60 % of torch's", columns, lines)]


def gains(row: Row) -> tuple[float, float]:
    """How many times faster all threads are than one: ours, and products in the cores' caches."""
    found, many = medians(row), row["threads"]
    layout = min(("nchw", "nhwc"), key=lambda name: found[f"pyconv {name} {many}"])
    mine = found[f"pyconv {layout} 1"] / found[f"pyconv {layout} {many}"]
    return mine, many * found["fma 1"] / found[f"fma {many}"]


def scaling_cells(row: Row) -> list[str]:
    mine, fma = gains(row)
    found = medians(row)
    times = [min(found[f"pyconv {name} {n}"] for name in ("nchw", "nhwc"))
             for n in (1, row["threads"])]  # fmt: skip
    head = [row["name"], row["pass"], str(row["batch"]), shown(mine / fma), shown(mine), shown(fma)]
    return [*head, seconds(times[0]), rate(row, times[0]), seconds(times[1]), rate(row, times[1])]


def scaling_mean(rows: list[Row]) -> float | None:
    return geomean(mine / fma for mine, fma in map(gains, rows))


def scaling_tables(rows: list[Row]) -> list[Table]:
    lines = [
        [label, *(shown(scaling_mean(of([r for r in rows if r["label"] == label], direction)))
                  for direction in PASSES)]
        for label in labels(rows)
    ]  # fmt: skip
    columns = ("class", *PASS_NAMES.values())
    return [("Gain by threads / the gain of plain products; goal 0.93", columns, lines)]


def memory_cells(row: Row) -> list[str]:
    found = medians(row)
    sizes = [shown(found.get(name) and found[name] / MB, ".1f") for name in _LAYOUTS]
    return [row["name"], row["pass"], str(row["batch"]), "over" if too_much(row) else "", *sizes]


_LAYOUTS = ("pyconv nchw", "torch nchw", "pyconv nhwc", "torch nhwc")


def too_much(row: Row) -> bool:
    """More than 1.25 times what PyTorch takes and 32 MB more; of a leak, 50 MB."""
    found = medians(row)
    if row["pass"] == "leak":
        return any(found.get(name, 0.0) > 50 * MB for name in _LAYOUTS[::2])
    return any(
        found[mine] > max(1.25 * found[peer], found[peer] + 32 * MB)
        for mine, peer in (_LAYOUTS[:2], _LAYOUTS[2:])
        if mine in found and peer in found
    )


def memory_tables(rows: list[Row]) -> list[Table]:
    lines = [memory_cells(row) for row in rows if too_much(row) or row["pass"] == "leak"]
    return [("Memory above the goal, and what random shapes leave, MB", MEMORY_COLUMNS, lines)]


LAYER_COLUMNS = ("layer", "pass", "N", "ratio", "out=", "kept", "ours", "", "best peer", "")
SCALING_COLUMNS = ("layer", "pass", "N", "share", "gain", "fma", "1 thread", "", "all", "")
MEMORY_COLUMNS = ("layer", "pass", "N", "", *(f"{name} MB" for name in _LAYOUTS))


def mean_ratio(rows: Iterable[Row]) -> float | None:
    return geomean(map(ratio, rows))


@dataclass(frozen=True)
class View:
    columns: tuple[str, ...]
    cells: Callable[[Row], list[str]]
    tables: Callable[[list[Row]], list[Table]]
    mean: Callable[[list[Row]], float | None]  # of a class and pass: above 1 is good
    what: str  # the mean is
    timed: bool = True


VIEWS = {
    "layers": View(LAYER_COLUMNS, layer_cells, layer_tables, mean_ratio, MEAN),
    "networks": View(LAYER_COLUMNS, layer_cells, network_tables, network_ratio, MEAN),
    "numpy": View(LAYER_COLUMNS, layer_cells, lambda rows: [peer_table(rows)], mean_ratio, MEAN),
    "overhead": View(LAYER_COLUMNS, layer_cells, overhead_tables, mean_ratio, MEAN),
    "scaling": View(
        SCALING_COLUMNS, scaling_cells, scaling_tables, scaling_mean, "gain / plain gain", False
    ),
    "memory": View(
        MEMORY_COLUMNS,
        memory_cells,
        memory_tables,
        lambda rows: geomean(against(row, "torch nchw", "pyconv nchw") for row in rows),
        "PyTorch's memory / ours",
        False,
    ),
}

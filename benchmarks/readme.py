"""Write the figures in README.md from benchmarks/results/*.json, which `pyconv bench` left there.

python benchmarks/readme.py
"""

import pathlib
import re

from pyconv.bench import report, views
from pyconv.bench.cases import PASSES

ROOT = pathlib.Path(__file__).parents[1]
README = ROOT / "README.md"
BLOCK = re.compile(r"(<!-- benchmarks -->\n).*(<!-- /benchmarks -->)", re.DOTALL)
SUITES = ("layers", "networks")  # the others are for those who tune
NONE = "No run is kept yet: `pyconv bench --out benchmarks/results/layers` would.\n"


def markdown(lines):
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def table(suite, rows):
    """The mean of every class or network and pass; of layers also of all."""
    mean, columns = views.VIEWS[suite].mean, list(views.PASS_NAMES.values())
    lines = [[suite, *columns], ["---"] * (len(columns) + 1)]
    own = [row for row in rows if row["own_batch"]]
    groups = {label: [r for r in own if r["label"] == label] for label in views.labels(own)}
    if suite == "layers":
        groups["all"] = own
        groups["all, at batch 1"] = [row for row in rows if row["batch"] == 1]
    for name, some in groups.items():
        found = [mean(views.of(some, direction)) for direction in PASSES]
        lines.append([name, *map(report.shown, found)])
    return markdown(lines)


def section(found):
    machine = found["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    text = (
        f"{report.headline(found)}; float32, {versions}. The best peer's time / ours, plain calls "
        "with fresh results, each library in its better memory order:"
    )
    return f"{text}\n\n{table(found['suite'], found['rows'])}"


def block(folder=ROOT / "benchmarks" / "results"):
    """The text between the marks: a table for each report, in the order of their names."""
    found = [report.read(path) for path in sorted(folder.glob("*.json"))]
    return "\n".join(section(one) for one in found if one["suite"] in SUITES) or NONE


def filled(text, new):
    assert BLOCK.search(text), "README.md has lost its marks"
    return BLOCK.sub(lambda match: match[1] + new + match[2], text)


if __name__ == "__main__":
    README.write_text(filled(README.read_text(), block()))

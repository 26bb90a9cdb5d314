"""Write the figures in README.md from benchmarks/results/*.json, which `pyconv bench` left there,
and benchmarks/frameworks.py and training.py.

python benchmarks/readme.py
"""

import json
import pathlib
import re
import statistics

from pyconv.bench import report, views
from pyconv.bench.cases import PASSES

ROOT = pathlib.Path(__file__).parents[1]
README = ROOT / "README.md"
RESULTS = ROOT / "benchmarks" / "results"
SUITES = ("layers", "networks")  # the others are for those who tune
APART = {"frameworks.json", "training.json"}  # not reports of `pyconv bench`
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


def block(folder=RESULTS):
    """The text between the marks: a table for each report, in the order of their names."""
    paths = [path for path in sorted(folder.glob("*.json")) if path.name not in APART]
    found = [report.read(path) for path in paths]
    return "\n".join(section(one) for one in found if one["suite"] in SUITES) or NONE


def frameworks(path=RESULTS / "frameworks.json"):
    """What benchmarks/frameworks.py measured: a line for each framework."""
    found = json.loads(path.read_text())
    versions = found["machine"]["versions"]
    lines = [["inside", "cases", "mean", "least", "most"], ["---"] * 5]
    for name in dict.fromkeys(row["framework"] for row in found["rows"]):
        some = [row for row in found["rows"] if row["framework"] == name]
        ratios = {row["row"]: row["theirs"] / row["ours"] for row in some}
        least, most = min(ratios, key=ratios.get), max(ratios, key=ratios.get)
        mean = statistics.geometric_mean(ratios.values())
        ends = [f"{ratios[row]:.2f} ({row})" for row in (least, most)]
        lines.append([name, str(len(ratios)), f"{mean:.2f}", *ends])
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    return (
        f"{report.headline(found)}; {listed}. The framework's own time / ours, in one process "
        f"(`python benchmarks/frameworks.py`):\n\n{markdown(lines)}"
    )


def training(path=RESULTS / "training.json", recipes=RESULTS / "recipes" / "final.json"):
    """What benchmarks/training.py measured, and how far the recipes came."""
    found = json.loads(path.read_text())
    runs = {(run["net"], run["what"]): run for run in found["runs"]}
    lines = [["network, batch", "training", "inference", "images/s in training"], ["---"] * 4]
    for net in dict.fromkeys(net for net, _ in runs):
        train, infer = runs[net, "train"], runs[net, "infer"]
        rate = max(
            train["batch"] / statistics.median(times[1:])
            for label, times in train["samples"].items()
            if label.startswith("pyconv")
        )
        ratios = [f"{run['ratio']:.2f}" for run in (train, infer)]
        lines.append([f"{net}, {train['batch']}", *ratios, f"{rate:.0f}"])
    done = [["recipe", "data", "test accuracy", "seconds"], ["---"] * 4]
    for name, run in json.loads(recipes.read_text()).items():
        accuracy, seconds = (statistics.median(run[key]) for key in ("accuracy", "seconds"))
        seeds = f" (median of {len(run['accuracy'])} seeds)" if len(run["accuracy"]) > 1 else ""
        done.append([name, run["data"], f"{100 * accuracy:.2f} %{seeds}", f"{seconds:.0f}"])
    return (
        f"PyTorch {found['torch']}'s time of a step / ours, {found['threads']} threads, each "
        f"library in its better memory order (`python benchmarks/training.py`):\n\n"
        f"{markdown(lines)}\nRecipes of `benchmarks/recipes/`, trained to their end on these two "
        "cores; the seconds hold the tests after each epoch. The CIFAR-10 is a copy stored as "
        f"JPEG, which costs about 3.4 points:\n\n{markdown(done)}"
    )


def filled(text, **blocks):
    for name, new in blocks.items():
        marks = re.compile(rf"(<!-- {name} -->\n).*(<!-- /{name} -->)", re.DOTALL)
        assert marks.search(text), f"README.md has lost its marks of {name}"
        text = marks.sub(lambda match, new=new: match[1] + new + match[2], text)
    return text


if __name__ == "__main__":
    blocks = {"benchmarks": block(), "frameworks": frameworks(), "training": training()}
    README.write_text(filled(README.read_text(), **blocks))

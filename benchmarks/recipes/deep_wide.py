"""Depth against width at equal numbers of parameters (I. Goodfellow et al., ICLR 2014, figure 4).

    python benchmarks/recipes/deep_wide.py [--data digits] [--data-dir DIR] [--epochs 6] [--out DIR]

Convolutional networks of 1, 2, 4 and 8 convolutions (3x3, two poolings), each in several widths;
the plot is their test accuracy over their parameters, a line for each depth. Leaves deep_wide.json
and deep_wide.png in --out.
"""

import argparse
import json
import pathlib

from matplotlib.figure import Figure

import pyconv as pc
from pyconv import data, nn, optim

DEPTHS = (1, 2, 4, 8)
PARAMETERS = (3_000, 12_000, 48_000)  # the width of each network is the one that comes nearest


def network(depth, width, channels, classes):
    """`depth` convolutions of `width` maps; pooling after the first and after the middle one."""
    layers, inputs = [], channels
    pools = {1, max(2, (depth + 1) // 2)}
    for number in range(1, depth + 1):
        layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if number in pools else []
        inputs = width
    return nn.Sequential(*layers, nn.GlobalAvgPool(), nn.Flatten(), nn.Linear(width, classes))


def size(depth, width, channels, classes):
    counted = network(depth, width, channels, classes).parameters()
    return sum(parameter.size for parameter in counted.values())


def run(depth, width, train, test, epochs, seed):
    nn.init.seed(seed)
    net = network(depth, width, train.x.shape[1], len(train.classes))
    steps = epochs * -(-len(train) // 64)
    optimizer = optim.AdamW(net.parameters(), optim.one_cycle(0.01, steps))
    prepare = data.Standardize.of(train.x)
    trainer = pc.Trainer(net, optimizer, batch_size=64, seed=seed, prepare=prepare)
    trainer.fit(train, epochs=epochs)
    return trainer.evaluate(test)["accuracy"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="digits")
    parser.add_argument("--data-dir")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs"))
    options = parser.parse_args()
    train, test = (data.load(options.data, s, options.data_dir) for s in ("train", "test"))
    rows = []
    for depth in DEPTHS:
        for wanted in PARAMETERS:
            shape = train.x.shape[1], len(train.classes)
            width = min(range(4, 2500), key=lambda w: abs(_estimate(depth, w, *shape) - wanted))
            found = [
                run(depth, width, train, test, options.epochs, s) for s in range(options.seeds)
            ]
            row = {"depth": depth, "width": width, "parameters": size(depth, width, *shape)}
            rows.append(row | {"accuracy": found})
            print(rows[-1], flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "deep_wide.json").write_text(json.dumps(rows, indent=1) + "\n")
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    for depth in DEPTHS:
        some = [row for row in rows if row["depth"] == depth]
        means = [100 * sum(row["accuracy"]) / len(row["accuracy"]) for row in some]
        axes.plot([row["parameters"] for row in some], means, marker="o", label=f"{depth} deep")
    axes.set(xscale="log", xlabel="parameters", ylabel=f"test accuracy on {options.data}, %")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(options.out / "deep_wide.png", dpi=120)


def _estimate(depth, width, channels, classes):
    """Parameters, by formula: building every candidate would take seconds."""
    first = 9 * channels * width + 3 * width
    return first + (depth - 1) * (9 * width * width + 3 * width) + width * classes + classes


if __name__ == "__main__":
    main()

"""A run as one HTML file that needs nothing else: `pyconv report RUN`."""

from __future__ import annotations

import base64
import html
import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from pyconv import data, nn
from pyconv._arrays import Array
from pyconv.nn.files import replace
from pyconv.nn.layer import no_grad
from pyconv.train import plots
from pyconv.train.build import sized
from pyconv.train.history import History
from pyconv.train.run import Trained
from pyconv.train.watch import watched

_STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;
color:#222}img{max-width:100%}figure{display:inline-block;margin:.4rem;text-align:center;
font-size:.8rem}figure img{width:96px;image-rendering:pixelated}table{border-collapse:collapse}
td,th{padding:.15rem .7rem;text-align:right;border-bottom:1px solid #ddd}td:first-child,
th:first-child{text-align:left}"""
_WORST, _MAPS, _SHOWN = 24, 16, 6  # mistakes; feature maps of a layer; images projected back


def report(directory: Path, data_dir: str | None = None) -> Path:
    """Write report.html into a finished run's directory: curves, confusion matrix, worst mistakes,
    filters, feature maps, what the layers respond to, and the time of each layer.

    Raises as `data.load` and `pyconv.load`; ImportError without matplotlib.
    """
    trained = Trained(directory)
    test = sized(data.load(trained.config["data"], "test", data_dir), trained.size, cut=True)
    logits = trained.trainer.predict(test.x, trained.views)
    found = logits.argmax(1)
    right = float((found == test.y).mean())
    history = History(json.loads((directory / "history.json").read_text()))
    sections = [
        f"<h1>{_text(directory.resolve().name)}</h1><p>{_text(trained.config['model'])} on "
        f"{_text(trained.config['data'])}: test accuracy {100 * right:.2f} %</p>",
        _section("Curves", _plot(plots.curves, history)),
        _section("Confusion", _plot(plots.confusion, _counts(test, found), test.classes)),
        _section("Worst mistakes", _mistakes(test, logits, found)),
        _section("First-layer filters", _plot(plots.filters, _filters(trained.net))),
        _section("Feature maps of one image", _maps(trained, test.x[:1])),
        _section("What the strongest responses see (Zeiler-Fergus)", _projections(trained, test)),
        _section("Time of each layer", _times(trained, test.x[:64])),
        _section("Settings", _table([("setting", "value"), *map(_row, trained.config.items())])),
    ]
    text = (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{_text(directory.name)}</title>"
        f"<style>{_STYLE}</style>{''.join(sections)}</html>"
    )
    path = directory / "report.html"
    replace(path, text.encode())
    return path


def _counts(test: data.Dataset, found: Array) -> Array:
    counts = np.zeros((len(test.classes),) * 2, np.int64)
    np.add.at(counts, (test.y, found), 1)
    return counts


def _mistakes(test: data.Dataset, logits: Array, found: Array) -> str:
    """The wrong answers that were given with the greatest certainty."""
    shares = nn.Softmax()(logits)
    wrong = np.flatnonzero(found != test.y)
    worst = wrong[np.argsort(-shares[wrong, found[wrong]], kind="stable")][:_WORST]
    if not len(worst):
        return "<p>None.</p>"
    captions = [
        f"{test.classes[test.y[i]]}, taken for {test.classes[found[i]]} "
        f"({100 * shares[i, found[i]]:.0f} %)"
        for i in worst
    ]
    return _images(test.x[worst], captions)


def _filters(net: nn.Layer) -> Array:
    return next(layer.w.value for _, layer in net.modules() if isinstance(layer, nn.Conv2d))


def _maps(trained: Trained, x: Array) -> str:
    """The first maps of every convolution."""
    found: list[str] = []

    def look(name: str, layer: nn.Layer, y: Any, seconds: float) -> None:
        if isinstance(layer, nn.Conv2d):
            maps = y[0, :_MAPS, None]
            found.append(
                f"<h3>{_text(name)}</h3>{_images(maps, [str(k) for k in range(len(maps))])}"
            )

    with no_grad(), watched(trained.net, look):
        trained.net(trained.trainer.prepare(x))
    return "".join(found)


def _projections(trained: Trained, test: data.Dataset) -> str:
    """For every convolution the images, and what in them made its strongest map respond."""
    x = test.x[:_SHOWN]
    prepared = trained.trainer.prepare(x)
    parts = [_images(x, [test.classes[y] for y in test.y[:_SHOWN]])]
    for name, layer in trained.net.modules():
        if isinstance(layer, nn.Conv2d):
            try:
                if not isinstance(trained.net, nn.Sequential):
                    raise ValueError("only for networks that are a plain sequence")
                seen = nn.deconvnet(trained.net, name, prepared)
            except ValueError as error:
                parts.append(f"<p>{_text(name)}: {_text(error)}</p>")
                break
            parts.append(f"<h3>{_text(name)}</h3>{_images(seen, [''] * len(seen))}")
    return "".join(parts)


def _times(trained: Trained, x: Array) -> str:
    """Milliseconds of a batch in inference: of three runs the fastest of each layer."""
    times: dict[str, tuple[str, float]] = {}

    def look(name: str, layer: nn.Layer, y: Any, seconds: float) -> None:
        best = min(seconds, times.get(name, ("", seconds))[1])
        times[name] = (type(layer).__name__, best)

    prepared = trained.trainer.prepare(x)
    with no_grad(), watched(trained.net, look):
        for _ in range(3):
            trained.net(prepared)
    rows = [(name, kind, f"{1000 * best:.2f}") for name, (kind, best) in times.items()]
    return _table([("layer", "type", f"ms for {len(x)} images"), *rows])


def _images(x: Array, captions: list[str]) -> str:
    """Images (N, C, H, W), each from its own darkest to its brightest value."""
    from PIL import Image

    figures = []
    for image, caption in zip(x, captions, strict=True):
        values = image.astype(np.float32)
        values -= values.min()
        pixels = (values * (255 / max(float(values.max()), 1e-12))).astype(np.uint8)
        shown = pixels.transpose(1, 2, 0) if len(pixels) == 3 else pixels[0]
        file = io.BytesIO()
        Image.fromarray(shown).save(file, "png")
        figures.append(f"<figure>{_inline(file)}<figcaption>{_text(caption)}</figcaption></figure>")
    return "".join(figures)


def _plot(draw: Any, *arguments: Any) -> str:
    file = io.BytesIO()
    draw(*arguments, file)
    return _inline(file)


def _inline(file: io.BytesIO) -> str:
    return f'<img alt="" src="data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}">'


def _table(rows: list[tuple[str, ...]]) -> str:
    head, *others = (
        "".join(f"<{tag}>{_text(cell)}</{tag}>" for cell in row)
        for tag, row in zip(["th"] + ["td"] * len(rows), rows)
    )
    return f"<table><tr>{head}</tr>{''.join(f'<tr>{row}</tr>' for row in others)}</table>"


def _row(item: tuple[str, Any]) -> tuple[str, str]:
    return item[0], json.dumps(item[1])


def _section(title: str, content: str) -> str:
    return f"<h2>{_text(title)}</h2>{content}"


def _text(value: Any) -> str:
    return html.escape(str(value))

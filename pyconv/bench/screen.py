"""Rows as they come; with rich, on a terminal, the main table of what there is stays below."""

from __future__ import annotations

import contextlib
from types import TracebackType
from typing import Any, Self

from pyconv.bench import report
from pyconv.bench.report import Row
from pyconv.bench.views import View

WIDTHS = (29, 10, 4, 6, 6, 6, 10, 15, 22, 15)


class Screen:
    def __init__(self, view: View) -> None:
        self._view = view
        self._rows: list[Row] = []
        self._live: Any = None

    def __enter__(self) -> Self:
        with contextlib.suppress(ImportError):
            from rich.console import Console
            from rich.live import Live

            console = Console(highlight=False)
            if console.is_terminal:
                self._live = Live(console=console, transient=True, auto_refresh=False)
                self._live.start()
        self._line(list(self._view.columns), "bold")
        return self

    def _line(self, cells: list[str], style: str = "") -> None:
        line = " ".join(cell.ljust(width) for cell, width in zip(cells, WIDTHS)).rstrip()
        if self._live is None:
            print(line, flush=True)
        else:
            self._live.console.print(line, style=style, markup=False, no_wrap=True, crop=False)

    def row(self, row: Row) -> None:
        self._rows.append(row)
        found = self._view.mean([row])
        self._line(self._view.cells(row), "" if found is None else "green" if found >= 1 else "red")
        for name, why in row["left_out"].items():
            self._line([f"  without {name}: {why}"])
        if self._live is not None:
            first, *_ = self._view.tables(self._rows)  # all of them would not fit
            self._live.update(report.text(first), refresh=True)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()
        if self._rows:
            print(*map(report.text, self._view.tables(self._rows)), sep="\n")

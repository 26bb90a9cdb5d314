"""Rows as they come; with rich, on a terminal, the tables of what there is so far stay below."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from pyconv.bench import report
from pyconv.bench.report import Row, Table

WIDTHS = (24, 10, 4, 6, 6, 6, 9, 15, 22, 15)


class Screen:
    """`rich` is rich's console and its live display, or None for plain text."""

    def __init__(
        self, cells: Callable[[Row], list[str]], summary: Callable[[list[Row]], list[Table]]
    ):
        self._cells, self._summary = cells, summary
        self._rows: list[Row] = []
        self._rich: Any = None

    def __enter__(self) -> Self:
        try:
            from rich.console import Console
            from rich.live import Live
        except ImportError:
            return self
        console = Console(highlight=False)
        if console.is_terminal:
            self._rich = Live(console=console, transient=True, auto_refresh=False)
            self._rich.start()
        return self

    def line(self, cells: list[str], style: str = "") -> None:
        line = " ".join(cell.ljust(width) for cell, width in zip(cells, WIDTHS)).rstrip()
        if self._rich is None:
            print(line, flush=True)
        else:
            self._rich.console.print(line, style=style, markup=False, no_wrap=True, crop=False)

    def row(self, row: Row) -> None:
        self._rows.append(row)
        ratio = report.ratio(row)
        self.line(self._cells(row), "" if ratio is None else "green" if ratio >= 1 else "red")
        for name, why in row["left_out"].items():
            self.line([f"  without {name}: {why}"])
        if self._rich is not None:
            self._rich.update("\n".join(map(report.text, self._summary(self._rows))), refresh=True)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._rich is not None:
            self._rich.stop()
        if self._rows:
            print(*map(report.text, self._summary(self._rows)), sep="\n")

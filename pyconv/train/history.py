"""What happened in a training run, a row an epoch."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

from pyconv.nn.files import replace


class History:
    """Rows of one training run; `history["loss"]` is a column.

    >>> from pyconv.train import History
    >>> history = History([{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.25}])
    >>> history["loss"]
    [0.5, 0.25]
    """

    def __init__(self, rows: list[dict[str, Any]] | None = None) -> None:
        self.rows: list[dict[str, Any]] = [] if rows is None else rows

    def __getitem__(self, column: str) -> list[Any]:
        return [row[column] for row in self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def write(self, directory: Path) -> None:
        """Write history.csv and history.json, each all at once."""
        columns = list(dict.fromkeys(name for row in self.rows for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        replace(directory / "history.csv", text.getvalue().encode())
        replace(directory / "history.json", (json.dumps(self.rows, indent=1) + "\n").encode())

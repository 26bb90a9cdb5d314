"""The table of operators: by name, the functions and the opset from which each holds.

A function takes the inputs in order, None for an absent one, and the attributes by name; if it has
an argument `outputs` it is given the number of outputs that are wanted.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

Operator = Callable[..., Any]
_Any = TypeVar("_Any", bound=Operator)

TABLE: dict[str, dict[int, Operator]] = {}


def operator(*names: str, since: int = 1) -> Callable[[_Any], _Any]:
    """Enter a function under these names."""

    def enter(function: _Any) -> _Any:
        for name in names:
            TABLE.setdefault(name, {})[since] = function
        return function

    return enter


def bound(op: str, opset: int, attributes: dict[str, Any], outputs: int) -> Operator | None:
    """The function of a node, which then takes its inputs only; None if the operator is unknown."""
    versions = [since for since in TABLE.get(op, {}) if since <= opset]
    if not versions:
        return None
    function = TABLE[op][max(versions)]
    if "outputs" in inspect.signature(function).parameters:
        attributes = attributes | {"outputs": outputs}
    return partial(function, **attributes) if attributes else function

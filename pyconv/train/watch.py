"""Looking into a network while it runs: what each layer returned, how long it took."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np

from pyconv._arrays import Array
from pyconv.nn.layer import Layer, no_grad

Seen = Callable[[str, Layer, Any, float], None]


@contextmanager
def watched(net: Layer, seen: Seen) -> Iterator[None]:
    """Inside, each layer without inner layers reports (name, layer, y, seconds) when it has run.

    Activations and batch norms that run in the pass of another layer are part of its report.

    >>> import numpy as np
    >>> from pyconv import nn
    >>> from pyconv.train.watch import watched
    >>> net = nn.Sequential(nn.Flatten(), nn.Softmax())
    >>> with watched(net, lambda name, layer, y, seconds: print(name, y.shape)):
    ...     y = net(np.zeros((1, 2, 3)))
    0 (1, 6)
    1 (1, 6)
    """
    with ExitStack() as undo:
        for name, layer in net.modules():
            if not layer.children():
                # A convolution's forward() calls apply(), and so does the container that fuses.
                method = "apply" if hasattr(layer, "apply") else "forward"
                setattr(layer, method, _reporting(getattr(layer, method), name, layer, seen))
                undo.callback(delattr, layer, method)
        yield


def _reporting(run: Callable[..., Any], name: str, layer: Layer, seen: Seen) -> Callable[..., Any]:
    def reporting(*args: Any, **options: Any) -> Any:
        started = time.perf_counter()
        y = run(*args, **options)
        seen(name, layer, y, time.perf_counter() - started)
        return y

    return reporting


def first_not_finite(net: Layer, x: Array) -> str:
    """Where a NaN or an infinity first appears when the network runs on x, in words.

    The network is left as it was: running statistics do not move.
    """
    if not np.isfinite(x).all():
        return "the input"
    for name, parameter in net.parameters().items():
        if not np.isfinite(parameter.value).all():
            return f"the weights {name}"
    found: list[str] = []

    def look(name: str, layer: Layer, y: Any, seconds: float) -> None:
        if not found and not np.isfinite(y).all():
            found.append(f"the output of layer {name} ({type(layer).__name__})")

    before = {name: value.copy() for name, value in net.state_dict().items()}
    try:
        with no_grad(), np.errstate(all="ignore"), watched(net, look):
            net(x)
    finally:
        net.load_state_dict(before)
    return found[0] if found else "the loss itself"

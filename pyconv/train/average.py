"""Averages of the weights over the steps, which a network is evaluated and saved with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from pyconv._arrays import Array
from pyconv.nn.layer import Layer


@dataclass
class Average:
    """a <- d a + (1 - d) w after each step t, for weights and running statistics.

    d = min(decay, (1 + t) / (10 + t)): the average forgets the initial weights soon, as
    TensorFlow's does.
    """

    decay: float
    state: dict[str, Array] = field(default_factory=dict, repr=False)

    def begin(self, net: Layer) -> None:
        """Start from the network's weights, unless a resumed run brought its own."""
        if not self.state:
            self.state = {name: value.copy() for name, value in net.state_dict().items()}

    def update(self, net: Layer, step: int) -> None:
        """After step number `step` (the first is 1)."""
        self._follow(net, min(self.decay, (1 + step) / (10 + step)))

    def _follow(self, net: Layer, decay: float) -> None:
        for name, value in net.state_dict().items():
            self.state[name] += (value - self.state[name]) * value.dtype.type(1 - decay)

    @contextmanager
    def applied(self, net: Layer) -> Iterator[None]:
        """The network has the averages inside, and its own weights again afterwards."""
        own = {name: value.copy() for name, value in net.state_dict().items()}
        net.load_state_dict(self.state)
        try:
            yield
        finally:
            net.load_state_dict(own)


@dataclass
class Lookahead(Average):
    """Every few steps the average follows, and the network goes on from the average.

    Its decay grows with the cube of the share of `steps` done, so that it brakes only near the end.
    Source: M. Zhang et al., NeurIPS 2019; the growth from K. Jordan, arXiv 2404.00498.
    """

    decay: float = 0.95**5
    steps: int = field(kw_only=True)
    every: int = field(default=5, kw_only=True)

    def update(self, net: Layer, step: int) -> None:
        if step % self.every == 0:
            self._follow(net, self.decay * min(1.0, step / self.steps) ** 3)
            for name, value in net.state_dict().items():
                value[...] = self.state[name]

"""Optimizers and learning rate schedules.

A schedule is a function from the number of steps already taken to a learning rate. Optimizers move
only trainable parameters that have a gradient; everything is elementwise and in place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from pyconv._arrays import Array
from pyconv.nn._kernel import update
from pyconv.nn.layer import Parameter

Schedule = Callable[[int], float]


def constant(lr: float) -> Schedule:
    """Always lr."""
    return lambda step: lr


def step(lr: float, every: int, factor: float = 0.1) -> Schedule:
    """lr, multiplied by factor after each `every` steps.

    >>> [round(step(1.0, every=2)(t), 3) for t in range(5)]
    [1.0, 1.0, 0.1, 0.1, 0.01]
    """
    return lambda t: lr * factor ** (t // every)


def cosine(lr: float, steps: int, floor: float = 0.0) -> Schedule:
    """From lr down to floor along half a cosine over `steps` steps, then floor.

    Source: I. Loshchilov, F. Hutter, ICLR 2017.

    >>> [round(cosine(1.0, steps=4)(t), 3) for t in (0, 2, 4, 9)]
    [1.0, 0.5, 0.0, 0.0]
    """
    return lambda t: floor + (lr - floor) * (1 + math.cos(math.pi * min(t / steps, 1))) / 2


def warmup(steps: int, after: Schedule) -> Schedule:
    """Linear from after(0) / steps up to after(0) over `steps` steps, then `after` from its start.

    >>> [warmup(2, constant(1.0))(t) for t in range(4)]
    [0.5, 1.0, 1.0, 1.0]
    """
    return lambda t: after(0) * (t + 1) / steps if t < steps else after(t - steps)


def one_cycle(lr: float, steps: int, rise: float = 0.3, start: float = 0.04) -> Schedule:
    """From start * lr up to lr in the first `rise` of the steps, then down to 0, both linearly.

    Source: L. N. Smith, N. Topin, arXiv 1708.07120.

    >>> [round(one_cycle(1.0, 10, rise=0.5, start=0.0)(t), 3) for t in (0, 5, 10)]
    [0.0, 1.0, 0.0]
    """
    peak = rise * steps

    def schedule(t: int) -> float:
        if t < peak:
            return lr * (start + (1 - start) * t / peak)
        return lr * max(0.0, (steps - t) / (steps - peak))

    return schedule


class Optimizer:
    """What optimizers share: parameters by name, the step count, and their own arrays (slots)."""

    slots: tuple[str, ...] = ()

    def __init__(
        self, parameters: Mapping[str, Parameter], lr: float | Schedule, weight_decay: float
    ) -> None:
        self.parameters = dict(parameters)
        self.schedule: Schedule = lr if callable(lr) else constant(lr)
        self.weight_decay = weight_decay
        self.steps = 0
        self._slots: dict[str, dict[str, Array]] = {}

    @property
    def lr(self) -> float:
        """The learning rate of the next step."""
        return self.schedule(self.steps)

    def zero_grad(self) -> None:
        for parameter in self.parameters.values():
            parameter.grad = None

    def step(self) -> None:
        """Move every parameter once along its gradient."""
        lr = self.lr
        self.steps += 1
        for name, parameter in self.parameters.items():
            if not parameter.trainable or parameter.grad is None:
                continue
            flags = parameter.value.flags
            if not (flags.writeable and flags.c_contiguous):
                parameter.value = parameter.value.copy(order="C")
            own = self._slots.setdefault(name, {})
            for slot in self.slots:
                if slot not in own:
                    own[slot] = np.zeros_like(parameter.value)
            grad = np.ascontiguousarray(parameter.grad, parameter.value.dtype)
            self._move(parameter.value, grad, own, lr)

    def _move(self, value: Array, grad: Array, own: dict[str, Array], lr: float) -> None:
        raise NotImplementedError

    def state_dict(self) -> dict[str, Array]:
        """The step count and all slots, as arrays by name: the live arrays, not copies."""
        slots = {
            f"{slot}.{name}": array
            for name, own in self._slots.items()
            for slot, array in own.items()
        }
        return {"steps": np.array(self.steps, np.int64)} | slots

    def load_state_dict(self, state: Mapping[str, Array]) -> None:
        """Take over copies of what `state_dict` gave; ValueError where names or shapes differ."""
        slots: dict[str, dict[str, Array]] = {}
        for key in state.keys() - {"steps"}:
            slot, _, name = key.partition(".")
            if slot not in self.slots or name not in self.parameters:
                raise ValueError(f"load_state_dict: {type(self).__name__} has no {key}")
            expected = self.parameters[name].value
            if state[key].shape != expected.shape:
                raise ValueError(
                    f"load_state_dict: {key} must be {expected.shape}, got {state[key].shape}"
                )
            slots.setdefault(name, {})[slot] = np.array(state[key], expected.dtype)
        if "steps" not in state or state["steps"].shape:
            raise ValueError("load_state_dict: missing steps, a single number")
        self.steps = int(state["steps"])
        self._slots = slots


class SGD(Optimizer):
    """g = grad + weight_decay * w;  v = momentum * v + g;  w -= lr * v, or with Nesterov's
    correction w -= lr * (g + momentum * v).

    Source: I. Sutskever et al., ICML 2013.

    >>> import numpy as np
    >>> from pyconv import nn, optim
    >>> p = nn.Parameter(np.array([1.0]))
    >>> p.grad = np.array([0.5])
    >>> optim.SGD({"w": p}, lr=0.1).step()
    >>> p.value
    array([0.95])
    """

    def __init__(
        self,
        parameters: Mapping[str, Parameter],
        lr: float | Schedule,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
    ) -> None:
        if nesterov and not momentum:
            raise ValueError("SGD: nesterov needs a momentum")
        super().__init__(parameters, lr, weight_decay)
        self.momentum, self.nesterov = momentum, nesterov
        self.slots = ("velocity",) if momentum else ()

    def _move(self, value: Array, grad: Array, own: dict[str, Array], lr: float) -> None:
        numbers = lr, self.momentum, self.weight_decay, float(self.nesterov)
        update("sgd", (value, grad, own.get("velocity")), numbers)


class Adam(Optimizer):
    """m and v follow grad and grad^2; w -= lr * m' / (sqrt(v') + eps), where m' = m / (1 - beta1^t)
    and v' = v / (1 - beta2^t). weight_decay is added to the gradient, as an L2 penalty.

    Source: D. P. Kingma, J. Ba, ICLR 2015.
    """

    slots = ("mean", "square")

    def __init__(
        self,
        parameters: Mapping[str, Parameter],
        lr: float | Schedule = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(parameters, lr, weight_decay)
        self.betas, self.eps = betas, eps

    def _move(self, value: Array, grad: Array, own: dict[str, Array], lr: float) -> None:
        self._adam(value, grad, own, lr, self.weight_decay, 1.0)

    def _adam(
        self,
        value: Array,
        grad: Array,
        own: dict[str, Array],
        lr: float,
        penalty: float,
        factor: float,
    ) -> None:
        """`penalty` times the weights joins the gradient; the weights are first times `factor`."""
        beta1, beta2 = self.betas
        rate, widen = lr / (1 - beta1**self.steps), 1 / (1 - beta2**self.steps)
        numbers = rate, beta1, beta2, widen, self.eps, penalty, factor
        update("adam", (value, grad, own["mean"], own["square"]), numbers)


class AdamW(Adam):
    """As Adam, but weight_decay shrinks the weights themselves: w *= 1 - lr * weight_decay first.

    Source: I. Loshchilov, F. Hutter, ICLR 2019.
    """

    def __init__(
        self,
        parameters: Mapping[str, Parameter],
        lr: float | Schedule = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__(parameters, lr, betas, eps)
        self.decay = weight_decay

    def _move(self, value: Array, grad: Array, own: dict[str, Array], lr: float) -> None:
        self._adam(value, grad, own, lr, 0.0, 1 - lr * self.decay)

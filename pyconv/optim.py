"""Optimizers and learning rate schedules.

A schedule is a function from the number of steps already taken to a learning rate. Optimizers move
only trainable parameters that have a gradient; everything is elementwise and in place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np

from pyconv import functional
from pyconv._arrays import Array
from pyconv._gpu import namespace
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


def one_cycle(
    lr: float, steps: int, rise: float = 0.3, start: float = 0.04, end: float = 0.0
) -> Schedule:
    """A triangle: from start * lr up to lr in the first `rise` of the steps, then down to end * lr.

    Source: L. N. Smith, N. Topin, arXiv 1708.07120.

    >>> [round(one_cycle(1.0, 10, rise=0.5, start=0.0)(t), 3) for t in (0, 5, 10)]
    [0.0, 1.0, 0.0]
    """
    peak = rise * steps

    def schedule(t: int) -> float:
        if t < peak:
            return lr * (start + (1 - start) * t / peak)
        return lr * (end + (1 - end) * max(0.0, (steps - t) / max(1.0, steps - peak)))

    return schedule


def clip_gradients(parameters: Mapping[str, Parameter], limit: float) -> float:
    """Shrink all gradients together so that their common norm is at most `limit`.

    Returns the norm before, sqrt(sum of squares over all trainable parameters); where it is not
    finite nothing is changed. Source: R. Pascanu et al., ICML 2013.

    >>> import numpy as np
    >>> from pyconv import nn, optim
    >>> p = nn.Parameter(np.zeros(2))
    >>> p.grad = np.array([3.0, 4.0])
    >>> optim.clip_gradients({"w": p}, 1.0), p.grad
    (5.0, array([0.6, 0.8]))
    """
    grads = [p.grad for p in parameters.values() if p.trainable and p.grad is not None]
    # Sums by NumPy rather than a threaded BLAS, whose bits depend on the number of threads.
    norm = math.sqrt(sum(float(np.square(grad, dtype=np.float64).sum()) for grad in grads))
    if limit < norm < math.inf:
        for p in parameters.values():
            if p.trainable and p.grad is not None:
                p.grad = p.grad * p.grad.dtype.type(limit / norm)
    return norm


@dataclass(frozen=True)
class Group:
    """Parameters whose name matches a shell pattern, and what is different about them.

    lr, weight_decay : factors on the optimizer's own. steps : they learn only so long.
    """

    match: str
    lr: float = 1.0
    weight_decay: float = 1.0
    steps: int | None = None


class Optimizer:
    """What optimizers share: parameters by name, the step count, and their own arrays (slots).

    `groups` give parameters factors of their own; the first that matches a name counts:

    >>> import numpy as np
    >>> from pyconv import nn, optim
    >>> net = nn.Linear(3, 2)
    >>> plain = [optim.Group("*b", weight_decay=0)]
    >>> optimizer = optim.SGD(net.parameters(), 0.1, weight_decay=1e-4, groups=plain)
    """

    slots: tuple[str, ...] = ()

    def __init__(
        self,
        parameters: Mapping[str, Parameter],
        lr: float | Schedule,
        weight_decay: float,
        groups: Sequence[Group] = (),
    ) -> None:
        self.parameters = dict(parameters)
        self.schedule: Schedule = lr if callable(lr) else constant(lr)
        self.weight_decay = weight_decay
        self.groups = {name: _group(name, groups) for name in self.parameters}
        for group in groups:
            if not any(fnmatchcase(name, group.match) for name in self.parameters):
                raise ValueError(
                    f"{type(self).__name__}: no parameter matches {group.match!r}; there are "
                    f"{', '.join(self.parameters)}"
                )
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
            if not (getattr(flags, "writeable", True) and flags.c_contiguous):  # CuPy's always is
                parameter.value = parameter.value.copy(order="C")
            own = self._slots.setdefault(name, {})
            for slot in self._slots_of(name):
                if slot not in own:
                    own[slot] = np.zeros_like(parameter.value)
            xp = namespace(parameter.value)
            grad = xp.ascontiguousarray(parameter.grad, parameter.value.dtype)
            group = self.groups[name]
            decay = self.weight_decay * group.weight_decay
            self._move(name, parameter.value, grad, own, lr * group.lr, decay)
        self._freeze()

    def _freeze(self) -> None:
        """Groups that have learnt long enough need no gradient any more."""
        for name, group in self.groups.items():
            if group.steps is not None and self.steps >= group.steps:
                self.parameters[name].trainable = False

    def _slots_of(self, name: str) -> tuple[str, ...]:
        return self.slots

    def _move(
        self, name: str, value: Array, grad: Array, own: dict[str, Array], lr: float, decay: float
    ) -> None:
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
            if name not in self.parameters or slot not in self._slots_of(name):
                raise ValueError(f"load_state_dict: {type(self).__name__} has no {key}")
            expected = self.parameters[name].value
            if state[key].shape != expected.shape:
                raise ValueError(
                    f"load_state_dict: {key} must be {expected.shape}, got {state[key].shape}"
                )
            slots.setdefault(name, {})[slot] = namespace(expected).array(state[key], expected.dtype)
        if "steps" not in state or state["steps"].shape:
            raise ValueError("load_state_dict: missing steps, a single number")
        self.steps = int(state["steps"])
        self._slots = slots
        self._freeze()


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
        groups: Sequence[Group] = (),
    ) -> None:
        if nesterov and not momentum:
            raise ValueError("SGD: nesterov needs a momentum")
        super().__init__(parameters, lr, weight_decay, groups)
        self.momentum, self.nesterov = momentum, nesterov
        self.slots = ("velocity",) if momentum else ()

    def _move(
        self, name: str, value: Array, grad: Array, own: dict[str, Array], lr: float, decay: float
    ) -> None:
        numbers = lr, self.momentum, decay, float(self.nesterov)
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
        groups: Sequence[Group] = (),
    ) -> None:
        super().__init__(parameters, lr, weight_decay, groups)
        self.betas, self.eps = betas, eps

    def _move(
        self, name: str, value: Array, grad: Array, own: dict[str, Array], lr: float, decay: float
    ) -> None:
        _adam(self, (value, grad, own["mean"], own["square"]), lr, penalty=decay)


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
        groups: Sequence[Group] = (),
    ) -> None:
        super().__init__(parameters, lr, betas, eps, weight_decay, groups)

    def _move(
        self, name: str, value: Array, grad: Array, own: dict[str, Array], lr: float, decay: float
    ) -> None:
        _adam(self, (value, grad, own["mean"], own["square"]), lr, factor=1 - lr * decay)


class Muon(AdamW):
    """Matrices move along their momentum with all singular values made about 1; the rest by AdamW.

    v = momentum * v + grad;  w -= lr * sqrt(max(1, K / F)) * orthogonal(grad + momentum * v), w
    being (K, F), filters flattened to K rows. Vectors and the parameters that `adamw` matches (by
    default the classifier) take AdamW's step with lr * adamw_lr. weight_decay is AdamW's for all.

    Source: K. Jordan et al., "Muon", 2024; the flattening as in MLX.
    """

    def __init__(
        self,
        parameters: Mapping[str, Parameter],
        lr: float | Schedule = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        groups: Sequence[Group] = (),
        *,
        adamw: Sequence[str] = ("output.*",),
        adamw_lr: float = 0.05,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
    ) -> None:
        super().__init__(parameters, lr, betas, eps, weight_decay, groups)
        self.momentum, self.adamw_lr = momentum, adamw_lr
        self._matrices = {
            name
            for name, parameter in self.parameters.items()
            if parameter.value.ndim > 1 and not any(fnmatchcase(name, p) for p in adamw)
        }

    def _slots_of(self, name: str) -> tuple[str, ...]:
        return ("velocity",) if name in self._matrices else self.slots

    def _move(
        self, name: str, value: Array, grad: Array, own: dict[str, Array], lr: float, decay: float
    ) -> None:
        if name not in self._matrices:
            super()._move(name, value, grad, own, lr * self.adamw_lr, decay)
            return
        number = value.dtype.type
        velocity = own["velocity"]
        velocity *= number(self.momentum)
        velocity += grad
        matrix = (grad + number(self.momentum) * velocity).reshape(len(value), -1)
        scale = lr * math.sqrt(max(1.0, matrix.shape[0] / matrix.shape[1]))
        value *= number(1 - lr * decay)
        value -= number(scale) * orthogonalized(matrix).reshape(value.shape)


def orthogonalized(matrix: Array, steps: int = 5) -> Array:
    """U V^T of the singular value decomposition U S V^T, nearly: singular values 0.7 to 1.2.

    Newton-Schulz steps x <- a x + (b y + c y^2) x with y = x x^T, from x of Frobenius norm 1.
    The products are our own 1x1 convolutions: unlike with a threaded BLAS, the bits do not depend
    on the number of threads.
    """
    a, b, c = (matrix.dtype.type(value) for value in (3.4445, -4.7750, 2.0315))
    wide = matrix.shape[0] <= matrix.shape[1]
    x = (matrix if wide else matrix.T).copy()
    x = x / (np.sqrt(np.square(x).sum()) + np.finfo(x.dtype).tiny)
    for _ in range(steps):
        y = functional.conv1d(x[None], x[:, :, None], layout="NHWC")[0]
        x = a * x + _product(b * y + c * _product(y, y), x)
    return x if wide else x.T


def _product(left: Array, right: Array) -> Array:
    product: Array = functional.conv1d(right[None], left[:, :, None])[0]
    return product


def _group(name: str, groups: Sequence[Group]) -> Group:
    return next((group for group in groups if fnmatchcase(name, group.match)), Group(name))


def _adam(
    rule: Adam,
    arrays: tuple[Array, ...],
    lr: float,
    penalty: float = 0.0,
    factor: float = 1.0,
) -> None:
    """`penalty` times the weights joins the gradient; the weights are first times `factor`."""
    beta1, beta2 = rule.betas
    rate, widen = lr / (1 - beta1**rule.steps), 1 / (1 - beta2**rule.steps)
    update("adam", arrays, (rate, beta1, beta2, widen, rule.eps, penalty, factor))


OPTIMIZERS: dict[str, type[Optimizer]] = {"sgd": SGD, "adam": Adam, "adamw": AdamW, "muon": Muon}

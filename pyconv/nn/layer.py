"""What every layer is: parameters, a forward and a backward pass, a constructor JSON can repeat."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from pyconv import functional
from pyconv._arrays import Array, Shape
from pyconv._gpu import device_of, moved, namespace

_keeping: ContextVar[bool] = ContextVar("keeping", default=True)


@contextmanager
def no_grad() -> Iterator[None]:
    """Layers called inside keep nothing for a backward pass, which saves its memory.

    >>> import numpy as np
    >>> from pyconv import nn
    >>> with nn.no_grad():
    ...     y = nn.Flatten()(np.zeros((2, 3, 4)))
    """
    token = _keeping.set(False)
    try:
        yield
    finally:
        _keeping.reset(token)


def keeping() -> bool:
    """Whether a layer called now has to keep what its backward pass reads."""
    return _keeping.get()


class Parameter:
    """A learnt array `value`; `grad`, the sum of its gradients since the last zero_grad(), or None.

    `mask`, if given, holds 1 where a weight exists and 0 where it is fixed at zero. Setting
    `trainable` to False freezes the parameter: no gradient is computed and no optimizer moves it.
    """

    __slots__ = ("grad", "mask", "trainable", "value")

    def __init__(self, value: Array, mask: Array | None = None) -> None:
        self.value = value
        self.grad: Array | None = None
        self.mask = mask
        self.trainable = True

    @property
    def size(self) -> int:
        """Number of weights, those that the mask fixes at zero left out."""
        return self.value.size if self.mask is None else int(np.count_nonzero(self.mask))

    def accumulate(self, grad: Array) -> None:
        """Add to `grad`; nothing happens where the parameter is frozen."""
        if not self.trainable:
            return
        if self.mask is not None:
            grad = grad * self.mask.astype(grad.dtype)
        self.grad = grad if self.grad is None else self.grad + grad

    def __repr__(self) -> str:
        return f"Parameter(shape={self.value.shape}, dtype={self.value.dtype})"


def _type_name(cls: type) -> str:
    own = cls.__module__.startswith("pyconv.nn.")
    return cls.__name__ if own else f"{cls.__module__}.{cls.__qualname__}"


class Layer:
    """Base of all layers: `y = layer(x)` and then `dx = layer.backward(dy)`.

    backward() adds the parameters' gradients to `Parameter.grad` and returns the gradient of the
    input. It belongs to the latest call of the layer and can follow it once: it frees what the call
    kept. A layer serves one thread at a time.

    A subclass keeps every constructor argument under its own name (so that `config()`, and with it
    `pyconv.save`, finds it), its parameters and inner layers as attributes, and defines `forward`
    and `backward`; also `output_shape` where the shape changes and `multiply_adds` where it
    multiplies.
    """

    registry: ClassVar[dict[str, type[Layer]]] = {}
    buffer_names: ClassVar[tuple[str, ...]] = ()

    # What forward() takes beside x to run in the same pass: "activation", "residual". A subclass
    # with a forward of its own starts from none.
    fuses: tuple[str, ...] = ()

    training = True
    input_gradient = True  # False: backward() may return None, the caller does not want dx
    _kept: tuple[Any, ...] | None = None

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        Layer.registry[_type_name(cls)] = cls
        if "forward" in vars(cls) and "fuses" not in vars(cls):
            cls.fuses = ()

    def __call__(self, x: Array) -> Array:
        return self.forward(x)

    def forward(self, x: Array) -> Array:
        raise NotImplementedError(f"{type(self).__name__} does not define forward")

    def backward(self, dy: Array) -> Array:
        raise NotImplementedError(f"{type(self).__name__} does not define backward")

    def keep(self, *values: Any) -> None:
        """Keep what backward() will read, unless no_grad() says that there will be none."""
        self._kept = values if _keeping.get() else None

    def kept(self) -> tuple[Any, ...]:
        """What forward() kept, given out once."""
        if self._kept is None:
            raise RuntimeError(
                f"{type(self).__name__}.backward: call the layer first, outside nn.no_grad(); "
                "each backward() needs a call of its own"
            )
        values, self._kept = self._kept, None
        return values

    # Shapes and work, without computing

    def output_shape(self, shape: Shape) -> Shape:
        """Shape of y for x of this shape, batch included."""
        return shape

    def multiply_adds(self, shape: Shape) -> int:
        """Multiply-add pairs of one forward pass over x of this shape."""
        return sum(layer.multiply_adds(inner) for _, layer, inner in self.inside(shape))

    def inside(self, shape: Shape) -> list[tuple[str, Layer, Shape]]:
        """The inner layers with the shape each of them sees, in the order they run."""
        return []

    def summary(self, input_shape: Shape) -> str:
        """A table of the layers: output shape, parameters and multiply-adds.

        input_shape counts the batch, e.g. (1, 1, 32, 32).
        """
        from pyconv.nn.summary import table

        return table(self, tuple(input_shape))

    def explain(self, input_shape: Shape) -> str:
        """How a call in inference runs: each pass over memory, the layers fused in it, the
        convolution's algorithm and workspace, and the memory of all.

        input_shape counts the batch, e.g. (1, 1, 32, 32).
        """
        from pyconv.nn.explain import table

        return table(self, tuple(input_shape))

    # Parameters and inner layers

    def children(self) -> dict[str, Layer]:
        """The layers directly inside this one."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Layer)}

    def modules(self) -> Iterator[tuple[str, Layer]]:
        """This layer under the name "", and all layers inside it under their dotted names."""
        yield "", self
        for name, child in self.children().items():
            for inner, layer in child.modules():
                yield f"{name}.{inner}" if inner else name, layer

    def parameters(self) -> dict[str, Parameter]:
        """All parameters by dotted name; a shared one is listed once, under its first name."""
        found: dict[str, Parameter] = {}
        seen: set[int] = set()
        for prefix, layer in self.modules():
            for name, value in vars(layer).items():
                if isinstance(value, Parameter) and id(value) not in seen:
                    seen.add(id(value))
                    found[_join(prefix, name)] = value
        return found

    def buffers(self) -> dict[str, Array]:
        """Arrays that are part of the state but not learnt, such as running means."""
        return {
            _join(prefix, name): getattr(layer, name)
            for prefix, layer in self.modules()
            for name in layer.buffer_names
        }

    def zero_grad(self) -> None:
        for parameter in self.parameters().values():
            parameter.grad = None

    def freeze(self, frozen: bool = True) -> Self:
        """Exclude all parameters from training, or with False include them again."""
        for parameter in self.parameters().values():
            parameter.trainable = not frozen
        return self

    def train(self, mode: bool = True) -> Self:
        """Training mode: dropout drops, batch norm uses and follows the batch's statistics."""
        for _, layer in self.modules():
            layer.training = mode
        return self

    def eval(self) -> Self:
        """Inference mode, the opposite of train()."""
        return self.train(False)

    def reseed(self, *seed: int) -> None:
        """Fix the random numbers of the next forward pass (dropout masks)."""
        for index, child in enumerate(self.children().values()):
            child.reseed(*seed, index)

    def to(self, where: npt.DTypeLike) -> Self:
        """Convert parameters and buffers to float32 or float64, or move them: "cuda", "cuda:1" to a
        GPU as CuPy arrays, "cpu" back as NumPy's. Gradients are dropped.

        Raises TypeError for another dtype, RuntimeError where there is no such device.
        """
        if isinstance(where, str) and where.partition(":")[0] in ("cpu", "cuda"):
            device = device_of("Layer.to", where)
            self._convert(lambda array: moved(array, device))
            for parameter in self.parameters().values():
                if parameter.mask is not None:
                    parameter.mask = moved(parameter.mask, device)
            return self
        if np.dtype(where) not in (np.float32, np.float64):
            raise TypeError(f"Layer.to: dtype must be float32 or float64, got {np.dtype(where)}")
        self._convert(lambda array: array.astype(where))
        return self

    def _convert(self, change: Callable[[Array], Array]) -> None:
        for parameter in self.parameters().values():
            parameter.value = change(parameter.value)
            parameter.grad = None
        for _, layer in self.modules():
            for name in layer.buffer_names:
                setattr(layer, name, change(getattr(layer, name)))

    # State and architecture

    def state_dict(self) -> dict[str, Array]:
        """Parameters and buffers by name: the live arrays, not copies."""
        values = {name: parameter.value for name, parameter in self.parameters().items()}
        return values | self.buffers()

    def load_state_dict(
        self, state: Mapping[str, Array], dtype: npt.DTypeLike | None = None
    ) -> None:
        """Take over copies of the arrays; `dtype` is theirs afterwards, by default the layer's own.

        Raises ValueError, with nothing changed, if a name is missing or unknown or a shape differs.
        """
        own = self.state_dict()
        if missing := sorted(own.keys() - state.keys()):
            raise ValueError(f"load_state_dict: missing {', '.join(missing)}")
        if unknown := sorted(state.keys() - own.keys()):
            raise ValueError(f"load_state_dict: unknown {', '.join(unknown)}")
        for name, value in own.items():
            if value.shape != state[name].shape:
                raise ValueError(
                    f"load_state_dict: {name} must be {value.shape}, got {state[name].shape}"
                )

        def copy(name: str) -> Array:
            given, kind = state[name], own[name].dtype if dtype is None else dtype
            xp = namespace(own[name])
            return xp.array(moved(given, None) if xp is np else given, kind, order="C")

        for name, parameter in self.parameters().items():
            parameter.value = copy(name)
        for prefix, layer in self.modules():
            for name in layer.buffer_names:
                setattr(layer, name, copy(_join(prefix, name)))

    def config(self) -> dict[str, Any]:
        """The constructor's arguments, as this layer was made."""
        return {name: getattr(self, name) for name in _arguments(type(self))}

    def architecture(self) -> dict[str, Any]:
        """A JSON-able description from which `from_architecture` makes the same layers."""
        return {"type": _type_name(type(self))} | {
            name: _describe(value) for name, value in self.config().items()
        }

    def __repr__(self) -> str:
        arguments = ", ".join(f"{name}={value!r}" for name, value in self.config().items())
        return f"{type(self).__name__}({arguments})"


class Spatial(Layer):
    """A layer that runs one functional operation over `axes` spatial axes: one class, three sizes.

    `class Conv2d(_Conv, axes=2)` finds `functional.conv2d` and `functional.conv2d_backward`.
    """

    operation: ClassVar[str]
    axes: ClassVar[int]
    function: ClassVar[Callable[..., Any]]
    gradient: ClassVar[Callable[..., Any]]

    def __init_subclass__(cls, axes: int | None = None) -> None:
        super().__init_subclass__()
        if axes is not None:
            name = f"{cls.operation}{axes}d"
            cls.axes = axes
            cls.function = staticmethod(getattr(functional, name))
            cls.gradient = staticmethod(getattr(functional, f"{name}_backward"))

    def per_axis(self, value: int | Sequence[int]) -> tuple[int, ...]:
        """The number repeated for each axis, or the numbers as they are."""
        values = (value,) * self.axes if isinstance(value, int) else tuple(value)
        if len(values) != self.axes:
            raise ValueError(f"{type(self).__name__}: expected {self.axes} numbers, got {values}")
        return values


def from_architecture(description: Any) -> Layer:
    """The layer that `Layer.architecture` described; only known Layer classes are ever called.

    Raises ValueError or TypeError where the description is not one.
    """
    if not isinstance(description, dict) or not isinstance(description.get("type"), str):
        raise ValueError("architecture: a layer must be an object with a type")
    arguments = {name: _restore(value) for name, value in description.items() if name != "type"}
    cls = Layer.registry.get(description["type"])
    if cls is None:
        raise ValueError(f"architecture: unknown layer type {description['type']!r}")
    parameters = _arguments(cls)
    if arguments.keys() != parameters.keys():
        raise ValueError(
            f"architecture: {description['type']} takes {', '.join(parameters) or 'no arguments'}; "
            f"got {', '.join(arguments) or 'none'}"
        )
    args: Sequence[Any] = ()
    kwargs: dict[str, Any] = {}
    for name, parameter in parameters.items():
        value = arguments[name]
        if parameter.kind is parameter.VAR_POSITIONAL:
            args = value
        elif parameter.kind is parameter.VAR_KEYWORD:
            kwargs |= value
        else:
            kwargs[name] = value
    return cls(*args, **kwargs)


def _arguments(cls: type[Layer]) -> Mapping[str, inspect.Parameter]:
    parameters = dict(inspect.signature(cls.__init__).parameters)
    parameters.pop("self")
    return parameters if cls.__init__ is not object.__init__ else {}


def _join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


def _describe(value: Any) -> Any:
    if isinstance(value, Layer):
        return value.architecture()
    if isinstance(value, Mapping):
        return {name: _describe(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_describe(item) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    return value


def _restore(value: Any) -> Any:
    if isinstance(value, dict):
        if isinstance(value.get("type"), str):
            return from_architecture(value)
        return {name: _restore(item) for name, item in value.items()}
    if isinstance(value, list):
        return tuple(_restore(item) for item in value)
    return value

"""The compiled core: plans over shapes, run on NumPy arrays; `pyconv.functional` calls it.

Arrays handed to `run` must be C-contiguous, aligned, native-endian and of the plan's dtype
(`_arrays.py` sees to it); shapes and numbers are checked here, in one place.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

Ints = int | Sequence[int]

class Plan:
    """A checked problem and the kernel that serves it; immutable, shared between threads."""

    @property
    def output_shape(self) -> tuple[int, ...]: ...
    @property
    def workspace_bytes(self) -> int:
        """For as many threads as would run now."""
    @property
    def packed_bytes(self) -> int:
        """Size of the packed weights, 0 where the algorithm reads w as it is."""
    @property
    def algorithm(self) -> str: ...
    @property
    def target(self) -> str: ...
    @property
    def reason(self) -> str: ...
    @property
    def flops(self) -> float: ...
    @property
    def bytes(self) -> float: ...
    def pack(self, w: np.ndarray[Any, Any], packed: np.ndarray[Any, Any]) -> None: ...
    def run(
        self,
        a: np.ndarray[Any, Any],
        b: np.ndarray[Any, Any] | None,
        bias: np.ndarray[Any, Any] | None,
        residual: np.ndarray[Any, Any] | None,
        out: np.ndarray[Any, Any] | None,
        aux: np.ndarray[Any, Any] | None,
        workspace: np.ndarray[Any, Any] | None = None,
        b_is_packed: bool = False,
    ) -> np.ndarray[Any, Any]:
        """Run without the GIL; returns out. None for out or for the workspace: new ones.

        Which buffer is what (see pyconv.h): conv fwd a=x b=w out=y; bwd_data a=dy b=w out=dx;
        bwd_weight a=dy b=x out=dw; bwd_bias a=dy out=db; im2col a=x; col2im a=columns.
        Pooling: max fwd a=x out=y aux=int64 indices or None; max bwd a=dy b=indices out=dx;
        avg fwd a=x (b=weights), bwd a=dy (b=weights); lp fwd a=x, bwd a=dy b=x aux=y;
        unpool fwd a=x b=indices.
        """
    def run_at(
        self,
        a: int,
        b: int,
        bias: int,
        out: int,
        aux: int,
        workspace: np.ndarray[Any, Any] | None,
    ) -> None:
        """As run, at addresses (0: not given), which are trusted: dense memory of the plan's shapes
        that the caller keeps alive."""
    def accepts(self, out: object, *inputs: np.ndarray[Any, Any] | None) -> bool:
        """Whether `out` has the result's shape and the first input's dtype, is `ready` and
        writeable, and shares no memory with the inputs.
        """

def ready(*arrays: object) -> bool:
    """Whether these (None aside) are what kernels read: NumPy, one float dtype, native, dense."""

def plan_conv(
    op: str,
    axes: int,
    direction: str,
    transposed: bool,
    dtype: str,
    layout: str,
    x: tuple[int, ...],
    w: tuple[int, ...],
    dy: tuple[int, ...] | None,
    bias: tuple[int, ...] | None,
    residual: tuple[int, ...] | None,
    stride: Ints,
    padding: Ints | Sequence[Sequence[int]] | str,
    dilation: Ints,
    groups: int,
    border: str,
    flip: bool,
    activation: str | None,
    algorithm: str,
    output_padding: Ints,
    output_size: Ints | None,
    precision: int,
    batch_invariant: bool,
) -> Plan:
    """direction: fwd, bwd_data, bwd_weight, bwd_bias, im2col, col2im; precision: as in pyconv.h.

    TypeError where an argument is no integer (bool and float included), ValueError for every broken
    rule, for a Python int beyond 64 bits and for an unknown name; both name operation, argument,
    value and all shapes.
    """

def plan_pool(
    op: str,
    axes: int,
    kind: str,
    direction: str,
    dtype: str,
    layout: str,
    x: tuple[int, ...],
    dy: tuple[int, ...] | None,
    indices: tuple[int, ...] | None,
    weights: tuple[int, ...] | None,
    kernel: Ints | None,
    stride: Ints | None,
    padding: Ints,
    dilation: Ints,
    output_size: Ints | None,
    adaptive: bool,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor: int | None,
    norm_type: float,
) -> Plan:
    """kind: max, avg, lp, unpool; direction: fwd, bwd_data."""

def activation_backward(
    activation: str,
    dy: np.ndarray[Any, Any],
    y: np.ndarray[Any, Any],
    dx: np.ndarray[Any, Any],
) -> None: ...
def run_layer(
    kind: str,
    arrays: tuple[np.ndarray[Any, Any] | None, ...],
    layout: str,
    n: int,
    c: int,
    pixels: int,
    numbers: tuple[float, ...],
    backward: bool = False,
    training: bool = False,
    size: int = 0,
    seed: int = 0,
    activation: str | None = None,
) -> None:
    """See pyconv_layer_desc in pyconv.h: kinds, their arrays and numbers."""

def set_num_threads(threads: int) -> None:
    """0 goes back to what OpenMP says."""

def get_num_threads() -> int: ...
def targets() -> list[str]:
    """Instruction sets built into this module that this machine runs, best first."""

def get_target() -> str: ...
def set_target(name: str) -> None: ...

abi_version: int
compiler: str
openmp: bool

def memory_pool() -> object:
    """A memory handler of NumPy (NEP 49) that keeps large blocks; see `pyconv.MemoryPool`."""

def set_memory_handler(handler: object) -> object:
    """NumPy's handler for this context; returns the one before."""

def trim_memory_pool(pool: object) -> None: ...
def idle_bytes(pool: object) -> int: ...

"""The compiled CUDA module, built with -DPYCONV_CUDA=ON: plans as in `_core`, run on device memory.

Importing it needs no driver. Every buffer is (address, bytes) or None, dense, of the plan's dtype,
on `device`; work is enqueued on `stream` (a cudaStream_t as an int, 0 for the default stream) and
nothing waits for it: keep the arrays alive until they are enqueued, draw the workspace from a pool
that orders its reuse by that stream. Nothing is allocated, so calls can be captured into a graph
once they have run outside one.
"""

from typing import Any

Buffer = tuple[int, int] | None

class Plan:
    """A checked problem and the kernel that serves it; immutable, shared between threads."""

    @property
    def output_shape(self) -> tuple[int, ...]: ...
    @property
    def workspace_bytes(self) -> int: ...
    @property
    def packed_bytes(self) -> int:
        """0: every kernel reads w as it is."""
    @property
    def algorithm(self) -> str: ...
    @property
    def target(self) -> str:
        """ "cuda"."""
    @property
    def reason(self) -> str: ...
    @property
    def flops(self) -> float: ...
    @property
    def bytes(self) -> float: ...
    def run(
        self,
        a: Buffer,
        b: Buffer,
        bias: Buffer,
        residual: Buffer,
        out: Buffer,
        aux: Buffer,
        workspace: Buffer,
        device: int,
        stream: int,
    ) -> None:
        """Enqueue; which buffer is what: `_core.Plan.run`.

        Indices are not checked, which would mean waiting for them: those outside their plane are
        ignored. RuntimeError where the launch fails.
        """

def plan_conv(*arguments: Any) -> Plan:
    """As `_core.plan_conv`, with the same errors."""

def plan_pool(*arguments: Any) -> Plan:
    """As `_core.plan_pool`, with the same errors."""

def activation_backward(
    activation: str, dtype: str, dy: Buffer, y: Buffer, dx: Buffer, device: int, stream: int
) -> None: ...
def run_layer(
    kind: str,
    dtype: str,
    buffers: tuple[Buffer, ...],
    layout: str,
    n: int,
    c: int,
    pixels: int,
    numbers: tuple[float, ...],
    backward: bool,
    training: bool,
    size: int,
    seed: int,
    activation: str | None,
    device: int,
    stream: int,
) -> None:
    """As `_core.run_layer`."""

def device_count() -> int:
    """0 where there is no driver or no device."""

abi_version: int
runtime_version: int  # as in CUDART_VERSION: 13000 is 13.0
compiler: str
architectures: str

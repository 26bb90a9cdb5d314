"""pyconv inside JAX: `conv_general_dilated`, a drop-in for lax's on the CPU.

XLA calls the kernels through its foreign function interface; the handler is compiled on first use.
"""

try:
    import jax as _jax  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "pyconv.jax needs JAX: pip install 'pyconv-engine[jax]'", name=error.name
    ) from error

from ._convolution import conv_general_dilated

__all__ = ["conv_general_dilated"]

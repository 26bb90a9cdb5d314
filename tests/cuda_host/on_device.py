"""A pytest plugin: every NumPy array that a test hands to pyconv goes in as a CuPy array, and what
comes back becomes NumPy again, so that the tests of the CPU are those of a GPU.

With PYCONV_CUDA_HOST naming the host build of pyconv._cuda, that module and fake_cupy stand in for
the GPU; without it CuPy and the real module are used.
"""

import functools
import importlib.machinery
import importlib.util
import os
import sys

import numpy as np
import pytest

import pyconv as pc
from pyconv import _core, _plan

HOST_BUILD = os.environ.get("PYCONV_CUDA_HOST")
if HOST_BUILD:
    import fake_cupy

    sys.modules["cupy"] = fake_cupy
    loader = importlib.machinery.ExtensionFileLoader("pyconv._cuda", HOST_BUILD)
    spec = importlib.util.spec_from_loader("pyconv._cuda", loader)
    module = sys.modules["pyconv._cuda"] = importlib.util.module_from_spec(spec)
    loader.exec_module(module)

cupy = importlib.import_module("cupy")

SERVED = "fiub"  # kinds of dtypes that CuPy has


def on_device(function):
    @functools.wraps(function)
    def call(*arguments, **options):
        sent = {}  # device arrays by id, with the host's

        def send(value):
            if type(value) is np.ndarray and value.dtype.kind in SERVED and value.dtype.isnative:
                array = cupy.ndarray(value) if HOST_BUILD else cupy.asarray(value)
                sent[id(array)] = array, value
                return array
            if type(value) in (tuple, list):
                return type(value)(map(send, value))
            return value

        def fetch(value):
            if isinstance(value, cupy.ndarray):
                given = sent.get(id(value))
                if given is None:
                    return cupy.asnumpy(value)
                if not HOST_BUILD:
                    given[1][...] = cupy.asnumpy(value)
                return given[1]
            return tuple(map(fetch, value)) if type(value) is tuple else value

        keywords = {name: send(value) for name, value in options.items()}
        return fetch(function(*map(send, arguments), **keywords))

    return call


for name in pc.functional.__all__:
    function = getattr(pc, name)
    if name not in ("conv_matrix", "im2col_indices", "conv_output_shape", "pool_output_shape"):
        setattr(pc, name, on_device(function))
for name in ("set_weights", "__call__"):
    setattr(_plan.Plan, name, on_device(getattr(_plan.Plan, name)))

_core.targets = lambda: [_core.get_target()]  # the tests run once, not for each instruction set

# Indices on a device are not read back to be checked: those outside their plane are ignored.
UNCHECKED = ("row 41: index", "row_46_", "row_52_")


def pytest_collection_modifyitems(items):
    for item in items:
        if any(name in item.nodeid for name in UNCHECKED):
            item.add_marker(pytest.mark.skip(reason="not so on a device, see _cuda.pyi"))

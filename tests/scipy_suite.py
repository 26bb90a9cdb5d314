"""A pytest plugin that runs SciPy's own tests against pyconv's functions.

    python -m pytest -p scipy_suite --pyargs scipy.ndimage.tests.test_filters

Loaded before SciPy's tests import what they test, it puts our functions in the places of SciPy's;
`test_scipy_suite.py` calls it, EXCEPTIONS lists the tests that it leaves out and why.
"""

import pytest
import scipy.ndimage
import scipy.signal
from scipy._lib import _array_api

import pyconv.ndimage
import pyconv.signal
from pyconv._filtering import scipy_function

OURS = {scipy.ndimage: pyconv.ndimage, scipy.signal: pyconv.signal}

# Part of a test's name -> why it is left out.
EXCEPTIONS: dict[str, str] = {}


def pytest_configure():
    table = getattr(_array_api, "xp_capabilities_table", None)  # what SciPy's decorators ask
    for theirs, ours in OURS.items():
        for name in ours.__all__:
            function = getattr(ours, name)
            scipy_function(theirs.__name__.removeprefix("scipy."), name)  # found once, kept
            if table is not None and getattr(theirs, name) in table:
                table[function] = table[getattr(theirs, name)]
            setattr(theirs, name, function)


def pytest_collection_modifyitems(items):
    for item in items:
        for part, reason in EXCEPTIONS.items():
            if part in item.nodeid:
                item.add_marker(pytest.mark.skip(reason=reason))

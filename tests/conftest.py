"""Options and fixtures of every test: --slow, the instruction sets, the number of threads."""

import os

import contract
import hypothesis
import pytest

import pyconv as pc
from pyconv import _core, _plan

# Property tests share a budget: about 500 examples in a normal run, 10,000 with --slow.
EXAMPLES = {"normal": 56, "slow": 1120}  # of each of nine


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="10,000 shapes, 100,000 hostile calls")


def pytest_configure(config):
    for name, examples in EXAMPLES.items():
        hypothesis.settings.register_profile(
            name,
            max_examples=examples,
            derandomize=True,  # the same examples in every run: a failure is never a surprise
            database=None,
            deadline=None,
            suppress_health_check=list(hypothesis.HealthCheck),
        )
    hypothesis.settings.load_profile("slow" if config.getoption("--slow") else "normal")


def choose(name):
    _core.set_target(name)
    _plan.forget_plans()  # a plan belongs to an instruction set


@pytest.fixture(params=_core.targets())
def target(request):
    """Each instruction set this machine runs."""
    before = _core.get_target()
    choose(request.param)
    yield request.param
    choose(before)


@pytest.fixture
def canaries(monkeypatch):
    """Every run of a plan stays inside its result and its workspace."""
    run = _core.Plan.run

    def run_guarded(plan, *arrays, **named):
        return contract.run_guarded(run, plan, *arrays, **named)

    monkeypatch.setattr(_core.Plan, "run", run_guarded)


@pytest.fixture
def threads():
    """Sets the number of threads; put back afterwards."""
    yield pc.set_num_threads
    pc.set_num_threads(0)


@pytest.fixture
def child_environment():
    """For subprocesses: one thread, so that stacks and arenas do not eat the address space."""
    limits = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    return {**os.environ, **dict.fromkeys(limits, "1")}

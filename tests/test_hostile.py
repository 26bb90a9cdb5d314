"""Hostile integers: any integer argument may be anything, two at a time, over every operation.

A call may return or raise ValueError, TypeError or MemoryError; it may not kill the process, raise
anything else or take a second. The calls run in subprocesses under a 4 GB address-space limit; this
file is the program they run: python test_hostile.py SEED COUNT [FIRST].
"""

import faulthandler
import functools
import itertools
import os
import random
import re
import subprocess
import sys
import time

import pytest

VALUES = [
    -(2**63), -1, 0, 1, 2, 2**31 - 1, 2**31, 2**31 + 1, 2**32, 2**62, 2**63 - 1, 2**64, True, 1.5,
    float("nan"), "1", None,
]  # fmt: skip
NORMAL, SLOW, PROCESSES = 6_000, 110_000, 4
SECONDS = 1.0
ADDRESS_SPACE = 4 * 2**30


def operations():
    """(name, function, its arrays, its integers with legal values); shape.0 is shape's first."""
    import numpy as np

    import pyconv as pc

    rows = []

    def add(name, *arrays, label="", options=None, **integers):
        function = functools.partial(getattr(pc, name), *arrays, **(options or {}))
        rows.append((f"{name} {label}", function, integers))

    def shape(name, sizes):
        return {f"{name}.{axis}": size for axis, size in enumerate(sizes)}

    columns = {"stride": 1, "padding": 1, "dilation": 1}
    window = {**columns, "groups": 1}
    pool = {"kernel_size": 2, "stride": 2, "padding": 1}
    for axes in (1, 2, 3):
        x = np.ones((2, 4, *[5, 6, 4][:axes]), np.float32)
        w = np.ones((4, 4, *[2, 3, 2][:axes]), np.float32)
        size = x.shape[2:]
        conv, transpose = f"conv{axes}d", f"conv_transpose{axes}d"
        y = getattr(pc, conv)(x, w, padding=1)
        for algorithm in ("auto", "direct", "gemm"):
            forced = {"algorithm": algorithm}
            add(conv, x, w, label=algorithm, options=forced, **window)
            add(f"{conv}_backward", y, x, w, label=algorithm, options=forced, **window)
        for mode in ("reflect", "replicate", "circular", "symmetric"):
            add(conv, x, w, label=mode, options={"padding_mode": mode}, **window)
        shapes = shape("x", x.shape) | shape("w", w.shape)
        add(f"{conv}_backward", y, label="shapes", options={"needs": ("b",)}, **shapes, **window)
        shapes = shape("x_shape", x.shape) | shape("w_shape", w.shape)
        add("conv_output_shape", **shapes, **window)
        add("plan_conv", **shapes, **window)
        add(transpose, x, w, **window, output_padding=0)
        add(transpose, x, w, label="size", **window, output_size=size)
        y = getattr(pc, transpose)(x, w, padding=1)
        add(f"{transpose}_backward", y, x, w, **window, output_padding=0)

        y, indices = getattr(pc, f"max_pool{axes}d")(x, 2, 2, 1, return_indices=True)
        shapes = shape("input_shape", x.shape)
        for ceil in (False, True):
            rounded = {"label": "ceil" * ceil, "options": {"ceil_mode": ceil}}
            indexed = {"ceil_mode": ceil, "return_indices": True}
            add(f"max_pool{axes}d", x, options=indexed, **pool, dilation=1)
            add(f"avg_pool{axes}d", x, **rounded, **pool, divisor_override=3)
            add(f"lp_pool{axes}d", x, **rounded, **pool, norm_type=2)
        add(f"max_pool{axes}d_backward", y, indices, **shapes)
        add(f"avg_pool{axes}d_backward", y, **shapes, **pool, divisor_override=3)
        add(f"lp_pool{axes}d_backward", y, x, y, **pool, norm_type=2)
        add(f"max_unpool{axes}d", y, indices, **pool, output_size=size)
        add("pool_output_shape", **shape("x_shape", x.shape), **pool, dilation=1)
        add(f"adaptive_max_pool{axes}d", x, output_size=size)
        add(f"adaptive_avg_pool{axes}d", x, output_size=size)
        add(f"adaptive_avg_pool{axes}d_backward", y, **shapes)
        add("im2col", x, kernel_size=2, **columns)
        add("col2im", pc.im2col(x, 2, padding=1), **shapes, kernel_size=2, **columns)
        add("im2col_indices", **shape("input_size", size), kernel_size=2, **columns)
    add("conv_matrix", w[:, :, 0].astype(float), **shape("input_shape", (4, 5, 6)), **window)
    return rows


def assembled(arguments):
    """shape.0, shape.1, ... become shape."""
    whole = {}
    for name, value in arguments.items():
        name, dot, _ = name.partition(".")
        whole[name] = (*whole.get(name, ()), value) if dot else value
    return whole


def calls(seed, count):
    """`count` of: one argument hostile, two hostile, and a hostile number for one axis only."""
    chosen = random.Random(seed)
    rows = operations()
    singles = [
        (name, call, {**legal, argument: value})
        for name, call, legal in rows
        for argument in legal
        for value in VALUES
    ]
    yield from singles[seed % PROCESSES :: PROCESSES]
    for _ in range(count - len(singles) // PROCESSES):
        name, call, legal = chosen.choice(rows)
        arguments = dict(legal)
        for argument in chosen.sample(sorted(legal), min(2, len(legal))):
            value = chosen.choice(VALUES)
            axes = int(re.search(r"([123])d|$", name)[1] or 2)
            if "." not in argument and chosen.random() < 0.3:
                place = chosen.randrange(axes)
                value = tuple(value if i == place else 1 for i in range(axes))
            arguments[argument] = value
        yield name, call, arguments


def main(seed, count, first=0):
    import resource

    import numpy as np

    import pyconv as pc

    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    pc.set_num_threads(1)
    outcomes, failures = {}, []
    for name, call, arguments in itertools.islice(calls(seed, count), first, None):
        faulthandler.dump_traceback_later(3 * SECONDS, exit=True)  # a call that never ends
        sys.stderr.write(f"{name} {arguments}\n")  # the last line tells what killed the process
        start = time.perf_counter()
        try:
            call(**assembled(arguments))
            outcome = "returned"
        except (ValueError, TypeError, MemoryError) as error:
            outcome = type(error).__name__
            if not str(error):
                failures.append(f"{name} {arguments}: no text")
        except BaseException as error:
            outcome = type(error).__name__
            failures.append(f"{name} {arguments}: {error!r}")
        seconds = time.perf_counter() - start
        if seconds > SECONDS:
            failures.append(f"{name} {arguments}: {seconds:.1f} s, {outcome}")
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
    faulthandler.cancel_dump_traceback_later()
    y = pc.conv2d(np.ones((1, 1, 3, 3)), np.ones((1, 1, 2, 2)))
    assert (y == 4).all()  # and after all that it still works
    print(outcomes)
    print("\n".join(failures[:40]))
    sys.exit(bool(failures))


def test_no_operation_is_left_out():
    import pyconv as pc

    rows = operations()
    taken = {name.split()[0] for name, *_ in rows}
    without_integers = {"activation_backward", "global_max_pool", "global_avg_pool"}
    without_integers |= {"global_avg_pool_backward", "conv_output_shape", "pool_output_shape"}
    assert set(pc.functional.__all__) <= taken | without_integers
    pairs = sum(len(list(itertools.combinations(legal, 2))) for *_, legal in rows)
    assert pairs * len(VALUES) ** 2 > SLOW


@pytest.mark.parametrize("seed", range(PROCESSES))
def test_hostile_integers(seed, request, child_environment):
    resource = pytest.importorskip("resource", reason="address-space limits are POSIX")
    assert resource.RLIMIT_AS is not None
    if sys.platform != "linux":
        pytest.skip("RLIMIT_AS is only enforced on Linux")
    if os.environ.get("PYCONV_SANITIZED"):
        pytest.skip("AddressSanitizer itself reserves more than the address space allowed here")
    count = (SLOW if request.config.getoption("--slow") else NORMAL) // PROCESSES
    child = subprocess.run(
        [sys.executable, __file__, str(seed), str(count)],
        env=child_environment, capture_output=True, text=True, timeout=3600, check=False,
    )  # fmt: skip
    last = [line for line in child.stderr.splitlines() if "{" in line][-3:]
    assert child.returncode == 0, f"{child.returncode}\n{child.stdout}\nlast calls: {last}"


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

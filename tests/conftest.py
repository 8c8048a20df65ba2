"""Decide where each test runs, and check what every kernel-touching test must keep.

    pytest tests/unit                        no kernel asked
    pytest tests/live                        the running kernel
    pytest tests/e2e                         all kernel rows, each in its own guest
    pytest tests/e2e tests/live --kernel=6.12  that row only (`all`; a comma list; `host`)

See tests/support/matrix.py for the rows and tests/support/require.py for what may be skipped.
"""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support.examples import examples
from tests.support.fdleak import owned_descriptors
from tests.support.kernellog import kernel_log
from tests.support.leaks import bpf_descriptors
from tests.support.matrix import Matrix

__all__ = ["kernel_log", "owned_descriptors"]  # fixtures for all tests

TESTS = Path(__file__).parent
TIME_LIMIT = 600  # seconds for one test, also in an emulated guest


# Do not judge wall-clock time on a shared machine. CI draws the same examples every time.
settings.register_profile(
    "pybpf",
    deadline=None,
    derandomize="CI" in os.environ,
    print_blob=True,
    max_examples=examples(100),
)
settings.load_profile("pybpf")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("kernels")
    group.addoption(
        "--kernel",
        metavar="ROW",
        default="",
        help="kernel row of vagrant/rows.json, `all`, a comma list, or `host` (the running kernel)",
    )
    group.addoption(
        "--vm-jobs",
        type=int,
        metavar="N",
        default=1 + (os.cpu_count() or 1),
        help="number of guests at once (default: one more than CPUs, because guests wait a lot)",
    )
    group.addoption(
        "--vm-timeout",
        type=int,
        metavar="S",
        default=7200,
        help="time limit for one guest, in seconds",
    )
    group.addoption(
        "--update-golden",
        action="store_true",
        help="rewrite tests/e2e/golden from what the kernels of the rows give now",
    )


def pytest_configure(config: pytest.Config) -> None:
    # A background job starts with these ignored, and so would every process that a test starts.
    for number in (signal.SIGINT, signal.SIGQUIT):
        if signal.getsignal(number) is signal.SIG_IGN:
            default = signal.SIG_DFL if number == signal.SIGQUIT else signal.default_int_handler
            signal.signal(number, default)
    for line in (
        "needs(*features): kernel features the test cannot do without (tests/support/require.py)",
        "rows(*names): the only rows the test is for; `host` is the running kernel",
        "unprivileged: a live test that does not need root",
        "icount: run in a guest whose clock skips idle waits (many slow detaches)",
        "guest_with(*programs): run in a guest with these additional programs (vagrant/vm --with)",
        "own_guest: its file has a guest for itself, because it changes the kernel until its end",
        "long: runs only in `make e2e`",
        "first_on(*names): rows on which `make test` runs it; `make e2e` uses all. A test's own "
        "counts, not its file's. Live tests without it run on the host and the oldest row.",
        f"time_limit(seconds): how long the test may take, if not {TIME_LIMIT} s",
    ):
        config.addinivalue_line("markers", line)
    config.pluginmanager.register(Matrix(config, TESTS), "kernel-matrix")


def _touches_the_kernel(item: pytest.Item) -> bool:
    return any(item.path.is_relative_to(TESTS / part) for part in ("live", "e2e"))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    privileged = os.geteuid() == 0 or item.get_closest_marker("unprivileged")
    if _touches_the_kernel(item) and not privileged:
        pytest.skip("needs root")
    for marker in item.iter_markers("needs"):
        from tests.support.require import require  # it imports half of pybpf

        require(*marker.args)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Enforce the time limit, and take back what a test did to SIGINT."""
    marker = item.get_closest_marker("time_limit")
    limit = float(marker.args[0]) if marker else TIME_LIMIT

    def late(number: int, frame: object) -> None:
        pytest.fail(f"took more than {limit:g} s")

    before, interrupt = signal.signal(signal.SIGALRM, late), signal.getsignal(signal.SIGINT)
    signal.setitimer(signal.ITIMER_REAL, limit)
    try:
        return (yield)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        signal.signal(signal.SIGINT, interrupt)  # processes that later tests start inherit it


@pytest.fixture(autouse=True)
def no_leaked_descriptors(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a kernel-touching test that leaves a BPF or perf file descriptor open."""
    if not _touches_the_kernel(request.node):
        yield
        return
    before = bpf_descriptors()
    yield
    left = bpf_descriptors() - before
    if left:
        gc.collect()  # a reference cycle may still hold one, which is not a leak
        left = bpf_descriptors() - before
    if left:
        pytest.fail(f"left open: {', '.join(f'{number} {what}' for number, what in sorted(left))}")

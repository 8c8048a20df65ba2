"""What attaching costs: predicted time to attach and detach, and price per traced call.

The constants were measured on Debian's kernels in an emulated machine (QEMU 10,
TCG, one vCPU). They decide between mechanisms as they are. What is predicted for the
running machine is scaled by how slow its CPU is (`pybpf.kernel.speed`), except for the
time that the kernel only waits. ``tools/features.py --calibrate`` measures the running
kernel and prints a table that can replace them.

Costs are linear in the number of functions, except for single kprobes. The kernel keeps
the functions of all single kprobes in one ftrace filter and copies it each time it adds
one (``ftrace_set_filter_ip()``), so each costs a little more than the one before. Adding a
function never lowers a prediction.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..dataclass import dataclass

__all__ = ["CALLS", "MS_PER_INSN", "OWN_OPS", "SHARED_OPS", "Cost", "CostModel", "Price"]

#: A function is taken to be called so often while it is traced. What a mechanism takes longer to
#: set up is worth it if it is saved again by then, in cheaper calls. Nobody knows the rates of
#: 40,000 functions beforehand: most are never called, some a million times a second. Where they
#: are known, they should be used instead.
CALLS = 2000
#: Milliseconds per instruction on the machine of the measurements. One more function took 0.1 ms
#: and 0.017 million instructions by kprobe.multi, 0.3 ms and 0.1 million by tracing_multi.
MS_PER_INSN = 4e-6


@dataclass(frozen=True, slots=True)
class Cost:
    """Predict a cost: seconds to attach and detach, instructions per traced call."""

    attach_s: float = 0.0
    detach_s: float = 0.0
    insns_per_call: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.attach_s + other.attach_s,
            self.detach_s + other.detach_s,
            max(self.insns_per_call, other.insns_per_call),
        )


@dataclass(frozen=True, slots=True)
class Price:
    """Hold the constants of one mechanism, for one program at one side of a function.

    :param setup_ms: milliseconds to load and attach, per function
    :param teardown_ms: milliseconds to detach, per function
    :param fixed_ms: milliseconds per group of any size
    :param entry_insns: instructions one traced call costs at entry
    :param exit_insns: the same at exit
    :param source: where the numbers come from
    :param growth_us: extra microseconds to set up a function, for each function that came before
        it in the group
    :param wait_ms: the part of `teardown_ms` in which the kernel waits, on any machine
    """

    setup_ms: float
    teardown_ms: float
    fixed_ms: float
    entry_insns: int
    exit_insns: int
    source: str
    growth_us: float = 0.0
    wait_ms: float = 0.0

    def per_target_ms(self, sides: int, slowness: float = 1.0) -> float:
        """Return set-up and tear-down time of one more function, in ms.

        :param sides: programs put on it: 1, or 2 for a pair at entry and exit
        :param slowness: see `predict`
        """
        work = self.setup_ms + self.teardown_ms - self.wait_ms
        return sides * (slowness * work + self.wait_ms)

    def repays(self, other: Price, *, sides: tuple[int, int], entry: bool, exit_: bool) -> bool:
        """Tell whether this one's calls save what its set-up takes longer than another's.

        :param sides: programs that this one and the other put on a function
        """
        saved = other.insns(entry=entry, exit_=exit_) - self.insns(entry=entry, exit_=exit_)
        mine, its = self.per_target_ms(sides[0]), other.per_target_ms(sides[1])
        worth = max(saved, 0) * CALLS * MS_PER_INSN
        # With one function, and with each further one.
        return saved > 0 and all(
            more <= max(worth, 0.2 * least)
            for more, least in (
                (mine - its, its),
                (self.fixed_ms + mine - other.fixed_ms - its, other.fixed_ms + its),
            )
        )

    def insns(self, *, entry: bool, exit_: bool) -> int:
        """Return the instructions per traced call for a program at those sides."""
        return (self.entry_insns if entry else 0) + (self.exit_insns if exit_ else 0)

    def predict(
        self, count: int, *, sides: int, entry: bool, exit_: bool, slowness: float = 1.0
    ) -> Cost:
        """Predict the cost of one group of `count` functions.

        :param slowness: how long CPU work takes, 1.0 where the constants were measured
        """
        # The two sides of a function are one entry of the filter.
        growth_ms = self.growth_us * count * (count - 1) / 2 / 1000
        teardown_ms = self.wait_ms + slowness * (self.teardown_ms - self.wait_ms)
        return Cost(
            slowness * (self.fixed_ms + sides * count * self.setup_ms + growth_ms) / 1000,
            sides * count * teardown_ms / 1000,
            self.insns(entry=entry, exit_=exit_),
        )


@dataclass(frozen=True)
class CostModel:
    """Hold the prices of all mechanisms, by name, on one kind of kernel."""

    name: str
    prices: Mapping[str, Price]
    #: Instructions that the recursion guard adds to each run of a program, see `guard`: 21 on
    #: 6.1, 19 on 6.12 and 7.3; 28 and 24 where the program leaves no register free.
    guard_insns: int = 0
    #: How long CPU work takes on the machine, 1.0 on the one that the prices were measured on.
    slowness: float = 1.0


_RUNS = "measured on Debian {}, QEMU TCG, N=200"
# On 6.x closing the only program of a function takes 130 to 160 ms, because the kernel waits for
# two grace periods of RCU tasks. Where others stay it waits for none, and takes 21 to 41 ms.
_GRACE_MS = 125
# The 2000th single kprobe took 21 ms of CPU to set up, the first 9, on Debian's 6.1 (QEMU TCG).
_FILTER_US = 6

#: Kernels where each trampoline has its own ftrace_ops. Every detach waits
#: for two RCU-tasks grace periods (6.1 and 6.12).
OWN_OPS = CostModel(
    "own-ops",
    {
        "tracing_multi": Price(0.55, 0.35, 20, 129, 190, "not on these kernels"),
        "trampoline": Price(17.8, 162, 1, 129, 190, _RUNS.format("6.12"), wait_ms=_GRACE_MS),
        "kprobe_multi": Price(0.20, 0.13, 70, 264, 539, _RUNS.format("6.12, N=2000")),
        "kprobe": Price(17, 50, 1, 360, 620, _RUNS.format("6.12"), _FILTER_US),
    },
    guard_insns=21,
)

#: Kernels where trampolines share one ftrace_ops (7.2 and newer).
SHARED_OPS = CostModel(
    "shared-ops",
    {
        "tracing_multi": Price(0.62, 0.40, 5, 112, 171, _RUNS.format("7.3, N=2000")),
        "trampoline": Price(17.4, 12.6, 1, 112, 171, _RUNS.format("7.3")),
        "kprobe_multi": Price(0.10, 0.11, 160, 254, 718, _RUNS.format("7.3, N=2000")),
        "kprobe": Price(17, 50, 1, 331, 620, _RUNS.format("7.3"), _FILTER_US),
    },
    guard_insns=19,
)

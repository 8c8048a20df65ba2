"""In the guest: attach, count, time; each figure goes to the host as a line of JSON at once.

    python3 -m tests.bench.multi_guest PEER WORK...

PEER is the C program, zlib and base64; WORK is one or more of ``insns``, ``MECHANISM:N[,N...]``,
``auto:N`` and ``memory:MECHANISM:N``. See `tests.bench.bench_multi` for what is made of it.
"""

from __future__ import annotations

import base64
import contextlib
import gc
import json
import os
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import pybpf
from pybpf._sys import door
from pybpf._sys.perf import pmu
from pybpf._uapi.enums import AttachType, ProgType
from pybpf.asm import encode
from pybpf.errors import VerifierError
from pybpf.features import Feature
from pybpf.multi.denylist import denied, never_returns
from pybpf.multi.link import MultiLink
from pybpf.multi.mechanisms import KPROBE, KPROBE_MULTI, TRACING_MULTI, TRAMPOLINE
from pybpf.multi.plan import Group, Plan
from pybpf.multi.programs import MultiPrograms
from pybpf.multi.resolve import Resolver, plan, plan_facts
from pybpf.multi.target import Target
from pybpf.multi.template import pack_info

__all__ = ["main"]

OBJECT = Path(__file__).resolve().parents[1] / "data" / "multi_cost.bpf.o"
BATCHES, CALLS = 20, 1000
#: System call number, and the function that it calls first: one slot, and six.
GETPGID = (121, "__x64_sys_getpgid")
OTHER = "__x64_sys_getsid"  # never called
MMAP = (9, "ksys_mmap_pgoff")

_JOB = struct.Struct("<6I")
_GROUP = struct.Struct("<4I")
_TOGETHER, _CLONES, _KPROBES = range(3)


def say(**figures: object) -> None:
    print(json.dumps(figures), flush=True)


def meminfo() -> dict[str, int]:
    """/proc/meminfo in bytes, with what each CPU still keeps to itself."""
    Path("/proc/sys/vm/stat_refresh").read_bytes()
    with open("/proc/meminfo") as file:
        rows = (line.split() for line in file)
        return {row[0].rstrip(":"): 1024 * int(row[1]) for row in rows}


def resident() -> int:
    """Bytes of this process in memory."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


class Bench:
    """The opened object, the peer and the functions."""

    def __init__(self, peer: str, obj: pybpf.Object) -> None:
        self.obj = obj
        self.facts = obj.facts
        self.peer = "/tmp/multi_peer"
        Path(self.peer).write_bytes(zlib.decompress(base64.b64decode(peer)))
        os.chmod(self.peer, 0o755)
        self._targets: list[Target] = []

    # -- instructions per call

    def calls(self, number: int) -> float:
        """Least ns (instructions, under icount) of one system call, of BATCHES batches."""
        command = [self.peer, "calls", str(BATCHES), str(CALLS), str(number)]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
        (least,) = struct.unpack("<Q", done.stdout)
        return float(least) / CALLS

    def insns(self) -> None:
        """Instructions per call of every program, less those of the bare call."""
        bare = {place: self.calls(place[0]) for place in (GETPGID, MMAP)}
        for what, place, attach in self._programs():
            with attach(place[1]):
                each = self.calls(place[0]) - bare[place]
            say(row="insns", what=what, function=place[1], insns=round(each))

    def _programs(
        self,
    ) -> Iterator[tuple[str, tuple[int, str], Callable[[str], AbstractContextManager[object]]]]:
        def standard(name: str) -> Callable[[str], AbstractContextManager[object]]:
            return lambda function: self._standard(name, function)

        def multi(
            name: str, mechanism: str, lowering: str = "auto"
        ) -> Callable[[str], AbstractContextManager[object]]:
            return lambda function: self.obj.programs[name].attach_multi(
                [function], mechanism=mechanism, lowering=lowering
            )

        for side in ("entry", "exit"):
            for slots, place in ((1, GETPGID), (6, GETPGID), (6, MMAP)):
                name = f"{side}_{slots}"
                if (slots, place) != (6, GETPGID):  # a standard one cannot read what is not there
                    yield f"{name} by hand", place, standard(f"std_{name}")
                yield f"{name} direct", place, multi(name, "trampoline")
                yield f"{name} frame by hand", place, standard(f"frame_{name}")
                yield f"{name} frame", place, multi(name, "trampoline", "frame")
                if self.facts.supports(Feature.TRACING_MULTI):
                    yield f"{name} tracing_multi", place, multi(name, "tracing_multi")
        for name in ("entry_calls", "entry_calls_full", "exit_calls"):
            for lowering in ("direct", "frame"):
                # Another function makes it two clones, which share a recursion guard.
                for also, what in (([], "alone"), ([OTHER], "guarded")):
                    program = self.obj.programs[name]
                    yield (
                        f"{name} {lowering} {what}",
                        GETPGID,
                        lambda f, program=program, also=also, lowering=lowering: (  # type: ignore[misc]
                            program.attach_multi(
                                [f, *also], mechanism="trampoline", lowering=lowering
                            )
                        ),
                    )
        if self.facts.supports(Feature.KPROBE_MULTI):
            yield "kprobe.multi empty", GETPGID, lambda f: self._kprobes("kprobe_0", f, False)
            yield "kretprobe.multi empty", GETPGID, lambda f: self._kprobes("kretprobe_0", f, True)
            for name, place in (
                ("entry_0", GETPGID),
                ("entry_1", GETPGID),
                ("entry_6", GETPGID),
                ("entry_6", MMAP),
                ("exit_ret", GETPGID),
            ):
                yield f"{name} regs", place, multi(name, "kprobe_multi")

    @contextlib.contextmanager
    def _standard(self, name: str, function: str) -> Iterator[None]:
        with (
            self.obj.programs[name].clone(function) as program,
            program.attach_tracing(),
        ):
            yield

    @contextlib.contextmanager
    def _kprobes(self, name: str, function: str, retprobe: bool) -> Iterator[None]:
        program = self.obj.programs[name]
        with contextlib.ExitStack() as stack:
            if not program.loaded:
                program.load()
            stack.enter_context(
                program.attach_kprobe_multi(
                    addrs=[self.facts.kallsyms.by_name(function)[0].addr], retprobe=retprobe
                )
            )
            yield

    # -- functions

    def targets(self, count: int) -> list[Target]:
        """Functions that every mechanism takes, spread over the kernel."""
        if not self._targets:
            names = [name for name, module in self.facts.ftrace if not module]
            wanted = [n for n in names if not denied(n) and not never_returns(n)]
            found, _ = Resolver(self.facts).resolve(wanted, at_exit=True)
            seen = set()
            for target in found:
                model = target.model
                if (
                    model is not None
                    and model.obstacle is None
                    and model.slots <= 6
                    and not model.structs
                    and target.unique
                    and target.kprobe
                    and target.address not in seen
                ):
                    seen.add(target.address)
                    self._targets.append(target)
        total = len(self._targets)
        assert total >= count, f"only {total} functions"
        return [self._targets[i * total // count] for i in range(count)]

    def clonable(self, count: int) -> list[Target]:
        """`targets` whose planned clone loads.

        6.x refuses an argument that points to a pointer, for one; pybpf then tries another form
        of the clone, the C program does not.
        """
        program = self.obj.programs["entry_1"]
        template = program.template()
        pool = self.targets(count + count // 2)
        made = plan(template, pool, plan_facts(self.facts), TRAMPOLINE)
        images = MultiPrograms(self.obj.binding)
        good = set()
        for group in made.groups:
            for target in group.targets:
                with contextlib.suppress(VerifierError):
                    images.load_variant(
                        template,
                        group.parts[0].variant.code,
                        prog_type=ProgType.BPF_PROG_TYPE_TRACING,
                        attach_type=AttachType.BPF_TRACE_FENTRY,
                        btf_id=target.btf_id or 0,
                        module="",
                    ).close()
                    good.add(target.address)
        found = [t for t in pool if t.address in good]
        assert len(found) >= count, f"only {len(found)} of {len(pool)} clones load"
        return found[:count]

    # -- time

    def attach(self, targets: Sequence[object], mechanism: str) -> tuple[int, int, MultiLink]:
        """ns to attach and to detach entry_1, and the link, detached."""
        program = self.obj.programs["entry_1"]
        gc.collect()
        start = time.perf_counter_ns()
        link = program.attach_multi(targets, mechanism=mechanism)  # type: ignore[arg-type]
        attached = time.perf_counter_ns()
        count = len(link.targets)
        between = time.perf_counter_ns()
        link.detach()
        end = time.perf_counter_ns()
        assert count == len(targets), f"{count} of {len(targets)}: {link.skipped[:3]}"
        return attached - start, end - between, link

    def own(self, targets: Sequence[object], mechanism: str) -> int:
        """ns that attaching entry_1 takes outside bpf(2)."""
        inside = 0
        real = door._syscall

        def timed(*arguments: object) -> int:
            nonlocal inside
            start = time.perf_counter_ns()
            try:
                return int(real(*arguments))
            finally:
                inside += time.perf_counter_ns() - start

        door._syscall = timed  # type: ignore[assignment]
        try:
            return self.attach(targets, mechanism)[0] - inside
        finally:
            door._syscall = real

    def theirs(self, job: bytes) -> tuple[int, int]:
        """ns of the C program."""
        done = subprocess.run(
            [self.peer, "attach"],
            input=job,
            stdout=subprocess.PIPE,
            check=True,
            pass_fds=[int(self.obj.binding.btf_fd)],
        )
        first, second = struct.unpack("<QQ", done.stdout)
        return first, second

    def job(self, plan: Plan) -> bytes:
        """What the C program is to do: the same groups, images and functions."""
        out = bytearray()
        mechanisms = {group.mechanism for group in plan.groups}
        (mechanism,) = mechanisms
        how = {TRAMPOLINE: _CLONES, KPROBE: _KPROBES}.get(mechanism, _TOGETHER)
        kinds = {
            TRACING_MULTI: (
                ProgType.BPF_PROG_TYPE_TRACING,
                AttachType.BPF_TRACE_FENTRY_MULTI,
            ),
            TRAMPOLINE: (ProgType.BPF_PROG_TYPE_TRACING, AttachType.BPF_TRACE_FENTRY),
            KPROBE_MULTI: (
                ProgType.BPF_PROG_TYPE_KPROBE,
                AttachType.BPF_TRACE_KPROBE_MULTI,
            ),
            KPROBE: (ProgType.BPF_PROG_TYPE_KPROBE, 0),
        }
        perf = pmu("kprobe")[0] if how == _KPROBES else 0
        out += _JOB.pack(
            how, *kinds[mechanism], int(self.obj.binding.btf_fd), perf, len(plan.groups)
        )
        for group in plan.groups:
            out += self._group(group)
        return bytes(out)

    @staticmethod
    def _group(group: Group) -> bytes:
        (part,) = group.parts
        code = part.variant.code
        funcs, lines = pack_info(code)
        targets = group.targets
        count = len(targets)
        return b"".join(
            (
                _GROUP.pack(len(code.insns), len(code.func_info), len(code.line_info), count),
                encode(code.insns),
                funcs,
                lines,
                struct.pack(f"<{count}Q", *(t.address for t in targets)),
                struct.pack(f"<{count}I", *(t.btf_id or 0 for t in targets)),
                bytes(4 * (count % 2)),
            )
        )

    def times(self, mechanism: str, count: int, rounds: int, *, names: bool = False) -> None:
        """Both sides in turns; the best of each."""
        clones = mechanism == TRAMPOLINE.value
        targets = self.clonable(count) if clones else self.targets(count)
        ours: list[tuple[int, int]] = []
        theirs: list[tuple[int, int]] = []
        named: list[tuple[int, int]] = []
        own: list[int] = []
        for _ in range(rounds):
            up, down, link = self.attach(targets, mechanism)
            ours.append((up, down))
            theirs.append(self.theirs(self.job(link.plan)))
            if count >= 1000:
                own.append(self.own(targets, mechanism))
            if names:
                up, down, _ = self.attach([t.name for t in targets], mechanism)
                named.append((up, down))
        figures = {"ours": ours, "theirs": theirs, "named": named, "own": own}
        say(row="time", mechanism=mechanism, count=count, **figures)

    def auto(self, count: int) -> None:
        """ "auto" against clones."""
        targets = self.targets(count)
        auto = [self.attach(targets, "auto") for _ in range(3)]
        mechanisms = sorted({g.mechanism.value for g in auto[0][2].plan.groups})
        clones = self.attach(targets, "trampoline")
        say(
            row="auto",
            count=count,
            mechanisms=mechanisms,
            ours=[one[:2] for one in auto],
            clones=clones[:2],
        )

    # -- memory

    def memory(self, mechanism: str, count: int) -> None:
        """Bytes taken while attached: of the kernel's free memory and slab, of this process."""
        targets = self.targets(count)
        program = self.obj.programs["entry_1"]
        program.attach_multi(targets[:2], mechanism=mechanism).detach()
        gc.collect()
        before, own = meminfo(), resident()
        link = program.attach_multi(targets, mechanism=mechanism)
        after, grown = meminfo(), resident()
        count = len(link.targets)
        link.detach()
        say(
            row="memory",
            mechanism=mechanism,
            count=count,
            free=before["MemFree"] - after["MemFree"],
            slab=after["Slab"] - before["Slab"],
            vmalloc=after["VmallocUsed"] - before["VmallocUsed"],
            own=grown - own,
        )


def main(arguments: list[str]) -> int:
    """Do the work named, in order."""
    with pybpf.open(OBJECT) as obj:
        obj.load()
        bench = Bench(arguments[0], obj)
        for work in arguments[1:]:
            start = time.perf_counter()
            match work.split(":"):
                case ["insns"]:
                    bench.insns()
                case ["auto", count]:
                    bench.auto(int(count))
                case ["memory", mechanism, count]:
                    bench.memory(mechanism, int(count))
                case ["targets"]:
                    bench.targets(50)
                case [mechanism, counts, rounds]:
                    for count in counts.split(","):
                        # Where a detach waits for seconds, looking names up is not seen.
                        bench.times(mechanism, int(count), int(rounds), names=int(rounds) > 1)
                case _:
                    raise SystemExit(f"unknown work {work!r}")
            say(row="took", work=work, seconds=round(time.perf_counter() - start, 1))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

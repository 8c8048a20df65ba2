"""Who is attached to kernel functions now: by trampoline, by kprobe, and by which process.

Trampolines are found as images (`image.images`), and their links name them
(`links.attachments`). kprobe.multi and kprobe links have no image. From 6.6 on their link
info gives addresses, which kallsyms turns into functions. Owners come
from `pybpf.kernel.owners`. `Registry.read` asks each source once, so a table
of ten thousand functions costs one walk over the links and one over the processes.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property

from .._uapi.enums import KprobeMultiFlag, LinkType, PerfEventType
from ..dataclass import dataclass, field
from ..errors import BpfError, ObjectFormatError
from ..kernel import kallsyms, owners
from ..kernel.btf import KernelBtf
from ..kernel.functions import KernelFunction
from . import image as _image
from .classes import CallModel, Classes, Kind, Run, Traced, of_traced
from .image import ImageProgram, TrampolineImage, loaded_programs
from .links import Attached, attachments, read_links, split_key
from .model import Models
from .verify import check

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .._sys.bpf import LinkInfo
    from ..btf import Btf
    from ..kernel.host import Facts
    from ..kernel.kallsyms import Kallsyms
    from ..kernel.owners import Held, Owners

__all__ = ["Probed", "Registry", "Tracing", "image_classes", "probed", "tracing"]

_PAUSE = 0.1  # seconds to wait before reading again
_KPROBES = {
    PerfEventType.BPF_PERF_EVENT_KPROBE: "kprobe",
    PerfEventType.BPF_PERF_EVENT_KRETPROBE: "kretprobe",
}


@dataclass(frozen=True, slots=True)
class Probed:
    """Describe a kprobe.multi or kprobe link.

    :param link: link id
    :param program: program id
    :param kind: ``kprobe.multi``, ``kretprobe.multi``, ``kprobe`` or ``kretprobe``; the
        kernel does not tell a session from a kprobe.multi
    :param count: number of functions it is on, known or not
    :param functions: (name, module, address) of the functions the kernel names; module is ""
        for the kernel itself
    """

    link: int
    program: int
    kind: str
    count: int
    functions: tuple[tuple[str, str, int], ...]


def probed(infos: Iterable[LinkInfo], symbols: Kallsyms) -> list[Probed]:
    """Pick the kprobe links among `infos`, in their order.

    A kernel before 6.6 says nothing about them. A kprobe.multi link then has no functions. A
    single kprobe cannot be told from other perf events, so it is left out.
    """
    out = []
    for info in infos:
        if info.type == LinkType.BPF_LINK_TYPE_KPROBE_MULTI:
            kind = (
                "kretprobe.multi"
                if info.flags & KprobeMultiFlag.BPF_F_KPROBE_MULTI_RETURN
                else "kprobe.multi"
            )
            named = tuple(_functions(info.addrs, symbols))
            out.append(Probed(info.id, info.prog_id, kind, info.count, named))
        elif info.type == LinkType.BPF_LINK_TYPE_PERF_EVENT and info.perf_type in _KPROBES:
            kind = _KPROBES[PerfEventType(info.perf_type)]
            named = tuple(_functions([info.addr], symbols))
            if not named and info.name:
                named = ((info.name, "", info.addr),)
            out.append(Probed(info.id, info.prog_id, kind, 1, named))
    return out


def _functions(addrs: Iterable[int], symbols: Kallsyms) -> Iterator[tuple[str, str, int]]:
    for addr in addrs:
        found = symbols.lookup(addr) if addr else None  # 0: we may not see the address
        if found is not None:
            yield found[0].name, found[0].module, addr


@dataclass(frozen=True)
class Registry:
    """Hold the links on kernel functions, the names of their programs, and their owners.

    :param attached: attachments by trampoline
    :param probes: attachments by kprobe
    :param names: program id -> name
    """

    attached: tuple[Attached, ...] = ()
    probes: tuple[Probed, ...] = ()
    names: Mapping[int, str] = field(default_factory=dict)
    owners: Owners = field(default_factory=owners.Owners)

    @classmethod
    def read(cls, facts: Facts | None = None) -> Registry:
        """Read everything about the running kernel. Each source is asked once.

        :param facts: facts of the running kernel; its symbols are then not read again
        :raises DeniedByPolicy: without CAP_SYS_ADMIN
        """
        infos = read_links().infos
        names = {program.id: program.name for program in loaded_programs()}
        return cls(
            tuple(attachments(infos)),
            tuple(probed(infos, kallsyms.read() if facts is None else facts.kallsyms)),
            names,
            owners.read(),
        )

    @cached_property
    def _by_key(self) -> Mapping[int, list[Attached]]:
        found = defaultdict(list)
        for one in self.attached:
            for key in one.keys:
                found[key].append(one)
        return found

    @cached_property
    def _by_name(self) -> Mapping[tuple[str, str], list[Probed]]:
        found = defaultdict(list)
        for one in self.probes:
            for place in dict.fromkeys((name, module) for name, module, _ in one.functions):
                found[place].append(one)
        return found

    def on_key(self, key: int) -> list[Attached]:
        """Return what links say is in the trampoline of `key`."""
        return self._by_key.get(key, [])

    def probes_on(self, name: str, module: str = "") -> list[Probed]:
        """Return the kprobe links on a function."""
        return self._by_name.get((name, module), [])

    def holds(self, key: int, program: int | None) -> Held | None:
        """Return who holds the link that put a program on the trampoline of `key`.

        Return None if the link is not known: the program id is unknown, or the kernel is 7.2,
        which does not name the functions of a tracing_multi link, and the program has several.
        """
        links = {one.link for one in self.on_key(key) if one.program == program}
        links = links or {one.link for one in self.attached if one.program == program}
        return self.owners.of_link(links.pop()) if len(links) == 1 else None


@dataclass(frozen=True)
class Tracing:
    """Hold images and registry, read as close together as other tracers allow.

    :param unsettled: keys of trampolines where the two disagree. Others are changing them, or
        something is wrong; `pybpf.trampoline.verify` tells which.
    """

    images: tuple[TrampolineImage, ...]
    registry: Registry
    unsettled: frozenset[int] = frozenset()


def tracing(facts: Facts | None = None, *, stale: bool = False, timeout: float = 1.0) -> Tracing:
    """Read images and who put their programs there. Read again while the two disagree.

    :param stale: also return images that a newer one of the same function has replaced
    :param timeout: seconds after which it stops reading again
    :raises DeniedByPolicy: as `Registry.read` and `image.images`
    """
    end = time.monotonic() + timeout
    while True:
        images = tuple(_image.images(stale=stale, facts=facts))
        registry = Registry.read(facts)
        unsettled = frozenset(finding.key for finding in check(images, registry.attached))
        if not unsettled or time.monotonic() >= end:
            return Tracing(images, registry, unsettled)
        time.sleep(_PAUSE)


# ---- classes of the images the kernel has -------------------------------------


def image_classes(
    images: Iterable[TrampolineImage], btf: Mapping[str, Btf] | None = None
) -> Classes:
    """Group the functions that are traced now; see `pybpf.trampoline.classes`.

    Programs with the same name, tag and maps are the same: the clones of one program are one.
    Their label is the name, with a number where several programs share it. Functions of BPF
    programs (freplace targets, tracing of programs) and stale images are left out.

    :param btf: module -> BTF to use instead of the running kernel's; "" is the kernel itself
    """
    wanted = [one for one in images if one.current and not split_key(one.key)[2]]
    labels = _labels(p for image in wanted for p in image.programs)
    kernel = KernelBtf()
    models: dict[str, Models | None] = {}

    def model(module: str, btf_id: int) -> CallModel | None:
        if module not in models:
            found = btf.get(module) if btf is not None else kernel.get(module)
            models[module] = None if found is None else Models(found)
        known = models[module]
        try:
            return None if known is None else CallModel.of(known.of_func(btf_id))
        except (BpfError, ObjectFormatError, AssertionError):
            return None

    out = []
    for image in wanted:
        module = "" if image.module == "vmlinux" else image.module
        btf_id = split_key(image.key)[1]
        runs = tuple(
            Run(labels[_identity(p)], Kind(p.call.kind), p.call.phase)
            for p in image.programs
            if not p.call.detached
        )
        function = KernelFunction(
            image.function or image.symbol, module, image.function_address or 0, btf_id
        )
        known = model(module, btf_id) or CallModel(image.slots, None)
        out.append(Traced(function, runs, known))
    return of_traced(out)


def _identity(program: ImageProgram) -> tuple[str, str, tuple[int, ...]]:
    return program.name or program.call.symbol, program.tag, program.maps


def _labels(programs: Iterable[ImageProgram]) -> dict[tuple[str, str, tuple[int, ...]], str]:
    # Sort by lowest program id, so that labels do not depend on the images' order.
    first: dict[tuple[str, str, tuple[int, ...]], int] = {}
    for program in programs:
        who = _identity(program)
        first[who] = min(first.get(who, 1 << 32), program.id or 1 << 32)
    names: dict[str, list[tuple[str, str, tuple[int, ...]]]] = defaultdict(list)
    for who in sorted(first, key=lambda w: (first[w], w)):
        names[who[0]].append(who)
    return {
        who: name if len(group) == 1 else f"{name}#{number}"
        for name, group in names.items()
        for number, who in enumerate(group, 1)
    }

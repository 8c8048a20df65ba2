"""Finding and naming images: symbols, memory, programs and BTF names given as plain data."""

from __future__ import annotations

import errno

import pytest

from pybpf.errors import BpfError
from pybpf.kernel.kallsyms import Kallsyms, Symbol
from pybpf.trampoline import image as module
from pybpf.trampoline.image import ImageReader, LoadedProgram, TrampolineImage, collect, image_of
from pybpf.trampoline.links import make_key, split_key
from pybpf.trampoline.roles import TrampFlag
from tests.support import trampwriter as tw
from tests.support.trampwriter import Prog, Shape, write

FUNCTION = 0xFFFFFFFF81500000
CODE = 0xFFFFFFFFC0300000
IMAGE = 0xFFFFFFFFC0400F80  # a later image continues on the next page
KEY = make_key(1, 77)
ENTRY, EXIT = Prog(0xFFFFC90000001000, CODE), Prog(0xFFFFC90000002000, CODE + 0x40)
PROGRAMS = [
    LoadedProgram(5, "on_entry", "00112233445566aa", 26, ((CODE, 0x30),)),
    LoadedProgram(9, "on_exit", "00112233445566bb", 26, ((CODE + 0x200, 8), (CODE + 0x40, 0x30))),
]


class Memory:
    """Sparse kernel memory: pages that were written, EFAULT elsewhere."""

    def __init__(self) -> None:
        self.pages: dict[int, bytearray] = {}

    def write(self, address: int, data: bytes) -> None:
        for at, value in enumerate(data, address):
            self.pages.setdefault(at >> 12, bytearray(b"\xcc" * 4096))[at & 4095] = value

    def read(self, address: int, size: int) -> bytes:
        out = bytearray()
        for at in range(address, address + size):
            if at >> 12 not in self.pages:
                raise BpfError(errno.EFAULT, "reading")
            out.append(self.pages[at >> 12][at & 4095])
        return bytes(out)


def image_bytes(address: int = IMAGE, kernel: str = "7.3", function: int = FUNCTION) -> bytes:
    return write(
        Shape(
            kernel=kernel,
            address=address,
            function=function,
            registers=3,
            entry=(ENTRY,),
            exit=(EXIT,),
        )
    )


def jump(at: int, to: int, code: int = 0xE9) -> bytes:
    displacement = to - (at + 9)
    return b"\xf3\x0f\x1e\xfa" + bytes((code,)) + displacement.to_bytes(4, "little", signed=True)


def symbols(*more: str) -> Kallsyms:
    lines = [
        f"{tw.ENTER:x} t __bpf_prog_enter_recur",
        f"{tw.EXIT:x} t __bpf_prog_exit_recur",
        f"{tw.TRAMP_ENTER:x} T __bpf_tramp_enter",
        f"{tw.TRAMP_EXIT:x} T __bpf_tramp_exit",
        f"{FUNCTION:x} T traced",
        f"{FUNCTION + 0x1000:x} t other\t[some_module]",
        f"{CODE:x} t bpf_prog_00112233445566aa_on_entry\t[bpf]",
        f"{CODE + 0x40:x} t bpf_prog_00112233445566bb_on_exit\t[bpf]",
        *more,
    ]
    return Kallsyms(("\n".join(lines) + "\n").encode())


def line(address: int, key: int = KEY) -> str:
    return f"{address:x} t bpf_trampoline_{key}\t[bpf]"


def memory(kernel: str = "7.3") -> Memory:
    kernel_memory = Memory()
    kernel_memory.write(IMAGE, image_bytes(kernel=kernel))
    kernel_memory.write(FUNCTION, jump(FUNCTION, IMAGE, 0xE9 if kernel == "7.3" else 0xE8))
    kernel_memory.write(FUNCTION + 0x1000, bytes(32))
    return kernel_memory


def names(key: int) -> tuple[str, str]:
    return {KEY: ("traced", "vmlinux")}.get(key, ("", ""))


def only_image(found: list[TrampolineImage]) -> TrampolineImage:
    assert len(found) == 1
    return found[0]


def test_keys() -> None:
    """Keys come apart into what they were made of; the bit tells kernel functions."""
    assert make_key(1, 77) == 6442450944 + 77
    assert split_key(6442450944 + 77) == (1, 77, False)
    assert split_key(make_key(12, 3, program=True)) == (12, 3, True)


@pytest.mark.parametrize("kernel", ["6.12", "7.3"])
def test_everything_is_named(kernel: str) -> None:
    """Function, module, program ids and names, patched entry, across a page boundary."""
    found = collect(symbols(line(IMAGE)), memory(kernel).read, PROGRAMS, names)
    image = only_image(found)
    assert (image.function, image.module) == ("traced", "vmlinux")
    assert image.function_address == FUNCTION
    assert image.patched and image.current
    assert [(p.id, p.name, p.call.kind) for p in image.programs] == [
        (5, "on_entry", "fentry"),
        (9, "on_exit", "fexit"),
    ]
    assert image.code.problems == ()
    assert (TrampFlag.JMP_ENTRY in image.flags) == (kernel == "7.3")
    assert (TrampFlag.SKIP_FRAME in image.flags) == (kernel != "7.3")
    assert image.size == len(image_bytes(kernel=kernel))
    assert IMAGE + image.size > IMAGE | 0xFFF  # the test means what it says


def test_entry_decides_how_it_is_entered() -> None:
    """An image that does not skip a frame but is entered by call is not JMP_ENTRY."""
    kernel_memory = memory()
    kernel_memory.write(FUNCTION, jump(FUNCTION, IMAGE, 0xE8))
    image = only_image(collect(symbols(line(IMAGE)), kernel_memory.read, PROGRAMS, names))
    assert TrampFlag.JMP_ENTRY in image.code.flags
    assert TrampFlag.JMP_ENTRY not in image.flags


def test_newest_of_two_is_current() -> None:
    """While an image is replaced two have one name; the last listed is the newest."""
    older = IMAGE + 0x4000
    kernel_memory = memory()
    kernel_memory.write(older, image_bytes(older))
    table = symbols(line(older), line(IMAGE))
    found = collect(table, kernel_memory.read, PROGRAMS, names)
    assert [image.address for image in found] == [IMAGE]
    both = collect(table, kernel_memory.read, PROGRAMS, names, stale=True)
    assert [(image.address, image.current) for image in both] == [(older, False), (IMAGE, True)]
    assert [image.patched for image in both] == [False, True]


def test_static_namesakes_are_told_apart() -> None:
    """Of two functions with one name the one whose entry leads to the image is meant."""
    twin = FUNCTION - 0x2000
    kernel_memory = memory()
    kernel_memory.write(twin, bytes.fromhex("f30f1efa0f1f440000"))
    table = symbols(f"{twin:x} t traced", line(IMAGE))
    image = only_image(collect(table, kernel_memory.read, PROGRAMS, names))
    assert image.function_address == FUNCTION


def test_module_function() -> None:
    """A module's function is looked for among that module's symbols only."""
    at = FUNCTION + 0x1000
    kernel_memory = memory()
    kernel_memory.write(IMAGE, image_bytes(function=at))
    kernel_memory.write(at, jump(at, IMAGE))
    table = symbols(f"{FUNCTION + 0x3000:x} T other", line(IMAGE))
    found = collect(table, kernel_memory.read, PROGRAMS, lambda _: ("other", "some_module"))
    assert only_image(found).function_address == at


def test_traced_bpf_program() -> None:
    """A key without the kernel bit names a BPF program; its code is where the entry is."""
    start = CODE + 0x400
    target = LoadedProgram(31, "victim", "0011223344556677", 6, ((start - 64, 32), (start, 64)))
    kernel_memory = memory()
    kernel_memory.write(IMAGE, image_bytes(function=start))
    kernel_memory.write(start - 64, bytes(64))
    kernel_memory.write(start, jump(start, IMAGE))
    key = make_key(31, 4, program=True)
    found = collect(
        symbols(line(IMAGE, key)),
        kernel_memory.read,
        [*PROGRAMS, target],
        lambda _: ("victim", "prog 31"),
    )
    image = only_image(found)
    assert (image.function_address, image.patched) == (start, True)


def test_unknown_program_keeps_its_symbol() -> None:
    """A program that is gone from the id table is still shown by tag and name."""
    image = only_image(collect(symbols(line(IMAGE)), memory().read, PROGRAMS[:1], names))
    assert [(p.id, p.name, p.tag) for p in image.programs] == [
        (5, "on_entry", "00112233445566aa"),
        (None, "on_exit", "00112233445566bb"),
    ]


def test_unmapped_image_is_left_out() -> None:
    """An image released between listing and reading is skipped, not an error."""
    assert collect(symbols(line(IMAGE + 0x8000)), memory().read, PROGRAMS, names) == []


def test_last_mapped_page() -> None:
    """An image at the end of the last mapped page is read up to there."""
    at = 0xFFFFFFFFC0500000 + 4096 - len(image_bytes())
    kernel_memory = memory()
    kernel_memory.write(at, image_bytes(at))
    image = only_image(collect(symbols(line(at)), kernel_memory.read, PROGRAMS, names))
    assert image.code.problems == ()


def test_unknown_function() -> None:
    """Without BTF the image is still decoded; function and entry stay empty."""
    found = collect(symbols(line(IMAGE)), memory().read, PROGRAMS, lambda _: ("", ""))
    image = only_image(found)
    assert (image.function, image.function_address, image.entry) == ("", None, None)
    assert image.entry_code == ()
    assert image.code.problems == ()


def test_only_reads_what_is_asked_for() -> None:
    """`only` decides before any memory is read."""
    read: list[int] = []
    kernel_memory = memory()

    def spy(address: int, size: int) -> bytes:
        read.append(address)
        return kernel_memory.read(address, size)

    table = symbols(line(IMAGE))
    assert collect(table, spy, PROGRAMS, names, only=lambda *_: False) == []
    assert read == []
    wanted = collect(table, spy, PROGRAMS, names, only=lambda _, name, module: name == "traced")
    assert only_image(wanted).function == "traced"


def test_to_dict_is_json() -> None:
    """What --json prints: addresses as text, everything else plain."""
    import json

    value = only_image(collect(symbols(line(IMAGE)), memory().read, PROGRAMS, names)).to_dict()
    back = json.loads(json.dumps(value))
    assert back == value
    assert back["kinds"] == {"fentry": 1, "fexit": 1}
    assert back["address"] == f"{IMAGE:#x}"
    assert [program["id"] for program in back["programs"]] == [5, 9]
    assert back["entry"]["how"] == "jmp"


# ---- images that others release while they are read --------------------------------


def test_released_images_are_told() -> None:
    """Unmapped, or read as zeros: no image, but not silence; a name listed twice counts once."""
    zeros, unmapped = IMAGE + 0x4000, IMAGE + 0x40000
    kernel_memory = memory()
    kernel_memory.write(zeros, bytes(0x2000))
    lost: list[int] = []
    table = symbols(line(IMAGE), line(IMAGE), line(zeros, KEY + 1), line(unmapped, KEY + 2))
    found = collect(
        table, kernel_memory.read, PROGRAMS, names, lost=lambda one: lost.append(one.addr)
    )
    assert [image.address for image in found] == [IMAGE]
    assert lost == [zeros, unmapped]


class Readings(ImageReader):
    """Readings given beforehand: images, or how many were lost."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *readings: list[TrampolineImage]) -> None:
        self.readings = list(readings)
        self.lost = []
        self.waits: list[float] = []
        monkeypatch.setattr(module, "ImageReader", lambda facts: self)
        monkeypatch.setattr(module.time, "sleep", self.waits.append)

    def read(self, **_: object) -> list[TrampolineImage]:
        return self.readings.pop(0) if len(self.readings) > 1 else self.readings[0]


def test_one_image_is_read_again_while_it_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half-read, then lost, then whole; what stays odd is shown in the end."""
    whole, odd = (
        only_image(collect(symbols(line(IMAGE)), memory().read, loaded, names))
        for loaded in (PROGRAMS, PROGRAMS[:1])
    )
    reader = Readings(monkeypatch, [odd], [], [whole])
    reader.lost = [Symbol("bpf_trampoline_1", IMAGE, "t", "bpf")]
    assert image_of("traced") is whole
    assert len(reader.waits) == 2
    reader = Readings(monkeypatch, [odd])
    assert image_of("traced") is odd
    assert 0 < len(reader.waits) < 10
    reader = Readings(monkeypatch, [])
    assert image_of("traced") is None
    assert reader.waits == []

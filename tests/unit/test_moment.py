"""Facts are of a moment: modules that come, go and move are noticed, the kernel stays known."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from pybpf.btf import Btf, Int
from pybpf.btf.encode import BtfBuilder
from pybpf.errors import BpfError, DeniedByPolicy, ObjectFormatError, UnsupportedFeature
from pybpf.kernel import btf as kernel_btf
from pybpf.kernel import ftrace, kallsyms, modules
from pybpf.kernel.btf import BtfObject, KernelBtf
from pybpf.kernel.host import Facts
from pybpf.kernel.modules import LoadedModule, ModuleList
from pybpf.multi.reasons import Reason
from pybpf.multi.resolve import Resolver
from pybpf.multi.select import select
from pybpf.multi.target import Target

TEXT = """\
veth 40960 0 - Live 0xffffffffc02e6000
nf_conntrack 196608 1 xt_state, Live 0xffffffffc0200000 (E)
loop 45056 0 - Loading 0xffffffffc02d8000
"""

# -- the list of modules ---------------------------------------------------


def test_lines_of_the_list() -> None:
    assert modules.parse(TEXT) == (
        LoadedModule("veth", 40960, "Live", 0xFFFFFFFFC02E6000),
        LoadedModule("nf_conntrack", 196608, "Live", 0xFFFFFFFFC0200000),
        LoadedModule("loop", 45056, "Loading", 0xFFFFFFFFC02D8000),
    )
    assert modules.parse("") == modules.parse("\n") == ()


@pytest.mark.parametrize("line", ["veth", "veth many 0 - Live 0x0", "veth 1 0 - Live here"])
def test_lines_of_another_form(line: str) -> None:
    with pytest.raises(ObjectFormatError, match=r"/proc/modules.*not a module"):
        modules.parse(f"loop 1 0 - Live 0x0\n{line}\n")


class Machine:
    """A /proc/modules and a /sys/module that tests change."""

    def __init__(self, root: Path) -> None:
        self.list = root / "modules"
        self.sysfs = root / "sysfs"
        self.sysfs.mkdir()
        (root / "self").mkdir()
        self.loads = 0
        self.lines: dict[str, str] = {}
        self.write()

    def write(self) -> None:
        self.list.write_text("".join(self.lines.values()))

    def load(self, name: str, address: int = 0xFFFFFFFFC0000000, state: str = "Live") -> None:
        self.lines[name] = f"{name} 4096 0 - {state} {address:#x}\n"
        folder = self.sysfs / name
        if not folder.exists():
            # tmpfs and ext4 give an inode again at once; sysfs does not. Keep the old one.
            folder.mkdir()
        self.write()

    def unload(self, name: str) -> None:
        del self.lines[name]
        self.loads += 1
        (self.sysfs / name).rename(self.sysfs / f".{self.loads}")
        self.write()

    def reload(self, name: str, address: int = 0xFFFFFFFFC0000000) -> None:
        self.unload(name)
        self.load(name, address)

    def read(self) -> ModuleList:
        return modules.read(str(self.list), str(self.sysfs))

    def lost(self, then: ModuleList, *names: str) -> set[str]:
        return then.lost(names, directory=str(self.sysfs), listing=str(self.list))


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_a_module_is_the_same_until_it_is_loaded_anew(machine: Machine) -> None:
    """The same address does not make it the same."""
    machine.load("red")
    machine.load("blue", 0xFFFFFFFFC0100000)
    then = machine.read()
    assert machine.read() == then
    assert machine.lost(then, "red", "blue", "") == set()
    machine.reload("red")
    assert machine.read() != then
    assert machine.lost(then, "red", "blue", "") == {"red"}
    machine.unload("blue")
    assert machine.lost(then, "red", "blue", "green") == {"red", "blue", "green"}


def test_a_module_that_is_being_loaded_gives_memory_back(machine: Machine) -> None:
    """Its init code goes when it is live: what is read before does not hold."""
    machine.load("red", state="Loading")
    then = machine.read()
    assert machine.lost(then, "red") == {"red"}
    machine.load("red")
    assert machine.read() != then
    assert machine.lost(machine.read(), "red") == set()


def test_without_sysfs_the_list_itself_tells(machine: Machine) -> None:
    machine.load("red")
    (machine.sysfs / "red").rmdir()
    then = machine.read()
    assert then["red"].number == 0
    assert machine.lost(then, "red") == set()
    machine.load("red", 0xFFFFFFFFC0200000)
    (machine.sysfs / "red").rmdir()
    assert machine.lost(then, "red") == {"red"}


@pytest.mark.parametrize("name", ["", ".", "..", "../module", "a/b", "a\0b"])
def test_a_name_is_no_path(machine: Machine, name: str) -> None:
    """Whatever a kernel or an object calls a module."""
    assert modules.number(name, str(machine.sysfs)) == 0
    assert KernelBtf(str(machine.sysfs)).number(name) == (0 if name else 1)
    if name:
        with pytest.raises(UnsupportedFeature):
            kernel_btf.module(name, directory=str(machine.sysfs))


def test_no_modules_and_no_proc(tmp_path: Path) -> None:
    """A kernel without modules has none; a missing /proc is one error that says what to do."""
    (tmp_path / "self").mkdir()
    assert len(modules.read(str(tmp_path / "modules"))) == 0
    with pytest.raises(BpfError, match="list of loaded modules") as caught:
        modules.read(str(tmp_path / "nothing" / "modules"))
    assert caught.value.errno == errno.ENOENT


# -- facts -----------------------------------------------------------------

OWN_SYMBOLS = "ffffffff81000000 T vfs_read\nffffffff81000100 T vfs_write\n"
OWN_FUNCTIONS = "ffffffff81000004 vfs_read\nffffffff81000104 vfs_write\n"


class World(Machine):
    """A machine with symbols and traceable functions, one of each module."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(root)
        self.reads: list[str] = []
        read_symbols, read_list = kallsyms.Kallsyms, modules.read

        def symbols(*, before: kallsyms.Kallsyms | None = None) -> kallsyms.Kallsyms:
            self.reads.append("kallsyms" if before is None else "kallsyms again")
            return read_symbols(OWN_SYMBOLS + self.each("{at:016x} t {m}_go\t[{m}]\n"), before)

        def lists() -> ftrace.Lists:
            self.reads.append("ftrace")
            text = OWN_FUNCTIONS + self.each("{site:016x} {m}_go [{m}]\n")
            listed = ftrace.ListText(text.encode, with_addresses=True)
            return ftrace.Lists(listed, listed)

        monkeypatch.setattr(kallsyms, "read", symbols)
        monkeypatch.setattr(ftrace, "open_lists", lists)
        monkeypatch.setattr(ftrace, "read_blacklist", lambda: None)
        monkeypatch.setattr(modules, "read", lambda: read_list(str(self.list), str(self.sysfs)))
        monkeypatch.setattr(KernelBtf, "get", lambda self, name: None)

    def each(self, form: str) -> str:
        places = {name: int(line.split()[5], 16) for name, line in self.lines.items()}
        return "".join(form.format(m=m, at=a, site=a + 4) for m, a in places.items())


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path, monkeypatch)


def addresses(facts: Facts, *globs: str) -> dict[str, int]:
    return {c.label: c.address for c in select(facts, globs).candidates}


def test_nothing_is_read_again_while_facts_hold(world: World) -> None:
    world.load("red")
    facts = Facts()
    first = addresses(facts, "*")
    assert len(first) == 3
    assert facts.hold() and facts.current() is facts
    assert addresses(facts.current(), "*") == first
    assert world.reads == ["ftrace", "kallsyms"]


def test_facts_that_nobody_asked_hold(world: World) -> None:
    facts = Facts()
    world.load("red")
    assert facts.hold() and facts.current() is facts
    assert world.reads == []


def test_modules_that_come_go_and_move(world: World) -> None:
    """New facts have them; the old ones stay what they were."""
    world.load("red", 0xFFFFFFFFC0000000)
    world.load("blue", 0xFFFFFFFFC0100000)
    old = Facts()
    before = addresses(old, "*_go")
    world.unload("red")
    world.reload("blue", 0xFFFFFFFFC0000000)
    world.load("green", 0xFFFFFFFFC0100000)
    assert not old.hold()
    now = old.current()
    assert now is not old and now.hold()
    assert addresses(now, "*_go") == {
        "blue_go [blue]": 0xFFFFFFFFC0000000,
        "green_go [green]": 0xFFFFFFFFC0100000,
    }
    assert now.modules == ("blue", "green")
    assert addresses(old, "*_go") == before
    assert old.current() is now, "objects that share facts share the newer ones too"
    assert world.reads == ["ftrace", "kallsyms", "ftrace", "kallsyms again"]


def test_what_the_kernel_owns_is_taken_over(world: World) -> None:
    world.load("red")
    old = Facts()
    old.ftrace.names()
    _ = len(old.kallsyms)
    assert old.probes is Facts.current(old).probes
    world.reload("red", 0xFFFFFFFFC0200000)
    now = old.current()
    assert now.btf is old.btf and now.probes is old.probes
    assert now.kallsyms._stretches[0] is old.kallsyms._stretches[0]
    world.unload("red")
    assert now.current().kallsyms._stretches[0] is old.kallsyms._stretches[0]


# -- BTF -------------------------------------------------------------------


def blob(name: str) -> bytes:
    builder = BtfBuilder()
    builder.add(Int(name, 4, 32))
    return builder.build()


class TestBtf:
    @pytest.fixture
    def home(self, tmp_path: Path) -> Path:
        (tmp_path / "vmlinux").write_bytes(blob("int"))
        (tmp_path / "red").write_bytes(Btf(blob("int")).raw)
        return tmp_path

    def renew(self, home: Path, name: str) -> None:
        (home / name).rename(home / f".{len(list(home.iterdir()))}")
        (home / name).write_bytes(blob("int"))

    def test_types_of_a_module_that_is_loaded_anew(self, home: Path) -> None:
        kernel = KernelBtf(str(home))
        first = kernel.module("red")
        assert kernel.module("red") is kernel.get("red") is first
        self.renew(home, "red")
        second = kernel.module("red")
        assert second is not first and kernel.get("red") is second
        (home / "red").unlink()
        assert kernel.get("red") is None
        with pytest.raises(UnsupportedFeature, match="not loaded"):
            kernel.module("red")
        self.renew(home, "vmlinux")
        assert kernel.get("") is kernel.get("vmlinux") is kernel.vmlinux()

    def test_a_module_that_is_loaded_later(self, home: Path) -> None:
        """ "Not there" is an answer of a moment, too."""
        kernel = KernelBtf(str(home))
        assert kernel.get("blue") is None
        (home / "blue").write_bytes(blob("int"))
        assert kernel.get("blue") is not None
        assert kernel.modules() == ["blue", "red"]

    def test_object_ids(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Of two objects of one name the last is the loaded module's; the other is only held."""
        there = [BtfObject(1, "vmlinux", True), BtfObject(2, "red", True)]
        walks: list[int] = []

        def objects() -> list[BtfObject]:
            walks.append(len(there))
            return list(there)

        monkeypatch.setattr(kernel_btf, "objects", objects)
        kernel = KernelBtf(str(home))
        assert (kernel.object_id("red"), kernel.object_id(""), len(walks)) == (2, 1, 1)
        self.renew(home, "red")
        there.append(BtfObject(7, "red", True))
        assert (kernel.object_id("red"), kernel.object_id("vmlinux"), len(walks)) == (7, 1, 2)
        (home / "red").unlink()
        with pytest.raises(UnsupportedFeature, match="BTF object of 'red'"):
            kernel.object_id("red")


# -- targets that a caller kept --------------------------------------------


def test_kept_targets_are_where_they_are_now(world: World) -> None:
    world.load("red", 0xFFFFFFFFC0000000)
    world.load("blue", 0xFFFFFFFFC0100000)
    facts = Facts()
    candidates = list(select(facts, ["*"]).candidates)
    targets = [Target(c.name, c.module, c.address) for c in candidates]
    world.reload("red", 0xFFFFFFFFC0300000)
    world.unload("blue")
    resolver = Resolver(facts).at(facts.current())
    for kept in (candidates, targets):
        found, skipped = resolver.resolve(kept, at_exit=False)
        assert {(t.label, t.address) for t in found} == {
            ("vfs_read", 0xFFFFFFFF81000000),
            ("vfs_write", 0xFFFFFFFF81000100),
            ("red_go [red]", 0xFFFFFFFFC0300000),
        }
        assert [(s.label, s.reason) for s in skipped] == [("blue_go [blue]", Reason.MODULE_GONE)]


def test_addresses_of_another_boot(world: World) -> None:
    """A kernel's own function, too, is taken from where it is, not from where somebody says."""
    wrong = [Target("vfs_read", "", 0xFFFFFFFF81000100), Target("gone", "", 0xFFFFFFFF81000000)]
    found, skipped = Resolver(Facts()).resolve(wrong, at_exit=False)
    assert [(t.name, t.address) for t in found] == [("vfs_read", 0xFFFFFFFF81000000)]
    assert [(s.name, s.reason) for s in skipped] == [("gone", Reason.NOT_FOUND)]
    many = [Target("vfs_write", "", 0xFFFFFFFF81000100)] * 30 + wrong
    found, skipped = Resolver(Facts()).resolve(many, at_exit=False)
    assert {t.address for t in found} == {0xFFFFFFFF81000000, 0xFFFFFFFF81000100}
    assert [s.name for s in skipped] == ["gone"]


# -- files taken for granted -----------------------------------------------


@pytest.mark.parametrize(
    ("path", "wanted", "ask"),
    [
        ("/proc/self/mounts", "tracefs is mounted", ftrace.tracefs),
        ("/proc/kallsyms", "addresses of kernel functions", kallsyms.read),
        ("/proc/modules", "list of loaded modules", modules.read),
        ("/sys/devices/system/cpu/possible", "possible CPUs", lambda: Facts().possible_cpus),
        ("/sys/devices/system/cpu/online", "online CPUs", lambda: Facts().online_cpus),
    ],
)
class TestFiles:
    @pytest.mark.parametrize("number", [errno.ENOENT, errno.EACCES, errno.EIO])
    def test_one_error_with_the_next_step(
        self,
        monkeypatch: pytest.MonkeyPatch,
        path: str,
        wanted: str,
        ask: object,
        number: int,
    ) -> None:
        """Which file, what it is wanted for, what to do."""
        from pybpf._sys import files

        def read(name: str) -> bytes:
            raise OSError(number, "no", name)

        monkeypatch.setattr(files, "read", read)
        monkeypatch.setattr(files.os.path, "exists", lambda name: False)
        with pytest.raises(BpfError) as caught:
            ask()  # type: ignore[operator]
        text = str(caught.value)
        assert caught.value.errno == number
        assert path in text and wanted in text and "\n" not in text
        if number == errno.ENOENT:
            assert "try: mount -t" in text
        if number == errno.EACCES:
            assert isinstance(caught.value, DeniedByPolicy) and "root" in text
        monkeypatch.setattr(files.os.path, "exists", lambda name: True)
        if number == errno.ENOENT and path != "/proc/modules":
            with pytest.raises(BpfError, match="this kernel does not show the file"):
                ask()  # type: ignore[operator]

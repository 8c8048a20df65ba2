"""What `fixup_for_load` and `sanitize` make is BTF that this kernel takes and describes alike."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

import pybpf
from pybpf._sys import bpf
from pybpf._sys.fd import Fd
from pybpf.btf import Btf, BtfKind
from pybpf.btf.core import relocate
from pybpf.btf.encode import BTF_FEATURES, sanitize
from pybpf.btf.match import CoreKind
from pybpf.errors import BpfError
from pybpf.kernel.btf import vmlinux
from pybpf.loader import Object
from pybpf.obj.reader import read_object
from pybpf.obj.spec import ObjectSpec

DATA = Path(__file__).parents[1] / "data"
# Made to be refused by the object reader, unless legacy maps are asked for.
REFUSED = ("obj_legacy.bpf.o", "obj_legacy_forms.bpf.o")
OBJECTS = sorted(p for p in DATA.glob("*.bpf.o") if p.name not in REFUSED)


def spec(path: Path) -> ObjectSpec:
    return read_object(path.read_bytes(), path.name)


@pytest.mark.parametrize("path", OBJECTS, ids=lambda p: p.name)
def test_object_btf_loads(path: Path) -> None:
    """The kernel takes the BTF of every object we have, data sections and externs included.

    As the loader hands it over: what an older kernel does not know is taken away.
    """
    with Object(spec(path), None, None) as obj:
        obj.binding._load_btf()
        assert obj.btf_error is None
        assert obj.binding.btf_fd > 0


def test_as_compiled_it_would_not_load() -> None:
    """The kernel refuses what clang wrote, so the fix-up is not for nothing."""
    btf = spec(DATA / "btf_kinds.bpf.o").btf
    assert btf is not None
    with pytest.raises(BpfError), bpf.btf_load(btf.raw):
        pass


def test_parameters_without_names() -> None:
    """The kernel wants names, so they get some: the program keeps its BTF and its source lines."""
    with pybpf.open(DATA / "obj_unnamed.bpf.o") as obj:
        obj.load()
        program = obj.programs["unnamed"]
        assert (program.info().nr_func_info, program.info().nr_line_info > 0) == (1, True)
        assert program.test_run(bytes(64)).retval == 7


def test_btf_whose_functions_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs are then loaded without it, as libbpf does; maps keep their types."""
    load = bpf.btf_load

    def without_functions(blob: bytes, *, token_fd: int = 0) -> Fd:
        if Btf(blob).ids(BtfKind.FUNC):
            raise BpfError(errno.EINVAL, "BPF_BTF_LOAD")
        return load(blob)

    monkeypatch.setattr(bpf, "btf_load", without_functions)
    with pybpf.open(DATA / "obj_unnamed.bpf.o") as obj:
        obj.load()
        info = obj.programs["unnamed"].info()
        assert (info.btf_id, info.nr_func_info, info.nr_line_info) == (0, 0, 0)
        assert obj.maps["counts"].info().btf_value_type_id
        assert obj.btf_error is not None and obj.btf_error.errno == errno.EINVAL


def test_every_kind_is_in_the_object() -> None:
    """btf_kinds.bpf.o holds every kind clang can emit for BPF, so the tests here mean something."""
    btf = spec(DATA / "btf_kinds.bpf.o").btf
    assert btf is not None
    kinds = {btf.kind(i) for i in range(1, btf.nr_types)}
    assert kinds == set(BtfKind) - {BtfKind.UNKN}


@pytest.mark.parametrize("missing", [*BTF_FEATURES, "all"])
def test_older_forms_load_too(missing: str) -> None:
    """With a feature taken away the stand-ins satisfy the kernel's checks, ids unchanged."""
    blob = spec(DATA / "btf_kinds.bpf.o").btf_for_load()
    assert blob is not None
    features = set() if missing == "all" else set(BTF_FEATURES) - {missing}
    older = sanitize(blob, features)
    with bpf.btf_load(older) as fd:
        assert fd.fileno() >= 0
    before, after = Btf(blob), Btf(older)
    assert after.nr_types - before.nr_types in (0, 1)
    if missing != "qmark_datasec":
        assert older != blob


def test_core_against_this_kernel() -> None:
    """Each relocation of core_lines.bpf.o finds its field in the running kernel's BTF."""
    one = spec(DATA / "core_lines.bpf.o")
    assert one.btf is not None and one.btf_ext is not None
    kernel = vmlinux()
    done = 0
    for section, relos in one.btf_ext.core_relos.items():
        assert one.elf is not None
        part = one.elf.find(section)
        assert part is not None
        code = bytearray(one.elf.contents(part))
        results = relocate(
            code, [(r.insn_off, r) for r in relos], one.btf, [kernel], program=section
        )
        for result in results:
            absent = "absent" in result.local or "no_such" in result.local
            assert not result.poisoned or absent
            done += result.kind == CoreKind.FIELD_BYTE_OFFSET
    assert done >= 5

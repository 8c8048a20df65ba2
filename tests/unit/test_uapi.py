"""The generated numbers and structures: fresh, and laid out as the kernel's BTF says."""

from __future__ import annotations

import ctypes
import gzip
import re
from pathlib import Path
from typing import Any

import pytest

from pybpf._uapi import defines, enums, helpers, perf, structs
from pybpf.btf import Array, Btf, Enum, Enum64, Int, Member, Struct, Union
from tools.dev import gen_uapi

SOURCE = gen_uapi.find_input()
BTF = Btf(gzip.decompress(SOURCE.read_bytes()))
HEADERS = Path("/usr/include/linux")


def test_generated_files_are_fresh() -> None:
    """Running the generator again would change nothing."""
    folder = Path(enums.__file__).parent
    for name, text in gen_uapi.generate(BTF, SOURCE.name).items():
        assert (folder / name).read_text() == text, f"run tools/dev/gen_uapi.py: {name} is stale"


def test_reducing_is_complete() -> None:
    """A blob reduced again generates the same: nothing the tables need is lost on the way."""
    again = Btf(gen_uapi.reduce(BTF))
    again.validate()
    assert gen_uapi.generate(again, SOURCE.name) == gen_uapi.generate(BTF, SOURCE.name)


def test_check_reports_a_stale_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """--check exits 1 and names the file; without it the file is written."""
    for name in gen_uapi.generate(BTF, SOURCE.name):
        target = tmp_path / "pybpf" / "_uapi" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text((Path(enums.__file__).parent / name).read_text())
    monkeypatch.setattr(gen_uapi, "ROOT", tmp_path)
    assert gen_uapi.main(["--check"]) == 0
    stale = tmp_path / "pybpf" / "_uapi" / "enums.py"
    stale.write_text(stale.read_text().replace("BPF_MAP_CREATE = 0", "BPF_MAP_CREATE = 1"))
    assert gen_uapi.main(["--check"]) == 1
    assert "enums.py" in capsys.readouterr().out
    assert gen_uapi.main([]) == 0
    assert gen_uapi.main(["--check"]) == 0


def _check_type(btf: Btf, type_id: int, ctype: Any, where: str) -> int:
    """Compare a ctypes type with a BTF type; returns the number of fields compared."""
    t = btf.type(btf.skip_mods_and_typedefs(type_id))
    assert ctypes.sizeof(ctype) == btf.sizeof(type_id), where
    if isinstance(t, Struct | Union):
        return _check_members(btf, t.members, ctype, where)
    if isinstance(t, Array):
        assert ctype._length_ == t.nelems, where
        assert ctypes.sizeof(ctype._type_) == btf.sizeof(t.type), where
    else:
        assert isinstance(t, Int | Enum | Enum64), where
    return 1


def _check_members(
    btf: Btf, members: tuple[Member, ...], ctype: Any, where: str, shift: int = 0
) -> int:
    compared = 0
    kinds = {entry[0]: entry[1] for entry in ctype._fields_}
    unnamed = list(getattr(ctype, "_anonymous_", ()))
    for m in members:
        name = m.name or unnamed.pop(0)
        field = getattr(ctype, name)
        bits = m.bit_offset - shift
        if m.bitfield_size:
            # ctypes keeps bit offset and width of a bitfield in the halves of `size`.
            assert field.size >> 16 == m.bitfield_size, f"{where}.{name}"
            assert field.offset * 8 + (field.size & 0xFFFF) == bits, f"{where}.{name}"
            compared += 1
            continue
        assert field.offset * 8 == bits, f"{where}.{name}"
        compared += _check_type(btf, m.type, kinds[name], f"{where}.{name}")
    assert not unnamed, where
    return compared


@pytest.mark.parametrize("name", [*gen_uapi.STRUCTS, *gen_uapi.PERF_STRUCTS])
def test_struct_layout(name: str) -> None:
    """Every field of a structure lies where the kernel's BTF has it."""
    keyword, c_name = {**gen_uapi.STRUCTS, **gen_uapi.PERF_STRUCTS}[name].split()
    type_id = BTF.find(c_name, Struct.KIND if keyword == "struct" else Union.KIND)
    assert type_id is not None
    module = perf if name in gen_uapi.PERF_STRUCTS else structs
    assert _check_type(BTF, type_id, getattr(module, name), name) > 1


def _bpf_attr() -> Union:
    type_id = BTF.find("bpf_attr", Union.KIND)
    assert type_id is not None
    t = BTF.type(type_id)
    assert isinstance(t, Union)
    return t


def _variant(first_field: str) -> Struct:
    """The member of union bpf_attr that has `first_field` (or is called so)."""
    for m in _bpf_attr().members:
        t = BTF.type(m.type)
        assert isinstance(t, Struct)
        names = {sub.name for sub in t.members}
        for sub in t.members:
            if not sub.name:
                names |= {x.name for x in BTF.type(sub.type).members}  # type: ignore[attr-defined]
        if m.name == first_field or (not m.name and first_field in names):
            return t
    raise AssertionError(first_field)


PLAIN = [n for n, (path, _) in gen_uapi.ATTRS.items() if not path.startswith("link_create/")]
LINKS = [n for n in gen_uapi.ATTRS if n not in PLAIN]


@pytest.mark.parametrize("name", PLAIN)
def test_attr_layout(name: str) -> None:
    """A command's attr is its member of union bpf_attr, field by field."""
    t = _variant(gen_uapi.ATTRS[name][0].lstrip("."))
    cls = getattr(structs, name)
    assert ctypes.sizeof(cls) == t.size
    assert _check_members(BTF, t.members, cls, name) >= 1


@pytest.mark.parametrize("name", LINKS)
def test_link_create_layout(name: str) -> None:
    """A form of BPF_LINK_CREATE has the common front and its own part at byte 16."""
    cls = getattr(structs, name)
    part = gen_uapi.ATTRS[name][0].partition("/")[2]
    *front, variants = _variant("link_create").members
    union = BTF.type(variants.type)
    assert isinstance(union, Union) and variants.bit_offset == 16 * 8
    fields = dict.fromkeys(entry[0] for entry in cls._fields_)
    if part.startswith("."):
        own = [
            m
            for m in union.members
            if m.name == part[1:] or (not m.name and BTF.type(m.type).members[0].name == part[1:])  # type: ignore[attr-defined]
        ]
        assert len(own) == 1
        inner = own if own[0].name else BTF.type(own[0].type).members  # type: ignore[attr-defined]
        for m in inner:
            assert getattr(cls, m.name).offset == 16 + m.bit_offset // 8
            assert m.name in fields
    else:
        (own_member,) = [m for m in union.members if m.name == part]
        assert getattr(cls, part).offset == 16
        kinds = {entry[0]: entry[1] for entry in cls._fields_}
        _check_type(BTF, own_member.type, kinds[part], f"{name}.{part}")
    for m in front:
        if m.name:
            assert getattr(cls, m.name).offset * 8 == m.bit_offset
    assert cls.prog_fd.offset == 0 and cls.target_fd.offset == 4


@pytest.mark.parametrize("name", list(gen_uapi.ENUMS))
def test_enum_members(name: str) -> None:
    """Enumerations have the kernel's names and numbers, without the markers of their ends."""
    cls = getattr(enums, name)
    c_name, witness, _ = gen_uapi.ENUMS[name]
    kinds = (Enum.KIND, Enum64.KIND)
    ids = (
        [i for kind in kinds for i in BTF.find_all(c_name, kind)]
        if c_name
        else [i for kind in kinds for i in BTF.ids(kind)]
    )
    values = {
        v.name: v.val
        for i in ids
        if any(v.name == witness for v in BTF.type(i).values)  # type: ignore[attr-defined]
        for v in BTF.type(i).values  # type: ignore[attr-defined]
    }
    assert {n: int(m) for n, m in cls.__members__.items()} == {
        n: v for n, v in values.items() if not n.startswith("__") and "_MAX_" not in n
    }


def test_numbers_that_others_depend_on() -> None:
    """The newest attach and link types have the numbers of Linux 7.3."""
    assert enums.AttachType.BPF_TRACE_FSESSION == 58
    assert enums.AttachType.BPF_TRACE_FENTRY_MULTI == 59
    assert enums.AttachType.BPF_TRACE_FEXIT_MULTI == 60
    assert enums.AttachType.BPF_TRACE_FSESSION_MULTI == 61
    assert enums.LinkType.BPF_LINK_TYPE_TRACING_MULTI == 15
    assert helpers.Helper.BPF_FUNC_get_func_arg == 183


@pytest.mark.parametrize("name", ["MapCreate", "ProgLoad", "LinkCreateTracingMulti", "MapInfo"])
def test_a_misspelt_field_is_an_error(name: str) -> None:
    """ctypes would silently keep an unknown attribute on the side; ours do not."""
    attr = getattr(structs, name)()
    with pytest.raises(AttributeError):
        attr.no_such_field = 1
    with pytest.raises(AttributeError):
        getattr(structs, name)(no_such_field=1)


def _defined(header: str) -> dict[str, int]:
    found = {}
    simple = re.compile(
        r"^#define\s+(\w+)\s+\(?(0x[0-9a-fA-F]+|\d+)U?L?(?:\s*<<\s*(\d+))?\)?\s*(?:/\*.*)?$", re.M
    )
    for name, base, shift in simple.findall((HEADERS / header).read_text()):
        found[name] = int(base, 0) << int(shift or 0)
    return found


@pytest.mark.skipif(not (HEADERS / "bpf.h").exists(), reason="no linux-libc-dev")
def test_defines_equal_the_headers() -> None:
    """The hand-written numbers are those of the installed headers, where these have them."""
    known = {}
    for header in ("bpf.h", "perf_event.h", "capability.h", "if_link.h"):
        known |= _defined(header)
    ours = {n: getattr(defines, n) for n in defines.__all__}
    both = {n: v for n, v in ours.items() if n in known}
    assert both == {n: known[n] for n in both}
    assert len(both) > 30


def test_ioctl_numbers() -> None:
    """PERF_EVENT_IOC_* follow _IO, _IOW and _IOWR of include/uapi/asm-generic/ioctl.h."""

    def ioc(direction: int, number: int, size: int) -> int:
        return direction << 30 | size << 16 | ord("$") << 8 | number

    assert ioc(0, 0, 0) == defines.PERF_EVENT_IOC_ENABLE
    assert ioc(0, 1, 0) == defines.PERF_EVENT_IOC_DISABLE
    assert ioc(1, 8, 4) == defines.PERF_EVENT_IOC_SET_BPF
    assert ioc(3, 10, 8) == defines.PERF_EVENT_IOC_QUERY_BPF

"""What a wrong name is answered with."""

from __future__ import annotations

from pathlib import Path

import pytest

import pybpf
from pybpf.names import ByName, suggestion, unknown

DATA = Path(__file__).parents[1] / "data"


def test_unknown_maps_programs_and_sections_suggest_near_names() -> None:
    """It stays a KeyError; in, get() and iteration are a dict's."""
    with pybpf.open(DATA / "attach_kinds.bpf.o") as obj:
        with pytest.raises(KeyError, match=r"no program 'on_kprob'; is it .*'on_kprobe'"):
            obj.programs["on_kprob"]
        with pytest.raises(KeyError, match=r"no section with variables '.bs'; is it '.bss'"):
            obj.globals[".bs"]
        with pytest.raises(AttributeError, match="'tp_hits'"):
            _ = obj.globals.tp_hit
        assert "on_kprob" not in obj.programs and obj.programs.get("on_kprob") is None
        assert list(obj.programs) == [p.name for p in obj]
    with pybpf.open(DATA / "attach_by_hand.bpf.o") as obj:
        with pytest.raises(KeyError, match="no map 'rus'; is it 'runs'"):
            obj.maps["rus"]
        assert obj.maps.get("rus", 5) == 5


def test_a_name_that_is_like_none_lists_what_there_is() -> None:
    """Lists all names if they are few, the first ones if they are many. Keys need not be text."""
    some = ByName("map", {f"m{number}": number for number in range(10)})
    assert unknown("map", "zzz", ["a", "b"]) == "no map 'zzz'; there are: a, b"
    assert unknown("map", "zzz", []) == "no map 'zzz'; there are none"
    with pytest.raises(KeyError, match=r"there are: m0, .*m7 and 2 more"):
        some["zzz"]
    with pytest.raises(KeyError, match="no map 3"):
        some[3]  # type: ignore[index]


def test_a_common_word_makes_no_name_near() -> None:
    """What stands before every name is shown, not compared."""
    assert suggestion("type", "event", ["pt_regs", "cpu"], "struct ") == ""
    found = suggestion("type", "evnt", ["pt_regs", "event"], "struct ")
    assert found == "no type 'struct evnt'; is it 'struct event'?"

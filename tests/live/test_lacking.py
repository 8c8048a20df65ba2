"""The verifier's refusal of what this kernel lacks says what it was, and where in the source."""

from __future__ import annotations

from pathlib import Path

import pytest

import pybpf

OBJECT = Path(__file__).parents[1] / "data" / "obj_missing.bpf.o"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("wants_field", r"struct task_struct.pidx: this kernel's struct task_struct has no pidx"),
        ("wants_type", r"this kernel has no struct task_structe \(near: task_struct"),
        ("wants_enumerator", r"enum bpf_cmd has no BPF_MAP_CREATES \(near: BPF_MAP_CREATE"),
        ("wants_kfunc", r"kfunc 'bpf_task_acquirer' is not there at obj_missing.bpf.c:\d+"),
    ],
)
def test_the_error_names_it(name: str, words: str) -> None:
    with pybpf.open(OBJECT) as obj:
        with pytest.raises(pybpf.VerifierError, match=words) as caught:
            obj.programs[name].load()
        assert "unknown#" in caught.value.log and "obj_missing.bpf.c:" in caught.value.hint


def test_who_asks_first_is_loaded() -> None:
    with pybpf.open(OBJECT) as obj:
        obj.programs["asks_first"].load()
        assert obj.programs["asks_first"].loaded

"""Summaries of verifier logs, taken from kernels 6.1, 6.12 and 7.3."""

from __future__ import annotations

import textwrap

import pytest

from pybpf._sys.verifier import said_something, summary

STATS = "processed 6 insns (limit 1000000) max_states_per_insn 0 total_states 0 peak_states 0\n"

# Linux 6.1, a map value dereferenced without a test.
NULL_6_1 = """\
0: R1=ctx(off=0,imm=0) R10=fp0
0: (62) *(u32 *)(r10 -4) = 0          ; R10=fp0 fp-8=0000????
1: (bf) r2 = r10                      ; R2_w=fp0 R10=fp0
2: (07) r2 += -4                      ; R2_w=fp-4
3: (18) r1 = 0xff1f39334186b000       ; R1_w=map_ptr(off=0,ks=4,vs=8,imm=0)
5: (85) call bpf_map_lookup_elem#1    ; R0_w=map_value_or_null(id=1,off=0,ks=4,vs=8,imm=0)
6: (79) r0 = *(u64 *)(r0 +0)
R0 invalid mem access 'map_value_or_null'
"""

# The same program on Linux 7.3.
NULL_7_3 = """\
0: R1=ctx() R10=fp0
0: (62) *(u32 *)(r10 -4) = 0          ; R10=fp0 fp-8=0000????
5: (85) call bpf_map_lookup_elem#1    ; R0=map_value_or_null(id=1,map=abc,ks=4,vs=8)
6: (79) r0 = *(u64 *)(r0 +0)
R0 invalid mem access 'map_value_or_null'

Verification failed: Register Type Safety: Invalid dereference

Reason:
  R0 may be NULL here (a nullable map value pointer). The program could dereference NULL on this
  path, so the verifier cannot prove this access is safe.

At:
  insn 6
       | ^-- error: invalid dereference of R0 (a nullable map value pointer)
  Instruction context:
      5 | (85) call bpf_map_lookup_elem#1
  >>> 6 | (79) r0 = *(u64 *)(r0 +0)
      7 | (95) exit

Causal path:
  insn 5
       | ^-- update: R0 changed from uninitialized value to nullable map value from abc at offset 0
  Instruction context:
      3 | (18) r1 = 0xff412e0c0256bc00
  >>> 5 | (85) call bpf_map_lookup_elem#1
      6 | (79) r0 = *(u64 *)(r0 +0)
      7 | (95) exit

Suggestion:
  Add a NULL check before the access and dereference the pointer only on the non-NULL path.

"""


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        pytest.param(
            NULL_6_1 + STATS,
            """\
            6: (79) r0 = *(u64 *)(r0 +0)
            R0 invalid mem access 'map_value_or_null'""",
            id="the instruction before its complaint",
        ),
        pytest.param(
            "0: R1=ctx() R10=fp0\n; return x->y; @ f.bpf.c:12\n7: (95) exit\nR0 !read_ok\n" + STATS,
            """\
            ; return x->y; @ f.bpf.c:12
            7: (95) exit
            R0 !read_ok""",
            id="with its source line",
        ),
        pytest.param(
            "; int k = 0; @ f.c:9\n8: (b7) r1 = 0\n; return p[k & 7]; @ f.c:19\n"
            "13: (0f) r2 += r1   ; R1=0\n14: (79) r0 = *(u64 *)(r2 +0)\n"
            "invalid variable-offset read from stack R2\n" + STATS,
            """\
            ; return p[k & 7]; @ f.c:19
            14: (79) r0 = *(u64 *)(r2 +0)
            invalid variable-offset read from stack R2""",
            id="with a source line some instructions back",
        ),
        pytest.param(
            "; return x; @ f.c:9\n8: (b7) r1 = 0\nfrom 3 to 14: R0=1\n14: (95) exit\nR0 leaks\n",
            "14: (95) exit\nR0 leaks",
            id="not the source line of another path",
        ),
        pytest.param(
            "unreachable insn 2\n" + STATS, "unreachable insn 2", id="before the first instruction"
        ),
        pytest.param(
            "0: (b7) r0 = 0\n1: (07) r0 += 1  ; R0=1\n2: (85) call foo#1\n"
            "arg#0 expected pointer to ctx, but got scalar\n"
            "Caller passes invalid args into func#1 ('foo')\n" + STATS,
            """\
            2: (85) call foo#1
            arg#0 expected pointer to ctx, but got scalar
            Caller passes invalid args into func#1 ('foo')""",
            id="several lines of complaint",
        ),
        pytest.param(
            "0: (b7) r0 = 0\n" + "from 1 to 2: R0=1\n" * 40 + "too many states\n" + STATS,
            "too many states",
            id="an instruction too far away says nothing",
        ),
        pytest.param(
            "0: (95) exit\nR0 !read_ok\nverification time 93 usec\nstack depth 0\n" + STATS,
            "0: (95) exit\nR0 !read_ok",
            id="statistics of log level 4",
        ),
        pytest.param(
            "attach_btf_id 3 is not a function\n",
            "attach_btf_id 3 is not a function",
            id="one line",
        ),
        pytest.param(STATS, "", id="statistics only"),
        pytest.param("", "", id="nothing"),
    ],
)
def test_summary(log: str, expected: str) -> None:
    """The faulty instruction, its source line and the verifier's words, without statistics."""
    assert summary(log) == textwrap.dedent(expected)


def test_the_report_of_7_3_is_preferred() -> None:
    """Its Reason, At and Suggestion stay; the causal path and the history above go."""
    lines = [line for line in NULL_7_3.splitlines() if line]
    first, path, last = (
        lines.index("R0 invalid mem access 'map_value_or_null'"),
        lines.index("Causal path:"),
        lines.index("Suggestion:"),
    )
    assert summary(NULL_7_3 + STATS).splitlines() == lines[first:path] + lines[last:]


def test_the_report_shows_source_or_instructions() -> None:
    """Where the report has the source line, the instructions around it are left out."""
    report = """\
Verification failed: Register Type Safety: Invalid dereference

At:
  nullderef @ bad.bpf.c:11:9
  Source context:
  >>> 11 |         return *v;
         |         ^-- error: invalid dereference of R0 (a nullable map value pointer)
  Instruction context:
  >>> 7 | (79) r0 = *(u64 *)(r0 +0)

Suggestion:
  Add a NULL check before the access and dereference the pointer only on the non-NULL path.
"""
    shown = summary("7: (79) r0 = *(u64 *)(r0 +0)\nR0 invalid\n\n" + report + STATS)
    assert "return *v;" in shown and "Add a NULL check" in shown
    assert "Instruction context" not in shown and "(79)" not in shown


def test_a_huge_log_is_read_from_its_end() -> None:
    """50 MB of history cost no more than its last page, and the end is what counts."""
    log = "1: (07) r0 += 1                       ; R0=0x7a115\n" * 1_000_000
    log += "1: (07) r0 += 1\nBPF program is too large. Processed 1000001 insn\n" + STATS
    assert summary(log) == "1: (07) r0 += 1\nBPF program is too large. Processed 1000001 insn"


def test_said_something() -> None:
    """Statistics alone are not a verdict of the verifier."""
    assert not said_something("")
    assert not said_something("\n" + STATS)
    assert not said_something("verification time 3 usec\nstack depth 0+0\n" + STATS)
    assert said_something("unreachable insn 2\n" + STATS)

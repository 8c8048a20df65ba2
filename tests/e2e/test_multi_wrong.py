"""Wrong multi programs: one error that names the program, the instruction and the source line."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import pybpf
from pybpf.features import Feature
from tests.support.require import facts

ROOT = Path(__file__).resolve().parents[2]
OBJECT = ROOT / "tests/data/multi_wrong.bpf.o"
SOURCE = OBJECT.with_suffix(".c")
FUNCTIONS = [f"bpf_fentry_test{n}" for n in (3, 4)]  # of three slots and more
UNPROVED = [
    ("moves_ctx", "sum += ctx[which];", "arithmetic on the context pointer"),
    ("keeps_ctx", "kept = ctx;", "stores the context pointer away"),
    (
        "copies_ctx",
        "bpf_map_update_elem(&values, &zero, ctx, 0);",
        "passes the context to bpf_map_update_elem",
    ),
]
WAYS = [
    pytest.param("trampoline", "direct", marks=pytest.mark.needs(Feature.FENTRY)),
    pytest.param("trampoline", "frame", marks=pytest.mark.needs(Feature.FENTRY)),
    pytest.param("tracing_multi", "auto", marks=pytest.mark.needs(Feature.TRACING_MULTI)),
    pytest.param("kprobe_multi", "auto", marks=pytest.mark.needs(Feature.KPROBE_MULTI)),
    pytest.param("kprobe", "auto", marks=pytest.mark.needs(Feature.KPROBE)),
]


@pytest.fixture
def obj() -> Iterator[pybpf.Object]:
    with pybpf.open(OBJECT, facts=facts()) as opened:
        yield opened


def place(text: str) -> str:
    """file:line of a line of the source."""
    lines = SOURCE.read_text().splitlines()
    (number,) = [n for n, line in enumerate(lines, 1) if line.strip() == text]
    return f"{SOURCE.name}:{number}"


def is_exact(message: str, program: str, text: str, why: str) -> bool:
    number = r"instruction \d+: .+"
    where = re.escape(f"({place(text)}: {text})")
    return bool(re.search(rf"program '{program}': {number}{where}: .*{re.escape(why)}", message))


@pytest.mark.needs(Feature.KPROBE)
@pytest.mark.parametrize(("program", "text", "why"), UNPROVED)
def test_what_cannot_be_proved_is_one_error(
    obj: pybpf.Object, program: str, text: str, why: str
) -> None:
    """attach_multi: before anything is loaded, with instruction, source line and reason."""
    with pytest.raises(pybpf.PlanError) as caught:
        obj.programs[program].attach_multi(FUNCTIONS)
    message = str(caught.value)
    assert is_exact(message, program, text, why), message
    assert "\n" not in message


@pytest.mark.long
@pytest.mark.needs(Feature.KPROBE)
@pytest.mark.parametrize(("program", "text", "why"), UNPROVED[:1])
def test_and_one_line_of_the_tool(program: str, text: str, why: str) -> None:
    """`trampolines.py plan`: the same, exit status 1."""
    done = subprocess.run(
        [sys.executable, "tools/trampolines.py", "plan", "--object", str(OBJECT)]
        + ["--program", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert is_exact(done.stderr, program, text, why), done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.long
@pytest.mark.parametrize(("mechanism", "lowering"), WAYS)
def test_source_lines_of_the_verifier_log_stay_right(
    obj: pybpf.Object, mechanism: str, lowering: str
) -> None:
    """Rewritten by each lowering, then refused: above the guilty instruction is its own line."""
    with pytest.raises(pybpf.VerifierError) as caught:
        obj.programs["out_of_bounds"].attach_multi(
            FUNCTIONS, mechanism=mechanism, lowering=lowering
        )
    assert caught.value.program == "out_of_bounds"
    log = caught.value.log.splitlines()
    guilty = next(n for n, line in enumerate(log) if line.startswith("invalid access to map value"))
    line = next(line for line in reversed(log[:guilty]) if line.startswith("; "))
    text = "v->slot[ctx[2] & 7] = bpf_get_func_ip(ctx);"
    assert line.removeprefix("; ").startswith(text), "\n".join(log[-12:])
    if "@" in line:  # newer kernels add the place
        assert line.endswith(f"@ {place(text)}")
    # So are the lines before it, in their order.
    said = [one.removeprefix("; ").partition(" @ ")[0] for one in log if one.startswith("; ")]
    wanted = ["if (!v)", "v->slot[0] = ctx[0];", "v->slot[1] = ctx[1];", text]
    assert [one for one in dict.fromkeys(said) if one in wanted] == wanted

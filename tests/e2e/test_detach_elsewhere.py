"""`detach(wait=False)`: a process that ends at once, and links that another one closes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pybpf._sys import bpf as sys_bpf
from pybpf.features import Feature
from tests.support.trampolines import images, verify

pytestmark = pytest.mark.first_on("6.12")

ROOT = Path(__file__).resolve().parents[2]

# Attaches clones, leaves their links to another process, says which and ends.
TRACER = """
import json, os
import pybpf
import pytest

from pybpf._sys import bpf as sys_bpf
from pybpf.features import Feature
from pybpf.multi import link as multi_link
from tests.support.leaks import bpf_descriptors
multi_link._QUICK_S = 0  # 7.x needs less than a second
with pybpf.open("tests/data/multi.bpf.o") as obj:
    link = obj.programs["on_entry"].attach_multi("vfs_*", mechanism="trampoline")
    ids = [one.id for one in link.links]
    link.detach(wait=False)
    still = sorted(set(ids) & set(sys_bpf.ids("link")))
    ours = [what for _, what in bpf_descriptors() if what == "bpf_link"]
    print(json.dumps({"ids": ids, "still": still, "closing": link.closing, "ours": ours}))
"""


def links_now() -> set[int]:
    return set(sys_bpf.ids("link"))


@pytest.mark.needs(Feature.FENTRY)
def test_links_outlive_the_process_until_they_are_closed() -> None:
    """Links are still there when detach has returned; then they go, and nothing is left."""
    done = subprocess.run(
        [sys.executable, "-c", TRACER], cwd=ROOT, capture_output=True, text=True, check=True
    )
    said = json.loads(done.stdout)
    assert said["ours"] == [] and len(said["ids"]) > 40 and said["closing"] > 0
    assert said["still"], "it waited for the end"
    assert done.stderr == "", "nobody has to wait, so nobody is warned"
    while links_now() & set(said["ids"]):
        time.sleep(0.2)
    while Path(f"/proc/{said['closing']}").exists():
        time.sleep(0.2)
    assert verify() == []
    while any(one.function.startswith("vfs_") for one in images()):  # images go by RCU tasks
        time.sleep(0.2)

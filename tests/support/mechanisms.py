"""The mechanisms of multi programs, each with the feature it needs: for parameters of tests."""

from __future__ import annotations

import pytest

from pybpf.features import Feature
from tests.support.require import probes

__all__ = ["MECHANISMS", "NEEDS", "supported"]

NEEDS = {
    "tracing_multi": Feature.TRACING_MULTI,
    "trampoline": Feature.FENTRY,
    "kprobe_multi": Feature.KPROBE_MULTI,
    "kprobe": Feature.KPROBE,
}
#: Parameters. A test is skipped, or fails, where a row lacks the feature (`require`).
MECHANISMS = [
    pytest.param(name, marks=pytest.mark.needs(feature)) for name, feature in NEEDS.items()
]


def supported() -> list[str]:
    """List the mechanisms that this kernel has, in the order of `NEEDS`."""
    return [name for name, feature in NEEDS.items() if probes().supports(feature)]

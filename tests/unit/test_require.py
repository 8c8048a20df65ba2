"""The skip policy: what may be skipped where."""

from __future__ import annotations

import pytest

from pybpf.features import Answer, Feature, Support
from tests.support.require import judge

YES = Answer(Support.SUPPORTED)
NO = Answer(Support.UNSUPPORTED, "EINVAL")
DENIED = Answer(Support.DENIED, "EPERM")


@pytest.mark.parametrize(
    ("row", "feature", "answer", "outcome"),
    [
        ("host", Feature.FENTRY, YES, None),
        ("host", Feature.FENTRY, NO, "skip"),
        ("host", Feature.FENTRY, DENIED, "skip"),
        ("6.1", Feature.KPROBE_MULTI, NO, "skip"),  # the row's table says so
        ("6.1", Feature.KPROBE_MULTI, DENIED, "fail"),
        ("6.1", Feature.FENTRY, NO, "fail"),
        ("latest", Feature.TRACING_MULTI, NO, "fail"),
        ("latest", Feature.TRACING_MULTI, YES, None),
    ],
)
def test_only_known_gaps_are_skipped_in_a_row(
    row: str, feature: Feature, answer: Answer, outcome: str | None
) -> None:
    """A row may lack what rows.json names and nothing else; the host may lack anything."""
    verdict = judge(row, feature, answer)
    assert (verdict and verdict[0]) == outcome
    if verdict:
        assert feature.value in verdict[1]
        assert answer.why in verdict[1]

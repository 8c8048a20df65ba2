"""What a test may do without: the one place that decides between skip and failure.

On the host a missing feature skips, be it that the kernel has none or that policy denies it.  In a
guest nothing is left to chance: denied is a failure always, unsupported is one unless
vagrant/rows.json says that the row lacks it. So a probe that wrongly answers "no" cannot turn a row
green.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import pytest

from pybpf.features import Answer, Feature, Support
from tests.support import rows

if TYPE_CHECKING:
    from pybpf.kernel.host import Facts
    from pybpf.kernel.probes import ProbeCache

__all__ = ["facts", "judge", "probes", "require"]


@functools.cache
def facts() -> Facts:
    """What is known of the running kernel, found out once in a session."""
    from pybpf.kernel.host import Facts

    return Facts.read()


def probes() -> ProbeCache:
    """Answers about the running kernel, each asked for once in a session."""
    return facts().probes


def require(*features: Feature | str) -> None:
    """Go on if the kernel has them all; skip or fail as the row's table says."""
    for feature in map(Feature, features):
        verdict = judge(rows.current(), feature, probes().answer(feature))
        if verdict is not None:
            outcome, text = verdict
            if outcome == "skip":
                pytest.skip(text)
            pytest.fail(text, pytrace=False)


def judge(row: str, feature: Feature, answer: Answer) -> tuple[str, str] | None:
    """None to go on, else ("skip" or "fail", why)."""
    if answer.ok:
        return None
    text = f"{feature.value} is {answer.support.value} on {row}: {answer.why}"
    if row == rows.HOST:
        return "skip", text
    if answer.support is Support.UNSUPPORTED and feature.value in rows.lacks(row):
        return "skip", text
    return "fail", f"{text} (vagrant/rows.json does not say so)"

"""Decide between skip and failure if a test lacks a feature. All of it is here.

On the host a missing feature is a skip, whether the kernel lacks it or a policy denies it. In a
guest, denied is always a failure. Unsupported is a failure unless
vagrant/rows.json says that the row lacks the feature. So a probe that wrongly answers "no" cannot
make a row pass.
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
    """Return the facts of the running kernel, read once per session."""
    from pybpf.kernel.host import Facts

    return Facts.read()


def probes() -> ProbeCache:
    """Return the probes of the running kernel. Each runs once per session."""
    return facts().probes


def require(*features: Feature | str) -> None:
    """Do nothing if the kernel has them all. Otherwise skip or fail as the row's table says."""
    for feature in map(Feature, features):
        verdict = judge(rows.current(), feature, probes().answer(feature))
        if verdict is not None:
            outcome, text = verdict
            if outcome == "skip":
                pytest.skip(text)
            pytest.fail(text, pytrace=False)


def judge(row: str, feature: Feature, answer: Answer) -> tuple[str, str] | None:
    """Return None if the test can run, otherwise ("skip" or "fail", why)."""
    if answer.ok:
        return None
    text = f"{feature.value} is {answer.support.value} on {row}: {answer.why}"
    if row == rows.HOST:
        return "skip", text
    if answer.support is Support.UNSUPPORTED and feature.value in rows.lacks(row):
        return "skip", text
    return "fail", f"{text} (vagrant/rows.json does not say so)"

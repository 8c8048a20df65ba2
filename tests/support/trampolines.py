"""Images and links of the running kernel, with facts read once, for tests that ask often."""

from __future__ import annotations

from functools import partial

from pybpf import trampoline
from pybpf.trampoline import verify as checks
from tests.support.require import facts

__all__ = ["image_of", "images", "survey", "verify"]

SETTLE = 60.0  # seconds

image_of = partial(trampoline.image_of, facts=facts())
images = partial(trampoline.images, facts=facts())
# An image is freed some time after its last link. A slow guest took more than ten seconds.
survey = partial(checks.survey, facts=facts(), timeout=SETTLE)
verify = partial(checks.verify, facts=facts(), timeout=SETTLE)

"""Images and links of the running kernel, for tests that ask often: with facts read once."""

from __future__ import annotations

from functools import partial

from pybpf import trampoline
from pybpf.trampoline import verify as checks
from tests.support.require import facts

__all__ = ["image_of", "images", "survey", "verify"]


image_of = partial(trampoline.image_of, facts=facts())
images = partial(trampoline.images, facts=facts())
survey = partial(checks.survey, facts=facts())
verify = partial(checks.verify, facts=facts())

"""Images and links of the running kernel, for tests that ask often: its BTF is read once."""

from __future__ import annotations

from functools import partial

from pybpf import trampoline
from pybpf.kernel.btf import KernelBtf
from pybpf.trampoline import verify as checks
from tests.support.require import facts

__all__ = ["image_of", "images", "survey", "verify"]


def _btf() -> KernelBtf:
    btf = facts().btf
    assert isinstance(btf, KernelBtf)
    return btf


image_of = partial(trampoline.image_of, btf=_btf())
images = partial(trampoline.images, btf=_btf())
survey = partial(checks.survey, btf=_btf())
verify = partial(checks.verify, btf=_btf())

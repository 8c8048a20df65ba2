"""Static twins of functions: the same FUNC again, with static linkage.

The verifier checks a function with global linkage on its own, using only its BTF
prototype. A body that a new main function calls with a frame must be
checked with the frame it is really called with, so it needs a FUNC with static
linkage. The original FUNC stays, for the new main function.
"""

from __future__ import annotations

from .decode import Btf
from .encode import Editor
from .types import Func, Linkage

__all__ = ["add_static_twins"]


def add_static_twins(blob: bytes) -> tuple[bytes, dict[int, int]]:
    """Append a static FUNC for every FUNC of an object's BTF.

    :param blob: raw BTF, fit for BPF_BTF_LOAD
    :returns: the new BTF, and id of a FUNC -> id of its twin
    :raises ObjectFormatError: if the blob is malformed
    """
    btf = Btf(blob)
    editor = Editor(btf)
    twins = {
        type_id: editor.add(Func(name, proto, Linkage.STATIC))
        for type_id, name, proto in list(btf.funcs())
    }
    return editor.build(), twins

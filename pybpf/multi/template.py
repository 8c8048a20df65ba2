"""`Template`: a multi program before it is fitted to functions, made from a linked program."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Mapping
from functools import cached_property

from ..asm import decode
from ..asm.edit import Code, edit
from ..btf import Btf
from ..dataclass import dataclass, field, replace
from ..errors import PlanError
from ..obj.linker import LinkedProgram
from . import guard, rewrite
from .traits import CtxHelper, Hook, Traits, analyse
from .variant import Lowering, Variant

__all__ = ["Template", "make_template", "pack_info"]

_KFUNC = re.compile(r"kfunc '(bpf_session_\w+)'").fullmatch
_FUNC = struct.Struct("<II")  # struct bpf_func_info: insn_off (slots), type_id
_LINE = struct.Struct("<IIII")  # struct bpf_line_info: insn_off, file_name_off, line_off, line_col


@dataclass(frozen=True)
class Template:
    """Hold a multi program before it is fitted to functions.

    :param code: linked instructions with func_info and line_info
    :param kfuncs: slot of a kfunc call -> kfunc name
    :param source: slot -> ``file:line: text`` for messages
    :param static: BTF id of a FUNC -> id of its twin with static linkage
    """

    name: str
    code: Code
    hook: Hook
    sleepable: bool = False
    kfuncs: Mapping[int, str] = field(default_factory=dict)
    source: Mapping[int, str] = field(default_factory=dict)
    static: Callable[[int], int] = field(default=lambda type_id: type_id, compare=False)
    #: Call number of a session kfunc in `code` -> its name.
    session_calls: Mapping[int, str] = field(default_factory=dict)
    #: Slot of any kfunc's call -> arguments it takes.
    kfunc_args: Mapping[int, int] = field(default_factory=dict)
    #: Slot of any kfunc's call -> its name.
    kfunc_names: Mapping[int, str] = field(default_factory=dict)
    #: Numbers of the maps whose look-ups the verifier inlines.
    arrays: frozenset[int] = frozenset()

    # Variants made from it so far, by what they were made for.
    _variants: dict[tuple[object, ...], Variant] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    _halves: dict[bool, Template] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def variant(
        self, lowering: Lowering, make: Callable[[], Code], *key: object, scalars: bool = False
    ) -> Variant:
        """Return the variant of a lowering, made once.

        :param make: rewrites the code
        :param key: what the rewritten code depends on
        :raises PlanError: if a jump becomes too far for its instruction
        """
        full = (lowering.value, scalars, *key)
        variant = self._variants.get(full)
        if variant is None:
            code = self._rewritten(make)
            variant = self._variants[full] = Variant.of(lowering, code, scalars=scalars)
        return variant

    def _rewritten(self, make: Callable[[], Code]) -> Code:
        try:
            return make()
        except ValueError as error:
            raise PlanError(f"program {self.name!r} is too long to be rewritten: {error}") from None

    def edited(
        self,
        lowering: Lowering,
        edits: Callable[[], rewrite.Edits],
        *key: object,
        scalars: bool = False,
    ) -> Variant:
        """Return the variant that has some instructions replaced, made once.

        Functions of many shapes need the same edits, if a program reads few of their arguments.

        :param edits: says what replaces which instructions
        :param key: what that depends on
        """
        full = ("edited", lowering.value, scalars, *key)
        variant = self._variants.get(full)
        if variant is None:
            new = edits()
            same = tuple([(slot, tuple(insns)) for slot, insns in sorted(new.items())])
            variant = self._variants[full] = self.variant(
                lowering, lambda: edit(self.code, new)[0], same, scalars=scalars
            )
        return variant

    def guarded(self, variant: Variant) -> Variant:
        """Return a variant of this template with the recursion guard around it, made once."""
        full = ("guarded", variant.lowering.value, variant.scalars, variant.digest)
        found = self._variants.get(full)
        if found is None:
            code = self._rewritten(lambda: guard.guarded(variant.code, self.static))
            found = Variant.of(variant.lowering, code, scalars=variant.scalars, guarded=True)
            self._variants[full] = found
        return found

    def half(self, is_return: bool) -> Template:
        """Return the entry or exit half of a session program, made once.

        bpf_session_is_return is folded. At entry bpf_get_func_ret gives 0, as it does in a
        fsession program.
        """
        if is_return not in self._halves:
            self._halves[is_return] = self._half(is_return)
        return self._halves[is_return]

    def _half(self, is_return: bool) -> Template:
        folded = self._folded(is_return)
        if is_return or CtxHelper.get_func_ret not in folded.traits.helpers:
            return folded
        code, places = rewrite.without_return(folded.code, folded.traits)
        return replace(
            folded,
            code=code,
            kfuncs={places[slot]: name for slot, name in folded.kfuncs.items()},
            source={places[slot]: text for slot, text in folded.source.items()},
            kfunc_args={places[slot]: count for slot, count in folded.kfunc_args.items()},
            kfunc_names={places[slot]: name for slot, name in folded.kfunc_names.items()},
        )

    @cached_property
    def reads_ret_at_entry(self) -> bool:
        """Tell whether the entry side of a session reads the return value, which is 0 there."""
        return self._folded(False).traits.needs_ret

    def _folded(self, is_return: bool) -> Template:
        code, kfuncs = rewrite.fold_session(self.code, self.kfuncs, is_return=is_return)
        args = {s: n for s, n in self.kfunc_args.items() if s not in self.kfuncs or s in kfuncs}
        return replace(self, code=code, hook=Hook.SESSION, kfuncs=kfuncs, kfunc_args=args)

    @cached_property
    def traits(self) -> Traits:
        """Prove how the program uses its context, once.

        :raises PlanError: if that is not possible
        """
        return analyse(
            self.code,
            self.hook,
            program=self.name,
            sleepable=self.sleepable,
            source=self.source,
            kfuncs=self.kfuncs,
            kfunc_args=self.kfunc_args,
            kfunc_names=self.kfunc_names,
            arrays=self.arrays,
        )


def make_template(
    linked: LinkedProgram,
    btf: Btf | None,
    *,
    hook: Hook,
    sleepable: bool = False,
    static: Callable[[int], int] = lambda type_id: type_id,
    arrays: frozenset[int] = frozenset(),
) -> Template:
    """Make the `Template` of a linked multi program.

    :param btf: the object's BTF, for source lines in messages
    :param static: BTF id of a FUNC -> id of its twin with static linkage
    :param arrays: numbers of the maps whose look-ups the verifier inlines
    :raises PlanError: if it refers to modules, which variants cannot do
    """
    if linked.btf_fd_refs or linked.kfunc_modules:
        raise PlanError(
            f"program {linked.name!r}: a multi program cannot use kernel modules' kfuncs or symbols"
        )
    insns = tuple(decode(linked.insns))
    funcs = tuple(_FUNC.iter_unpack(linked.func_info))
    lines = tuple(_LINE.iter_unpack(linked.line_info))
    calls = {number: m[1] for number, what in linked.unresolved.items() if (m := _KFUNC(what))}
    kfuncs = {
        slot: calls[insn.imm]
        for slot, insn in enumerate(insns)
        if insn.is_call and insn.src == 0 and insn.imm in calls
    }
    source = {}
    if btf is not None:
        for slot, file_off, line_off, line_col in lines:
            file = btf.string(file_off).rpartition("/")[2]
            source[slot] = f"{file}:{line_col >> 10}: {btf.string(line_off).strip()}"
    return Template(
        linked.name,
        Code(insns, funcs, lines),
        hook,
        sleepable,
        kfuncs,
        source,
        static,
        calls,
        linked.kfunc_args,
        linked.kfunc_names,
        arrays,
    )


def pack_info(code: Code) -> tuple[bytes, bytes]:
    """Pack the func_info and line_info records of a code for BPF_PROG_LOAD."""
    return (
        b"".join(_FUNC.pack(*row) for row in code.func_info),
        b"".join(_LINE.pack(*row) for row in code.line_info),
    )

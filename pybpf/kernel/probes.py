"""Ask the kernel what it can do, with one small experiment per feature.

Versions are never asked. Distributions switch features off (Debian's 6.1 has the code of
kprobe.multi but no CONFIG_FPROBE) and backport others.

Each experiment (`pybpf.kernel.experiments`) has three outcomes. EPERM, and EACCES without a
verifier log, mean that a policy refused. The answer is DENIED and is not remembered, because
rights change. Errors that say nothing about the feature (no memory, no descriptors) are raised.
Everything else is a certain yes or no, and the `ProbeCache` that asked remembers it.
"""

from __future__ import annotations

import errno
import weakref
from functools import cached_property

from .._sys.token import make_token
from .._uapi.defines import ENOTSUPP
from ..btf import Btf, BtfKind
from ..btf import types as bt
from ..errors import BpfError, DeniedByPolicy, UnsupportedFeature, VerifierError
from ..features import Answer, Feature, FeatureSet, Support
from .experiments import EXPERIMENTS, reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from .._sys.fd import Fd

    class BtfSource(Protocol):
        """Give the kernel's types."""

        def get(self, name: str) -> Btf | None:
            """Return the BTF of a module, "" for the kernel itself. None if it has none."""

        def find(self, name: str, kind: int) -> int | None:
            """Find the lowest id of the kernel's own types with a name and kind.

            :raises UnsupportedFeature: if the kernel has no BTF
            """


__all__ = ["ProbeCache"]

# Answers of a kernel to a command, type, flag or attribute that it does not have.
_NO = frozenset(
    {
        errno.EINVAL,
        errno.EOPNOTSUPP,
        errno.ENOSYS,
        errno.E2BIG,
        errno.ENOENT,
        errno.ESRCH,
        errno.ENODEV,
        ENOTSUPP,
    }
)
_POLICY = frozenset({errno.EPERM, errno.EACCES})


class ProbeCache:
    """Answer questions about one kernel. Each probe runs on demand; certain answers are kept.

    :param btf: the kernel's types
    :param known: answers already known, e.g. saved ones
    :param can_ask: False if the kernel in question is not the running one;
        what is not known then counts as unsupported
    """

    def __init__(
        self,
        btf: BtfSource,
        *,
        known: FeatureSet | None = None,
        can_ask: bool = True,
    ) -> None:
        self._btf = btf
        self._known: dict[Feature, Answer] = dict(known or {})
        self._can_ask = can_ask
        self._token: Fd | None = None
        # Type ids that experiments asked for, None for those that there are not.
        self._ids: dict[tuple[str, int], int | None] = {}
        #: Probes that `all` could not finish, with the reasons.
        self.inconclusive: dict[Feature, str] = {}

    @property
    def token_fd(self) -> int:
        """Return the descriptor of the BPF token that experiments use, 0 for none."""
        token = self._token
        if token is None or token.closed:
            token = self._usual_token
        return 0 if token is None else token.fileno()

    @cached_property
    def _usual_token(self) -> Fd | None:
        # That of the usual places, which objects are loaded with, too.
        try:
            token = make_token(None)
        except BpfError:
            return None  # loading an object will tell
        if token is not None:
            weakref.finalize(self, token.close)
        return token

    def use_token(self, token: Fd) -> None:
        """Ask with this BPF token as long as it is open. What was denied is asked again.

        :param token: it still belongs to the caller
        """
        self._token = token

    def answer(self, feature: Feature) -> Answer:
        """Return what the kernel says about `feature`.

        :raises BpfError: if the experiment failed for a reason that says
            nothing about the feature (out of memory or descriptors)
        """
        found = self._known.get(feature)
        if found is not None:
            return found
        if not self._can_ask:
            return Answer(Support.UNSUPPORTED, "not among the saved answers")
        found = self._ask(feature)
        if found.support is not Support.DENIED:
            self._known[feature] = found
        return found

    def supports(self, feature: Feature) -> bool:
        """Return True only if the kernel proved it.

        :raises BpfError: as `answer` does
        """
        return self.answer(feature).ok

    def require(self, feature: Feature) -> None:
        """Do nothing if the kernel has the feature; otherwise raise an error.

        :raises UnsupportedFeature: if the kernel lacks it
        :raises DeniedByPolicy: if a policy kept the probe from finding out
        """
        FeatureSet({feature: self.answer(feature)}).require(feature)

    def some(self, *features: Feature) -> FeatureSet:
        """Return the answers about these features."""
        return FeatureSet({feature: self.answer(feature) for feature in features})

    def all(self) -> FeatureSet:
        """Return the answers about every feature. Inconclusive ones are missing.

        `inconclusive` has the reasons for the missing ones.
        """
        answers = {}
        for feature in Feature:
            try:
                answers[feature] = self.answer(feature)
            except BpfError as error:
                self.inconclusive[feature] = str(error)
        return FeatureSet(answers)

    # -- running an experiment ---------------------------------------------

    def _ask(self, feature: Feature) -> Answer:
        try:
            why = EXPERIMENTS[feature](self)
        except UnsupportedFeature as error:
            return _no(error.hint or error.name, 0)
        except VerifierError as error:
            line = error.log.strip().splitlines()[-1:] or [str(error)]
            return _no(f"verifier: {(error.summary or line[0]).strip()}", error.errno)
        except DeniedByPolicy as error:
            return Answer(Support.DENIED, reason(error), error.errno or errno.EPERM)
        except BpfError as error:
            if error.errno in _POLICY:
                return Answer(Support.DENIED, reason(error), error.errno or 0)
            if error.errno in _NO:
                return _no(reason(error), error.errno or 0)
            raise
        return Answer(Support.SUPPORTED, why or "")

    def needs(self, feature: Feature) -> None:
        """Require another feature that an experiment builds on."""
        self.require(feature)

    def set_known(self, feature: Feature, answer: Answer) -> None:
        """Record an answer about another feature that an experiment learned on the way."""
        self._known.setdefault(feature, answer)

    def type_id(self, name: str, kind: BtfKind = BtfKind.FUNC) -> int:
        """Return the id of a kernel type by name."""
        found = self._find(name, kind)
        if found is None:
            raise UnsupportedFeature(name, hint=f"no {name} in BTF")
        return found

    def has_type(self, name: str, kind: BtfKind = BtfKind.FUNC) -> bool:
        try:
            return self._find(name, kind) is not None
        except UnsupportedFeature:
            return False

    def _find(self, name: str, kind: BtfKind) -> int | None:
        # Several experiments ask for the same few names, and a search takes a millisecond.
        key = (name, int(kind))
        if key not in self._ids:
            self._ids[key] = self._btf.find(name, kind)
        return self._ids[key]

    def has_member(self, struct: str, member: str) -> bool:
        """Tell whether the kernel has a structure with a member of that name."""
        btf = self._btf.get("")
        found = None if btf is None else btf.find(struct, BtfKind.STRUCT)
        if btf is None or found is None:
            return False
        kind = btf.type(found)
        return isinstance(kind, bt.Struct) and any(one.name == member for one in kind.members)


def _no(why: str, number: int | None) -> Answer:
    return Answer(Support.UNSUPPORTED, why.partition("\n")[0][:200], number or 0)

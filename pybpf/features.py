"""What a kernel can do: features, the three answers of a probe, and a set of answers.

Nothing here asks the kernel; `pybpf.kernel.probes` does. Decisions compare
answers, never versions. `Feature.since` is for messages, and for tests that
must notice a probe that wrongly says "unsupported" on a newer kernel.
"""

from __future__ import annotations

import errno as _errno
import re
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum

from .dataclass import dataclass
from .errors import DeniedByPolicy, UnsupportedFeature

__all__ = ["Answer", "Feature", "FeatureSet", "Support", "guess", "new_enough", "shortfall"]

_DIRECT = "CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS"
_BTF = "CONFIG_DEBUG_INFO_BTF"


class Support(Enum):
    """Give one of the three answers of a probe."""

    SUPPORTED = "supported"
    UNSUPPORTED = "unsupported"
    #: The kernel may have it, but a policy (capability, lockdown, sysctl,
    #: LSM) said EPERM or EACCES. So neither "yes" nor "no" is known.
    DENIED = "denied"


class Feature(Enum):
    """Name one thing a kernel may be able to do.

    ``.value`` is the name used in tables and JSON. ``.since`` is the first
    mainline release that has it ("" if not known). ``.what`` describes it in one line.
    ``.config`` is the kernel option it needs, "" if every kernel with BPF has it.
    """

    since: str
    what: str
    config: str

    def __new__(cls, label: str, since: str, what: str, config: str = "") -> Feature:
        self = object.__new__(cls)
        self._value_ = label
        self.since = since
        self.what = what
        self.config = config
        return self

    # Programs entered through a BPF trampoline.
    FENTRY = "fentry", "5.5", "fentry programs load and attach (BPF trampolines work)", _DIRECT
    FEXIT = "fexit", "5.5", "fexit programs load", _DIRECT
    FMOD_RET = "fmod_ret", "5.7", "programs that replace a function's return value", _DIRECT
    FSESSION = "fsession", "7.0", "one program at both entry and exit of a function", _DIRECT
    SLEEPABLE = "fentry.s", "5.10", "fentry and fexit programs that may sleep", _DIRECT
    TRACING_COOKIE = "fentry.cookie", "5.19", "cookies on trampoline links", _DIRECT
    TRACING_TEST_RUN = "fentry.test_run", "5.7", "BPF_PROG_TEST_RUN of fentry and fexit programs"
    LSM = "lsm", "5.7", "programs on LSM hooks", "CONFIG_BPF_LSM"
    # One link for many functions.
    TRACING_MULTI = (
        "tracing_multi",
        "7.2",
        "fentry.multi, fexit.multi and fsession.multi links",
        _DIRECT,
    )
    TRACING_MULTI_INFO = (
        "tracing_multi.info",
        "7.3",
        "info of a tracing_multi link names functions",
    )
    KPROBE_MULTI = (
        "kprobe.multi",
        "5.18",
        "kprobe.multi links (need CONFIG_FPROBE)",
        "CONFIG_FPROBE",
    )
    KPROBE_SESSION = (
        "kprobe.session",
        "6.10",
        "kprobe.multi link with entry and exit in one program",
        "CONFIG_FPROBE",
    )
    UPROBE_MULTI = "uprobe.multi", "6.6", "uprobe.multi links", "CONFIG_UPROBES"
    UPROBE_SESSION = (
        "uprobe.session",
        "6.13",
        "uprobe.multi link with entry and return in one program",
        "CONFIG_UPROBES",
    )
    # Other ways in.
    KPROBE = "kprobe", "4.17", "kprobes through perf_event_open", "CONFIG_KPROBE_EVENTS"
    PERF_LINK_COOKIE = "perf.cookie", "5.15", "BPF links with cookies on perf events (kprobe, ...)"
    RAW_TP = "raw_tp", "4.17", "raw tracepoint programs", "CONFIG_BPF_EVENTS"
    RAW_TP_COOKIE = "raw_tp.cookie", "6.10", "cookies on raw tracepoints and tp_btf"
    TP_BTF = "tp_btf", "5.5", "BTF-typed raw tracepoint programs", _BTF
    ITER = "iter", "5.8", "BPF iterator programs", _BTF
    SYSCALL = "syscall", "5.14", "programs run on demand in process context"
    TCX = "tcx", "6.6", "links on the traffic of a network interface", "CONFIG_NET_XGRESS"
    NETKIT = "netkit", "6.7", "links on netkit interfaces (need CONFIG_NETKIT)", "CONFIG_NETKIT"
    NETFILTER = "netfilter", "6.4", "links on netfilter hooks", "CONFIG_NETFILTER_BPF_LINK"
    SOCKMAP_LINK = "sockmap.link", "6.10", "links on maps of sockets"
    STRUCT_OPS_LINK = "struct_ops.link", "6.4", "links of struct_ops maps"
    RAW_TP_TEST_RUN = "raw_tp.test_run", "5.10", "BPF_PROG_TEST_RUN of raw tracepoint programs"
    # Helpers and calls.
    GET_FUNC_IP = "bpf_get_func_ip", "5.15", "address of the traced function, in kprobe programs"
    FUNC_ARG_HELPERS = "bpf_get_func_arg", "5.17", "bpf_get_func_arg, _ret and _arg_cnt"
    ATTACH_COOKIE = "bpf_get_attach_cookie", "5.15", "a program can read its link's cookie"
    BRANCH_SNAPSHOT = (
        "bpf_get_branch_snapshot",
        "5.16",
        "programs can read last branch records",
    )
    PROBE_READ_KERNEL = (
        "bpf_probe_read_kernel",
        "5.5",
        "programs can read kernel memory that may fault",
    )
    KFUNC = "kfunc", "5.18", "tracing programs may call kernel functions", _BTF
    # Maps.
    RINGBUF = "ringbuf", "5.8", "BPF ring buffer maps"
    USER_RINGBUF = "user_ringbuf", "6.1", "ring buffer maps that user space writes"
    ARENA = "arena", "6.9", "memory that programs and user space share by address"
    MMAPABLE_ARRAY = "array.mmap", "5.5", "array maps that user space can mmap"
    BATCH_HASH = "batch.hash", "5.6", "batch commands on hash maps"
    BATCH_LRU_HASH = "batch.lru_hash", "5.6", "batch commands on LRU hash maps"
    BATCH_PERCPU_HASH = "batch.percpu_hash", "5.6", "batch commands on per-CPU hash maps"
    BATCH_ARRAY = "batch.array", "5.6", "batch commands on array maps"
    BATCH_PERCPU_ARRAY = "batch.percpu_array", "5.13", "batch commands on per-CPU array maps"
    BATCH_LPM_TRIE = "batch.lpm_trie", "5.6", "batch commands on LPM tries"
    # BTF.
    VMLINUX_BTF = "btf.vmlinux", "5.4", "the kernel describes its own types", _BTF
    MODULE_BTF = (
        "btf.module",
        "5.11",
        "modules describe their types; BTF objects have names",
        "CONFIG_DEBUG_INFO_BTF_MODULES",
    )
    BTF_FUNC = "btf.func", "5.0", "BTF_KIND_FUNC in a program's BTF"
    BTF_DATASEC = "btf.datasec", "5.2", "BTF_KIND_VAR and BTF_KIND_DATASEC"
    BTF_FUNC_GLOBAL = "btf.func_global", "5.6", "global linkage of BTF functions"
    BTF_FLOAT = "btf.float", "5.13", "BTF_KIND_FLOAT"
    BTF_DECL_TAG = "btf.decl_tag", "5.16", "BTF_KIND_DECL_TAG"
    BTF_TYPE_TAG = "btf.type_tag", "5.17", "BTF_KIND_TYPE_TAG"
    BTF_ENUM64 = "btf.enum64", "6.0", "BTF_KIND_ENUM64"
    BTF_QMARK_DATASEC = "btf.qmark_datasec", "6.9", "names of data sections that start with '?'"
    # The rest.
    BPF_TOKEN = "token", "6.9", "delegation of BPF through a token of a bpffs"


@dataclass(frozen=True, slots=True)
class Answer:
    """Hold what one probe found.

    :param support: the answer
    :param why: the evidence in a few words, e.g. ``BPF_LINK_CREATE: EOPNOTSUPP``
    :param errno: positive errno behind the answer, 0 if there is none
    """

    support: Support
    why: str = ""
    errno: int = 0

    @property
    def ok(self) -> bool:
        return self.support is Support.SUPPORTED


def new_enough(release: str, since: str) -> bool | None:
    """Tell whether a kernel release is that version or a later one. For messages only.

    :param release: ``uname -r``, e.g. ``6.12.48+deb13-amd64``
    :param since: ``MAJOR.MINOR``
    :returns: None if one of them is not known
    """
    found = [re.match(r"(\d+)\.(\d+)", text, re.ASCII) for text in (release, since)]
    if None in found:
        return None
    mine, needed = ([int(part) for part in match.groups()] for match in found if match)
    return mine >= needed


def guess(feature: Feature, answer: Answer, release: str) -> str:
    """Say what a kernel perhaps lacks that is new enough for a feature and does not have it.

    :param answer: what the probe found
    :param release: ``uname -r`` of that kernel
    :returns: "" if the kernel is too old, if that is not known, or if the evidence says enough
    """
    if answer.support is not Support.UNSUPPORTED or not new_enough(release, feature.since):
        return ""
    if "CONFIG_" in answer.why:
        return ""
    if not feature.config:
        return "the reason is not known"
    return f"perhaps built without {feature.config}"


def shortfall(feature: Feature, answer: Answer | None, release: str) -> str:
    """Say what a kernel lacks that does not have a feature: the version, or what else is known.

    :param answer: what the probe found, None if it was not asked
    :param release: ``uname -r`` of that kernel, "" if it is not known
    """
    enough = new_enough(release, feature.since)
    if enough is None or answer is None:
        return f"in Linux since {feature.since}"
    if not enough:
        return f"{feature.since} and newer, this is {release}"
    lacks = guess(feature, answer, release)
    text = f"{release} is new enough ({feature.since}){', ' if lacks else ''}{lacks}"
    return f"{text}: {answer.why}" if answer.why else text


class FeatureSet(Mapping[Feature, Answer]):
    """Hold answers by feature. It is an immutable value, so plans made from it can be compared.

    A feature that was not probed is not in the set; `supports` returns False for it.
    """

    __slots__ = ("_answers",)

    def __init__(self, answers: Mapping[Feature, Answer] | Iterable[Feature] = ()) -> None:
        self._answers: dict[Feature, Answer]
        if isinstance(answers, Mapping):
            self._answers = dict(answers)
        else:
            self._answers = dict.fromkeys(answers, Answer(Support.SUPPORTED))

    def __getitem__(self, feature: Feature) -> Answer:
        return self._answers[feature]

    def __iter__(self) -> Iterator[Feature]:
        return iter(self._answers)

    def __len__(self) -> int:
        return len(self._answers)

    def __hash__(self) -> int:
        return hash(frozenset(self._answers.items()))

    def __repr__(self) -> str:
        words = ", ".join(f"{f.value}={a.support.value}" for f, a in self._answers.items())
        return f"FeatureSet({words})"

    def supports(self, feature: Feature) -> bool:
        """Return True only if a probe said so."""
        answer = self._answers.get(feature)
        return answer is not None and answer.ok

    def require(self, feature: Feature) -> None:
        """Do nothing if the kernel has the feature; otherwise raise an error.

        :raises UnsupportedFeature: if the kernel lacks it, or it was not probed
        :raises DeniedByPolicy: if a policy kept the probe from finding out
        """
        answer = self._answers.get(feature, Answer(Support.UNSUPPORTED, "not probed"))
        if answer.support is Support.DENIED:
            raise DeniedByPolicy(answer.errno or _errno.EPERM, feature.value, answer.why)
        if not answer.ok:
            raise UnsupportedFeature(feature.value, feature.since, answer.why)

    def without(self, *features: Feature) -> FeatureSet:
        """Return the same set with some features marked as unsupported."""
        gone = Answer(Support.UNSUPPORTED, "left out on purpose")
        return FeatureSet({**self._answers, **dict.fromkeys(features, gone)})

    def to_json(self) -> dict[str, dict[str, object]]:
        """Return plain values: ``{name: {"support", "since", "why", "errno"}}``."""
        return {
            feature.value: {
                "support": answer.support.value,
                "since": feature.since,
                "why": answer.why,
                "errno": answer.errno,
            }
            for feature, answer in self._answers.items()
        }

    @classmethod
    def from_json(cls, data: object) -> FeatureSet:
        """Read what `to_json` gave. Names that this version does not know are skipped.

        :raises ValueError: if `data` has another shape
        """
        if not isinstance(data, dict):
            raise ValueError("features: must be a JSON object")
        known = {feature.value: feature for feature in Feature}
        answers: dict[Feature, Answer] = {}
        for label, entry in data.items():
            if not isinstance(entry, dict):
                raise ValueError(f"features: {label!r}: must be a JSON object")
            why, number = entry.get("why", ""), entry.get("errno", 0)
            if not isinstance(why, str) or not isinstance(number, int):
                raise ValueError(f"features: {label!r}: 'why' must be text and 'errno' a number")
            if label in known:
                answers[known[label]] = Answer(Support(entry.get("support")), why, number)
        return cls(answers)

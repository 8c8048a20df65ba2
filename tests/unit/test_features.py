"""The words for what kernels can do: names, sets of answers, JSON."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pybpf.errors import DeniedByPolicy, UnsupportedFeature
from pybpf.features import Answer, Feature, FeatureSet, Support, shortfall

YES = Answer(Support.SUPPORTED)
NO = Answer(Support.UNSUPPORTED, "BPF_LINK_CREATE: EOPNOTSUPP", 95)
DENIED = Answer(Support.DENIED, "lockdown", 1)


def test_every_feature_is_described() -> None:
    """Each has its own name, a release and a line of text."""
    assert len({f.value for f in Feature}) == len(list(Feature))
    for feature in Feature:
        assert re.fullmatch(r"[a-z_0-9.]+", feature.value)
        assert re.fullmatch(r"\d+\.\d+", feature.since)
        assert feature.what


def test_require_raises_what_was_found() -> None:
    """Each answer has its own outcome, and the error carries the evidence."""
    features = FeatureSet({Feature.FENTRY: DENIED, Feature.KPROBE_MULTI: NO, Feature.RINGBUF: YES})
    features.require(Feature.RINGBUF)
    with pytest.raises(DeniedByPolicy, match="lockdown") as denied:
        features.require(Feature.FENTRY)
    assert denied.value.errno == 1
    with pytest.raises(UnsupportedFeature, match=r"kprobe.multi.*5\.18.*EOPNOTSUPP"):
        features.require(Feature.KPROBE_MULTI)
    with pytest.raises(UnsupportedFeature, match="not probed"):
        features.require(Feature.ITER)


@pytest.mark.parametrize(
    ("feature", "answer", "release", "text"),
    [
        (Feature.TRACING_MULTI, NO, "6.18.44-x", "7.2 and newer, this is 6.18.44-x"),
        (
            Feature.KPROBE_MULTI,
            NO,
            "5.18.0",
            "5.18.0 is new enough (5.18), perhaps built without CONFIG_FPROBE: "
            "BPF_LINK_CREATE: EOPNOTSUPP",
        ),
        (
            Feature.KPROBE,
            Answer(Support.UNSUPPORTED, "no CONFIG_KPROBE_EVENTS"),
            "6.18.44",
            "6.18.44 is new enough (4.17): no CONFIG_KPROBE_EVENTS",
        ),
        (
            Feature.RINGBUF,
            Answer(Support.UNSUPPORTED),
            "10.1",
            "10.1 is new enough (5.8), the reason is not known",
        ),
        (Feature.KPROBE_MULTI, NO, "", "in Linux since 5.18"),
        (Feature.KPROBE_MULTI, NO, "odd", "in Linux since 5.18"),
        (Feature.KPROBE_MULTI, None, "6.18", "in Linux since 5.18"),
    ],
)
def test_a_new_kernel_is_not_called_too_old(
    feature: Feature, answer: Answer | None, release: str, text: str
) -> None:
    """To say 5.18 and newer on 6.18 would contradict itself: an option or a right is lacking."""
    assert shortfall(feature, answer, release) == text


def test_only_a_yes_is_a_yes() -> None:
    features = FeatureSet({Feature.FENTRY: DENIED, Feature.KPROBE_MULTI: NO, Feature.RINGBUF: YES})
    assert [f for f in Feature if features.supports(f)] == [Feature.RINGBUF]


def test_taking_a_feature_away_leaves_the_original_alone() -> None:
    whole = FeatureSet([Feature.FENTRY, Feature.FEXIT])
    less = whole.without(Feature.FEXIT)
    assert less.supports(Feature.FENTRY)
    assert not less.supports(Feature.FEXIT)
    assert whole.supports(Feature.FEXIT)
    assert less != whole


def test_a_set_is_a_value() -> None:
    """Equal answers make equal, hashable sets, in whatever order they came."""
    one = FeatureSet({Feature.FENTRY: YES, Feature.KPROBE_MULTI: NO})
    two = FeatureSet({Feature.KPROBE_MULTI: NO, Feature.FENTRY: YES})
    assert one == two
    assert hash(one) == hash(two)
    with pytest.raises(TypeError):
        one[Feature.FENTRY] = NO  # type: ignore[index]


answers = st.builds(Answer, st.sampled_from(Support), st.text(max_size=20), st.integers(0, 600))


@given(st.dictionaries(st.sampled_from(Feature), answers))
def test_json_round_trip(found: dict[Feature, Answer]) -> None:
    """What is saved on one machine is read back whole on another."""
    features = FeatureSet(found)
    assert FeatureSet.from_json(json.loads(json.dumps(features.to_json()))) == features


def test_json_of_a_newer_version() -> None:
    """A feature this version does not know is passed over."""
    data = FeatureSet({Feature.ITER: YES}).to_json()
    data["from.the.future"] = {"support": "supported"}
    assert FeatureSet.from_json(data) == FeatureSet({Feature.ITER: YES})


@pytest.mark.parametrize(
    "data",
    [
        [],
        {"iter": "supported"},
        {"iter": {"support": "maybe"}},
        {"iter": {"support": "supported", "why": 1}},
        {"iter": {"support": "supported", "errno": "1"}},
    ],
)
def test_json_of_another_shape(data: object) -> None:
    with pytest.raises(ValueError):
        FeatureSet.from_json(data)

"""Kprobe events: what is said where the kernel or the machine does not have them."""

from __future__ import annotations

from pathlib import Path

import pytest

from pybpf._sys import perf
from pybpf.errors import UnsupportedFeature


@pytest.mark.parametrize(
    ("directory", "says"),
    [("devices", "CONFIG_KPROBE_EVENTS"), ("nowhere", "mount -t sysfs sysfs /sys")],
)
def test_a_missing_sysfs_is_not_blamed_on_the_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, directory: str, says: str
) -> None:
    (tmp_path / "devices").mkdir()
    monkeypatch.setattr(perf, "_PMUS", str(tmp_path / directory))
    perf.pmu.cache_clear()
    with pytest.raises(UnsupportedFeature) as caught:
        perf.pmu("kprobe")
    assert says in str(caught.value)
    perf.pmu.cache_clear()

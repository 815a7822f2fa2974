# SPDX-License-Identifier: MIT
"""The exporter's cgroups. The kernel's own clocks stand in for the PMU: the same calls."""

import os
from pathlib import Path

import pytest

from guestpv import NoSourceError
from guestpv.agent import cgroups as module
from guestpv.agent.cgroups import CgroupCollector


@pytest.fixture
def collector(cgroups):
    """Collects the cgroups of a name that a test makes, and notes what is said."""
    said, collectors = [], []

    def collect(pattern):
        collectors.append(CgroupCollector([pattern], said.append))
        collectors[-1].said = said
        return collectors[-1]

    yield collect
    for each in collectors:
        each.close()


def pattern_of(group):
    return group.name.rpartition("-")[0] + "-*"


def seconds(collector, family="guestpv_cgroup_stolen_seconds"):
    (found,) = (metric for metric in collector.collect() if metric.name == family)
    return {sample.labels["cgroup"]: sample.value for sample in found.samples}


def left_out(collector):
    *_, found = collector.collect()
    return found.samples[0].value


def test_each_has_what_it_lost(cgroups, collector, spin_in_cgroup):
    busy, idle = cgroups("busy"), cgroups("idle")
    collected = collector(pattern_of(busy))
    assert seconds(collected) == {busy.name: 0, idle.name: 0}
    spin_in_cgroup(busy, 0.2)
    said = seconds(collected)
    assert said[busy.name] >= 0.2
    assert said[idle.name] == 0
    assert seconds(collected, "guestpv_cgroup_unknown_seconds")[busy.name] >= 0.2  # the stand-in's
    assert (left_out(collected), collected.said) == (0, [])


def test_cgroups_that_come_and_go_are_followed(cgroups, collector):
    first = cgroups("first")
    collected = collector(pattern_of(first))
    assert seconds(collected).keys() == {first.name}
    second = cgroups("second")
    first.rmdir()
    files = len(os.listdir("/proc/self/fd"))
    assert seconds(collected).keys() == {second.name}
    assert len(os.listdir("/proc/self/fd")) == files  # one came, and one went


def test_one_that_goes_between_list_and_read_is_left_out(cgroups, collector, monkeypatch):
    group = cgroups("there")
    collected = collector(pattern_of(group))
    monkeypatch.setattr(collected, "_matching", lambda: {group.name, "gone"})
    assert seconds(collected).keys() == {group.name}
    assert left_out(collected) == 1
    assert len(collected.said) == 1  # and not at each scrape
    assert "cgroup" in collected.said[0]


def test_no_more_are_counted_than_was_decided(cgroups, collector, monkeypatch):
    monkeypatch.setattr(module, "MOST", 2)
    names = [cgroups(name).name for name in ("a", "c", "d")]
    collected = collector(names[0].rpartition("-")[0] + "-*")
    assert seconds(collected).keys() == set(names[:2])
    added = cgroups("b")
    assert seconds(collected).keys() == set(names[:2])  # those that are counted stay
    assert added.name not in seconds(collected)
    assert left_out(collected) == 2


def test_nothing_matches(cgroups, collector):
    collected = collector("no-such-slice/*")
    assert seconds(collected) == {}
    assert left_out(collected) == 0


def test_where_there_is_no_cgroup_v2(monkeypatch, tmp_path):
    (tmp_path / "mounts").write_text("proc /proc proc rw 0 0\n")
    monkeypatch.setattr(module, "MOUNTS", tmp_path / "mounts")
    with pytest.raises(NoSourceError, match="No cgroup v2"):
        CgroupCollector(["*"], print)


@pytest.mark.parametrize("pattern", ["", "/system.slice", "../*", "a/../../*"])
def test_patterns_stay_below_the_root(guestpv, pattern):
    done = guestpv("exporter", "--cgroup", pattern)
    assert done.returncode == 2
    assert "below the root" in " ".join(done.stderr.split())


def test_the_service_may_not(guestpv):
    done = guestpv("exporter", "--install", "--root", "/nowhere", "--cgroup", "*")
    assert done.returncode == 2
    assert "as root" in " ".join(done.stderr.split())
    assert not Path("/nowhere").exists()

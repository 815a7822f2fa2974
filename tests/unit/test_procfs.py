# SPDX-License-Identifier: MIT
"""/proc/stat as a source: ticks, named as such, of CPUs that come and go."""

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import guestpv
from guestpv.layout import Origin, State
from guestpv.procfs import ProcfsReader
from guestpv.procstat import TICK_NS, accounts

STEAL = st.integers(0, 2**39)  # ticks: a hundred years and more fit into int64 nanoseconds


def stat_of(steal: dict[int, int]) -> str:
    """/proc/stat of CPUs with so many ticks of steal."""
    lines = [f"cpu{cpu} 11 12 13 14 15 16 17 {ticks} 19 20" for cpu, ticks in steal.items()]
    return "\n".join(["cpu  1 2 3 4 5 6 7 8 9 10", *lines, "intr 17 3 4 5", "ctxt 3", ""])


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """/proc/stat and the list of possible CPUs, as files of a made-up machine."""
    (tmp_path / "possible").write_text("0-2,8\n")
    (tmp_path / "stat").write_text(stat_of({0: 5, 1: 0, 8: 2**33}))
    return tmp_path


def reader_of(machine: Path) -> ProcfsReader:
    return ProcfsReader(str(machine / "stat"), str(machine / "possible"))


def test_ticks_become_nanoseconds(machine: Path) -> None:
    with reader_of(machine) as reader:
        assert reader.cpus == (0, 1, 2, 8)
        assert reader.stolen_ns(8) == 2**33 * TICK_NS
        reading = reader.read(0)
        assert (reading.revision, reading.attributes) == (0, 0)
        assert (reading.stolen_ns, reading.epoch) == (5 * TICK_NS, 0)
        assert reader.source.resolution_ns == TICK_NS
        assert reader.source.kind == "procfs"
        assert "ticks" in reader.source.description


def test_a_cpu_without_a_line_is_flagged_until_it_comes_back(machine: Path) -> None:
    with reader_of(machine) as reader:
        before = time.monotonic_ns()
        rows = reader.snapshot()
        after = time.monotonic_ns()
        assert rows["cpu"].tolist() == [0, 1, 2, 8]
        assert rows["valid"].tolist() == [True, True, False, True]
        assert rows["state"].tolist() == [State.ONLINE, State.ONLINE, State.ABSENT, State.ONLINE]
        assert rows["stolen_ns"].tolist() == [5 * TICK_NS, 0, 0, 2**33 * TICK_NS]
        assert (rows["origin"] == Origin.NONE).all()
        assert (rows["epoch"] == 0).all()
        assert (before <= rows["monotonic_ns"]).all()
        assert (rows["monotonic_ns"] <= after).all()
        with pytest.raises(guestpv.StructureError, match="cpu2: "):
            reader.stolen_ns(2)

        (machine / "stat").write_text(stat_of({2: 3}))
        assert reader.snapshot(rows) is rows
        assert rows["valid"].tolist() == [False, False, True, False]
        assert reader.stolen_ns(2) == 3 * TICK_NS


@pytest.mark.parametrize("cpu", [3, -1, 2**70])
def test_cpu_that_is_not_possible(machine: Path, cpu: int) -> None:
    with reader_of(machine) as reader, pytest.raises(guestpv.NoSuchCpuError, match=f"cpu{cpu}: "):
        reader.read(cpu)


@pytest.mark.parametrize("missing", ["stat", "possible"])
def test_no_procfs_or_sysfs(machine: Path, missing: str) -> None:
    (machine / missing).unlink()
    with pytest.raises(guestpv.NoSourceError, match=missing):
        reader_of(machine)


def test_closed(machine: Path) -> None:
    with reader_of(machine) as reader:
        pass
    for read in (lambda: reader.read(0), lambda: reader.stolen_ns(0), reader.snapshot):
        with pytest.raises(ValueError, match="closed"):
            read()


def test_this_machine() -> None:
    with guestpv.open("procfs") as reader:
        rows = reader.snapshot()
        assert rows["valid"].any()
        assert reader.header is None
        assert reader.entries is None


@given(st.dictionaries(st.integers(0, 4096), STEAL, max_size=20))
def test_any_machine(tmp_path_factory: pytest.TempPathFactory, steal: dict[int, int]) -> None:
    path = tmp_path_factory.getbasetemp() / "any-stat"
    path.write_text(stat_of(steal))
    cpus = sorted(set(steal) | {0, 4097})
    rows = accounts(cpus, str(path))
    assert rows["present"].tolist() == [cpu in steal for cpu in cpus]
    assert rows["steal_ns"].tolist() == [steal.get(cpu, 0) * TICK_NS for cpu in cpus]

# SPDX-License-Identifier: MIT
"""/proc/stat as a source: ticks, named as such, and only of CPUs that are there."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

import guestpv
from guestpv.page.abi import State
from guestpv.source.procfs import ProcfsReader, boot_id
from guestpv.source.procstat import TICK_NS


def reader(directory, steal_ticks, possible):
    lines = ["cpu  0 0 0 0 0 0 0 0 0 0"]
    lines += [f"cpu{cpu} 1 2 3 4 5 6 7 {ticks} 0 0" for cpu, ticks in steal_ticks.items()]
    (directory / "stat").write_text("\n".join([*lines, "intr 8 8 8 8 8 8 8 8 8", ""]))
    (directory / "possible").write_text(f"{possible}\n")
    return ProcfsReader(str(directory / "stat"), str(directory / "possible"))


@given(st.dictionaries(st.integers(0, 9), st.integers(0, 2**39)))
def test_each_cpu_that_is_listed_has_its_ticks(tmp_path_factory, ticks):
    with reader(tmp_path_factory.mktemp("procfs"), ticks, "0-9") as procfs:
        rows = procfs.snapshot()
        for cpu in range(10):
            assert rows["valid"][cpu] == (cpu in ticks)
            if cpu in ticks:
                assert rows["stolen_ns"][cpu] == procfs.stolen_ns(cpu) == ticks[cpu] * TICK_NS
            else:
                assert rows["state"][cpu] == State.ABSENT
                with pytest.raises(guestpv.StructureError):
                    procfs.read(cpu)


@pytest.mark.parametrize(
    ("possible", "cpus"), [("0", (0,)), ("0-3", (0, 1, 2, 3)), ("0-1,4,6-7", (0, 1, 4, 6, 7))]
)
def test_rows_are_of_the_possible_cpus(tmp_path, possible, cpus):
    with reader(tmp_path, {0: 5}, possible) as procfs:
        assert procfs.cpus == cpus
        assert tuple(procfs.snapshot()["cpu"]) == cpus
        with pytest.raises(guestpv.NoSuchCpuError):
            procfs.read(5)


def test_this_machine_says_what_it_is_and_how_coarse():
    with guestpv.open("procfs") as procfs:
        assert procfs.source.kind == "procfs"
        assert procfs.source.resolution_ns == TICK_NS
        assert "10 ms" in procfs.source.description
        assert procfs.snapshot()["valid"].any()
        assert procfs.read(0).epoch == 0


def test_without_proc_it_says_so(tmp_path):
    with pytest.raises(guestpv.NoSourceError, match="mount"):
        ProcfsReader(str(tmp_path / "stat"))


def test_what_to_do_about_a_file_that_cannot_be_read_is_the_same_whenever(tmp_path):
    """A missing one is not to be had by trying again, and mounting does not make room for one."""
    with reader(tmp_path, {0: 5}, "0") as procfs:
        stat = tmp_path / "stat"
        for spoil, fix in ((stat.unlink, "mount"), (stat.mkdir, "try again")):
            spoil()
            for opening in (
                procfs.snapshot,
                lambda: procfs.stolen_ns(0),
                lambda: ProcfsReader(str(stat), str(tmp_path / "possible")),
            ):
                with pytest.raises(guestpv.NoSourceError, match=f"{stat}: not read") as refused:
                    opening()
                assert fix in refused.value.fix


def test_a_count_that_cannot_be_is_flagged_and_refused(tmp_path):
    with reader(tmp_path, {0: 1844674407270, 1: 5}, "0-1") as procfs:
        assert procfs.snapshot()["valid"].tolist() == [False, True]
        assert (procfs.snapshot()["state"] == State.ONLINE).all()
        with pytest.raises(guestpv.StructureError, match="can't be"):
            procfs.read(0)
        assert procfs.stolen_ns(1) == 5 * TICK_NS


def test_a_file_that_cannot_be_read_any_more_does_not_say_that_no_cpu_is_there(tmp_path):
    with reader(tmp_path, {0: 5}, "0") as procfs:
        (tmp_path / "stat").unlink()
        for read in procfs.snapshot, lambda: procfs.read(0):
            with pytest.raises(guestpv.NoSourceError, match="not read"):
                read()


def test_without_file_descriptors_nothing_is_said_of_the_account_or_the_boot(tmp_path, files_left):
    """Not that there is none; and not, by another id, that it is another boot."""
    with reader(tmp_path, {0: 5}, "0") as procfs:
        for read in procfs.snapshot, lambda: procfs.read(0), ProcfsReader, boot_id:
            with files_left(0), pytest.raises(guestpv.Error, match="Too many open") as refused:
                read()
            assert type(refused.value) is guestpv.Error


def test_possible_cpus_with_holes_are_named_as_they_are(tmp_path):
    with reader(tmp_path, {0: 5}, "0-1,4") as procfs, pytest.raises(guestpv.NoSuchCpuError) as no:
        procfs.read(2)
    assert "0-1,4" in str(no.value)


@pytest.mark.parametrize("content", [b"", b"\n", b"0-3,,5", b"3-0", b"0-x", b"\xff\xfe"])
def test_possible_cpus_that_no_kernel_writes_are_refused(tmp_path, content):
    (tmp_path / "stat").touch()
    (tmp_path / "possible").write_bytes(content)
    with pytest.raises(guestpv.FormatError, match="possible: not understood"):
        ProcfsReader(str(tmp_path / "stat"), str(tmp_path / "possible"))


@pytest.mark.parametrize("content", [b"", b"xx\n", b"\xff\xfe", b"0" * 31])
def test_a_boot_id_that_no_kernel_writes_is_refused(tmp_path, content):
    (tmp_path / "boot_id").write_bytes(content)
    with pytest.raises(guestpv.FormatError, match="boot_id: not understood"):
        boot_id(str(tmp_path / "boot_id"))


def test_where_there_is_no_boot_id_the_time_of_the_boot_tells_boots_apart(tmp_path):
    missing, stat = str(tmp_path / "boot_id"), tmp_path / "stat"
    ids = set()
    for btime in 1_764_000_000, 1_764_000_001:
        stat.write_text(f"cpu  1 2 3 4\nctxt 5\nbtime {btime}\nprocesses 6\n")
        ids.add(boot_id(missing, str(stat)))
        assert boot_id(missing, str(stat)) in ids
    assert len(ids) == 2
    stat.write_text("cpu  1 2 3 4\n")
    with pytest.raises(guestpv.NoSourceError, match="boot_id: not read"):
        boot_id(missing, str(stat))

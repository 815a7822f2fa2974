# SPDX-License-Identifier: MIT
"""Totals over what becomes of a source: it goes, it comes back, it is another one."""

import copy
import json

import numpy as np
import pytest

import guestpv
from guestpv.page.abi import NO_COUNT, Origin, State
from guestpv.page.image import write_image

SECOND = 1_000_000_000


@pytest.fixture
def totals(machine):
    with guestpv.open(machine.path) as reader:
        yield guestpv.Totals(reader)


def reopened(totals, path):
    """In another process: what was saved has been a file meanwhile."""
    return guestpv.Totals.restore(guestpv.open(path), json.loads(json.dumps(totals.save())))


def test_what_was_stolen_before_does_not_count(totals, machine):
    assert totals.total() == 0
    machine.steal(1, 5)
    machine.steal(2, 2**60)
    rows = totals.update()
    assert rows.dtype == guestpv.TOTALS
    assert rows["total_ns"].tolist() == [0, 5, 2**60, 0]
    assert (totals.total(1), totals.total(2), totals.total()) == (5, 2**60, 2**60 + 5)
    assert type(totals.total(1)) is int
    assert rows["valid"].all()
    assert not rows["unknown_ns"].any()


def test_a_cpu_that_is_not_there(totals):
    for cpu in 4, -1, 2**70:
        with pytest.raises(guestpv.NoSuchCpuError, match="0-3"):
            totals.total(cpu)


def test_a_restart_adds_what_the_page_vouches_for_and_the_rest_is_unknown(totals, machine):
    machine.restart(1)
    machine.steal(1, 1000)
    rows = totals.update()
    assert (rows["total_ns"][1], rows["restarts"][1]) == (1000, 1)
    assert rows["unknown_ns"].tolist() == [0, rows["interval_ns"][1], 0, 0]
    machine.steal(1, 7)
    rows = totals.update()
    assert (totals.total(1), rows["stolen_ns"][1], bool(rows["valid"][1])) == (1007, 7, True)
    assert rows["restarts"].tolist() == [0, 1, 0, 0]


def test_restarts_between_two_updates_are_all_counted(totals, machine):
    for _ in range(3):
        machine.restart(0)
    assert totals.update()["restarts"][0] == 3


def test_a_cpu_that_is_offline_loses_nothing_and_that_is_known(totals, machine):
    machine.steal(1, 5)
    machine.offline(1)
    for _ in range(2):
        totals.update()
    assert (totals.total(1), totals.rows["unknown_ns"][1]) == (5, 0)


def test_a_count_that_could_not_be_read_for_a_while_is_caught_up_with(totals, machine):
    """Its epoch says that it went on; but not in which interval it did what."""
    machine.revise(0, 1)
    machine.steal(0, 300)
    first = totals.update()
    machine.revise(0, 0)
    second = totals.update()
    assert (totals.total(0), second["stolen_ns"][0]) == (300, 300)
    assert second["unknown_ns"][0] == first["interval_ns"][0] + second["interval_ns"][0]
    assert not second["valid"][0]


class Source:
    """Of which each snapshot is the same."""

    def __init__(self, rows):
        self.rows = rows

    def snapshot(self):
        return self.rows.copy()


def procstat(steal_ticks, monotonic_ns):
    """What procfs gives of one CPU; None where it is offline."""
    rows = np.zeros(1, guestpv.SNAPSHOT)
    rows["instance"], rows["monotonic_ns"] = 1, monotonic_ns
    if steal_ticks is not None:
        rows["state"], rows["valid"], rows["stolen_ns"] = State.ONLINE, True, steal_ticks * 10**7
    return rows


def test_on_procfs_a_decrease_shows_when_the_cpu_is_back():
    totals = guestpv.Totals(None, procstat(335, 0))
    for second in 1, 2, 3:
        assert not totals.update(procstat(None, second * SECOND))["backwards_ns"]
    (row,) = totals.update(procstat(312, 4 * SECOND))
    assert (row["backwards_ns"], row["total_ns"]) == (230_000_000, 0)
    assert row["unknown_ns"] == 2 * SECOND  # when it went, and when it came
    (row,) = totals.update(procstat(313, 5 * SECOND))
    assert (row["backwards_ns"], row["total_ns"], bool(row["valid"])) == (0, 0, False)


@pytest.mark.parametrize("saved_between", [False, True])
def test_what_a_count_only_regains_is_not_counted_again(saved_between):
    """A /proc/stat that is too low at times: nobody stole the same 230 ms twice."""
    totals = guestpv.Totals(None, procstat(335, 0))
    story = [
        (312, 0, 230, False),
        (335, 0, 0, False),
        (312, 0, 230, False),
        (320, 0, 0, False),
        (310, 0, 100, False),
        (None, 0, 0, False),
        (330, 0, 0, False),
        (336, 10, 0, False),
        (338, 30, 0, True),
    ]
    for second, (ticks, total_ms, backwards_ms, valid) in enumerate(story, 1):
        now = procstat(ticks, second * SECOND)
        if saved_between:
            totals = guestpv.Totals.restore(Source(now), json.loads(json.dumps(totals.save())))
        else:
            totals.update(now)
        (row,) = totals.rows
        assert row["total_ns"] == total_ms * 10**6
        assert (row["backwards_ns"], bool(row["valid"])) == (backwards_ms * 10**6, valid)
    assert row["unknown_ns"] == 8 * SECOND


def test_a_count_that_is_behind_counts_at_once_in_another_epoch(totals, machine):
    machine.take_back(0, SECOND // 2)
    totals.update()
    machine.restart(0)
    machine.steal(0, 7)
    assert totals.update()["total_ns"][0] == 7
    machine.steal(0, 5)
    rows = totals.update()
    assert (rows["total_ns"][0], bool(rows["valid"][0])) == (12, True)


def test_a_source_that_vanishes_takes_nothing_with_it(totals, machine, tmp_path):
    machine.steal(0, 5)
    totals.update()
    (tmp_path / "page").rename(tmp_path / "gone")
    with pytest.raises(guestpv.NoSourceError):
        guestpv.open(machine.path)
    assert totals.total() == 5

    write_image(machine.path, [9 * SECOND] * 4)  # as after a reload, in the same epoch, and more
    with guestpv.open(machine.path) as reader:
        totals.reader = reader
        rows = totals.update()
        assert rows["other_instance"].all()
        assert totals.total() == 5
        assert (rows["unknown_ns"] == rows["interval_ns"]).all()
        assert not rows["restarts"].any()
        assert totals.update()["valid"].all()


def counted(stolen_ns, second, *, instance=1, origin=Origin.ADOPTED, first_ns=0):
    """A snapshot of one CPU whose epoch began at *first_ns*."""
    rows = procstat(0, second * SECOND)
    rows["stolen_ns"], rows["instance"] = stolen_ns, instance
    rows["epoch"], rows["origin"], rows["epoch_stolen_ns"] = 1, origin, first_ns
    return rows


def test_a_count_of_the_kernels_goes_on_while_the_module_is_away():
    totals = guestpv.Totals(None, counted(1000, 0))
    (row,) = totals.update(counted(1700, 5, instance=2, first_ns=1600), same_boot=True)
    assert (row["total_ns"], row["unknown_ns"], row["restarts"]) == (700, 5 * SECOND, 0)
    assert row["other_instance"]
    assert not row["valid"]  # it may have restarted, and be higher again
    (row,) = totals.update(counted(1800, 6, instance=2, first_ns=1600), same_boot=True)
    assert (row["total_ns"], row["valid"]) == (800, True)


@pytest.mark.parametrize(
    ("before", "now", "least_ns"),
    [
        (counted(1000, 0), counted(900, 5, instance=2, first_ns=600), 300),
        (counted(1000, 0), counted(0, 5, instance=2, first_ns=NO_COUNT), 0),
        (
            counted(1000, 0, origin=Origin.CLAIMED),
            counted(1700, 5, instance=2, origin=Origin.CLAIMED, first_ns=3),
            1697,
        ),
        (counted(0, 0), counted(60 * SECOND, 5, instance=2, first_ns=0), 5 * SECOND),
        (procstat(None, 0), counted(1700, 5, instance=2, first_ns=1600), 100),
    ],
    ids=["restarted", "not seen yet", "claimed anew", "more than time passed", "none before"],
)
def test_over_a_reload_no_more_is_counted_than_is_certain(before, now, least_ns):
    totals = guestpv.Totals(None, before)
    (row,) = totals.update(now, same_boot=True)
    assert (row["total_ns"], row["unknown_ns"]) == (least_ns, 5 * SECOND)
    assert guestpv.Totals(None, before).update(now)["total_ns"] == 0


def test_what_a_count_only_regains_over_a_reload_is_not_counted():
    totals = guestpv.Totals(None, counted(1000, 0))
    totals.update(counted(400, 1))
    (row,) = totals.update(counted(1100, 5, instance=2, first_ns=1090), same_boot=True)
    assert row["total_ns"] == 10


def test_a_copy_goes_on_by_itself(totals, machine):
    other = copy.copy(totals)
    machine.steal(0, 5)
    machine.restart(1)
    other.update()
    assert other.total() == 5
    assert totals.total() == 0
    assert totals.update()[["total_ns", "restarts"]].tolist() == [(5, 0), (0, 1), (0, 0), (0, 0)]


def test_an_update_that_fails_changes_nothing(totals, machine):
    machine.steal(0, 5)
    machine.header["instance"] += 1  # between two reads, without a word
    machine.header["sequence"] += 2
    with pytest.raises(guestpv.FormatError):
        totals.update()
    machine.header["instance"] -= 1
    machine.header["sequence"] += 2
    assert totals.update()["total_ns"].tolist() == [5, 0, 0, 0]


def test_snapshots_of_other_cpus_are_refused(totals):
    with pytest.raises(ValueError, match="same CPUs"):
        totals.update(procstat(1, SECOND))


def test_a_snapshot_of_before_is_refused_also_where_there_was_no_count():
    totals = guestpv.Totals(None, procstat(5, 0))
    totals.update(procstat(None, 2 * SECOND))
    with pytest.raises(ValueError, match="before"):
        totals.update(procstat(6, SECOND))
    assert totals.update(procstat(6, 3 * SECOND))["unknown_ns"] == 3 * SECOND


def test_what_was_saved_goes_on_in_the_same_epoch(totals, machine):
    machine.steal(0, 2**60)
    totals.update()
    machine.steal(0, 7)
    again = reopened(totals, machine.path)
    assert again.total(0) == 2**60 + 7
    assert not again.rows["unknown_ns"].any()


def test_of_another_epoch_what_was_saved_gets_the_lower_bound(totals, machine):
    machine.restart(0)
    machine.steal(0, 7)
    again = reopened(totals, machine.path)
    assert (again.total(0), again.rows["restarts"][0]) == (7, 1)
    assert again.rows["unknown_ns"][0] == again.rows["interval_ns"][0] > 0


def test_of_another_instance_nothing_is_added_to_what_was_saved(totals, machine):
    machine.steal(0, 7)
    totals.update()
    write_image(machine.path, [9 * SECOND] * 4)
    again = reopened(totals, machine.path)
    assert again.total() == 7
    assert again.rows["other_instance"].all()
    assert (again.rows["unknown_ns"] == again.rows["interval_ns"]).all()


def test_of_another_boot_all_time_since_then_is_unknown(totals, machine):
    """What the clock said before means nothing now, whether it was less or more."""
    write_image(machine.path, [0] * 4)
    for then_ns in 0, 2**63:
        saved = totals.save()
        saved["boot_id"] = "another"
        for record in saved["cpus"]:
            record["last"]["monotonic_ns"] = record["counted"]["monotonic_ns"] = then_ns
        with guestpv.open(machine.path) as reader:
            again = guestpv.Totals.restore(reader, saved)
            now = reader.snapshot()["monotonic_ns"]
        assert (again.rows["unknown_ns"] <= now).all()
        assert (again.rows["unknown_ns"] > now - SECOND * 60).all()


@pytest.mark.parametrize("cpus", [2, 6])
def test_a_machine_of_another_size_keeps_the_totals_of_the_cpus_that_it_has(
    totals, machine, tmp_path, cpus
):
    for cpu in range(4):
        machine.steal(cpu, cpu + 1)
    totals.update()
    write_image(tmp_path / "other", [0] * cpus)
    again = reopened(totals, tmp_path / "other")
    assert again.rows["total_ns"].tolist() == [1, 2, 3, 4, 0, 0][:cpus]


@pytest.mark.parametrize(
    "saved",
    [
        {},
        {"version": 2},
        {"version": 1, "boot_id": "x", "cpus": [{"cpu": 0}]},
        {"version": 1, "boot_id": "x", "cpus": 5},
        [],
    ],
)
def test_what_nobody_saved_is_refused(machine, saved):
    with guestpv.open(machine.path) as reader, pytest.raises(guestpv.FormatError, match="save"):
        guestpv.Totals.restore(reader, saved)


@pytest.mark.parametrize("value", [-1, 2**64, "many", "12", 1.0, 1.5, float("nan"), True, None])
def test_saved_numbers_that_cannot_be_are_refused(totals, machine, value):
    for change in (
        lambda saved: saved["cpus"][1].update(total_ns=value),
        lambda saved: saved["cpus"][1].update(behind_ns=value),
        lambda saved: saved["cpus"][1].update(restarts=value),
        lambda saved: saved["cpus"][1].update(unknown_ns=value),
        lambda saved: saved["cpus"][1].update(cpu=value),
        lambda saved: saved["cpus"][1]["counted"].update(stolen_ns=value),
        lambda saved: saved["cpus"][1]["counted"].update(epoch=value),
        lambda saved: saved["cpus"][1]["last"].update(monotonic_ns=value),
    ):
        saved = totals.save()
        change(saved)
        with pytest.raises(guestpv.FormatError):
            guestpv.Totals.restore(totals.reader, saved)


@pytest.mark.parametrize("field", ["valid", "state", "epoch"])
def test_a_saved_row_is_of_the_types_that_were_saved(totals, field):
    """Not a word for yes, and no number that would be another one in its field."""
    saved = totals.save()
    saved["cpus"][1]["last"][field] = {"valid": "x", "state": 2**8, "epoch": 2**32}[field]
    with pytest.raises(guestpv.FormatError):
        guestpv.Totals.restore(totals.reader, saved)


def test_what_is_counted_beside_the_total_ends_at_64_bits_too(totals, machine):
    saved = totals.save()
    saved["cpus"][1].update(unknown_ns=2**64 - 1, restarts=2**64 - 1)
    machine.restart(1)
    again = guestpv.Totals.restore(totals.reader, saved)
    assert again.rows["restarts"][1] == again.rows["unknown_ns"][1] == 2**64 - 1

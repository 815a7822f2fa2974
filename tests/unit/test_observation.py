# SPDX-License-Identifier: MIT
"""The observer, while a test plays the hypervisor in a page image: simulation, of what it sees."""

import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest

import guestpv
from guestpv.latency import observation, pinned
from guestpv.latency.observation import observe
from guestpv.source.mapped import MappedReader

HOUR = 3600 * 1_000_000_000
CPUS = sorted(os.sched_getaffinity(0))[:2]
CPU = CPUS[0]


@pytest.fixture
def machine(machine_of):
    """With a vCPU for each CPU on which these tests may run, whatever its number."""
    return machine_of(CPUS[-1] + 1)


@pytest.fixture
def seen(machine):
    """What an observer of one CPU sees while the hypervisor does something, once."""

    def run(act=None, cpus=(CPU,), seconds=0.5):
        calls = []

        def hypervisor():
            calls.append(act)
            if act and len(calls) == 2:
                act(machine)

        with MappedReader(machine.path) as reader:
            return observe(reader, cpus, seconds, hypervisor).rows

    return run


def test_nothing_happens(seen):
    (row,) = seen()
    assert row["looks"] > 1000
    assert row["first_ns"] == row["last_ns"] == (CPU + 1) * 1_000_000_000
    assert 0 < row["step_ns"] < 1_000_000
    for nothing in "advances", "decreases", "leaps", "torn", "unknown", "restarts", "absent":
        assert row[nothing] == 0
    # All of the time is in one of the two, but for what came before the first look, and after.
    passed_ns = row["ended_ns"] - row["began_ns"]
    assert 0.9 * passed_ns < row["gaps_ns"] + row["quiet_ns"] <= passed_ns
    assert passed_ns >= 250_000_000


def test_a_count_that_goes_back(seen):
    (row,) = seen(lambda machine: machine.take_back(CPU, 7))
    assert (row["decreases"], row["leaps"], row["torn"]) == (1, 0, 0)
    assert row["decrease_from_ns"] - row["decrease_to_ns"] == 7


def test_a_count_that_grows_by_more_than_the_time_that_passed(seen):
    (row,) = seen(lambda machine: machine.steal(CPU, HOUR))
    assert (row["decreases"], row["leaps"]) == (0, 1)
    assert row["leap_ns"] == pytest.approx(HOUR, rel=1e-3)
    assert row["leap_within_ns"] < 1_000_000_000
    assert row["gaps_stolen_ns"] + row["quiet_excess_ns"] == 0  # what can't be is not added


def test_a_count_that_grows_without_a_gap(seen):
    def creep(machine):
        until = time.monotonic() + 0.2
        while time.monotonic() < until:
            machine.steal(CPU, 900)

    # On a busy machine observer and hypervisor may take turns on one CPU: every turn is a gap.
    assert any(seen(creep)[0]["quiet_excess_ns"] > 1000 for _ in range(20))


def test_half_of_a_value(seen):
    def tear(machine):
        for _ in range(100_000):
            machine.steal(CPU, 1 << 40)
            machine.take_back(CPU, 1 << 40)

    # On a busy machine a half may stand for so long that the way back from it is the first seen.
    assert any(row["torn"] and row["torn_ns"] >> 40 == 1 for _ in range(20) for row in seen(tear))


def test_half_of_a_value_the_other_way(seen):
    """The low half first: for a moment the count is too low."""

    def tear(machine):
        for _ in range(100_000):
            machine.take_back(CPU, 1 << 20)
            machine.steal(CPU, 1 << 32)

    (row,) = next(rows for _ in range(20) if (rows := seen(tear))[0]["torn"])
    assert row["decreases"] > 0


def test_an_unknown_revision_is_not_interpreted_and_reading_goes_on(seen):
    def revise(machine):
        machine.revise(CPU, 1)
        machine.steal(CPU, HOUR)
        time.sleep(0.05)
        machine.revise(CPU, 0)

    (row,) = seen(revise)
    assert row["unknown"] > 0
    assert row["unknown_word"] == 1
    assert (row["leaps"], row["decreases"]) == (0, 0)
    assert row["last_ns"] - row["first_ns"] == HOUR


def test_a_new_epoch_is_not_a_count_that_goes_back(seen):
    (row,) = seen(lambda machine: machine.restart(CPU))
    assert (row["restarts"], row["decreases"]) == (1, 0)


def test_a_structure_that_goes(seen):
    (row,) = seen(lambda machine: machine.refuse(CPU))
    assert row["absent"] > 0
    assert row["last_ns"] == row["first_ns"]


@pytest.mark.skipif(len(CPUS) < 2, reason="this machine has one CPU")
def test_each_looks_at_the_others_count(seen):
    first, second = seen(lambda machine: machine.take_back(CPUS[1], 1), cpus=CPUS)
    assert (first["other"], second["other"]) == (CPUS[1], CPUS[0])
    assert (first["other_decreases"], second["other_decreases"]) == (1, 0)


def test_what_progress_raises_ends_it_at_once(machine):
    def interrupt():
        raise KeyboardInterrupt

    began = time.monotonic()
    with MappedReader(machine.path) as reader, pytest.raises(KeyboardInterrupt):
        observe(reader, [CPU], 60, interrupt)
    assert time.monotonic() - began < 5


def test_a_clock_that_went_on_while_the_machine_slept(seen, monkeypatch):
    """The threads are late by an hour, and did not have it."""
    slept_s = []
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + sum(slept_s), sleep=time.sleep)
    monkeypatch.setattr(pinned, "time", clock)
    (row,) = seen(lambda _: slept_s.append(3600))
    assert row["looks"] > 1000


def test_a_page_image_that_is_no_longer_one(machine):
    def spoil():
        machine.header["magic"] = 0
        machine.header["sequence"] += 2

    with MappedReader(machine.path) as reader, pytest.raises(guestpv.FormatError):
        observe(reader, [CPU], 5, spoil)


@pytest.mark.parametrize("size", [0, 4096, 4096 + 64 * CPU + 12])
def test_a_page_image_that_is_cut_is_no_decrease(machine, size):
    """At a page's end, and within the count, where what is gone of the page reads as zero."""

    with (
        MappedReader(machine.path) as reader,
        pytest.raises(guestpv.FormatError, match="cut short"),
    ):
        observe(reader, [CPU], 0.5, lambda: os.truncate(machine.path, size))


def test_a_page_image_that_is_written_over_is_no_decrease(machine):
    def overwrite():
        machine.structures["stolen_time"] = 0
        machine.header["instance"] += 1

    with MappedReader(machine.path) as reader, pytest.raises(guestpv.FormatError, match="changed"):
        observe(reader, [CPU], 0.3, overwrite)


LOGGER = """
import json, sys
from guestpv.latency.observation import observe
from guestpv.source.mapped import MappedReader
with MappedReader(sys.argv[1]) as reader:
    cpu = int(sys.argv[2])
    print("began", flush=True)
    seen = observe(reader, [cpu], 1.0)
    row = seen.rows[0]
    late = {name: int(row[name]) for name in ("late", "late_ns")}
    print(json.dumps({"gaps": seen.long_gaps.tolist(), **late}))
"""


@pytest.fixture
def stopped(machine):
    """What is seen by an observer that is stopped for 0.2 s, of which the hypervisor tells."""

    def run(tell_before, tell_after=lambda: None):
        logger = [sys.executable, "-c", LOGGER, machine.path, str(CPU)]
        with subprocess.Popen(logger, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout.readline() == "began\n"
            time.sleep(0.3)
            process.send_signal(signal.SIGSTOP)
            time.sleep(0.2)
            tell_before()
            process.send_signal(signal.SIGCONT)
            tell_after()
            return json.loads(process.stdout.read())

    return run


def test_a_long_gap_is_logged_with_what_was_stolen_in_it(machine, stopped):
    """A process that is stopped is switched out, and says so."""
    seen = stopped(lambda: machine.steal(CPU, 150_000_000))
    cpu, _, length_ns, stolen_ns, switches = max(seen["gaps"], key=lambda gap: gap[2])
    assert (cpu, stolen_ns) == (CPU, 150_000_000)
    assert length_ns >= 150_000_000  # it stops a little after it is told to
    assert switches >= 1
    assert seen["late"] == 0


def test_what_is_told_late_is_not_only_a_leap(machine, stopped):
    def tell():
        time.sleep(0.1)
        machine.steal(CPU, 150_000_000)

    seen = stopped(lambda: None, tell)
    assert seen["late"] == 1
    assert 50_000_000 < seen["late_ns"] < 900_000_000


def test_a_leap_by_more_than_was_missing_is_not_told_late(machine, stopped):
    seen = stopped(lambda: None, lambda: machine.steal(CPU, HOUR))
    assert seen["late"] == 0


def test_of_many_long_gaps_a_random_choice_is_logged(machine, monkeypatch):
    """Timer interrupts will do for gaps. The first of them would not stand for all."""
    monkeypatch.setattr(observation, "LOG_SIZE", 16)
    with MappedReader(machine.path) as reader:
        seen = observe(reader, [CPU], 1.0, gap_ns=1_000, long_ns=1_000)
    (row,), gaps = seen.rows, seen.long_gaps
    assert row["long_gaps"] > 64
    assert len(gaps) == len(set(gaps["began_ns"].tolist())) == 16
    assert (np.diff(gaps["began_ns"].astype(np.int64)) > 0).all()
    middle = (row["began_ns"] + row["ended_ns"]) // 2
    assert 0 < (gaps["began_ns"] < middle).sum() < 16


def test_a_cpu_that_is_not_there_is_left_out_and_said(machine_of):
    """As one that went offline; the others are watched all the same."""
    absent = CPUS[-1] + 1
    with MappedReader(machine_of(absent + 1).path) as reader:
        seen = observe(reader, [CPU, absent], 0.3)
    assert seen.rows["cpu"].tolist() == [CPU]
    assert list(seen.unwatched) == [absent]
    assert "offline" in seen.unwatched[absent]


def test_a_cpu_on_which_no_thread_ran_in_time_is_left_out_and_said(machine):
    """What is seen in no time at all is no figure."""
    with MappedReader(machine.path) as reader:
        seen = observe(reader, [CPU], 0.0)
    assert len(seen.rows) == 0
    assert "before the time was over" in seen.unwatched[CPU]


def test_a_step_that_is_too_short_to_leave_the_vcpu_in(seen):
    """Whoever writes then is nobody that had the CPU."""

    def creep(machine):
        until = time.monotonic() + 0.2
        while time.monotonic() < until:
            machine.steal(CPU, 1)

    assert seen()[0]["quick_advances"] == 0
    assert any(seen(creep)[0]["quick_advances"] > 3 for _ in range(20))

# SPDX-License-Identifier: MIT
"""Unstolen clocks: of a vCPU by a page image, of a thread by the kernel's own clocks as the PMU."""

import os
import threading
import time
from itertools import pairwise

import pytest

import guestpv
from guestpv import Error, StructureError
from guestpv.latency import clock
from guestpv.latency.clock import CpuClock, ThreadClock
from guestpv.page.abi import State

MS = 1_000_000


@pytest.fixture
def cpu():
    """The CPU to which this thread is pinned."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    yield min(allowed)
    os.sched_setaffinity(0, allowed)


@pytest.fixture
def machine(machine_of):
    """With a vCPU for each CPU here."""
    return machine_of(os.cpu_count())


@pytest.fixture
def unstolen(machine, cpu):
    with CpuClock(guestpv.open(machine.path)) as clock:
        yield clock


def lose(machine, cpu, ns):
    """Time passes, and the host takes a part of it."""
    time.sleep(2 * ns / 1e9)
    machine.steal(cpu, ns)


def test_it_stands_still_while_the_vcpu_is_taken_away(machine, cpu, unstolen):
    wall_ns = time.monotonic_ns()
    begin = unstolen.unstolen_ns()
    for _ in range(5):
        lose(machine, cpu, 10 * MS)
    passed, wall_ns = unstolen.unstolen_ns() - begin, time.monotonic_ns() - wall_ns
    assert 50 * MS <= passed <= wall_ns - 50 * MS
    elapsed = unstolen.elapsed()
    assert elapsed.stolen_ns == 50 * MS
    assert elapsed.unknown_ns == 0
    assert elapsed.least_percent == elapsed.most_percent
    assert all(type(figure) is int for figure in elapsed)


def test_it_is_monotonic_where_nothing_is_stolen(unstolen):
    before = time.monotonic_ns()
    now = unstolen.unstolen_ns()
    assert before <= now <= time.monotonic_ns()


def test_what_others_lose_is_theirs(machine, cpu, unstolen):
    for other in range(os.cpu_count()):
        if other != cpu:
            machine.steal(other, 10 * MS)
    time.sleep(0.02)
    assert unstolen.elapsed().stolen_ns == 0


def test_it_advances_strictly_whatever_a_host_does_meanwhile(machine, cpu, unstolen):
    """Its count goes on at any moment, too late by less than what two clocks may differ."""
    stop = threading.Event()

    def host():
        last_ns = time.monotonic_ns()
        while not stop.is_set():
            time.sleep(0.0005)
            now_ns = time.monotonic_ns()
            machine.steal(cpu, min(now_ns - last_ns, MS) // 2)
            last_ns = now_ns

    thread = threading.Thread(target=host)
    thread.start()
    try:
        times = [unstolen.unstolen_ns() for _ in range(20_000)]
    finally:
        stop.set()
        thread.join()
    assert all(before < after for before, after in pairwise(times))
    assert unstolen.elapsed().stolen_ns > 0


def test_a_steal_between_two_readings_of_the_count_is_not_split(machine, cpu, monkeypatch):
    """The time is that at which the count was what it is said to be."""
    reader = guestpv.open(machine.path)
    with CpuClock(reader) as unstolen:
        before = unstolen.unstolen_ns()
        now = time.monotonic_ns

        def taken_away_after_the_time_was_read():
            monkeypatch.setattr(clock.time, "monotonic_ns", now)
            early = now()
            lose(machine, cpu, 20 * MS)
            return early

        monkeypatch.setattr(clock.time, "monotonic_ns", taken_away_after_the_time_was_read)
        after = unstolen.unstolen_ns()
    assert after - before >= 20 * MS  # the time that was read first would have given less than 0


def test_a_thread_that_is_not_pinned_gets_an_error(machine):
    if len(os.sched_getaffinity(0)) == 1:
        pytest.skip("there is one CPU")
    with pytest.raises(Error, match="not pinned"):
        CpuClock(guestpv.open(machine.path))
    with pytest.raises(Error, match="not pinned"):
        guestpv.clock.unstolen_ns()


def test_who_is_let_go_gets_errors_until_he_is_pinned_again(machine, cpu, unstolen):
    allowed = set(range(os.cpu_count()))
    if len(allowed) == 1:
        pytest.skip("there is one CPU")
    first = unstolen.unstolen_ns()
    os.sched_setaffinity(0, allowed)
    for _ in range(2):
        with pytest.raises(Error, match="not pinned"):
            unstolen.unstolen_ns()
    os.sched_setaffinity(0, {cpu})
    with pytest.raises(Error, match="not known"):
        unstolen.unstolen_ns()
    assert unstolen.unstolen_ns() > first


def test_who_is_moved_is_told_and_goes_on_with_the_other_count(machine, cpu, unstolen):
    others = set(range(os.cpu_count())) - {cpu}
    if not others:
        pytest.skip("there is one CPU")
    other = min(others)
    first = unstolen.unstolen_ns()
    os.sched_setaffinity(0, {other})
    with pytest.raises(Error, match=f"moved from cpu{cpu} to cpu{other}"):
        unstolen.unstolen_ns()
    wall_ns = time.monotonic_ns()
    begin = unstolen.unstolen_ns()
    assert begin > first
    lose(machine, other, 10 * MS)
    assert unstolen.unstolen_ns() - begin <= time.monotonic_ns() - wall_ns - 10 * MS
    assert unstolen.elapsed().stolen_ns == 10 * MS


def restart(machine, cpu):
    machine.restart(cpu)


def restart_and_catch_up(machine, cpu):
    """Nothing shows it but the epoch."""
    before_ns = int(machine.structures["stolen_time"][cpu])
    machine.restart(cpu)
    machine.steal(cpu, before_ns + 5 * MS)


def hotplug(machine, cpu):
    machine.online(cpu)


def fall(machine, cpu):
    machine.take_back(cpu, 500 * MS)


def leap(machine, cpu):
    machine.steal(cpu, 10**15)


@pytest.mark.parametrize(
    ("happens", "why"),
    [
        (restart, "started again"),
        (restart_and_catch_up, "started again"),
        (hotplug, "started again"),
        (fall, "started again"),
        (leap, "grew by 1000000000000000 ns"),
    ],
)
def test_what_makes_a_count_useless_is_one_error_and_it_goes_on(
    machine, cpu, unstolen, happens, why
):
    lose(machine, cpu, 10 * MS)
    first = unstolen.unstolen_ns()
    happens(machine, cpu)
    time.sleep(0.01)
    with pytest.raises(Error, match=why):
        unstolen.unstolen_ns()
    begin = unstolen.unstolen_ns()
    assert begin >= first + 10 * MS
    lose(machine, cpu, 10 * MS)
    assert unstolen.unstolen_ns() - begin >= 10 * MS
    elapsed = unstolen.elapsed()
    assert elapsed.stolen_ns == 20 * MS
    assert 10 * MS <= elapsed.unknown_ns < elapsed.wall_ns - 20 * MS
    assert elapsed.most_percent > elapsed.least_percent


def test_what_means_nothing_is_not_interpreted(machine, cpu, unstolen):
    first = unstolen.unstolen_ns()
    machine.revise(cpu, 1)
    for _ in range(2):
        with pytest.raises(StructureError, match="revision 1"):
            unstolen.unstolen_ns()
    machine.revise(cpu, 0)
    with pytest.raises(Error, match="not known where it was read before"):
        unstolen.unstolen_ns()
    assert unstolen.unstolen_ns() > first


def test_without_a_count_there_is_no_clock(machine, cpu):
    machine.enter(cpu, state=State.ABSENT)
    with pytest.raises(StructureError):
        CpuClock(guestpv.open(machine.path))


def test_it_is_the_clock_of_one_thread(unstolen):
    failed = []

    def read():
        try:
            unstolen.unstolen_ns()
        except Error as error:
            failed.append(str(error))

    thread = threading.Thread(target=read)
    thread.start()
    thread.join()
    assert "another thread" in failed[0]


@pytest.fixture
def device(machine, monkeypatch):
    """The page image in the device's place."""
    monkeypatch.setattr("guestpv.source.open.DEVICE", machine.path)
    monkeypatch.setattr(clock, "_local", threading.local())
    return machine


def test_the_function_keeps_a_clock_for_each_thread(device, cpu):
    assert guestpv.clock is clock
    before = guestpv.clock.unstolen_ns()
    lose(device, cpu, 10 * MS)
    assert guestpv.clock.unstolen_ns() - before >= 10 * MS
    times = []

    def run():
        times.extend(guestpv.clock.unstolen_ns() for _ in range(2))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert times[0] < times[1]


def test_a_child_has_a_clock_of_its_own(device, cpu):
    guestpv.clock.unstolen_ns()
    pid = os.fork()
    if not pid:
        code = 1
        try:
            code = guestpv.clock.unstolen_ns() >= guestpv.clock.unstolen_ns()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_by_perf_events_it_needs_no_pinning(pmu):
    """All of its CPU time is stolen here, and as much again unknown."""
    with ThreadClock() as unstolen:
        end = time.thread_time() + 0.02
        while time.thread_time() < end:
            pass
        time.sleep(0.02)
        with pytest.raises(Error):
            unstolen.unstolen_ns()


def test_where_there_is_a_choice_the_vcpu_decides_it(device, pmu):
    allowed = os.sched_getaffinity(0)
    if len(allowed) == 1:
        pytest.skip("there is one CPU")
    with clock.of_this_thread() as unstolen:
        assert isinstance(unstolen, ThreadClock)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        with clock.of_this_thread() as unstolen:
            assert isinstance(unstolen, CpuClock)
    finally:
        os.sched_setaffinity(0, allowed)

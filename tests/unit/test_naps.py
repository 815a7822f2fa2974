# SPDX-License-Identifier: MIT
"""Sleep that is counted as stolen, by a hypervisor that a test plays: simulation."""

import itertools
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from guestpv.latency.naps import NAP, NAP_NS, counted_share, lengths_ns, take_naps
from guestpv.source.mapped import MappedReader

CPU = min(os.sched_getaffinity(0))


@pytest.fixture
def shares(machine_of):
    """What part of a CPU's sleep is counted while so much of each second is added to its count."""

    def run(part):
        machine, over = machine_of(CPU + 1), threading.Event()

        def count():
            last = time.monotonic_ns()
            while not over.wait(0.001):
                now = time.monotonic_ns()
                machine.steal(CPU, int(part * (now - last)))
                last = now

        thread = threading.Thread(target=count)
        thread.start()
        try:
            with MappedReader(machine.path) as reader:
                return counted_share(take_naps(reader, [CPU])[CPU].naps)
        finally:
            over.set()
            thread.join()

    return run


def test_sleep_that_is_counted(shares):
    assert shares(1.0) == pytest.approx(1.0, abs=0.2)


def test_sleep_that_is_not_counted(shares):
    assert shares(0.0) <= 0


def naps_of(late_ns, grown_ns):
    naps = np.zeros(len(late_ns), NAP)
    naps["length_ns"] = NAP_NS
    naps["late_ns"], naps["grown_ns"] = late_ns, grown_ns
    return naps


def test_waking_late_because_of_the_host_is_no_sleep_that_is_counted():
    rng = np.random.default_rng(0)
    waited_ns = rng.integers(0, 10_000_000, 100)
    assert counted_share(naps_of(waited_ns + 300_000, waited_ns)) <= 0


def test_being_woken_by_something_else_more_often_than_not_is_none_either():
    grown_ns = np.where(np.arange(30) % 8, 8_000_000, 0)
    assert counted_share(naps_of(np.full(30, 300_000), grown_ns)) <= 0


def test_a_vcpu_that_was_taken_before_it_halted_did_not_sleep():
    """As under a host that gives it 2 ms of each 20: the timer ran, and it was not halted yet."""
    disturbed = naps_of(np.full(60, 8_000_000), np.full(60, 18_000_000))
    assert counted_share(disturbed) is None
    undisturbed = naps_of(np.full(20, 300_000), np.zeros(20))
    assert counted_share(np.concatenate([disturbed, undisturbed])) <= 0


@pytest.mark.parametrize("turn_ns", [5_000_000, 10_000_000, 20_000_000])
@pytest.mark.parametrize("cpu", range(4))
def test_naps_end_in_ones_own_turns_often_enough(turn_ns, cpu):
    """Under a host that gives the CPU away for each other turn: who wakes then waits for its end.

    As in the lab, where of naps of one length 1 to 15 of 100 ended in time.
    """
    now_ns = on_time = 0
    for length_ns in itertools.islice(lengths_ns(cpu), 100):
        now_ns += length_ns
        turn, into_ns = divmod(now_ns, turn_ns)
        if turn % 2:
            now_ns += turn_ns - into_ns
        on_time += turn % 2 == 0
    assert on_time >= 25  # 20 are needed


def test_naps_are_taken_for_as_long_as_is_asked_for(machine_of):
    with MappedReader(machine_of(CPU + 1).path) as reader:
        began = time.monotonic()
        naps = take_naps(reader, [CPU], 1.5)[CPU].naps
    assert 1.5 <= time.monotonic() - began < 5
    assert len(naps) > 60  # of 10 ms


def test_naps_of_which_nothing_can_be_said_come_to_an_end(machine_of):
    machine, over = machine_of(CPU + 1), threading.Event()

    def restart():
        while not over.wait(0.002):
            machine.restart(CPU)

    thread = threading.Thread(target=restart)
    thread.start()
    try:
        with MappedReader(machine.path) as reader:
            began = time.monotonic()
            naps = take_naps(reader, [CPU])[CPU].naps
    finally:
        over.set()
        thread.join()
    assert time.monotonic() - began < 5  # 100 of 10 ms, and no more until patience ends
    assert len(naps) < 40


def test_a_cpu_that_did_not_sleep_has_no_share(machine_of):
    with MappedReader(machine_of(2).path) as reader:
        naps = take_naps(reader, [4095])
    assert counted_share(naps[4095].naps) is None
    assert counted_share(naps_of([0] * 19, [0] * 19)) is None


def test_what_else_runs_on_the_cpu_is_told(machine_of):
    """It is stolen from while the thread sleeps, and that sleep is none of the vCPU's."""
    spin = subprocess.Popen(
        [sys.executable, "-c", f"import os\nos.sched_setaffinity(0, {{{CPU}}})\nwhile True: pass"]
    )
    try:
        with MappedReader(machine_of(CPU + 1).path) as reader:
            assert take_naps(reader, [CPU])[CPU].others_share > 0.5
    finally:
        spin.kill()
        spin.wait()

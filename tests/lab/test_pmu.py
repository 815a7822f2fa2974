# SPDX-License-Identifier: MIT
"""Perf events against the CPUs' own counts, with Debian's perf; and under a host that errs."""

import re
import subprocess
import time
from itertools import pairwise

import pytest
from preloaded import COMMAND, START
from structures import add, ipa

from pvlab import Lab

IN_EVERY_RUN = ["stock-6.1"]
"""Perf events where guestpv claims are in tests/guest/test_pmu.py."""
SECOND = 1_000_000_000
PYTHON = [*COMMAND, "-c"]
"""In the guest, with what its own tests have for perf events."""

PERF = re.compile(r"^ *([\d,]+) +ns +guestpv/(stolen|unknown)/", re.MULTILINE)


SPIN = "timeout 3 taskset -c $cpu sh -c 'while :; do :; done'"
SPIN_ON_BOTH = f"for cpu in 0 1; do {SPIN} & done; wait"


def test_perf_stat_counts_stolen_time(machine):
    """Debian's own perf: a command, with all that it forks."""
    with Lab(vcpus=2, load=True, steal=40, **machine) as lab:
        events = "{guestpv/stolen/,guestpv/unknown/}"
        done = lab.run(["perf", "stat", "-e", events, "--", "sh", "-c", SPIN_ON_BOTH])
        print(done.stdout + done.stderr)
        counts = {
            name: int(float(count.replace(",", ""))) for count, name in PERF.findall(done.stderr)
        }
        assert 1 * SECOND < counts["stolen"] < 5 * SECOND
        assert counts["unknown"] == 0
        everywhere = lab.run(["perf", "stat", "-a", "-A", "-e", "guestpv/stolen/", "sleep", "1"])
        print(everywhere.stderr)
        assert everywhere.stderr.count("guestpv/stolen/") == 2


# Says what the vCPU lost, and what of it all tasks did, while so many are busy on it.
SUM = """
import os, sys, time
from contextlib import ExitStack
from pathlib import Path
import guestpv
from test_pmu import child, event, read, spin
with ExitStack() as stack:
    for _ in range(int(sys.argv[1])):
        stack.enter_context(child(lambda: spin(60)))
    threads = [int(each.name) for each in Path("/proc").glob("[0-9]*/task/*")]
    events = [stack.enter_context(event(pid=thread)) for thread in threads]
    reader = stack.enter_context(guestpv.open())
    def lost():
        return int(reader.snapshot()["stolen_ns"].sum())
    def both():
        while True:
            of_all, by_tasks = lost(), sum(map(read, events))
            if of_all == lost():  # or the host took some in between
                return of_all, by_tasks
    before = both()
    time.sleep(5)
    print(*(now - then for then, now in zip(before, both())))
"""


def test_all_tasks_together_lose_what_their_vcpu_does():
    """Who loses what in a switch of tasks is not known; by the clock, to emulate one takes long."""
    with Lab(vcpus=1, load=True, icount=True, steal=40) as lab:
        for busy in 1, 6:
            done = lab.run([*PYTHON, SUM, str(busy)])
            assert done.returncode == 0, done.stderr
            lost, by_tasks = map(int, done.stdout.split())
            print(f"{busy} busy: the vCPU lost {lost} ns, and {by_tasks} of them its tasks")
            assert lost > 1 * SECOND
            assert by_tasks == pytest.approx(lost, rel=0.001)


# Counts what cpu1 loses and says it twice a second, until its input ends.
WATCH = """
import os, select, sys, time
from test_pmu import STOLEN, UNKNOWN, perf_event_open, read
events = [perf_event_open(of, pid=-1, cpu=1) for of in (STOLEN, UNKNOWN)]
print("ready", flush=True)
while True:
    ready, _, _ = select.select([sys.stdin], [], [], 0.5)
    if ready:
        break
    print(time.monotonic_ns(), *map(read, events), flush=True)
"""


class Watch:
    """What an event of cpu1 says, from its opening on."""

    def __init__(self, lab):
        self.process = subprocess.Popen(
            lab.guest.argv([*PYTHON, WATCH]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout.readline() == "ready\n"

    def end(self):
        """All rows: time, stolen and unknown."""
        self.process.stdin.close()
        rows = [[int(word) for word in line.split()] for line in self.process.stdout]
        self.process.wait()
        return rows


@pytest.fixture(scope="module")
def lab():
    with Lab(vcpus=2, load=True, prepare=START) as lab:
        yield lab


def judge(rows):
    """No event of them ever fell, or grew by more than time has passed; return the whole growth."""
    for last, now in pairwise(rows):
        elapsed = now[0] - last[0]
        assert 0 <= now[1] - last[1] <= elapsed + 2_000_000, (last, now)
        assert now[2] >= last[2]
    return [last - first for first, last in zip(rows[0], rows[-1], strict=True)]


def unknown_where_little_is_stolen(watch):
    elapsed, stolen, unknown = judge(watch.end())
    print(f"in {elapsed} ns: {stolen} ns stolen, {unknown} ns unknown")
    assert stolen < 0.3 * elapsed
    return unknown


def test_a_count_that_leaps_and_falls_back_is_not_believed(lab):
    watch = Watch(lab)
    time.sleep(2)
    add(lab, 1, 10**15)
    time.sleep(3)
    add(lab, 1, -(10**15))
    time.sleep(3)
    unknown = unknown_where_little_is_stolen(watch)
    # Of the second in which it leapt, and of that in which it fell, nobody can tell.
    assert 0.1 * SECOND < unknown < 5 * SECOND


def test_an_unknown_revision_is_not_counted_but_its_time_is(lab):
    watch = Watch(lab)
    time.sleep(2)
    lab.write_guest_memory(ipa(1), b"\1")
    time.sleep(4)
    lab.write_guest_memory(ipa(1), b"\0")
    time.sleep(2)
    unknown = unknown_where_little_is_stolen(watch)
    assert 3.5 * SECOND < unknown < 8.5 * SECOND


def test_where_no_count_means_anything_there_is_no_event_of_it(lab):
    for vcpu in range(2):
        lab.write_guest_memory(ipa(vcpu), b"\1")
    time.sleep(2.5)
    try_it = "from test_pmu import *; perf_event_open({}); print('opened')"
    for config, error in ("STOLEN", "No data available"), ("UNKNOWN", ""):
        done = lab.run([*PYTHON, try_it.format(config)])
        assert ("opened" in done.stdout) == (not error)
        assert error in done.stderr
    for vcpu in range(2):
        lab.write_guest_memory(ipa(vcpu), b"\0")


def test_a_fork_never_fails_for_an_event_that_can_not_count_any_more(lab):
    time.sleep(2.5)
    fork = """
import os, sys, time
from test_pmu import *
with event(bits=INHERIT):
    print("ready", flush=True)
    sys.stdin.readline()
    pid = os.fork()
    if not pid: os._exit(0)
    os.waitpid(pid, 0)
    print("forked", flush=True)
"""
    guest = subprocess.Popen(
        lab.guest.argv([*PYTHON, fork]),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert guest.stdout.readline() == "ready\n"
    for vcpu in range(2):
        lab.write_guest_memory(ipa(vcpu), b"\1")
    time.sleep(2.5)
    said, _ = guest.communicate("go\n")
    for vcpu in range(2):
        lab.write_guest_memory(ipa(vcpu), b"\0")
    assert said == "forked\n"

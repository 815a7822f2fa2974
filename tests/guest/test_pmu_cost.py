# SPDX-License-Identifier: MIT
"""What perf events cost at a switch of tasks. Numbers, never a verdict."""

import os
from pathlib import Path

import pytest

from guestpv._native import perf_event_open

SWITCHES = 2000
SOFTWARE, TASK_CLOCK = 1, 1  # PERF_TYPE_SOFTWARE, PERF_COUNT_SW_TASK_CLOCK
STOLEN = 0
PMU = Path("/sys/bus/event_source/devices/guestpv/type")

EVENTS = {
    "module not loaded": lambda: (),
    "loaded, no event": lambda: (),
    "task-clock of each thread": lambda: ((SOFTWARE, TASK_CLOCK),),
    "stolen of each thread": lambda: ((int(PMU.read_text()), STOLEN),),
}


@pytest.mark.benchmark(group=f"{SWITCHES} switches between two threads on one CPU")
@pytest.mark.parametrize("events", EVENTS)
def test_cost_of_a_switch(events, request, benchmark):
    request.getfixturevalue("unloaded" if events == "module not loaded" else "loaded")
    to_child, from_parent = os.pipe()
    to_parent, from_child = os.pipe()
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(allowed)})
    pid = os.fork()
    if not pid:
        os.close(from_parent)
        while os.read(to_child, 1):
            os.write(from_child, b"!")
        os._exit(0)

    def ask():
        for _ in range(SWITCHES // 2):
            os.write(from_parent, b"!")
            os.read(to_parent, 1)

    opened = [
        perf_event_open(pmu, event, task, -1, -1, False, False, False)
        for pmu, event in EVENTS[events]()
        for task in (0, pid)
    ]
    try:
        benchmark.pedantic(ask, rounds=7, warmup_rounds=1)
    finally:
        for fd in (*opened, to_child, from_parent, to_parent, from_child):
            os.close(fd)
        os.waitpid(pid, 0)
        os.sched_setaffinity(0, allowed)

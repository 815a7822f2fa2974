# SPDX-License-Identifier: MIT
"""What all tasks of a command waited, by this kernel's accounts of those that ended."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guestpv import Error
from guestpv.latency.ended import EndedTasks

RUN = [sys.executable, "-m", "guestpv", "run", "--json", "--all-waits", "--"]
# It says what it waited, by its own file in /proc.
SPIN = "for i in $(seq 50000); do :; done; read ran waited rest </proc/self/schedstat; echo $waited"
ON_ONE_CPU = f"taskset -c {min(os.sched_getaffinity(0))} sh -c '{SPIN}'"


@pytest.fixture
def ended() -> Iterator[EndedTasks]:
    try:
        tasks = EndedTasks()
    except Error as error:
        pytest.skip(str(error))  # see tests/guest/test_run.py
    with tasks:
        yield tasks


def waits_of(script: str) -> tuple[int, int]:
    """What a script waited, by `guestpv run`, and by what its spinners say themselves."""
    done = subprocess.run([*RUN, "sh", "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (run,) = json.loads(done.stderr)["runs"]
    print(run, done.stdout)
    return run["waited_ns"][0], sum(map(int, done.stdout.split()))


@pytest.mark.usefixtures("ended")
def test_those_count_who_wait_for_each_other():
    waited_ns, said_ns = waits_of(f"{ON_ONE_CPU} & {ON_ONE_CPU} & {ON_ONE_CPU} & wait")
    assert 0 < said_ns <= waited_ns


@pytest.mark.usefixtures("ended")
def test_whose_parent_has_ended_counts_too(tmp_path):
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    orphan = f"({ON_ONE_CPU}; {ON_ONE_CPU}; echo >{gate}) & {ON_ONE_CPU} &"
    waited_ns, said_ns = waits_of(
        f'sh -c "{orphan}"; read done <{gate}; sleep 0.1'.replace("$", r"\$")
    )
    assert 0 < said_ns <= waited_ns


def test_who_may_not_have_them_is_told_so():
    without = [] if os.getuid() else ["setpriv", "--bounding-set=-net_admin"]
    done = subprocess.run([*without, *RUN, "true"], capture_output=True, text=True)
    assert done.returncode == 4
    assert json.loads(done.stderr)["fix"] == "run it as root of the guest itself"


def test_descendants_of_others_do_not_count_and_are_left_to_them(ended):
    subprocess.run(["sh", "-c", "true & wait"])
    with subprocess.Popen(["true"]) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        ended.read(child.pid)
    assert child.returncode == 0
    assert ended.waited_ns() > 0


ROOT = os.getpid()


@st.composite
def forests(draw):
    """Tasks that ended, in any order: number, parent, wait; and what ROOT's descendants waited."""
    parents = draw(st.lists(st.integers(0, 30), max_size=30))
    waits = draw(st.lists(st.integers(0, 10**12), min_size=30, max_size=30))
    names = [ROOT, 1, *range(ROOT + 1, ROOT + 31)]  # 1: of everybody else
    tasks, ours, whole = [], [True, False], 0
    for number, (parent, wait) in enumerate(zip(parents, waits, strict=False)):
        parent = min(parent, number + 1)
        tasks.append((names[number + 2], names[parent], wait))
        ours.append(ours[parent])
        whole += wait * ours[parent]
    return draw(st.permutations(tasks)), whole


def told(tasks):
    ended = object.__new__(EndedTasks)  # without a socket: of root's
    ended.forget()
    for number, parent, wait in tasks:
        ended._tasks.append(number)
        ended._parents.append(parent)
        ended._waited_ns.append(wait)
    return ended


@given(forests())
def test_it_is_the_sum_of_all_descendants(forest):
    tasks, whole_ns = forest
    assert told(tasks).waited_ns() == whole_ns


def test_a_number_that_was_given_twice_makes_it_unknown_unless_the_parent_is_the_same():
    tasks = [
        (ROOT + 1, ROOT, 5),
        (ROOT + 1, ROOT, 7),
    ]  # as of a thread that executed another program
    assert told(tasks).waited_ns() == 12
    assert told([*tasks, (ROOT + 1, 1, 3)]).waited_ns() is None

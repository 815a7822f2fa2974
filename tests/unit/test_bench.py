# SPDX-License-Identifier: MIT
"""guestpv bench on page images, in which a test plays the hypervisor: simulation."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest

from guestpv import StructureError
from guestpv.latency.bench import (
    ROUNDS,
    Behaviour,
    Behaviours,
    Cost,
    behaviours,
    costs,
    digits,
    unsteady,
)
from guestpv.source.mapped import MappedReader

CPUS = sorted(os.sched_getaffinity(0))[:2]
CPU = CPUS[0]
MS = 1_000_000
STEADY = Cost(20.0, 19.9, 20.1)


@pytest.fixture
def machine(machine_of):
    return machine_of(CPUS[-1] + 1)


def bench(machine, act=lambda: None, cpus=(CPU,)):
    """What is said when the hypervisor does that once in each of the times that progress is."""
    with MappedReader(machine.path) as reader:
        return behaviours(reader, cpus, 0.5 * ROUNDS, act)


def test_all_that_is_stolen_is_in_it(machine):
    calls = []

    def steal():
        calls.append(None)
        machine.steal(CPU, 5 * MS)

    (vcpu,) = bench(machine, steal).vcpus
    # What comes while no thread watches is not seen.
    assert len(calls) - 2 * ROUNDS <= vcpu.moves <= len(calls)
    assert vcpu.stolen_ns == vcpu.moves * 5 * MS
    assert len(vcpu.round_percent) == ROUNDS
    mean = sum(vcpu.round_percent) / ROUNDS
    assert mean == pytest.approx(100 * vcpu.stolen_ns / vcpu.wall_ns, rel=0.1)
    assert 0.3e9 * ROUNDS < vcpu.wall_ns < 0.6e9 * ROUNDS


def test_who_interrupts_it_gets_what_there_is(machine):
    until = time.monotonic() + 1.3

    def interrupt():
        if time.monotonic() > until:
            raise KeyboardInterrupt

    seen = bench(machine, interrupt)
    (vcpu,) = seen.vcpus
    assert 0 < seen.rounds == len(vcpu.round_percent) < ROUNDS
    assert vcpu.wall_ns < 0.6e9 * seen.rounds
    until = 0
    with pytest.raises(KeyboardInterrupt):  # in the first round there is nothing yet
        bench(machine, interrupt)


def test_ctrl_c_is_a_result_that_says_so(machine):
    options = ["bench", "--source", machine.path, "--seconds", "5", "--cpu", str(CPU), "--json"]
    command = [sys.executable, "-m", "guestpv", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        rounds = set()
        while len(rounds) < 2:  # each has a thread of its own
            rounds |= pinned_threads(running.pid)
            time.sleep(0.02)
        running.send_signal(signal.SIGINT)
        record, said = running.communicate()
    assert (running.returncode, said) == (130, b"")
    assert json.loads(record)["finished"] is False
    assert [vcpu["cpu"] for vcpu in json.loads(record)["cpus"]] == [CPU]


def pinned_threads(pid):
    """The threads of a process that may run on one CPU only."""
    pinned = set()
    for tid in os.listdir(f"/proc/{pid}/task"):
        with suppress(ProcessLookupError):
            if len(os.sched_getaffinity(int(tid))) == 1:
                pinned.add(tid)
    return pinned


def test_a_count_that_stands_still(machine):
    (vcpu,) = bench(machine).vcpus
    assert (vcpu.stolen_ns, vcpu.moves, vcpu.step_ns, vcpu.late) == (0, 0, None, 0)
    assert vcpu.counted_ns == 0


@pytest.mark.parametrize(
    ("happens", "why"),
    [
        (lambda machine: machine.restart(CPU), "started again"),
        (lambda machine: machine.revise(CPU, 1), "revision"),
        (lambda machine: machine.refuse(CPU), "offline"),
        (lambda machine: machine.take_back(CPU, 1), "fell"),
    ],
    ids=["restart", "revision", "refused", "fell"],
)
def test_a_vcpu_of_which_nothing_can_be_said_is_left_out_with_the_reason(machine, happens, why):
    todo = [happens]
    said = bench(machine, lambda: todo and todo.pop()(machine))
    assert said.vcpus == ()
    assert why in said.left_out[CPU]


def test_what_no_call_can_read_is_not_timed(machine):
    machine.revise(CPU, 1)
    with MappedReader(machine.path) as reader, pytest.raises(StructureError):
        costs(reader, CPU)


def test_reading_is_cheaper_than_what_it_replaces(machine):
    with MappedReader(machine.path) as reader:
        said = costs(reader, CPU)
    assert all(cost.q1_ns <= cost.median_ns <= cost.q3_ns for cost in said.values())
    assert said["stolen_ns(cpu)"].median_ns * 10 < said["psutil.cpu_times"].median_ns


def behaviour(**other):
    same = {"cpu": 0, "wall_ns": 10**10, "stolen_ns": 4 * 10**9, "moves": 600}
    same |= {"round_percent": (40.0, 41.0, 39.5), "step_ns": 6 * MS, "worst_ns": 20 * MS}
    same |= {"missing_ns": 4 * 10**9, "counted_ns": 4 * 10**9, "late": 0, "late_ns": 0}
    return Behaviour(**(same | {"explained_percent": 100.0, "waited_ns": 0} | other))


@pytest.mark.parametrize(
    ("cost", "vcpu", "why"),
    [
        (STEADY, behaviour(), None),
        (STEADY, behaviour(round_percent=(0.0, 1.5)), None),  # nothing, give or take a bit
        (Cost(20.0, 19.0, 22.0), behaviour(), "read: the middle half of its timings"),
        (STEADY, behaviour(round_percent=(12.0, 57.0)), "12.0 to 57.0 % was stolen"),
        (STEADY, behaviour(waited_ns=2 * 10**9), "ran on it for 20 % of the time"),
    ],
)
def test_what_is_not_steady_is_named(cost, vcpu, why):
    said = unsteady({"read": cost}, Behaviours((vcpu,), {}))
    assert len(said) == (why is not None)
    assert not why or why in said[0]


def test_two_results_side_by_side(guestpv, machine, tmp_path):
    options = ("bench", "--source", machine.path, "--seconds", "0.5", "--cpu", str(CPU))
    first = guestpv(*options, "--json")
    assert first.stderr == ""
    record = json.loads(first.stdout)
    assert record["schema"] == "guestpv.bench/1"
    assert [vcpu["cpu"] for vcpu in record["cpus"]] == [CPU]
    record["costs"]["read(cpu)"]["median_ns"] *= 1000
    (tmp_path / "before").write_text(json.dumps(record))
    second = guestpv(*options, "--compare", tmp_path / "before").stdout
    (line,) = (line for line in second.splitlines() if line.startswith("read(cpu)"))
    assert line.split()[-1].startswith("0.00")


NO_RESULTS = [
    *("", "{}", "[]", "\0", '{"schema": "guestpv.read/1"}', "[" * 200_000),
    *(
        f'{{"schema": "guestpv.bench/1", {rest}}}'
        for rest in (
            '"cpus": []',
            '"cpus": 3, "costs": {}',
            '"cpus": [], "costs": []',
            '"cpus": [{"cpu": 0}], "costs": {}',
            '"cpus": [], "costs": {"read(cpu)": {"median_ns": 0}}',
            '"cpus": [{"cpu": 0, "stolen_ns": 0, "wall_ns": 0}], "costs": {}',
            f'"cpus": [{{"cpu": 0, "stolen_ns": {10**400}, "wall_ns": 1}}], "costs": {{}}',
            f'"cpus": [], "costs": {{"read(cpu)": {{"median_ns": {10**400}}}}}',
            '"cpus": [], "costs": {"read(cpu)": {"median_ns": Infinity}}',
        )
    ),
]


@pytest.mark.parametrize("content", NO_RESULTS, ids=range(len(NO_RESULTS)))
def test_what_is_no_result_is_not_compared(guestpv, machine, tmp_path, content):
    (tmp_path / "before").write_text(content)
    done = guestpv("bench", "--source", machine.path, "--compare", tmp_path / "before")
    assert (done.returncode, done.stdout) == (5, "")
    assert "no result" in done.stderr


def test_a_comparison_is_no_json(guestpv, machine, tmp_path):
    options = ("--compare", tmp_path / "before", "--json")
    done = guestpv("bench", "--source", machine.path, *options)
    assert (done.returncode, done.stdout) == (2, "")
    assert "--compare" in done.stderr


def test_of_a_page_image_the_kernel_says_nothing(machine):
    (vcpu,) = bench(machine).vcpus
    assert vcpu.explained_percent is None


@pytest.mark.parametrize(
    ("ns", "said"), [(17.234, "17.23"), (999.96, "1000"), (9999.7, "10000"), (23456.7, "23457")]
)
def test_times_have_no_exponents(ns, said):
    assert digits(ns) == said


def test_ticks_are_not_measured(guestpv):
    done = guestpv("bench", "--source", "procfs")
    assert done.returncode == 3
    assert "no counts in nanoseconds" in done.stderr


def test_where_no_vcpu_has_a_count_it_says_why(guestpv, machine):
    for cpu in range(CPUS[-1] + 1):
        machine.revise(cpu, 1)
    done = guestpv("bench", "--source", machine.path)
    assert done.returncode == 7
    assert "revision" in done.stderr


def test_what_it_needs_beside_is_named(machine):
    script = "import sys; sys.modules['psutil'] = None; from guestpv.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", script, "bench", "--source", machine.path],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 9
    assert f"{sys.executable} -m pip install 'guestpv[bench]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_it_can_be_interrupted(machine):
    with subprocess.Popen(
        [sys.executable, "-m", "guestpv", "bench", "--source", machine.path, "--seconds", "3600"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        time.sleep(4)
        process.send_signal(2)
        said, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert said == ""

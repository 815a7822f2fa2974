# SPDX-License-Identifier: MIT
"""guestpv jitter: whose gaps they are, in a guest from which the host takes time."""

import json
import subprocess
import sys
import time

import pytest

import guestpv
from guestpv.latency.jitter import THRESHOLD_NS, Counter, Jitter

CPU = 1
SPIN = "while True: pass"


def jitter(command, *options, code=0):
    """What it finds on one vCPU."""
    said = command("jitter", "--json", "--cpu", str(CPU), *options, returncode=code)
    record = json.loads(said.stdout)
    thread = record["thread"]["0"]
    print({name: value for name, value in thread.items() if name not in ("worst", "histogram_ns")})
    assert sum(thread["histogram_ns"].values()) == thread["gaps"]
    return record, thread


@pytest.fixture
def spinner():
    """Something else of the guest that wants the same vCPU."""
    with subprocess.Popen(["taskset", "-c", str(CPU), sys.executable, "-c", SPIN]) as process:
        yield process
        process.kill()


@pytest.mark.contended
def test_what_the_host_takes_is_stolen_and_exact(loaded, command):
    with guestpv.open() as reader:
        before = reader.read(CPU).stolen_ns
        record, thread = jitter(command, "--duration", "5s")
        grown_ns = reader.read(CPU).stolen_ns - before
    least, most = thread["stolen_ns"]
    assert record["unknown"] is None
    assert least == most
    assert 0.2 * thread["duration_ns"] < least + thread["short_stolen_ns"] <= grown_ns
    assert (thread["late"], thread["restarts"], thread["unknown"]) == (0, 0, 0)


@pytest.mark.contended
def test_what_another_task_takes_is_the_queues(loaded, command, spinner):
    _, thread = jitter(command, "--duration", "5s")
    queue, stolen = thread["queue_ns"], thread["stolen_ns"]
    # The two share what the hosts leave. While one waits, time is stolen from the other.
    assert 0.05 * thread["duration_ns"] < queue[0] < queue[1] <= thread["noise_ns"] - stolen[0]
    assert stolen[0] > 0.1 * thread["duration_ns"]
    assert thread["involuntary"] > 10


@pytest.mark.contended
def test_a_gap_is_taken_apart(loaded, command):
    began_s = time.time()
    record, _ = jitter(command, "--duration", "60s", "--until-gap", "3ms", code=17)
    gap = record["outlier"]
    assert gap["length_ns"] >= 3_000_000
    assert gap["stolen_ns"][0] > 0.5 * gap["length_ns"]
    assert began_s < gap["time_s"] < time.time()
    assert record["finished"] is False


def test_a_vcpu_that_goes_offline_is_flagged_and_the_rest_goes_on(loaded, last_cpu):
    cpu = int(last_cpu.parent.name.removeprefix("cpu"))
    todo = [lambda: last_cpu.write_text("0")]
    with guestpv.open() as reader:
        threshold = Counter.here().whole_steps(THRESHOLD_NS)
        measured = Jitter(reader, (0, cpu), threshold=threshold)
        measured.run(4, lambda: todo and todo.pop()())
    other, gone = measured.vcpus()
    print(other.wall_ns, gone.wall_ns, gone.left_ns)
    assert gone.left_ns
    assert other.left_ns is None
    assert gone.wall_ns < 0.8 * other.wall_ns
    assert gone.gaps == gone.histogram.sum()
    assert measured.left_out == {}


def test_an_offline_vcpu_can_not_be_chosen(loaded, last_cpu, command):
    last_cpu.write_text("0")
    done = command("jitter", "--cpu", last_cpu.parent.name.removeprefix("cpu"), returncode=6)
    assert "offline" in done.stderr


def test_a_priority_keeps_other_tasks_away_but_for_the_throttling(loaded, command, spinner):
    record, thread = jitter(command, "--duration", "5s", "--priority", "1")
    assert "running for 50 ms" in record["throttling"]
    assert thread["queue_ns"][0] > 0.005 * thread["duration_ns"]
    assert thread["queue_ns"][1] < 0.15 * thread["duration_ns"]


def test_without_the_module_it_says_that_stolen_time_is_not_known(unloaded, command):
    done = command("jitter", "--duration", "2s")
    (line,) = done.stderr.splitlines()
    assert "what is stolen is not known" in line
    assert "guestpv load" in line

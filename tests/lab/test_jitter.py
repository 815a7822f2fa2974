# SPDX-License-Identifier: MIT
"""`guestpv jitter` against the host's own account of what it took."""

import json
import subprocess
import time
from collections.abc import Iterator

import pytest

from pvlab import Lab, Lie

BEGUN_S = 1
CONTENDED_S = 4
LOOK_S = 8
IDLE_S = 15
LATE_NS = 20_000_000

# On both vCPUs, as soon as it is told to. Before and after it waits, and no count moves.
FIND = """
import json, sys, guestpv
from guestpv.cli.jitterrecord import record
from guestpv.latency.jitter import THRESHOLD_NS, Counter, Jitter

with guestpv.open() as reader:
    threshold = Counter.here().whole_steps(THRESHOLD_NS)
    measured = Jitter(reader, (0, 1), threshold=threshold)
    print("ready", flush=True)
    seconds = float(input())
    measured.run(seconds)
    print(json.dumps(record(measured, reader, {})), flush=True)
    input()
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(vcpus=2, load=True) as lab:
        yield lab


def found(lab: Lab, seconds: float, steal: int) -> tuple[list[dict], list[int]]:
    """What threads on both vCPUs find, and what the host took from each meanwhile."""
    command = lab.guest.argv(["python3", "-c", FIND])
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        before = lab.vcpu_run_delay_ns()
        print(seconds, file=process.stdin, flush=True)
        if steal:
            time.sleep(BEGUN_S)
            lab.steal(steal)
            time.sleep(CONTENDED_S)
            lab.steal(0)
        threads = json.loads(process.stdout.readline())["thread"].values()
        after = lab.vcpu_run_delay_ns()
        print(file=process.stdin, flush=True)
    taken_ns = [now - then for then, now in zip(before, after, strict=True)]
    for thread, ns in zip(threads, taken_ns, strict=True):
        print(
            f"cpu{thread['cpu']}: the host took {ns / 1e6:.2f} ms; stolen"
            f" {thread['stolen_ns'][0] / 1e6:.2f} to {thread['stolen_ns'][1] / 1e6:.2f} ms and"
            f" {thread['short_stolen_ns'] / 1e6:.3f} ms in shorter ones; of"
            f" {thread['noise_ns'] / 1e6:.2f} ms in {thread['gaps']} gaps; longest"
            f" {thread['max_ns'] / 1e6:.2f} ms; other {thread['other_ns']}, queue"
            f" {thread['queue_ns']}; a look {thread['min_ns']} ns,"
            f" measuring {thread['measuring_ns'] / 1e6:.1f} ms"
        )
    return list(threads), taken_ns


@pytest.mark.parametrize("steal", [40, 70])
def test_what_the_host_takes_is_found_and_called_stolen(lab, steal):
    threads, taken_ns = found(lab, LOOK_S, steal)
    for thread, ns in zip(threads, taken_ns, strict=True):
        assert ns > 1_000_000_000, "the host took less than a second: no contention?"
        least, most = thread["stolen_ns"]
        assert least == most
        assert least >= 0.98 * ns
        assert least <= ns
        assert (thread["late"], thread["restarts"], thread["unknown"]) == (0, 0, 0)


def test_nothing_is_called_stolen_that_an_idle_host_did_not_take(lab):
    """A host does something now and then, and has taken that."""
    threads, taken_ns = found(lab, IDLE_S, 0)
    for thread, ns in zip(threads, taken_ns, strict=True):
        assert thread["stolen_ns"][1] <= ns
        assert thread["stolen_ns"][1] < 0.01 * thread["duration_ns"]
        assert thread["gaps"] > 0


def test_its_look_beside_that_of_oslat(lab):
    """Which counts whole microseconds. On cpu1, one after the other; nothing to pass or fail."""
    options = ["--duration", f"{CONTENDED_S}s", "--cpu-list", "1", "--quiet", "--json=/tmp/oslat"]
    assert lab.run(["oslat", *options]).returncode == 0
    said = json.loads(lab.run(["cat", "/tmp/oslat"]).stdout)["thread"]["0"]
    looks = sum(said["histogram"].values())
    print(f"oslat: {1e9 * said['duration'] / looks:.0f} ns a look, the shortest {said['min']} us")
    options = ["--duration", f"{CONTENDED_S}s", "--cpu", "1", "--json"]
    for name, source in ("with the count", []), ("without", ["setpriv", "--reuid=65534"]):
        done = lab.run([*source, "guestpv", "jitter", *options])
        record = json.loads(done.stdout)
        own = record["thread"]["0"]
        quiet_ns = own["duration_ns"] - own["noise_ns"] - own["measuring_ns"]
        print(
            f"jitter, {name}: {quiet_ns / own['looks']:.0f} ns a look, the shortest"
            f" {own['min_ns']} ns, steps of {record['step_ns']:g} ns"
        )


def test_a_count_that_is_told_late_gives_bounds_with_what_was_taken_between(lab):
    with lab.lying(Lie(late_ns=LATE_NS)):
        threads, taken_ns = found(lab, LOOK_S, 40)
    for thread, ns in zip(threads, taken_ns, strict=True):
        assert thread["late"] > 0
        least, most = thread["stolen_ns"]
        assert least < 0.98 * ns < most

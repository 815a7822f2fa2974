# SPDX-License-Identifier: MIT
"""The unstolen clock and the plug-ins, as pip installs them, on a vCPU that the host takes away."""

import json
import os
import subprocess
import sys
import time
from itertools import pairwise

import pytest
from forkserver import COMMAND

import guestpv
from guestpv.latency.clock import CpuClock, ThreadClock

MS = 1_000_000
SLICES_NS = 300_000_000
"""What the host may take between two readings at a bad moment."""


def spin(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


@pytest.mark.contended
def test_the_clock_of_a_vcpu_leaves_out_what_its_count_grew_by(loaded, pinned):
    with guestpv.open() as reader, CpuClock() as unstolen:
        count_ns, begin_ns = reader.stolen_ns(pinned), unstolen.unstolen_ns()
        wall_ns = time.monotonic_ns()
        spin(2)
        passed_ns = unstolen.unstolen_ns() - begin_ns
        wall_ns, count_ns = time.monotonic_ns() - wall_ns, reader.stolen_ns(pinned) - count_ns
    print(f"of {wall_ns} ns cpu{pinned} lost {count_ns}, and {passed_ns} passed without them")
    assert count_ns > 0.2 * wall_ns  # the lab contends for it
    assert abs(wall_ns - count_ns - passed_ns) < SLICES_NS


@pytest.mark.contended
def test_it_advances_strictly_under_contention(loaded, pinned):
    with CpuClock() as unstolen:
        times, end = [], time.monotonic() + 3
        while time.monotonic() < end:
            times += [unstolen.unstolen_ns() for _ in range(100)]
        elapsed = unstolen.elapsed()
    print(elapsed, len(times))
    assert elapsed.stolen_ns > 0
    assert elapsed.unknown_ns == 0
    assert all(before < after for before, after in pairwise(times))


@pytest.mark.contended
def test_a_thread_that_moves_has_a_clock_too(loaded):
    cpus = sorted(os.sched_getaffinity(0))
    with guestpv.counter() as counted, ThreadClock() as unstolen:
        for cpu in cpus * 4:
            os.sched_setaffinity(0, {cpu})
            spin(0.2)
        elapsed, stolen = unstolen.elapsed(), counted.read()
    os.sched_setaffinity(0, cpus)
    print(elapsed, stolen)
    assert elapsed.unknown_ns == 0
    assert 0 < elapsed.stolen_ns <= stolen.most_ns
    with pytest.raises(guestpv.Error, match="not pinned"):
        guestpv.clock.unstolen_ns()


def run(*command, **environment):
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | environment, timeout=120
    )
    print(done.stdout, done.stderr)
    return done


PYTEST = (*COMMAND, "pytest")
WORKLOAD = os.path.join(os.path.dirname(__file__), "workload.py")


@pytest.fixture
def alone(tmp_path):
    """What the workload is told, as the only task."""
    return {"PLACE": str(tmp_path), "TASKS": "1", "TIMER": "corrected"}


@pytest.mark.contended
def test_pytest_benchmark_says_what_was_stolen_and_takes_it_off(loaded, alone, tmp_path):
    saved = tmp_path / "saved.json"
    options = ("-p", "no:cacheprovider", "--guestpv=correct", f"--benchmark-json={saved}")
    done = run(*PYTEST, *options, WORKLOAD, **alone)
    assert done.returncode == 0
    assert "guestpv: stolen time, correct" in done.stdout
    (benchmark,) = json.loads(saved.read_text())["benchmarks"]
    said, data = benchmark["extra_info"]["guestpv"], benchmark["stats"]["data"]
    assert sum(said["stolen_ns"]) > 100 * MS
    assert said["unknown_ns"] == {}
    whole_ns = said["wall_ns"] - sum(said["stolen_ns"])
    assert sum(data) * 1e9 == pytest.approx(whole_ns, rel=1e-6)


@pytest.mark.contended
def test_a_test_of_time_is_excused_with_the_reason(loaded, tmp_path):
    tests = tmp_path / "test_time.py"
    tests.write_text(
        "import time, pytest\n"
        "@pytest.mark.stolen(max_percent=5)\n"
        "def test_it():\n"
        "    end = time.monotonic() + 1\n"
        "    while time.monotonic() < end: pass\n"
        "    assert not 'in time'\n"
    )
    done = run(*PYTEST, "-rs", "-p", "no:cacheprovider", str(tests))
    assert done.returncode == 0
    assert "the hypervisor took" in done.stdout
    assert "2 rerun" in done.stdout


@pytest.mark.contended
def test_pyperf_has_it_in_the_metadata(loaded, alone, tmp_path):
    saved = tmp_path / "saved.json"
    options = ("--hook", "guestpv", f"--inherit-environ={','.join(alone)}", "-q", "-o", str(saved))
    done = run(sys.executable, WORKLOAD, *options, **alone)
    assert done.returncode == 0
    assert "guestpv: the hypervisor took" in done.stderr
    benchmarks = json.loads(saved.read_text())
    (run_,) = benchmarks["benchmarks"][0]["runs"]
    said = {}
    for part in benchmarks, benchmarks["benchmarks"][0], run_:
        said |= part.get("metadata", {})
    assert said["guestpv_stolen_ns"] > 100 * MS
    assert said["guestpv_unknown_ns"] == 0
    corrected_ns = said["guestpv_wall_ns"] - said["guestpv_stolen_ns"]
    assert sum(run_["values"]) * 1e9 == pytest.approx(corrected_ns, abs=SLICES_NS)


def test_without_the_module_it_is_one_line(unloaded, alone):
    options = ("-p", "no:cacheprovider", "--guestpv=correct", WORKLOAD)
    done = run(*PYTEST, *options, **alone)
    assert done.returncode == 0
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("guestpv:")]
    assert "guestpv load" in line

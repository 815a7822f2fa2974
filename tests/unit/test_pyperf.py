# SPDX-License-Identifier: MIT
"""pyperf: its hook and its timer, in the processes that it starts, with a test as the host."""

import json
import os
import subprocess
import sys

import pytest

MS = 1_000_000
SCRIPT = """
import os, sys, time
from importlib.metadata import EntryPoint
import numpy as np, pyperf
import guestpv.source.open
from guestpv.latency import perf
from guestpv.page.image import structures
from guestpv.plugins.pyperf import corrected

page, cpu, ms, timer = {page!r}, {cpu}, {ms}, {timer!r}
guestpv.source.open.DEVICE = page
perf.PMU = perf.Path("/none")
if os.path.exists(page):
    counts = structures(np.memmap(page, np.uint8, "r+"))["stolen_time"]

def work():
    time.sleep((1 + ms) / 1e3)
    if ms:
        counts[cpu] += ms * 1_000_000

hook = EntryPoint("guestpv", "guestpv.plugins.pyperf:Hook", "pyperf.hook")  # as pyproject has it
runner = pyperf.Runner(hooks=[hook], processes=1, values=2, warmups=0, loops=3)
if timer == "corrected":
    runner.bench_time_func("work", corrected(work))
else:
    runner.bench_func("work", work)
"""


@pytest.fixture
def measure(machine_of, tmp_path):
    """Run a benchmark in which the host takes so many ms a call: metadata, values, and stderr."""
    cpu = min(os.sched_getaffinity(0))
    machine = machine_of(os.cpu_count())

    def measure(ms, timer="usual", page=machine.path):
        script, saved = tmp_path / "script.py", tmp_path / "saved.json"
        script.write_text(SCRIPT.format(page=page, cpu=cpu, ms=ms, timer=timer))
        saved.unlink(missing_ok=True)
        options = ("--hook", "guestpv", f"--affinity={cpu}", "--quiet", "-o", saved)
        command = [sys.executable, script, *options]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        (benchmark,) = json.loads(saved.read_text())["benchmarks"]
        (run,) = benchmark["runs"]
        common = benchmark.get("metadata", {}) | json.loads(saved.read_text()).get("metadata", {})
        return common | run.get("metadata", {}), run["values"], done.stderr

    return measure


def test_a_disturbed_run_says_so(measure):
    metadata, values, said = measure(10)
    assert metadata["guestpv_stolen_ns"] == 2 * 3 * 10 * MS
    assert metadata["guestpv_unknown_ns"] == 0
    assert metadata["guestpv_wall_ns"] >= 2 * 3 * 11 * MS
    percent = 100 * metadata["guestpv_stolen_ns"] / metadata["guestpv_wall_ns"]
    assert metadata["guestpv_stolen_percent"] == pytest.approx(percent, abs=0.001)
    assert all(value >= 0.011 for value in values)
    (line,) = said.splitlines()
    assert line.startswith(f"guestpv: the hypervisor took {percent:.1f} % of a run")


def test_an_undisturbed_run_has_its_zeros(measure):
    metadata, _, said = measure(0)
    assert metadata["guestpv_stolen_ns"] == metadata["guestpv_unknown_ns"] == 0
    assert said == ""


def test_a_corrected_value_has_nothing_of_what_was_stolen(measure):
    metadata, values, _ = measure(10, "corrected")
    whole_ns = 3 * 1e9 * sum(values) + metadata["guestpv_stolen_ns"]
    assert metadata["guestpv_stolen_ns"] == 2 * 3 * 10 * MS
    assert 2 * 3 * 11 * MS <= whole_ns <= metadata["guestpv_wall_ns"]


@pytest.mark.parametrize("timer", ["usual", "corrected"])
def test_without_pv_time_it_is_one_line_in_the_metadata(measure, timer):
    metadata, values, said = measure(0, timer, page="/none")
    assert metadata["guestpv"].startswith("what was stolen is not known: ")
    assert not [name for name in metadata if name.startswith("guestpv_")]
    assert all(value >= 0.001 for value in values)
    assert said == ""


RESTARTS = """
import os, sys, time
import guestpv
import guestpv.source.open
from guestpv.plugins.pyperf import corrected
sys.path.insert(0, {conftest!r})
from conftest import Machine

guestpv.source.open.DEVICE = {page!r}
os.sched_setaffinity(0, {{0}})
machine = Machine({page!r}, [0] * os.cpu_count())
calls = []

def work(times):
    calls.append(1)
    time.sleep(0.001)
    if len(calls) <= times:
        machine.restart(0)

try:
    print(corrected(work)(1, int(sys.argv[1])) >= 0.001, len(calls))
except guestpv.Error as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("restarts", "said"), [("2", "True 3\n"), ("99", "pyperf: no value measured. Of 10 in a row")]
)
def test_a_value_of_which_nothing_is_known_is_measured_again(tmp_path, restarts, said):
    if 0 not in os.sched_getaffinity(0):
        pytest.skip("cpu0 is not ours")
    script = tmp_path / "script.py"
    place = os.path.dirname(__file__)
    script.write_text(RESTARTS.format(conftest=place, page=str(tmp_path / "page")))
    command = [sys.executable, script, restarts]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.startswith(said), done.stderr

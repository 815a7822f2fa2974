# SPDX-License-Identifier: MIT
"""A benchmark in quiet, and while half of each vCPU is taken: what the plug-ins make of it.

Each way of measuring has three figures: quiet, contended, and contended but corrected. The second
is about twice the first, the third within 3 % of it.
"""

import json
import statistics
from dataclasses import dataclass

import pytest

from pvlab import Lab

TOLERANCE = 0.03
TWICE = pytest.approx(2, abs=0.35)

# What an emulated host takes to come back, half a millisecond each time, nobody counts. So it
# takes the vCPUs away seldom, and then for long.
PERIOD_MS = 200
LONG_SLICES = """
mountpoint -q /sys/kernel/debug || mount -t debugfs none /sys/kernel/debug
cd /sys/kernel/debug/sched
for knob in latency_ns min_granularity_ns wakeup_granularity_ns; do
    echo 100000000 >$knob
done
"""

PLACE = "/tmp/workload"
COMMANDS = {
    "pytest-benchmark": (
        "python3 -m pytest -q -p no:cacheprovider --rootdir={place} --guestpv=correct"
        " --benchmark-json=saved$task.json {place}/workload.py"
    ),
    "pyperf": (
        "python3 {place}/workload.py --hook guestpv -q -o saved$task.json"
        " --inherit-environ=TOGETHER,TIMER"
    ),
    "guestpv run": (
        "guestpv run --json --output saved$task.json -- python3 -S {place}/workload.py plain"
    ),
}
TASKS = """
rm -rf {place} && mkdir -m 1777 {place} && cp /root/tests/guest/workload.py {place} && cd {place}
chmod 755 workload.py
export TOGETHER={place}:{tasks} TIMER=corrected
for task in $(seq {tasks}); do
    taskset -c $((task % {vcpus})) {privilege} {command} >said$task 2>&1 &
done
wait
"""
NOBODY = "setpriv --reuid=65534 --regid=65534 --clear-groups"


@dataclass(frozen=True)
class Figures:
    """Of all tasks together, in seconds of one round."""

    wall: float
    corrected: float

    def __str__(self) -> str:
        return f"{1e3 * self.wall:.2f} ms, corrected {1e3 * self.corrected:.2f} ms"


def measure(lab: Lab, tool: str, tasks: int, vcpus: int, privilege: str = "") -> Figures:
    """Have so many tasks on so many vCPUs measured by a tool, at the same time."""
    command = COMMANDS[tool].format(place=PLACE)
    script = TASKS.format(
        place=PLACE, tasks=tasks, vcpus=vcpus, privilege=privilege, command=command
    )
    lab.run(["sh", "-c", script], timeout=120).check_returncode()
    figures = []
    for task in range(1, tasks + 1):
        saved = lab.run(["cat", f"{PLACE}/saved{task}.json"])
        assert saved.returncode == 0, lab.run(["cat", f"{PLACE}/said{task}"]).stdout
        figures.append(READ[tool](json.loads(saved.stdout)))
    return Figures(
        statistics.mean(one.wall for one in figures),
        statistics.mean(one.corrected for one in figures),
    )


def of_pytest(saved: dict) -> Figures:
    (benchmark,) = saved["benchmarks"]
    said = benchmark["extra_info"]["guestpv"]
    assert said["unknown_ns"] == {}
    stats = benchmark["stats"]
    return Figures(said["wall_ns"] / 1e9 / stats["rounds"], stats["mean"])


def of_pyperf(saved: dict) -> Figures:
    (run,) = saved["benchmarks"][0]["runs"]
    said = saved["metadata"] | run["metadata"]
    assert said["guestpv_unknown_ns"] == 0
    values = run["values"]
    return Figures(said["guestpv_wall_ns"] / 1e9 / len(values), statistics.mean(values))


def of_run(saved: dict) -> Figures:
    """Of a command there is the whole, and what it ran: what it waited for others is not in it."""
    (run,) = saved["runs"]
    least, most = run["ran_ns"]
    assert least == most
    return Figures(run["cpu_ns"][0] / 1e9, least / 1e9)


READ = {"pytest-benchmark": of_pytest, "pyperf": of_pyperf, "guestpv run": of_run}


def judge(tool: str, quiet: Figures, contended: Figures) -> None:
    print(f"{tool}: quiet {quiet}; contended {contended}")
    assert contended.wall / quiet.wall == TWICE
    assert contended.corrected == pytest.approx(quiet.wall, rel=TOLERANCE)


@pytest.mark.parametrize("tool", COMMANDS)
def test_half_of_each_vcpu_is_taken(tool):
    """A task on each of two vCPUs, measured by an ordinary user, who has perf events alone."""
    with Lab(vcpus=2, load=True) as lab:
        lab.run(["sysctl", "-q", "kernel.perf_event_paranoid=2"]).check_returncode()
        quiet = measure(lab, tool, 2, 2, NOBODY)
        lab.steal(50, period_ms=PERIOD_MS)
        contended = measure(lab, tool, 2, 2, NOBODY)
    judge(tool, quiet, contended)


@pytest.mark.parametrize("tool", COMMANDS)
def test_eight_tasks_on_four_vcpus_of_two_cpus(tool):
    """Two tasks on each vCPU. The host has two CPUs, so that two vCPUs are quiet, and four are
    not."""
    with Lab(vcpus=4, memory_mb=1024, load=True) as lab:
        lab.host.run(["sh", "-c", LONG_SLICES]).check_returncode()
        quiet = measure(lab, tool, 4, 2)
        contended = measure(lab, tool, 8, 4)
    judge(tool, quiet, contended)

# SPDX-License-Identifier: MIT
"""A benchmark in quiet, and while much of each vCPU is taken: what the plug-ins make of it.

Corrected it takes within 3 % of what it takes in quiet. The host's time is that of its
instructions: by the clock it would be seen above all how unevenly it is emulated.
"""

import json
import statistics
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from pvlab import Lab

TOLERANCE = 0.03

PLACE = "/tmp/workload"
COMMANDS = {
    "pytest-benchmark": (
        "python3 -m pytest -q -p no:cacheprovider --rootdir=$PLACE --guestpv=correct"
        " --benchmark-json=saved$task workload.py"
    ),
    "pyperf": (
        "python3 workload.py --hook guestpv -q -o saved$task"
        " --inherit-environ=PLACE,TASKS,VCPU,TIMER,PYTHONHASHSEED"
    ),
    "guestpv run": "guestpv run --json --output saved$task -- python3 -S workload.py plain",
}
# All start on one vCPU: on several of one CPU they would wait for each other's locks, for minutes.
ALL = """
export PLACE={place} TIMER=corrected PYTHONHASHSEED=0 TASKS={tasks} VCPU
rm -rf $PLACE && mkdir -m 1777 $PLACE && cd $PLACE
cp /root/tests/guest/workload.py . && chmod 755 workload.py
for task in $(seq 0 $((TASKS - 1))); do
    VCPU=$((task % {vcpus}))
    taskset -c 0 {privilege} {command} >said$task 2>&1 &
done
wait
cat said*
"""
NOBODY = "setpriv --reuid=65534 --regid=65534 --clear-groups"


@dataclass(frozen=True)
class Figures:
    """Of a round, in seconds."""

    wall: float
    corrected: float

    def __str__(self) -> str:
        return f"{1e3 * self.wall:.2f} ms, corrected {1e3 * self.corrected:.2f} ms"


def measure(lab: Lab, tool: str, *, tasks: int, privilege: str = "") -> Figures:
    """Have so many tasks, on all vCPUs, measured by a tool at the same time: the mean of them."""
    script = ALL.format(
        place=PLACE,
        tasks=tasks,
        vcpus=lab.guest.cpus,
        privilege=privilege,
        command=COMMANDS[tool],
    )
    print(lab.run(["sh", "-c", script]).stdout)
    each = [
        READ[tool](json.loads(lab.run(["cat", f"{PLACE}/saved{task}"]).stdout))
        for task in range(tasks)
    ]
    return Figures(
        statistics.mean(one.wall for one in each), statistics.mean(one.corrected for one in each)
    )


def of_pytest(saved: dict) -> Figures:
    (benchmark,) = saved["benchmarks"]
    said, stats = benchmark["extra_info"]["guestpv"], benchmark["stats"]
    assert said["unknown_ns"] == {}
    return Figures(said["wall_ns"] / 1e9 / stats["rounds"], stats["mean"])


def of_pyperf(saved: dict) -> Figures:
    (benchmark,) = saved["benchmarks"]
    (run,) = benchmark["runs"]
    said = saved["metadata"] | benchmark.get("metadata", {}) | run.get("metadata", {})
    assert said["guestpv_unknown_ns"] == 0
    values = run["values"]
    return Figures(said["guestpv_wall_ns"] / 1e9 / len(values), statistics.mean(values))


def of_run(saved: dict) -> Figures:
    """Of a command there is the whole, and what it ran: what it waited for others is not in it."""
    (run,) = saved["runs"]
    least, most = run["ran_ns"]
    assert least == most
    return Figures(run["cpu_ns"][0] / 1e9, least / 1e9)


READ: dict[str, Callable[[dict], Figures]] = {
    "pytest-benchmark": of_pytest,
    "pyperf": of_pyperf,
    "guestpv run": of_run,
}


def judge(quiet: Figures, contended: Figures, times: int) -> None:
    wall, corrected = (took / quiet.wall for took in (contended.wall, contended.corrected))
    print(f"quiet {quiet}; contended {contended}")
    print(f"{wall:.3f} × quiet, corrected {corrected:.4f}")
    assert wall == pytest.approx(times, rel=0.1)
    assert corrected == pytest.approx(1, rel=TOLERANCE)


@pytest.mark.parametrize("tool", COMMANDS)
def test_half_of_a_vcpu_is_taken(tool):
    """Measured by an ordinary user, who has perf events alone."""
    with Lab(vcpus=1, load=True, icount=True) as lab:
        lab.run(["sysctl", "-q", "kernel.perf_event_paranoid=2"]).check_returncode()
        quiet = measure(lab, tool, tasks=1, privilege=NOBODY)
        lab.steal(50)
        judge(quiet, measure(lab, tool, tasks=1, privilege=NOBODY), 2)


@pytest.mark.parametrize("tool", COMMANDS)
def test_eight_tasks_on_four_vcpus_of_one_cpu(tool):
    """Three quarters of each are the others'. Quiet is a vCPU alone, with as many tasks on it."""
    with Lab(vcpus=1, load=True, icount=True) as lab:
        quiet = measure(lab, tool, tasks=2)
    with Lab(vcpus=4, memory_mb=1024, load=True, icount=True) as lab:
        judge(quiet, measure(lab, tool, tasks=8), 4)

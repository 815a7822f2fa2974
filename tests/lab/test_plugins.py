# SPDX-License-Identifier: MIT
"""A benchmark in quiet, and while half of each vCPU is taken: what the plug-ins make of it.

Contended it takes about twice as long, and corrected within 3 % of what it takes in quiet. Quiet
is measured before and after, since other work on this machine makes an emulated one slower, which
nobody counts: where the two are not alike, or something was stolen from them, nothing is said.
"""

import json
import statistics
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from pvlab import Lab

TOLERANCE = 0.03
TWICE = pytest.approx(2, abs=0.35)
ATTEMPTS = 2

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

CONTENDED = ("contended1", "contended2")
PHASES = ("quiet1", "contended1", "quiet2", "contended2", "quiet3")
PLACE = "/tmp/workload"
COMMANDS = {
    "pytest-benchmark": (
        "python3 -m pytest -q -p no:cacheprovider --rootdir=$PLACE --guestpv=correct"
        " --benchmark-json=$saved workload.py"
    ),
    "pyperf": (
        "python3 workload.py --hook guestpv -q -o $saved --inherit-environ=PLACE,PHASES,TIMER"
    ),
    "guestpv run": (
        'sh -c \'for phase in $(echo $PHASES | tr , " "); do'
        " guestpv run --json --output $saved-$phase -- python3 -S workload.py plain $phase; done'"
    ),
}
TASKS = """
rm -rf $PLACE && mkdir -m 1777 $PLACE && cd $PLACE
cp /root/tests/guest/workload.py . && chmod 755 workload.py && mkfifo -m 666 done
export TIMER=corrected PHASES saved
for task in $(seq 0 $(({tasks} - 1))); do
    PHASES={phases}
    [ $((task % {vcpus})) -lt {quiet_vcpus} ] || PHASES={contended}
    saved=saved$task
    taskset -c $((task % {vcpus})) {privilege} {command} >said$task 2>&1 &
done
echo started
wait
"""
PHASE = """
cd $PLACE && exec 3<>done
echo {tasks} >go-{phase}.new && mv go-{phase}.new go-{phase}
for _ in $(seq {tasks}); do
    read phase <&3
done
"""
NOBODY = "setpriv --reuid=65534 --regid=65534 --clear-groups"


@dataclass(frozen=True)
class Figures:
    """Of a round, in seconds."""

    wall: float
    corrected: float

    def __str__(self) -> str:
        return f"{1e3 * self.wall:.2f} ms, corrected {1e3 * self.corrected:.2f} ms"


@dataclass(frozen=True)
class Tasks:
    """So many, of which as many as the host has CPUs for are quiet."""

    tasks: int
    vcpus: int
    quiet_vcpus: int
    privilege: str = ""

    def number(self, phase: str) -> int:
        return self.tasks if phase in CONTENDED else self.tasks * self.quiet_vcpus // self.vcpus


def measure(lab: Lab, tool: str, how: Tasks, contend: Callable[[bool], None]) -> dict[str, Figures]:
    """Have all tasks measured by a tool at the same time; the means of each phase."""
    script = TASKS.format(
        tasks=how.tasks,
        vcpus=how.vcpus,
        quiet_vcpus=how.quiet_vcpus,
        privilege=how.privilege,
        command=COMMANDS[tool],
        phases=",".join(PHASES),
        contended=",".join(CONTENDED),
    )
    argv = lab.guest.argv(["env", f"PLACE={PLACE}", "sh", "-c", script])
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "started\n"
        for phase in PHASES:
            contend(phase in CONTENDED)
            wait = PHASE.format(tasks=how.number(phase), phase=phase)
            lab.run(["env", f"PLACE={PLACE}", "sh", "-c", wait], timeout=120).check_returncode()
        process.wait()
    figures: dict[str, list[Figures]] = {phase: [] for phase in PHASES}
    for task in range(how.tasks):
        for phase, one in READ[tool](lab, f"{PLACE}/saved{task}"):
            figures[phase].append(one)
    assert {phase: len(ones) for phase, ones in figures.items()} == {
        phase: how.number(phase) for phase in PHASES
    }
    return {
        phase: Figures(
            statistics.mean(one.wall for one in ones),
            statistics.mean(one.corrected for one in ones),
        )
        for phase, ones in figures.items()
    }


def read(lab: Lab, path: str) -> dict:
    return json.loads(lab.run(["cat", path]).stdout)


def of_pytest(lab: Lab, path: str) -> list[tuple[str, Figures]]:
    figures = []
    for benchmark in read(lab, path)["benchmarks"]:
        said, stats = benchmark["extra_info"]["guestpv"], benchmark["stats"]
        assert said["unknown_ns"] == {}
        wall = said["wall_ns"] / 1e9 / stats["rounds"]
        figures.append((benchmark["params"]["phase"], Figures(wall, stats["mean"])))
    return figures


def of_pyperf(lab: Lab, path: str) -> list[tuple[str, Figures]]:
    saved, figures = read(lab, path), []
    for benchmark in saved["benchmarks"]:
        (run,) = benchmark["runs"]
        said = saved["metadata"] | benchmark.get("metadata", {}) | run.get("metadata", {})
        assert said["guestpv_unknown_ns"] == 0
        values = run["values"]
        wall = said["guestpv_wall_ns"] / 1e9 / len(values)
        figures.append((said["name"], Figures(wall, statistics.mean(values))))
    return figures


def of_run(lab: Lab, path: str) -> list[tuple[str, Figures]]:
    """Of a command there is the whole, and what it ran: what it waited for others is not in it."""
    figures = []
    for saved in lab.run(["sh", "-c", f"ls {path}-*"]).stdout.split():
        (run,) = read(lab, saved)["runs"]
        least, most = run["ran_ns"]
        assert least == most
        figures.append((saved.rpartition("-")[2], Figures(run["cpu_ns"][0] / 1e9, least / 1e9)))
    return figures


READ = {"pytest-benchmark": of_pytest, "pyperf": of_pyperf, "guestpv run": of_run}


def judge(lab: Lab, tool: str, how: Tasks, contend: Callable[[bool], None]) -> None:
    for _ in range(ATTEMPTS):
        figures = measure(lab, tool, how, contend)
        print(f"{tool}, {how.tasks} tasks:")
        for phase, one in figures.items():
            print(f"    {phase:10} {one}")
        if comparable := list(compare(list(figures.values()))):
            break
    else:
        pytest.fail("something else ran on this machine: it was never quiet twice, and the same")
    for contended, corrected in comparable:
        print(f"    {contended:.3f} × quiet, corrected {corrected:.3f}")
        assert contended == TWICE
        assert corrected == pytest.approx(1, rel=TOLERANCE)


def compare(figures: list[Figures]) -> Iterator[tuple[float, float]]:
    """Each contended phase, and what it is corrected, as a multiple of quiet before and after."""
    for before, contended, after in zip(figures[::2], figures[1::2], figures[2::2], strict=False):
        others = before.corrected, after.wall, after.corrected
        if others == pytest.approx((before.wall,) * 3, rel=TOLERANCE):
            quiet = (before.wall + after.wall) / 2
            yield contended.wall / quiet, contended.corrected / quiet


@pytest.mark.parametrize("tool", COMMANDS)
def test_half_of_each_vcpu_is_taken(tool):
    """A task on each of two vCPUs, measured by an ordinary user, who has perf events alone."""
    with Lab(vcpus=2, load=True) as lab:
        lab.run(["sysctl", "-q", "kernel.perf_event_paranoid=2"]).check_returncode()

        def contend(contended: bool) -> None:
            lab.steal(50 if contended else 0, period_ms=PERIOD_MS)

        judge(lab, tool, Tasks(2, 2, 2, NOBODY), contend)


@pytest.mark.parametrize("tool", COMMANDS)
def test_eight_tasks_on_four_vcpus_of_two_cpus(tool):
    """Two tasks on each vCPU. Two vCPUs are quiet on a host of two CPUs, and four are not."""
    with Lab(vcpus=4, memory_mb=1024, load=True) as lab:
        lab.host.run(["sh", "-c", LONG_SLICES]).check_returncode()
        judge(lab, tool, Tasks(8, 4, 2), lambda contended: None)

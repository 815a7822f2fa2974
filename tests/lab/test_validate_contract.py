# SPDX-License-Identifier: MIT
"""A guest that does other things while it is validated: what that costs, and what it does not."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from reportschema import VALIDATOR
from validator import pin_vcpus

from pvlab import Lab

UNMET = 13
NOT_JUDGED = 14
VCPUS = 2
LOOP = "while :; do :; done"
WATCHING = f"[ $(ls /proc/$pid/task | wc -l) -gt {VCPUS} ]"
"""Whether the process *pid* has begun to keep the vCPUs busy."""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(kernel="stock-6.1", vcpus=VCPUS, load=True) as lab:
        yield lab


def validated(lab: Lab, script: str) -> tuple[int, dict[str, Any]]:
    """The exit code and the report of a *script* that has `validate` in it."""
    validate = "guestpv validate --json"
    done = lab.run(["sh", "-c", script.format(validate=validate)], timeout=300)
    print(done.stderr)
    assert "Traceback" not in done.stderr
    report = json.loads(done.stdout)
    VALIDATOR.validate(report)
    for check in report["checks"]:
        if check["verdict"] != "pass":
            print(check["verdict"], check["id"], check["text"])
    print(report["unjudged"], report["contention"])
    assert done.returncode == report["exit_code"]
    return done.returncode, report


@contextmanager
def running(lab: Lab, command: str) -> Iterator[None]:
    """*command* goes on in the guest."""
    pid = lab.run(["sh", "-c", f"{command} </dev/null >/dev/null 2>&1 & echo $!"]).stdout.strip()
    try:
        yield
    finally:
        lab.run(["kill", "-9", pid]).check_returncode()


def test_a_real_time_task_costs_its_cpu_only(lab: Lab) -> None:
    """Nor does the thread that it does not let run keep the process from its end."""
    unlimited = "echo -1 >/proc/sys/kernel/sched_rt_runtime_us"
    lab.run(["sh", "-c", unlimited]).check_returncode()
    with running(lab, f"taskset -c 1 chrt -f 50 sh -c '{LOOP}'"):
        code, report = validated(lab, "{validate} --quick --require all-cpus --only counter,gaps")
    assert code == UNMET
    assert [group["cpus"] for group in report["unjudged"]] == [[1]]
    assert report["failed"] == 0
    assert {check["verdict"] for check in report["checks"] if check["id"] == "counter.grows"} == {
        "pass"
    }


def test_a_cpu_that_goes_offline_meanwhile_costs_its_verdict_only(lab: Lab) -> None:
    online = "/sys/devices/system/cpu/cpu1/online"
    code, report = validated(
        lab,
        f"{{validate}} --seconds 6 --require all-cpus >/tmp/report & pid=$!; until {WATCHING};"
        f" do sleep 0.5; done; sleep 2; echo 0 >{online}; wait $pid; code=$?; echo 1 >{online};"
        " cat /tmp/report; exit $code",
    )
    assert code == UNMET
    assert [group["cpus"] for group in report["unjudged"]] == [[1]]
    assert "offline" in report["unjudged"][0]["why"]
    assert (report["failed"], report["errors"]) == (0, 0)
    assert [vcpu["cpu"] for vcpu in report["contention"]] == [0]


def test_tasks_that_leave_it_hardly_any_time_do_not_make_it_blame_the_host(lab: Lab) -> None:
    """At nice -20 they have 88 times its weight: all but nothing is left of what is watched."""
    lab.steal(50)
    code, report = validated(
        lab,
        "{validate} --seconds 5 --only counter,gaps >/tmp/report & pid=$!; until "
        f"{WATCHING}; do sleep 0.5; done; for cpu in $(seq 0 {VCPUS - 1}); do"
        f" taskset -c $cpu nice -n -20 timeout 7 sh -c '{LOOP}' & done; wait $pid; code=$?;"
        " cat /tmp/report; exit $code",
    )
    lab.steal(0)
    assert code in (0, NOT_JUDGED)
    assert (report["failed"], report["errors"]) == (0, 0)


def test_time_that_is_taken_from_one_vcpu_only_is_told_of_that_one(lab: Lab) -> None:
    """The lie of the others' counts, if they told one, could not have been seen."""
    loop = f"taskset -c 0 sh -c '{LOOP}' </dev/null >/dev/null 2>&1 & echo $!"
    pid = lab.host.run(["sh", "-c", loop]).stdout.strip()
    try:
        pin_vcpus(lab, "0", "1")
        options = "--quick --require contended --only counter,gaps"
        code, report = validated(lab, f"{{validate}} {options}")
    finally:
        lab.host.run(["kill", pid])
    first, second = report["contention"]
    assert first["contended"]
    assert second["counted_ns"] < first["counted_ns"] / 2  # whatever this machine loses
    assert code == (0 if second["contended"] else UNMET)
    assert report["failed"] == 0

# SPDX-License-Identifier: MIT
"""A guest that does other things while it is validated: what that costs, and what it does not."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from reportschema import VALIDATOR

from pvlab import Lab

UNMET = 13
LOOP = "while :; do :; done"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(kernel="stock-6.1", vcpus=3, load=True, steal=50) as lab:
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
    unlimited = "echo -1 >/proc/sys/kernel/sched_rt_runtime_us"
    lab.run(["sh", "-c", unlimited]).check_returncode()
    with running(lab, f"taskset -c 2 chrt -f 50 sh -c '{LOOP}'"):
        code, report = validated(lab, "{validate} --quick --require all-cpus --only counter,gaps")
    assert code == UNMET
    assert [group["cpus"] for group in report["unjudged"]] == [[2]]
    assert report["failed"] == 0
    assert {check["verdict"] for check in report["checks"] if check["id"] == "counter.grows"} == {
        "pass"
    }


def test_a_cpu_that_goes_offline_meanwhile_costs_its_verdict_only(lab: Lab) -> None:
    online = "/sys/devices/system/cpu/cpu1/online"
    watching = "[ $(ls /proc/$pid/task | wc -l) -gt 3 ]"
    code, report = validated(
        lab,
        f"{{validate}} --seconds 12 --require all-cpus >/tmp/report & pid=$!; until {watching};"
        f" do sleep 0.5; done; sleep 3; echo 0 >{online}; wait $pid; code=$?; echo 1 >{online};"
        " cat /tmp/report; exit $code",
    )
    assert code == UNMET
    assert [group["cpus"] for group in report["unjudged"]] == [[1]]
    assert "offline" in report["unjudged"][0]["why"]
    assert (report["failed"], report["errors"]) == (0, 0)
    assert [vcpu["cpu"] for vcpu in report["contention"]] == [0, 2]

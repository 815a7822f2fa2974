# SPDX-License-Identifier: MIT
"""A guest with nohz_full: Linux's account of it is late, or stuck, and Linux is named for it."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hotplug import switch
from preloaded import START, guestpv
from reportschema import VALIDATOR

from pvlab import Lab


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(
        kernel="stock-6.1", vcpus=2, append="nohz_full=1", load=True, steal=50, prepare=START
    ) as lab:
        yield lab


def validated(lab: Lab, *options: str) -> tuple[int, dict[str, Any]]:
    """The exit code, and the whole report."""
    done = guestpv(lab, "validate", "--json", *options)
    record = json.loads(done.stdout)
    for check in record["checks"]:
        print(check["verdict"], check["id"], check["text"])
    VALIDATOR.validate(record)
    print(record["conclusion"])
    return done.returncode, record


def checks_of(record: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {check["id"]: check for check in record["checks"]}


def test_a_healthy_one_does_not_fail(lab: Lab) -> None:
    code, record = validated(lab, "--seconds", "5")
    checks = checks_of(record)
    assert code == 0
    assert checks["kernel.nohz"]["verdict"] in ("pass", "warn")
    assert checks["kernel.stuck"]["verdict"] == "pass"
    assert checks["kernel.agrees"]["unjudged"][0]["cpus"] == [1]
    assert all(vcpu["contended"] for vcpu in record["contention"])


def test_isolated_cpus_are_left_alone_if_that_is_asked_for(lab: Lab) -> None:
    code, record = validated(lab, "--quick", "--leave-isolated")
    assert code == 0
    assert record["unjudged"] == [{"cpus": [1], "why": "it is isolated, and left alone"}]
    assert [vcpu["cpu"] for vcpu in record["contention"]] == [0]


def test_after_a_hotplug_linux_gives_the_cpu_up_as_stolen_and_is_named(lab: Lab) -> None:
    switch(lab, 1)
    code, record = validated(lab, "--seconds", "5", "--only", "kernel")
    stuck = checks_of(record)["kernel.stuck"]
    assert code == 0
    assert (stuck["verdict"], stuck["cpus"]) == ("warn", [1])
    assert "prev_steal_time" in stuck["advice"]
    assert record["levels"]["kernel"] == "warn"
    (said,) = (said for said in record["conclusion"] if "kernel.stuck" in said["checks"])
    assert said["text"].startswith("This guest's Linux misreports: trust the count")

# SPDX-License-Identifier: MIT
"""The rules of the calling convention on a real KVM, kept, and each broken on purpose.

The calls are made during the run, so the faults are made while the module stays loaded.
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from guestpv.driver.ask import UPPER
from guestpv.page import abi
from pvlab import Lab

ST, FEATURES, VERSION, ARCH_FEATURES = abi.PV_TIME_ST, abi.PV_TIME_FEATURES, 0x80000000, 0x80000001
UNDEFINED = 0xC500002A
REFUSED = -1


@dataclass(frozen=True)
class Fault:
    name: str
    check: str
    answer: dict[str, int]
    says: str
    verdict: str = "fail"


FAULTS = [
    Fault(
        "x9 is not kept",
        "smccc.registers",
        {"call": FEATURES, "arg": ST, "vcpu": 1, "register": 9, "answer": 7},
        "cpu1: x9 changed",
    ),
    Fault(
        "x17 is not kept",
        "smccc.registers",
        {"call": UNDEFINED, "register": 17, "answer": 0},
        "cpu0-1: x17 changed",
    ),
    Fault(
        "SMCCC 1.3 is announced, and the hint not masked",
        "smccc.hint",
        {"call": VERSION, "answer": 0x10003},
        "without the hint",
    ),
    Fault(
        "the upper half of an argument counts",
        "smccc.upper",
        {"call": FEATURES, "arg": UPPER | ST, "answer": REFUSED},
        "with zeroes above",
    ),
    Fault(
        "an undefined number is vouched for",
        "smccc.undefined",
        {"call": FEATURES, "arg": UNDEFINED, "answer": 0},
        "returned 0",
    ),
    Fault(
        "an undefined call is taken for done",
        "smccc.direct",
        {"call": UNDEFINED, "answer": 0},
        "returned 0",
    ),
    Fault(
        "a refusal that is none",
        "smccc.refusals",
        {"call": UNDEFINED, "answer": -2},
        "returned -2",
    ),
    Fault(
        "PV_TIME_ST is gone since the module was loaded",
        "smccc.same",
        {"call": FEATURES, "arg": ST, "answer": REFUSED},
        "now",
        "warn",
    ),
]


@pytest.fixture(scope="module", params=["stock-6.1", "claim-6.1"])
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    with Lab(kernel=request.param, load=True) as lab:
        yield lab


def validate(lab: Lab, *options: str) -> dict[str, dict[str, str]]:
    done = lab.run(["guestpv", "validate", "--json", *options])
    assert "Traceback" not in done.stderr
    assert lab.run(["ls", "/sys/module/guestpv_ask"]).returncode != 0, "it was left there"
    return {check["id"]: check for check in json.loads(done.stdout)["checks"]}


def counts(lab: Lab) -> list[tuple[int, int]]:
    cpus = json.loads(lab.run(["guestpv", "read", "--json"]).stdout)["cpus"]
    return [(cpu["epoch"], cpu["stolen_ns"]) for cpu in cpus]


def test_kvm_keeps_every_rule_and_no_count_restarts(lab):
    before = counts(lab)
    checks = validate(lab, "--only", "smccc")
    for id, check in checks.items():
        print(f"{id:18} {check['verdict']:4} {check['text']}")
    assert {check["verdict"] for check in checks.values()} == {"pass"}
    for (epoch, count), (epoch_now, count_now) in zip(before, counts(lab), strict=True):
        assert epoch_now == epoch
        assert count_now >= count


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_broken_rule_is_caught(lab, fault):
    with lab.answering(**fault.answer):
        check = validate(lab, "--only", "smccc")[fault.check]
    print(f"{fault.name}: {fault.check} says {check['verdict']}: {check['text']}")
    assert check["verdict"] == fault.verdict
    assert fault.says in check["text"]
    assert check["advice"]


def test_arch_features_that_returns_more_than_0_is_linux_to_live_with(lab):
    """The answer of the load counts: SMCCC allows it, and Linux goes without stolen time."""
    with ExitStack() as stack:
        stack.enter_context(lab.answering(call=ARCH_FEATURES, arg=FEATURES, answer=1))
        lab.run(["guestpv", "unload"]).check_returncode()
        stack.callback(lambda: lab.run(["guestpv", "load"]).check_returncode())
        check = validate(lab, "--only", "discovery.exactly_0")["discovery.exactly_0"]
    assert check["verdict"] == "warn"
    assert "Linux guests go without" in check["advice"]


def test_who_refuses_everything_is_asked_the_same(lab):
    """The profile of a hypervisor without PV-time has the rules of the convention, too."""
    with ExitStack() as stack:
        stack.enter_context(lab.answering(call=FEATURES, answer=REFUSED))
        stack.enter_context(lab.answering(call=ST, answer=REFUSED))
        lab.run(["guestpv", "unload"]).check_returncode()
        stack.callback(lambda: lab.run(["guestpv", "load"]).check_returncode())
        checks = validate(lab, "--expect", "none")
        assert {id: check["verdict"] for id, check in checks.items()} == {
            "discovery.none": "pass",
            **{id: "pass" for id in checks if id.startswith("smccc.")},
        }
        stack.enter_context(lab.answering(call=UNDEFINED, answer=0))
        checks = validate(lab, "--expect", "none")
        assert checks["smccc.direct"]["verdict"] == "fail"

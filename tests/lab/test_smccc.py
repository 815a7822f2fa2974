# SPDX-License-Identifier: MIT
"""The rules of the calling convention on a real KVM: it keeps them, and asking changes nothing.

That each one is caught when it is broken is shown in tests/lab/test_validate.py.
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from preloaded import START, guestpv

from guestpv.page import abi
from pvlab import Lab

ST, FEATURES = abi.PV_TIME_ST, abi.PV_TIME_FEATURES
UNDEFINED = 0xC500002A
REFUSED = -1


@pytest.fixture
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    with Lab(kernel=request.param, load=True, prepare=START) as lab:
        yield lab


def validate(lab: Lab, *options: str) -> dict[str, dict[str, str]]:
    done = guestpv(lab, "validate", "--json", *options)
    assert "Traceback" not in done.stderr
    assert lab.run(["ls", "/sys/module/guestpv_ask"]).returncode != 0, "it was left there"
    return {check["id"]: check for check in json.loads(done.stdout)["checks"]}


def counts(lab: Lab) -> list[tuple[int, int]]:
    cpus = json.loads(guestpv(lab, "read", "--json").stdout)["cpus"]
    return [(cpu["epoch"], cpu["stolen_ns"]) for cpu in cpus]


@pytest.mark.parametrize("lab", ["stock-6.1"], indirect=True)
def test_kvm_keeps_every_rule_and_no_count_restarts(lab):
    """Where the kernel owns them. Where guestpv does: tests/lab/test_validate.py."""
    before = counts(lab)
    checks = validate(lab, "--only", "smccc")
    for id, check in checks.items():
        print(f"{id:18} {check['verdict']:4} {check['text']}")
    assert {check["verdict"] for check in checks.values()} == {"pass"}
    for (epoch, count), (epoch_now, count_now) in zip(before, counts(lab), strict=True):
        assert epoch_now == epoch
        assert count_now >= count


@pytest.mark.parametrize("lab", ["claim-6.1"], indirect=True)
def test_who_refuses_everything_is_asked_the_same(lab):
    """The profile of a hypervisor without PV-time has the rules of the convention, too."""
    guestpv(lab, "unload").check_returncode()
    with ExitStack() as stack:
        stack.callback(lambda: guestpv(lab, "load").check_returncode())
        stack.enter_context(lab.answering(call=FEATURES, answer=REFUSED))
        stack.enter_context(lab.answering(call=ST, answer=REFUSED))
        checks = validate(lab, "--expect", "none")
        assert {id: check["verdict"] for id, check in checks.items()} == {
            "discovery.none": "pass",
            **{id: "pass" for id in checks if id.startswith("smccc.")},
        }
        stack.enter_context(lab.answering(call=UNDEFINED, answer=0))
        checks = validate(lab, "--expect", "none")
        assert checks["smccc.direct"]["verdict"] == "fail"

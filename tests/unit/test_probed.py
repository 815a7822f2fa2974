# SPDX-License-Identifier: MIT
"""guestpv validate where the module would not load: an index of answers, and no structure.

The same by the real module, on hypervisors that are broken, is in tests/lab/test_probe.py.
"""

import json

import pytest
from junitparser import JUnitXml

from guestpv.page import abi
from guestpv.page.abi import Conduit, Fault, Origin, State
from guestpv.validate import catalogue

FAILED = 11
OFFERING = ("features_self", "features_st", "features_st_draft")
REFUSED = ("features_undefined", "features_st_smc32", "features_smc32")


@pytest.fixture
def probed(machine):
    """As a load with probe=1 leaves it on a hypervisor that answers as it should."""
    machine.header["flags"] = abi.FLAG_PROBE
    machine.entries["state"] = State.REFUSED
    machine.entries["fault"] = Fault.PROBED
    machine.entries["offset"] = 0
    return machine


def refuse_everything(machine):
    """As a hypervisor does that has no stolen time, and an ARCH_FEATURES that says so."""
    machine.entries["ipa"] = machine.entries["st_call"] = 0
    machine.entries["origin"] = Origin.NONE
    machine.entries["fault"] = Fault.NOT_SUPPORTED
    machine.entries["arch_features"] = -1
    for field in (*OFFERING, *REFUSED, "st_return"):
        machine.entries[field] = abi.NOT_CALLED


def findings(done):
    return {check["id"]: check for check in json.loads(done.stdout)["checks"]}


def validate(guestpv, machine, *options):
    return guestpv("validate", "--json", "--source", machine.path, *options)


def verdicts(done):
    return {id: check["verdict"] for id, check in findings(done).items()}


def test_what_was_answered_is_judged_and_the_rest_says_why_not(guestpv, probed):
    done = validate(guestpv, probed)
    assert done.returncode == 0
    for id, check in findings(done).items():
        judged = check["group"] in ("discovery", "address") and id != "address.stable"
        assert check["verdict"] == ("pass" if judged else "skip"), check
        if check["group"] == "structure":
            assert "no structure is mapped" in check["text"]


@pytest.mark.parametrize(
    ("fault", "check"),
    [
        (Fault.NO_REGION, "address.given"),
        (Fault.NOT_SUPPORTED, "address.given"),
        (Fault.UNALIGNED, "address.aligned"),
        (Fault.OUT_OF_RANGE, "address.range"),
        (Fault.SYSTEM_RAM, "address.ram"),
        (Fault.OVERLAP, "address.apart"),
    ],
)
def test_a_fault_of_all_addresses_is_found(guestpv, probed, fault, check):
    probed.entries["fault"] = fault
    if check == "address.given":
        probed.entries["ipa"] = 0
    done = validate(guestpv, probed)
    assert done.returncode == FAILED
    failed = {id for id, verdict in verdicts(done).items() if verdict == "fail"}
    assert failed == {check}
    assert findings(done)[check]["advice"]


def test_two_addresses_that_overlap_are_found_though_nothing_is_mapped(guestpv, probed):
    probed.entries["ipa"][2] = probed.entries["ipa"][1] + 32
    assert verdicts(validate(guestpv, probed))["address.apart"] == "fail"


def test_addresses_that_are_not_known_are_not_judged(guestpv, probed):
    """The kernel has structures, and without its type information nobody knows where."""
    probed.entries["ipa"] = 0
    probed.entries["origin"] = Origin.NONE
    done = validate(guestpv, probed, "--only", "address")
    assert set(verdicts(done).values()) == {"skip"}


def test_without_pv_time_the_step_at_which_discovery_ended_fails(guestpv, probed):
    refuse_everything(probed)
    done = validate(guestpv, probed)
    assert done.returncode == FAILED
    failed = {id for id, verdict in verdicts(done).items() if verdict == "fail"}
    assert failed == {"discovery.arch_features"}
    assert "--expect none" in findings(done)["discovery.arch_features"]["advice"]


def test_without_a_conduit_nothing_but_that_is_judged(guestpv, probed):
    refuse_everything(probed)
    probed.entries["arch_features"] = abi.NOT_CALLED
    probed.header["conduit"] = Conduit.NONE
    done = validate(guestpv, probed)
    assert done.returncode == FAILED
    judged = {id for id, verdict in verdicts(done).items() if verdict != "skip"}
    assert judged == {"discovery.smccc"}
    done = validate(guestpv, probed, "--expect", "none")
    assert done.returncode == 0
    assert verdicts(done).pop("discovery.none") == "pass"


def test_a_hypervisor_that_refuses_everything_is_what_expect_none_wants(guestpv, probed):
    refuse_everything(probed)
    assert validate(guestpv, probed, "--expect", "none").returncode == 0
    # KVM without steal time: ARCH_FEATURES knows PV_TIME_FEATURES, and that knows nothing.
    probed.entries["arch_features"] = 0
    for field in (*OFFERING, *REFUSED):
        probed.entries[field] = -1
    assert validate(guestpv, probed, "--expect", "none").returncode == 0


@pytest.mark.parametrize("field", [*OFFERING[1:], *REFUSED, "st_return"])
def test_one_vcpu_that_is_offered_something_is_not_what_expect_none_wants(guestpv, probed, field):
    refuse_everything(probed)
    probed.entries[field][2] = 0
    done = validate(guestpv, probed, "--expect", "none")
    assert done.returncode == FAILED
    assert "cpu2" in findings(done)["discovery.none"]["text"]


def test_a_hypervisor_that_offers_pv_time_is_not_what_expect_none_wants(guestpv, machine):
    assert validate(guestpv, machine, "--expect", "none").returncode == FAILED


def test_reading_says_why_there_is_nothing(guestpv, probed):
    done = guestpv("read", "--source", probed.path, "--cpu", "1")
    assert done.returncode == 7
    assert "probe" in done.stderr


def test_what_programs_read_is_not_empty_where_nothing_can_be_opened(guestpv, tmp_path):
    missing = str(tmp_path / "missing")
    junit = tmp_path / "report.xml"
    done = guestpv("validate", "--json", "--source", missing, "--junit", str(junit))
    assert done.returncode == 3
    assert json.loads(done.stderr)["exit_code"] == 3
    record = json.loads(done.stdout)
    assert record["source"] is None
    assert [check["id"] for check in record["checks"]] == [check.id for check in catalogue()]
    assert {check["verdict"] for check in record["checks"]} == {"error"}
    assert all("no such file" in check["text"] for check in record["checks"])
    of_checks = [suite for suite in JUnitXml.fromfile(str(junit)) if suite.name != "run"]
    assert sum(map(len, of_checks)) == len(catalogue())

    done = guestpv("validate", "--tap", "--source", missing)
    cases = [line for line in done.stdout.splitlines() if line.startswith("not ok")]
    assert len(cases) >= len(catalogue())
    assert f"1..{len(cases)}" in done.stdout.splitlines()
    done = guestpv("validate", "--source", missing)
    assert done.stdout == ""

# SPDX-License-Identifier: MIT
"""The interface of the document's draft: PV_TIME_ST is 0xC5000022, and refusals have 32 bits.

KVM is made to serve it: each hypercall is a real trap, and the counts are KVM's own.
"""

import json
from collections.abc import Iterator

import pytest
from preloaded import START, guestpv
from structures import ipa

from guestpv.page.abi import PV_TIME_FEATURES, PV_TIME_ST, PV_TIME_ST_DRAFT
from pvlab import Lab

NOT_SUPPORTED = 0xFFFF_FFFF  # as an int32, whose register is zero above
VCPUS = 2
SECOND = 1_000_000_000

BUSY = "for _ in $(seq 2); do timeout 4 sh -c 'while :; do :; done' & done; wait"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with (
        Lab(kernel="claim-6.1", vcpus=VCPUS, steal=40, prepare=START) as lab,
        lab.answering(call=PV_TIME_FEATURES, arg=PV_TIME_ST, answer=NOT_SUPPORTED),
        lab.answering(call=PV_TIME_FEATURES, arg=PV_TIME_ST_DRAFT, answer=0),
        lab.answering(call=PV_TIME_ST_DRAFT, vcpu=0, answer=ipa(0)),
        lab.answering(call=PV_TIME_ST_DRAFT, vcpu=1, answer=ipa(1)),
    ):
        guestpv(lab, "load").check_returncode()
        yield lab


def test_it_is_discovered_by_the_drafts_number(lab):
    cpus = json.loads(guestpv(lab, "info", "--json").stdout)["cpus"]
    assert [cpu["st_call"] for cpu in cpus] == [PV_TIME_ST_DRAFT] * VCPUS
    assert [cpu["features_st"] for cpu in cpus] == [NOT_SUPPORTED] * VCPUS
    assert [cpu["st_return"] for cpu in cpus] == [ipa(0), ipa(1)]


def test_counts_are_live_and_what_the_host_took(lab):
    def counts():
        cpus = json.loads(guestpv(lab, "read", "--json").stdout)["cpus"]
        return [cpu["stolen_ns"] for cpu in cpus]

    taken, before = lab.vcpu_run_delay_ns(), counts()
    lab.run(["sh", "-c", BUSY]).check_returncode()
    after, taken_now = counts(), lab.vcpu_run_delay_ns()
    for cpu in range(VCPUS):
        grown, took = after[cpu] - before[cpu], taken_now[cpu] - taken[cpu]
        assert SECOND // 2 < grown <= took


def test_validate_finds_no_broken_promise(lab):
    done = guestpv(lab, "validate", "--quick", "--json")
    checks = json.loads(done.stdout)["checks"]
    assert done.returncode == 0
    verdicts = {check["id"]: check["verdict"] for check in checks}
    assert verdicts["discovery.st"] == "warn"  # others may not read it
    assert verdicts["discovery.refusals"] == verdicts["host.agrees"] == "pass"

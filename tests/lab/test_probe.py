# SPDX-License-Identifier: MIT
"""guestpv validate where the module refuses to load: a load that only probes says what was wrong.

Each fault is KVM's, of every vCPU unless it says another. The kernel of stock-6.1 asks when a CPU
comes online, so there cpu1 does with the fault.
"""

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest
from hotplug import switch
from preloaded import START, guestpv
from structures import ipa

from guestpv.page import abi
from guestpv.validate.iomem import names_of
from pvlab import Lab

ST, FEATURES, ARCH_FEATURES = abi.PV_TIME_ST, abi.PV_TIME_FEATURES, 0x80000001
RAM = 0x40000000
REFUSED = -1
FAILED = 11
KERNELS = ("claim-6.1", "stock-6.1")


@dataclass(frozen=True)
class Fault:
    name: str
    check: str
    answers: list[dict[str, int]]
    says: str = ""
    kernels: tuple[str, ...] = KERNELS
    """Where it is tried. Of those for which stock-6.1's kernel has to ask, one stands for all."""


def every(**answer: int) -> list[dict[str, int]]:
    return [answer]


FAULTS = [
    Fault(
        "refused",
        "address.given",
        every(call=ST, answer=REFUSED),
        "cpu0-1, on cpu0: none",
        ("claim-6.1",),
    ),
    Fault(
        "in RAM",
        "address.ram",
        every(call=ST, answer=RAM + (1 << 24)),
        "0x41000000",
        ("claim-6.1",),
    ),
    Fault(
        "unaligned",
        "address.aligned",
        every(call=ST, answer=ipa(0) + 8),
        "0x90a0008",
        ("claim-6.1",),
    ),
    Fault(
        "one for two vCPUs",
        "address.apart",
        every(call=ST, vcpu=1, answer=ipa(0)),
        "cpu1",
        ("stock-6.1",),  # where nobody owns them, the other is good
    ),
    Fault(
        "no PV_TIME_FEATURES",
        "discovery.arch_features",
        every(call=ARCH_FEATURES, arg=FEATURES, answer=REFUSED),
        "-1",
    ),
    Fault(
        "no PV_TIME_ST",
        "discovery.st",
        every(call=FEATURES, arg=ST, answer=REFUSED),
        "cpu0-1",
    ),
]


@pytest.fixture(scope="module", params=KERNELS)
def lab(request: pytest.FixtureRequest) -> Iterator[tuple[str, Lab]]:
    with Lab(kernel=request.param, prepare=START) as lab:
        yield request.param, lab


def validate(lab: Lab, *options: str) -> tuple[int, dict[str, dict[str, str]]]:
    done = guestpv(lab, "validate", "--json", *options)
    assert "Traceback" not in done.stderr
    assert lab.run(["ls", "/sys/module/guestpv"]).returncode != 0, "it was left there"
    return done.returncode, {check["id"]: check for check in json.loads(done.stdout)["checks"]}


@pytest.mark.parametrize(
    ("lab", "fault"),
    [
        pytest.param(kernel, fault, id=f"{fault.name} - {kernel}")
        for kernel in KERNELS
        for fault in FAULTS
        if kernel in fault.kernels
    ],
    indirect=["lab"],
)
def test_a_fault_of_every_vcpu_is_in_the_report(lab, fault):
    kernel, machine = lab
    kernel_asks = kernel == "stock-6.1" and fault.check.startswith("address")
    with ExitStack() as stack:
        if kernel_asks:
            stack.callback(switch, machine, 1)
        for answer in fault.answers:
            stack.enter_context(machine.answering(**answer))
        if kernel_asks:
            switch(machine, 1)
        code, checks = validate(machine)
        loaded = guestpv(machine, "load").returncode
    assert loaded in (9, 10)
    check = checks[fault.check]
    print(f"{kernel} {fault.name}: {fault.check} says {check['verdict']}: {check['text']}")
    assert check["verdict"] == "fail"
    assert fault.says in check["text"]
    assert check["advice"]
    assert code == FAILED
    assert checks["discovery.smccc"]["verdict"] == "pass"
    for group in "structure", "counter", "gaps":
        for one in checks.values():
            if one["group"] == group:
                assert (one["verdict"], one["text"][:23]) == ("skip", "no structure is mapped:")


def test_a_refused_query_is_not_followed_by_the_call_where_the_kernel_counts(lab):
    """PV_TIME_ST would restart the counts that the scheduler subtracts from each other."""
    kernel, machine = lab

    def counts() -> list[int]:
        guestpv(machine, "load").check_returncode()
        cpus = json.loads(guestpv(machine, "read", "--json").stdout)["cpus"]
        guestpv(machine, "unload").check_returncode()
        return [cpu["stolen_ns"] for cpu in cpus]

    before = counts()
    with machine.answering(call=FEATURES, arg=ST, answer=REFUSED):
        code, checks = validate(machine, "--expect", "none")
    after = counts()
    none = checks["discovery.none"]
    if kernel == "stock-6.1":
        assert (code, none["verdict"]) == (0, "pass")
        assert all(old <= new for old, new in zip(before, after, strict=True))
    else:  # KVM gave a structure, though it had refused to
        assert (code, none["verdict"]) == (FAILED, "fail")
        assert "PV_TIME_ST returned" in none["text"]


def test_a_reserved_part_of_ram_is_allowed_and_not_mapped(lab):
    """pvtime.rst has the structure in a reserved region of normal memory."""
    kernel, machine = lab
    if kernel != "claim-6.1":
        pytest.skip("only where nobody owns them is the address asked for again")
    iomem = machine.run(["cat", "/proc/iomem"]).stdout
    reserved = int(re.findall(r"^  ([0-9a-f]+)-[0-9a-f]+ : reserved$", iomem, re.MULTILINE)[-1], 16)
    assert names_of(reserved, iomem) == ["System RAM", "reserved"]
    with ExitStack() as stack:
        for vcpu in range(2):
            address = (reserved + 63) // 64 * 64 + 64 * vcpu
            stack.enter_context(machine.answering(call=ST, vcpu=vcpu, answer=address))
        _, checks = validate(machine)
        loaded = guestpv(machine, "load").returncode
    assert loaded == 9  # guestpv goes on refusing it
    assert checks["address.ram"]["verdict"] == "warn"
    assert "no-map" in checks["address.ram"]["advice"]
    assert checks["address.aligned"]["verdict"] == checks["address.apart"]["verdict"] == "pass"


def test_a_hypervisor_that_offers_pv_time_fails_where_none_is_expected(lab):
    _, machine = lab
    code, checks = validate(machine, "--expect", "none")
    assert (code, checks["discovery.none"]["verdict"]) == (FAILED, "fail")
    assert "PV_TIME_FEATURES(0xc5000021) returned 0" in checks["discovery.none"]["text"]

# SPDX-License-Identifier: MIT
"""discovery: what the hypervisor answered when it was asked for PV-time."""

from collections.abc import Callable

import numpy as np

from guestpv.cpulist import listed
from guestpv.page import abi
from guestpv.page.abi import (
    CALLS,
    NOT_CALLED,
    NOT_SUPPORTED,
    PV_TIME_FEATURES,
    PV_TIME_ST,
    PV_TIME_ST_DRAFT,
    Conduit,
)
from guestpv.validate.check import (
    Finding,
    Level,
    Needs,
    Severity,
    check,
    failed,
    passed,
    skipped,
    warned,
)
from guestpv.validate.clauses import Clause
from guestpv.validate.guest import Guest

_SMCCC_1_1 = 0x10001

_ANSWERS = (
    *("arch_features", "features_self", "features_st", "features_st_draft"),
    *("features_undefined", "features_st_smc32", "features_smc32"),
)
_OFFERS = (
    *("features_st", "features_st_draft"),
    *("features_undefined", "features_st_smc32", "features_smc32", "st_return"),
)
"""The calls of which a success offers something."""

_ASK = "ask who runs the hypervisor for PV-time; where there is to be none, say --expect none"
_OFFERED = (
    "the hypervisor offers something: validate without --expect none, or have PV-time turned off"
)
_REPORT = "report it to who makes the hypervisor: guests that go by its answers are misled"


@check(
    "discovery.smccc",
    "SMCCC is of version 1.1 or later, and there is a conduit",
    Clause.SMCCC_VERSION,
    live=False,
    level=Level.MUST,
    needs=Needs.INDEX,
)
def smccc(guest: Guest) -> Finding:
    text = _smccc_version(guest)
    if _conduit(guest) == Conduit.NONE:
        return failed(f"{text}, and no conduit: the hypervisor can't be asked", _ASK)
    if int(guest.reader.header["smccc_version"]) < _SMCCC_1_1:
        return failed(text, _ASK)
    if guest.options.cpus is not None and not guest.asked:
        return skipped("no CPU that --cpu names was asked by it")
    return passed(text)


@check(
    "discovery.none",
    "A hypervisor without stolen time refuses whatever would offer some",
    Clause.NOT_OFFERED,
    live=False,
    level=Level.MUST,
    needs=Needs.INDEX,
)
def none(guest: Guest) -> Finding:
    """Of the profile for --expect none."""
    if _conduit(guest) == Conduit.NONE:
        return passed(f"{_smccc_version(guest)}, and no conduit: there is nothing to call")
    if not guest.asked:
        return skipped("no CPU that is online has been asked")
    entries, called = guest.entries, set()
    offered: dict[int, str] = {}
    for field in _OFFERS:
        for cpu in guest.asked:
            answer = int(entries[field][cpu])
            if answer == NOT_CALLED:
                continue
            called.add(CALLS[field])
            if answer & 0x80000000 == 0:
                offered.setdefault(cpu, f"{CALLS[field]} returned {_hex(answer)}")
    if guest.live and not isinstance(guest.answers, str):  # asked whatever ARCH_FEATURES says
        for call in guest.answers[guest.answers["function"] == PV_TIME_FEATURES]:
            argument, answer = int(call["argument"]), int(call["x"][0])
            called.add(f"PV_TIME_FEATURES({argument:#x})")
            if argument in (PV_TIME_ST, PV_TIME_ST_DRAFT) and answer & 0x80000000 == 0:
                text = f"PV_TIME_FEATURES({argument:#x}) returned {_hex(answer)}"
                offered.setdefault(int(call["cpu"]), text)
    if offered:
        cpus = sorted(offered)
        return failed(offered[cpus[0]], _OFFERED).on(cpus)
    arch = sorted({int(entries["arch_features"][cpu]) for cpu in guest.asked})
    text = f"{CALLS['arch_features']} returned {' and '.join(map(str, arch))}"
    return passed(f"{text}, and {len(called)} other calls were refused" if called else text)


@check(
    "discovery.arch_features",
    "SMCCC_ARCH_FEATURES says that there is PV_TIME_FEATURES",
    Clause.ARCH_FEATURES,
    live=False,
    level=Level.MUST,
)
def arch_features(guest: Guest) -> Finding:
    return _offered(guest, "arch_features", lambda answer: answer & 0x80000000 == 0)


@check(
    "discovery.exactly_0",
    "SMCCC_ARCH_FEATURES says so with 0: Linux takes a greater number for a refusal",
    Clause.EXACTLY_0,
    live=False,
    level=Level.KERNEL,
)
def exactly_0(guest: Guest) -> Finding:
    answers = {cpu: int(guest.entries["arch_features"][cpu]) for cpu in guest.asked}
    others = [cpu for cpu, answer in answers.items() if answer and answer & 0x80000000 == 0]
    if others:
        return warned(
            f"it returned {_hex(answers[others[0]])}",
            "SMCCC allows that; Linux guests go without stolen time nevertheless, until the"
            " hypervisor returns 0",
        ).on(others)
    if all(answers.values()):
        return skipped("it was refused")
    return passed("it returned 0")


@check(
    "discovery.features_self",
    "PV_TIME_FEATURES says that there is PV_TIME_FEATURES",
    Clause.FEATURES_ITSELF,
    live=False,
    level=Level.MUST,
)
def features_self(guest: Guest) -> Finding:
    return _offered(guest, "features_self", lambda answer: answer == 0)


@check(
    "discovery.st",
    "PV_TIME_FEATURES says that there is PV_TIME_ST, under its merged number or the draft's",
    Clause.FEATURES_OFFERS,
    live=False,
    level=Level.MUST,
)
def st(guest: Guest) -> Finding:
    entries = guest.entries
    if _all_not_called(guest, "features_st"):
        return skipped("it was not called, since SMCCC_ARCH_FEATURES was refused")
    without = [cpu for cpu in guest.asked if not entries["st_call"][cpu]]
    if without:
        return failed("neither number of PV_TIME_ST is vouched for", _ASK).on(without)
    numbers = sorted({int(entries["st_call"][cpu]) for cpu in guest.asked})
    text = " and ".join(f"{number:#x}" for number in numbers)
    if numbers == [abi.PV_TIME_ST_DRAFT]:
        return warned(f"{text}, the draft's number", "guestpv reads it; other guests may not")
    return passed(text, st_call=numbers)


@check(
    "discovery.undefined",
    "PV_TIME_FEATURES refuses a number that nobody defined",
    Clause.FEATURES_REFUSES,
    live=False,
    level=Level.MUST,
    severity=Severity.MEDIUM,
)
def undefined(guest: Guest) -> Finding:
    return _refused(guest, "features_undefined")


@check(
    "discovery.smc32",
    "PV-time's calls are refused in the 32-bit calling convention",
    Clause.SMC64_ONLY,
    live=False,
    level=Level.MUST,
    severity=Severity.MEDIUM,
)
def smc32(guest: Guest) -> Finding:
    return _refused(guest, "features_st_smc32", "features_smc32")


@check(
    "discovery.refusals",
    "A refusal is NOT_SUPPORTED, -1, as an int32 or an int64",
    Clause.NOT_SUPPORTED,
    live=False,
    level=Level.MUST,
    severity=Severity.MEDIUM,
)
def refusals(guest: Guest) -> Finding:
    entries = guest.entries
    kinds: set[str] = set()
    strange: dict[int, str] = {}
    for field in _ANSWERS:
        for cpu in guest.asked:
            answer = int(entries[field][cpu])
            if answer in (0, NOT_CALLED) or (field == "arch_features" and answer > 0):
                continue
            if answer not in NOT_SUPPORTED:
                strange.setdefault(cpu, f"{CALLS[field]} returned {_hex(answer)}")
                continue
            kinds.add("int64" if answer == -1 else "int32")
    if strange:
        cpus = sorted(strange)
        return failed(f"{strange[cpus[0]]}, neither success nor refusal").on(cpus)
    return passed(f"as {' and '.join(sorted(kinds))}" if kinds else "nothing was refused")


@check(
    "discovery.alike",
    "Every vCPU is answered alike",
    Clause.ALIKE,
    live=False,
    level=Level.DERIVED,
    severity=Severity.MEDIUM,
)
def alike(guest: Guest) -> Finding:
    entries = guest.entries[guest.asked]
    if len(entries) == 1:
        return skipped("there is one vCPU only")
    for field in (*_ANSWERS, "st_call"):
        different = np.flatnonzero(entries[field] != entries[field][0])
        if len(different):
            answers = (int(entries[field][0]), int(entries[field][different[0]]))
            return failed(
                f"{field} is {_hex(answers[1])}, and {_hex(answers[0])} on cpu{guest.asked[0]}",
                _REPORT,
            ).on(guest.asked[row] for row in different)
    return passed(f"{len(entries)} vCPUs")


def _offered(guest: Guest, field: str, is_success: Callable[[int], bool]) -> Finding:
    if _all_not_called(guest, field):
        return skipped("it was not called, since SMCCC_ARCH_FEATURES was refused")
    answers = {cpu: int(guest.entries[field][cpu]) for cpu in guest.asked}
    refused = [cpu for cpu, answer in answers.items() if not is_success(answer)]
    if refused:
        return failed(f"it returned {_hex(answers[refused[0]])}", _ASK).on(refused)
    return passed(f"it returned {_hex(answers[guest.asked[0]])}")


def _all_not_called(guest: Guest, field: str) -> bool:
    return bool((guest.entries[field][guest.asked] == NOT_CALLED).all())


def _refused(guest: Guest, *fields: str) -> Finding:
    """One vCPU on which one of these was not refused is enough to fail."""
    entries = guest.entries
    offered: dict[int, str] = {}
    not_called: dict[str, list[int]] = {}
    for field in fields:
        for cpu in guest.asked:
            answer = int(entries[field][cpu])
            if answer == NOT_CALLED:
                not_called.setdefault(field, []).append(cpu)
            # Whatever form a refusal has, which is for another check, it is negative as an int32.
            elif answer & 0x80000000 == 0:
                offered.setdefault(cpu, f"{CALLS[field]} returned {_hex(answer)}")
    if offered:
        cpus = sorted(offered)
        return failed(offered[cpus[0]], _REPORT).on(cpus)
    for field, cpus in not_called.items():
        return skipped(f"{CALLS[field]} was not called on cpu{listed(cpus)}")
    return passed(f"refused: {' and '.join(CALLS[field] for field in fields)}")


def _conduit(guest: Guest) -> int:
    return int(guest.reader.header["conduit"])


def _smccc_version(guest: Guest) -> str:
    version = int(guest.reader.header["smccc_version"])
    return f"version {version >> 16}.{version & 0xFFFF}"


def _hex(answer: int) -> str:
    return f"{answer} ({answer & 0xFFFFFFFFFFFFFFFF:#x})"

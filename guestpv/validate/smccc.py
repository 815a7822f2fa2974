# SPDX-License-Identifier: MIT
"""smccc: the rules of Arm's calling convention, by calls that are made during the run.

None of them has a consequence, and PV_TIME_ST is not among them: see guestpv.driver.ask.
"""

from collections.abc import Callable, Iterator
from functools import wraps

import numpy as np

from guestpv.driver.ask import REGISTERS, SENTINEL, SVE_HINT, UPPER, Calls
from guestpv.page.abi import (
    CALLS,
    NOT_CALLED,
    NOT_SUPPORTED,
    PV_TIME_FEATURES,
    PV_TIME_ST,
    PV_TIME_ST_DRAFT,
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

_VERSION, _ARCH_FEATURES = 0x80000000, 0x80000001
_SMCCC_1_3 = 0x10003
_DEFINED = (PV_TIME_FEATURES, PV_TIME_ST, PV_TIME_ST_DRAFT)
_FIRST_KEPT = 4
_REFUSED = 0x80000000
"""This bit is set in a refusal, as an int32 or an int64."""

_AT_LOAD = {
    "arch_features": (_ARCH_FEATURES, PV_TIME_FEATURES),
    "features_self": (PV_TIME_FEATURES, PV_TIME_FEATURES),
    "features_st": (PV_TIME_FEATURES, PV_TIME_ST),
    "features_st_draft": (PV_TIME_FEATURES, PV_TIME_ST_DRAFT),
}
"""Calls that the index has the answers of, too, by their field in it."""

_REPORT = "report it to who makes the hypervisor"

Judge = Callable[[Calls], Finding]


def _rule(
    id: str, promise: str, clause: Clause, severity: Severity | None = None
) -> Callable[[Judge], Judge]:
    """Enter the decorated function into the catalogue, as a check of nothing but the calls."""

    def enter(judge: Judge) -> Judge:
        @check(id, promise, clause, level=Level.MUST, severity=severity, needs=Needs.ANSWERS)
        @wraps(judge)
        def judged(guest: Guest) -> Finding:
            answers = guest.answers
            return skipped(answers) if isinstance(answers, str) else judge(answers)

        return judge

    return enter


@_rule(
    "smccc.registers",
    "A call keeps x4 to x17",
    Clause.REGISTERS,
    Severity.CRITICAL,
)
def registers(calls: Calls) -> Finding:
    sentinels = SENTINEL | np.arange(_FIRST_KEPT, REGISTERS, dtype=np.uint64)
    changed = calls["x"][:, _FIRST_KEPT:] != sentinels
    if changed.any():
        first = calls[changed.any(axis=1)][0]
        cpus = np.unique(calls["cpu"][changed.any(axis=1)]).tolist()
        names = [f"x{_FIRST_KEPT + n}" for n in np.flatnonzero(changed.any(axis=0))]
        return failed(
            f"{', '.join(names)} changed, as by {_call(first)}",
            "a guest's kernel has values in them across a call, and goes wrong in places that have"
            f" nothing to do with it: run no guest there, and {_REPORT}",
            registers=names,
        ).on(cpus)
    return passed(f"{len(calls)} calls")


@_rule(
    "smccc.hint",
    "The SVE hint in a function's number, bit 16, changes no answer",
    Clause.SVE_HINT,
)
def hint(calls: Calls) -> Finding:
    hinted = (calls["function"] & SVE_HINT) != 0
    known = min(int(each["x"][0]) for each in calls[calls["function"] == _VERSION]) >= _SMCCC_1_3
    different: dict[int, str] = {}
    for call in calls[hinted]:
        other = _answer(calls, call, int(call["function"]) & ~SVE_HINT, int(call["argument"]))
        answer = int(call["x"][0])
        if answer != other and (known or not answer & _REFUSED):
            text = f"{_call(call)} returned {_hex(answer)}, and {_hex(other)} without the hint"
            different.setdefault(int(call["cpu"]), text)
    if different:
        cpus = sorted(different)
        return failed(
            different[cpus[0]],
            "Linux sets the bit where it may, and then finds no PV-time: the hypervisor has to"
            " mask it, or to announce SMCCC 1.2 at most",
        ).on(cpus)
    said = "makes no difference" if known else "is not defined before SMCCC 1.3, and harmless here"
    return passed(f"it {said}")


@_rule(
    "smccc.upper",
    "The upper halves of x0 and of a 32-bit argument change no answer",
    Clause.UPPER_HALVES,
)
def upper(calls: Calls) -> Finding:
    different: dict[int, str] = {}
    for call in calls:
        function, argument = int(call["function"]), int(call["argument"])
        if not (function | argument) >> 32:
            continue
        other = _answer(calls, call, function & 0xFFFFFFFF, argument & 0xFFFFFFFF)
        if int(call["x"][0]) != other:
            text = f"{_returned(call)}, and {_hex(other)} with zeroes above"
            different.setdefault(int(call["cpu"]), text)
    if different:
        cpus = sorted(different)
        return failed(
            different[cpus[0]],
            f"a compiler may leave anything there: guests find PV-time or not by chance; {_REPORT}",
        ).on(cpus)
    return passed(f"with {UPPER >> 32:#x} there")


@_rule(
    "smccc.undefined",
    "PV_TIME_FEATURES refuses every number that PV-time does not define",
    Clause.FEATURES_REFUSES,
)
def undefined(calls: Calls) -> Finding:
    queries = calls[(calls["function"] == PV_TIME_FEATURES) & (calls["argument"] < UPPER)]
    queries = queries[~np.isin(queries["argument"], _DEFINED)]
    return _all_refused(queries, "a guest may call what is not there")


@_rule(
    "smccc.direct",
    "A call of a number that nobody defined is refused",
    Clause.UNKNOWN_FUNCTION,
)
def direct(calls: Calls) -> Finding:
    known = [_VERSION, _ARCH_FEATURES, PV_TIME_FEATURES]
    plain = (calls["function"] < UPPER) & ((calls["function"] & SVE_HINT) == 0)
    return _all_refused(
        calls[plain & ~np.isin(calls["function"], known)],
        "a guest takes what is not there for done",
    )


@_rule(
    "smccc.refusals",
    "A refusal is NOT_SUPPORTED, -1, as an int32 or an int64",
    Clause.NOT_SUPPORTED,
)
def refusals(calls: Calls) -> Finding:
    refused = calls[(calls["x"][:, 0] & _REFUSED) != 0]
    strange = refused[~np.isin(refused["x"][:, 0].view(np.int64), NOT_SUPPORTED)]
    if len(strange):
        advice = f"a guest that asks for -1 takes it for another thing; {_REPORT}"
        return failed(_returned(strange[0]), advice).on(np.unique(strange["cpu"]))
    return passed(f"{len(refused)} refusals")


@check(
    "smccc.same",
    "The hypervisor answers as it did when the module was loaded",
    Clause.ALIKE,
    level=Level.DERIVED,
    needs=Needs.ANSWERS,
)
def same(guest: Guest) -> Finding:
    """No failure: it may be another hypervisor, to which the VM was moved."""
    if isinstance(guest.answers, str):
        return skipped(guest.answers)
    compared = 0
    different: dict[int, str] = {}
    for field, call, before in _asked_at_load(guest, guest.answers):
        compared += 1
        now = int(call["x"][0])
        if now != before:
            text = f"{CALLS[field]} returned {_hex(before)} then, and {_hex(now)} now"
            different.setdefault(int(call["cpu"]), text)
    if different:
        cpus = sorted(different)
        return warned(
            different[cpus[0]],
            "the VM was moved to another hypervisor, or this one was changed: reboot the guest,"
            " so that its kernel asks again",
        ).on(cpus)
    return passed(f"{compared} answers") if compared else skipped("no CPU was asked twice")


def _asked_at_load(guest: Guest, calls: Calls) -> Iterator[tuple[str, np.void, int]]:
    """Of each call that was made both times: its field in the index, now, and what it returned."""
    entries = guest.entries
    for field, (function, argument) in _AT_LOAD.items():
        for call in calls[(calls["function"] == function) & (calls["argument"] == argument)]:
            before = int(entries[field][call["cpu"]])
            if before != NOT_CALLED:
                yield field, call, before & 0xFFFFFFFFFFFFFFFF


def _answer(calls: Calls, call: np.void, function: int, argument: int) -> int:
    """What that CPU was answered to another call."""
    of_cpu = calls[calls["cpu"] == call["cpu"]]
    (other,) = of_cpu[(of_cpu["function"] == function) & (of_cpu["argument"] == argument)]
    return int(other["x"][0])


def _all_refused(calls: Calls, consequence: str) -> Finding:
    accepted = calls[(calls["x"][:, 0] & _REFUSED) == 0]
    if len(accepted):
        advice = f"{consequence}; {_REPORT}"
        return failed(_returned(accepted[0]), advice).on(np.unique(accepted["cpu"]))
    return passed(f"{len(calls)} were refused")


def _returned(call: np.void) -> str:
    return f"{_call(call)} returned {_hex(int(call['x'][0]))}"


def _call(call: np.void) -> str:
    return f"{int(call['function']):#x}({int(call['argument']):#x})"


def _hex(answer: int) -> str:
    return f"{_signed(answer)} ({answer:#x})"


def _signed(answer: int) -> int:
    """As an int64, which is how guestpv.page.abi has answers."""
    return answer - (1 << 64) if answer >> 63 else answer

# SPDX-License-Identifier: MIT
"""life, over what happens to the VM: what must hold after it, beside a record from before it.

Each check judges a `Comparison`, which says that the event can have happened; what is said of a
CPU whose count restarted with its hotplug is said once, since that is the guest's own doing.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import wraps
from itertools import groupby

import numpy as np

from guestpv.cpulist import listed
from guestpv.page.abi import CALLS, NO_COUNT, NOT_CALLED, NOT_SUPPORTED, Reason
from guestpv.page.names import reason_text
from guestpv.validate.check import (
    CHECKS,
    Finding,
    Level,
    check,
    failed,
    passed,
    skipped,
    warned,
)
from guestpv.validate.clauses import Clause
from guestpv.validate.comparison import Compared, Comparison, Event, Fate, numbers
from guestpv.validate.guest import Guest

_SLACK_NS = 100_000_000
"""What a vCPU waits on its host while the VM is stopped is counted, and its clocks stand still."""
_RATE = 0.001
"""Part of the time by which the clocks of two hosts may differ, and those of host and guest."""
_RTC_NS = 2_000_000_000
"""Two readings of a clock that counts seconds, and what passed between it and the others."""

Judge = Callable[[Comparison], Finding]


def _compared(judge: Judge) -> Callable[[Guest], Finding]:
    @wraps(judge)
    def judge_guest(guest: Guest) -> Finding:
        compared = guest.compared
        return skipped(compared) if isinstance(compared, str) else judge(compared)

    return judge_guest


@check(
    "life.continues",
    "Counts go on where they were over what happened to the VM",
    Clause.SURVIVES,
    live=False,
    level=Level.DERIVED,
)
@_compared
def continues(comparison: Comparison) -> Finding:
    event, rows = comparison.event, comparison.rows
    if not event.same_boot:
        return skipped("another kernel counts from the beginning; see life.grew")
    if not rows:
        return skipped("no CPU had a count when it was recorded")
    if gone := [row for row in rows if row.fate == Fate.GONE]:
        return failed("there is no count any more", "'guestpv info' shows why").on(numbers(gone))
    judged = [row for row in rows if row.fate != Fate.UNKNOWN and not row.by_hotplug]
    if event.sets_back:
        lost = list(_more_than_set_back(comparison, judged))
    else:
        lost = [row for row in judged if row.fate != Fate.WENT_ON]
    if lost:
        return failed(
            _step(lost[0]),
            _LOST[event],
            lost=[{"cpu": row.cpu, "lost_ns": -row.grown_ns} for row in lost],
        ).on(numbers(lost))
    if not judged:
        return skipped(f"no count is left to judge{_by_hotplug(rows)}")
    if not any(row.before["stolen_ns"] for row in judged):
        return skipped("nothing had been stolen when it was recorded: there was nothing to lose")
    return passed(f"{_fates(judged)}{_by_hotplug(rows)}")


_REPORT = "leave out rates across it, and report it to whoever runs the hosts"
_LOST = {
    Event.MIGRATED: f"the destination lost the count: {_REPORT}",
    Event.HOST_UPGRADED: f"the new hypervisor lost the count: {_REPORT}",
    Event.HOTPLUG: f"only CPUs that went and came may count anew: {_REPORT}",
    Event.RESTORED: f"no snapshot since the record had so low a count, so it was lost: {_REPORT}",
    Event.CLONED: f"no snapshot since the record had so low a count, so it was lost: {_REPORT}",
}


def _more_than_set_back(comparison: Comparison, rows: Iterable[Compared]) -> Iterator[Compared]:
    """Counts that are lower by more than the time that is gone with an older snapshot."""
    if comparison.real_ns is None:
        return
    gone_ns = comparison.real_ns - _passed_least_ns(comparison)
    for row in rows:
        if row.fate == Fate.LOWER and -row.grown_ns > gone_ns + _RTC_NS:
            yield row


def _passed_least_ns(comparison: Comparison) -> int:
    return comparison.now.began.boottime_ns - comparison.before.ended.boottime_ns


@check(
    "life.announced",
    "A count that is lower is in a new epoch, which says why it began",
    Clause.ANNOUNCED,
    live=False,
    level=Level.GUESTPV,
)
@_compared
def announced(comparison: Comparison) -> Finding:
    event = comparison.event
    if not comparison.same_instance:
        return passed("the page has another instance: nobody takes the counts for those of before")
    lower = comparison.unannounced()
    if lower and event.sets_back:
        return warned(
            _step(lower[0]),
            "the snapshot is older than the record, and the page that came back with it can't say"
            " so: who keeps counts outside of the VM must learn of the restore from elsewhere",
        ).on(numbers(lower))
    if lower:
        return failed(
            _step(lower[0]),
            "the module has not noticed: have it look more often, by its parameter check_ms (never,"
            " if that is 0)",
        ).on(numbers(lower))
    restarted = comparison.with_fate(Fate.RESTARTED)
    if unknown := [row for row in restarted if row.now["reason"] not in _REASONS]:
        return failed("a new epoch that does not say why").on(numbers(unknown))
    found = [row for row in restarted if row.now["reason"] == Reason.FOUND_LOWER]
    if found and event.sets_back:
        return warned(
            reason_text(Reason.FOUND_LOWER),
            "the guest was not told that it was restored: it takes a VM generation id (vmgenid) and"
            " Linux 5.19 or later",
        ).on(numbers(found))
    if _same_generation(comparison):
        return warned(
            "/dev/vmclock0 has the generation that was recorded",
            "the hypervisor does not tell its guests that they were restored or cloned",
        )
    return passed(_reasons(restarted) or "no count began anew")


_REASONS = (Reason.HOTPLUG, Reason.FOUND_LOWER, Reason.RESTORED, Reason.RELEARNED)


def _same_generation(comparison: Comparison) -> bool:
    before, now = comparison.before.generation, comparison.now.generation
    return comparison.event.sets_back and before is not None and before == now


@check(
    "life.grew",
    "No more was stolen meanwhile than time passed",
    Clause.WITHIN_TIME,
    live=False,
    level=Level.DERIVED,
)
@_compared
def grew(comparison: Comparison) -> Finding:
    return _grew(comparison) if comparison.event.same_boot else _grew_over_boot(comparison)


def _grew(comparison: Comparison) -> Finding:
    passed_ns = comparison.passed_ns
    if comparison.event.sets_back:
        # How long it has been running since the snapshot is not known, but since the record.
        passed_ns = max(passed_ns, comparison.real_ns or comparison.now.ended.boottime_ns)
    within_ns = _with_slack(passed_ns)
    rows = comparison.with_fate(Fate.WENT_ON, Fate.LOWER, Fate.RESTARTED)
    if not rows:
        return skipped("no CPU has a count now that it had before")
    grown_ns = [_grown_ns(row) for row in rows]
    if excess := [row for row, grown in zip(rows, grown_ns, strict=True) if grown > within_ns]:
        excess.sort(key=_grown_ns, reverse=True)
        worst_ns = _grown_ns(excess[0])
        stop = comparison.real_ns is not None and worst_ns <= _with_slack(comparison.real_ns)
        return failed(
            f"{_s(worst_ns)} s stolen in {_s(passed_ns)} s",
            f"the time for which the VM was stopped is counted, and was not stolen: {_REPORT}"
            if stop
            else f"the count has leapt, so it is not the one of before: {_REPORT}",
            grown_ns=worst_ns,
            passed_ns=passed_ns,
        ).on(numbers(excess))
    return passed(
        f"at most {_s(max(0, *grown_ns))} s in {_s(passed_ns)} s",
        grown_ns=max(0, *grown_ns),
        passed_ns=passed_ns,
    )


def _grown_ns(row: Compared) -> int:
    """Since the record, or since its count began anew: with hotplug, from zero."""
    if row.fate != Fate.RESTARTED:
        return row.grown_ns
    first = int(row.now["epoch_stolen_ns"])
    if row.by_hotplug or first == NO_COUNT:
        return int(row.now["stolen_ns"])
    return int(row.now["stolen_ns"]) - first


def _grew_over_boot(comparison: Comparison) -> Finding:
    """Counts begin anew, and so are within the uptime; or they go on from where they were."""
    up_ns = comparison.now.ended.boottime_ns
    counts = {int(row["cpu"]): int(row["stolen_ns"]) for row in comparison.now.cpus if row["valid"]}
    if not counts:
        return skipped("no CPU has a count")
    above = {cpu: ns for cpu, ns in counts.items() if ns > _with_slack(up_ns)}
    if not above:
        return passed(f"at most {_s(max(counts.values()))} s in {_s(up_ns)} s of uptime")
    before = {row.cpu: int(row.before["stolen_ns"]) for row in comparison.rows}
    went_on = [
        cpu
        for cpu, ns in above.items()
        if cpu in before
        and ns >= before[cpu]
        and (comparison.real_ns is None or ns - before[cpu] <= _with_slack(comparison.real_ns))
    ]
    if len(went_on) < len(above):
        wrong = [cpu for cpu in above if cpu not in went_on]
        return failed(
            f"{_s(above[wrong[0]])} s were stolen in {_s(up_ns)} s of uptime: it neither went on"
            " from before the boot, nor began anew",
        ).on(wrong)
    text = "counts went on from before the boot"
    if comparison.event == Event.KEXEC:
        return passed(f"cpu{listed(went_on)}: {text}")
    return warned(
        text,
        "the specification allows it; Linux books all of it as steal in the first tick of a boot",
    ).on(went_on)


@check(
    "life.stayed",
    "Each structure is at its address",
    Clause.ADDRESS_STAYS,
    live=False,
    level=Level.DERIVED,
)
@_compared
def stayed(comparison: Comparison) -> Finding:
    if not comparison.event.same_boot:
        return skipped("a kernel that boots asks for the addresses")
    rows = [row for row in comparison.rows if row.fate != Fate.GONE]
    if not rows:
        return skipped("no CPU has a structure now that it had before")
    if moved := [row for row in rows if row.before["ipa"] != row.now["ipa"]]:
        first = moved[0]
        judge, advice = (
            failed,
            "nobody writes to the old address any more: boot the guest, which asks for the new one,"
            " and report it to whoever runs the hosts",
        )
        if all(row.by_hotplug for row in moved):
            judge, advice = (
                warned,
                "it was asked for when the CPU came online; KVM moves none",
            )
        return judge(
            f"at {int(first.before['ipa']):#x} before, at {int(first.now['ipa']):#x} now",
            advice,
        ).on(numbers(moved))
    return passed(f"of {len(rows)} vCPUs")


@check(
    "life.interface",
    "Revision and attributes are 0, and no call is refused that was not",
    Clause.INTERFACE_STAYS,
    live=False,
    level=Level.DERIVED,
)
@_compared
def interface(comparison: Comparison) -> Finding:
    now = comparison.now.cpus
    unknown = now[(now["revision"] != 0) | (now["attributes"] != 0)]
    for row in unknown[:1]:
        return failed(
            f"revision {row['revision']}, attributes {row['attributes']:#x}",
            "guestpv does not interpret it: move the VM to a host that has the interface it had",
        ).on(unknown["cpu"])
    if comparison.now.smccc_version < comparison.before.smccc_version:
        return failed("SMCCC is of an older version")
    changed = list(_changed(comparison))
    if refused := [each for each in changed if each[3] in NOT_SUPPORTED and each[2] >= 0]:
        return failed(_whats(refused)).on(dict.fromkeys(cpu for cpu, *_ in refused))
    if changed and comparison.event.same_boot and comparison.event != Event.HOST_UPGRADED:
        return warned(
            _whats(changed), "nothing that happened to the VM should change what it is answered"
        ).on(dict.fromkeys(cpu for cpu, *_ in changed))
    if changed:
        return passed("; ".join(_by_cpus(changed)))
    when = "loaded again, or a CPU comes online"
    return passed(f"nothing has changed; the module asks when it is {when}")


def _changed(comparison: Comparison) -> Iterator[tuple[int, str, int, int]]:
    """CPU, call, and what that returned before and now. Its address is another check's affair."""
    before, now = comparison.before.cpus, comparison.now.cpus
    cpus, at_before, at_now = np.intersect1d(before["cpu"], now["cpu"], return_indices=True)
    for field, call in CALLS.items():
        for cpu, earlier, later in zip(
            cpus.tolist(),
            before[field][at_before].tolist(),
            now[field][at_now].tolist(),
            strict=True,
        ):
            if NOT_CALLED in (earlier, later) or earlier == later:
                continue
            if field != "st_return" or earlier in NOT_SUPPORTED or later in NOT_SUPPORTED:
                yield cpu, call, earlier, later


def _what(changed: tuple[int, str, int, int]) -> str:
    _, call, before, now = changed
    return f"{call} returned {before:#x} before, {now:#x} now"


def _whats(changed: Sequence[tuple[int, str, int, int]]) -> str:
    return "; ".join(dict.fromkeys(_what(each) for each in changed))


def _by_cpus(changed: Sequence[tuple[int, str, int, int]]) -> Iterator[str]:
    for what, group in groupby(sorted(changed, key=_what), _what):
        yield f"cpu{listed(cpu for cpu, *_ in group)}: {what}"


IDS = tuple(id for id, check in CHECKS.items() if check.judge.__module__ == __name__)
"""The checks that judge a comparison, and nothing else."""


def _with_slack(ns: int) -> int:
    return ns + _SLACK_NS + int(_RATE * max(0, ns))


def _step(row: Compared) -> str:
    """From what to what, for the first of those that are at fault."""
    before, now = row.before, row.now
    why = f" ({reason_text(now['reason'])})" if now["epoch"] != before["epoch"] else ""
    return (
        f"{before['stolen_ns']} ns in epoch {before['epoch']} before,"
        f" {now['stolen_ns']} ns in epoch {now['epoch']}{why} after"
    )


def _fates(rows: Sequence[Compared]) -> str:
    texts = {
        Fate.WENT_ON: "went on",
        Fate.LOWER: "set back with the snapshot",
        Fate.EARLIER: "set back into an earlier epoch",
        Fate.RESTARTED: "began anew",
    }
    groups = {text: [r for r in rows if r.fate == fate] for fate, text in texts.items()}
    return "; ".join(
        f"cpu{listed(numbers(group))} {text}" for text, group in groups.items() if group
    )


def _by_hotplug(rows: Sequence[Compared]) -> str:
    cpus = [row.cpu for row in rows if row.by_hotplug]
    return f"; cpu{listed(cpus)} came online, and counts anew" if cpus else ""


def _reasons(rows: Sequence[Compared]) -> str:
    groups = [([row.cpu for row in rows if row.now["reason"] == each], each) for each in _REASONS]
    return "; ".join(f"cpu{listed(cpus)}: {reason_text(each)}" for cpus, each in groups if cpus)


def _s(ns: int) -> str:
    return f"{ns / 1e9:.3f}"

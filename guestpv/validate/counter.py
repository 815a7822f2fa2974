# SPDX-License-Identifier: MIT
"""counter: how stolen_time behaves while every vCPU is watched from itself."""

import time

import numpy as np

from guestpv.account.delta import delta
from guestpv.cpulist import listed
from guestpv.latency.naps import counted_share
from guestpv.latency.observation import GAP_NS, SCHEDSTAT, Observations
from guestpv.validate.check import Effect, Finding, Level, check, failed, passed, skipped
from guestpv.validate.clauses import Clause
from guestpv.validate.guest import Guest, missing_ns

_CONTENDED = 0.05
"""Part of the time that must be missing before the count has to grow."""
_LONG_NS = 100_000_000
"""And at least so much of it."""
_QUICK_ADVANCES = 3
"""How often a count may grow while there was no time to leave the vCPU."""
_SLEPT = 0.05
"""Part of a sleep that may be counted although it was one of those that were disturbed least,"""
_SLEPT_CONTENDED = 0.5
"""and where the host takes time: it may take a vCPU before that is halted, each time when it has
many more vCPUs than CPUs. A hypervisor that counts halted time counts all of it."""
_UNCONTENDED = 0.01
"""Part of the time of a busy vCPU that a host takes which has nothing else to do."""
_AWAKE = 0.1
"""Part of the time in which something else may run on a vCPU that is to sleep."""
_EXCESS = 0.001
"""Part of the time from which nothing is missing that may be counted as stolen all the same: the
clocks of host and guest are rounded differently."""


@check(
    "counter.monotonic",
    "The count never goes back within an epoch",
    Clause.MONOTONIC,
    Effect.LOAD,
    level=Level.DERIVED,
)
def monotonic(guest: Guest) -> Finding:
    rows = guest.watched.judged
    decreased = _decreased(guest)
    seen = rows[rows["decreases"] > 0]
    if len(seen):
        row = seen[0]
        cpus = seen["cpu"].tolist()
        return failed(
            f"{row['decreases']} times, first from {row['decrease_from_ns']}"
            f" to {row['decrease_to_ns']} ns",
            cpu=int(row["cpu"]),
            decreases=int(row["decreases"]),
        ).on([*cpus, *(cpu for cpu in decreased if cpu not in cpus)])
    if decreased:
        cpu = decreased[0]
        before, after = (int(seen["stolen_ns"][cpu]) for seen in (guest.first, guest.watched.after))
        text = f"{before} ns when the run began, {after} ns later"
        return failed(text, cpu=cpu).on(decreased)
    return passed(f"{int(rows['advances'].sum()):,} times up, none down")


@check(
    "counter.passed",
    "Never is more stolen than the time that passed, by CLOCK_MONOTONIC_RAW",
    Clause.WITHIN_TIME,
    Effect.LOAD,
    level=Level.DERIVED,
)
def within_time(guest: Guest) -> Finding:
    rows = guest.watched.judged
    leaping = rows[rows["leaps"] > 0]
    if len(leaping):
        leaping = leaping[np.argsort(leaping["leap_ns"])[::-1]]
        row = leaping[0]
        return failed(
            f"{row['leaps']} times; at worst {_ms(row['leap_ns'])} ms more than"
            f" the {_ms(row['leap_within_ns'])} ms that passed",
            cpu=int(row["cpu"]),
            leaps=int(row["leaps"]),
            excess_ns=int(row["leap_ns"]),
        ).on(leaping["cpu"])
    errors_ns = [{"cpu": int(row["cpu"]), "error_ns": int(row["step_ns"])} for row in rows]
    most_ns = int(rows["step_ns"].max())
    return passed(f"at every look; error: at most {most_ns} ns", errors=errors_ns)


@check(
    "counter.plausible",
    "No more was stolen than the guest has been up",
    Clause.WITHIN_TIME,
    level=Level.DERIVED,
    also=(Clause.LITTLE_ENDIAN,),
)
def plausible(guest: Guest) -> Finding:
    rows = guest.reader.snapshot()[guest.asked]
    up_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    over = rows[rows["valid"] & (rows["stolen_ns"] > up_ns)]
    if len(over):
        text = f"{over[0]['stolen_ns']} ns in {up_ns / 1e9:.0f} s of uptime"
        return failed(text).on(over["cpu"])
    if not rows["valid"].any():
        return skipped("no count can be interpreted")
    most_ns = int(rows["stolen_ns"][rows["valid"]].max())
    return passed(f"at most {100 * most_ns / up_ns:.1f} % of {up_ns / 1e9:.0f} s of uptime")


@check(
    "counter.grows",
    "The count grows when time is taken from a busy vCPU",
    Clause.INVOLUNTARY,
    Effect.LOAD,
    level=Level.MUST,
)
def grows(guest: Guest) -> Finding:
    rows = guest.watched.judged
    # What is missing in one piece, once, may be a VM that was paused.
    taken_ns = missing_ns(guest.watched) - rows["unaccounted_ns"].astype(np.int64)
    passed_ns = (rows["ended_ns"] - rows["began_ns"]).astype(np.int64)
    contended = (taken_ns > _LONG_NS) & (taken_ns > _CONTENDED * passed_ns)
    frozen = contended & (rows["advances"] == 0)
    if frozen.any() and not SCHEDSTAT.exists():
        return skipped("this kernel does not say what other tasks took (CONFIG_SCHED_INFO)")
    if frozen.any():
        row = int(np.argmax(frozen))
        return failed(
            f"{_ms(taken_ns[row])} ms are missing, and the count stood still",
            "the host takes time and does not say so: ask who runs it, and take no decision on"
            " stolen time here",
        ).on(rows["cpu"][frozen])
    if not rows["advances"].any():
        return skipped("nothing was taken: run it while the host is busy")
    grown = rows["advances"] > 0
    return passed(f"it grew on cpu{listed(rows['cpu'][grown].tolist())}")


@check(
    "counter.still",
    "The count stands still while no time is taken",
    Clause.ONLY_INVOLUNTARY,
    Effect.LOAD,
    level=Level.DERIVED,
)
def still(guest: Guest) -> Finding:
    rows = guest.watched.judged
    creeps = (rows["quick_advances"] >= _QUICK_ADVANCES) | (
        rows["quiet_excess_ns"] > _EXCESS * rows["quiet_ns"] + GAP_NS
    )
    if creeps.any():
        creeping = rows[creeps]
        creeping = creeping[np.argsort(creeping["quick_grown_ns"])[::-1]]
        worst = creeping[0]
        return failed(
            f"it grew by {_ms(max(worst['quick_grown_ns'], worst['quiet_excess_ns']))} ms in"
            f" {_ms(worst['quiet_ns'])} ms from which nothing was missing",
            "somebody else than the host's scheduler writes the count: take no decision on any part"
            " of it, and ask who runs the hypervisor",
        ).on(creeping["cpu"])
    advances, quick_ns = int(rows["quick_advances"].sum()), int(rows["quick_ns"].sum())
    return passed(
        f"it grew {advances:,} times in {_s(quick_ns)} CPU-s of steps that are too short to leave"
        " the vCPU in"
    )


@check(
    "counter.idle",
    "Time in which a vCPU sleeps is not stolen",
    Clause.NOT_HALTED,
    Effect.LOAD,
    level=Level.MUST,
)
def idle(guest: Guest) -> Finding:
    shares = {
        cpu: share
        for cpu in guest.watched.judged["cpu"].tolist()
        if guest.naps[cpu].others_share < _AWAKE
        and (share := counted_share(guest.naps[cpu].naps)) is not None
    }
    if not shares:
        return skipped("no vCPU slept undisturbed: run it while the guest has nothing to do")
    figures = {
        "counted_shares": [{"cpu": cpu, "share": round(part, 4)} for cpu, part in shares.items()]
    }
    allowed = {
        cpu: _SLEPT if part < _UNCONTENDED else _SLEPT_CONTENDED
        for cpu, part in _taken_share(guest.watched.judged).items()
    }
    worst_first = sorted(shares, key=lambda cpu: allowed[cpu] - shares[cpu])
    text = f"{100 * max(0.0, shares[worst_first[0]]):.1f} % of its sleep was counted"
    if counting := [cpu for cpu in worst_first if shares[cpu] > allowed[cpu]]:
        return failed(
            text,
            "an idle vCPU seems to be stolen from: let no alarm and no autoscaler rest on steal"
            " here, and ask who runs the hypervisor",
            **figures,
        ).on(counting)
    return passed(f"at most {text}", **figures)


def _taken_share(rows: Observations) -> dict[int, float]:
    """What part of the time in which it was kept busy the host took from each vCPU."""
    passed_ns = (rows["ended_ns"] - rows["began_ns"]).astype(float)
    shares = rows["gaps_stolen_ns"] / passed_ns
    return dict(zip(rows["cpu"].tolist(), shares.tolist(), strict=True))


@check(
    "counter.remote",
    "Another vCPU reads the count while it changes",
    Clause.CACHEABLE,
    Effect.LOAD,
    level=Level.MUST,
)
def remote(guest: Guest) -> Finding:
    rows = guest.watched.judged
    if len(rows) == 1:
        return skipped("one vCPU only was watched all the time")
    backwards = rows[rows["other_decreases"] > 0]
    if len(backwards):
        text = f"cpu{backwards[0]['cpu']} saw it go back"
        return failed(text).on(np.unique(backwards["other"]))
    advances = dict(zip(rows["cpu"].tolist(), rows["advances"].tolist(), strict=True))
    unseen = {
        int(row["other"]): int(row["cpu"])
        for row in rows[(rows["other_advances"] == 0) & (rows["other_looks"] > 0)]
        # A few may have gone by between two looks of the other.
        if advances.get(int(row["other"]), 0) > 100
    }
    if unseen:
        return failed(f"cpu{next(iter(unseen.values()))} did not see it change").on(unseen)
    looks, seen = int(rows["other_looks"].sum()), int(rows["other_advances"].sum())
    if not seen:
        return skipped(f"no count changed in {looks:,} looks: run it while the host is busy")
    return passed(f"{looks:,} looks, {seen:,} of them at a new count")


@check(
    "counter.whole",
    "A count is read whole, never torn",
    Clause.WHOLE,
    Effect.LOAD,
    level=Level.MUST,
)
def whole(guest: Guest) -> Finding:
    rows = guest.watched.judged
    torn = rows[rows["torn"] > 0]
    if len(torn):
        row = torn[0]
        return failed(
            f"{row['torn']} times it was somewhere else for a moment, first at"
            f" {int(row['torn_ns']):#x} ns",
            "the hypervisor writes the count in parts, or takes it back: report it to who makes it",
            cpu=int(row["cpu"]),
        ).on(torn["cpu"])
    if not rows["advances"].any():
        return skipped("no count changed: run it while the host is busy")
    return passed(f"{int(rows['looks'].sum()):,} looks")


def _decreased(guest: Guest) -> list[int]:
    """Since the run began, in the same epoch."""
    backwards_ns = delta(guest.first, guest.watched.after)["backwards_ns"]
    return [cpu for cpu in guest.asked if backwards_ns[cpu]]


def _ms(ns: int) -> str:
    return f"{int(ns) / 1e6:.3f}"


def _s(ns: int) -> str:
    return f"{int(ns) / 1e9:.1f}"

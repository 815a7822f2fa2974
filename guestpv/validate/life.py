# SPDX-License-Identifier: MIT
"""life: what must survive does, and what restarts is announced as an epoch."""

import time

import numpy as np

from guestpv.cpulist import listed
from guestpv.page.abi import Origin, State
from guestpv.validate.check import Effect, Finding, Level, check, failed, passed, skipped, warned
from guestpv.validate.clauses import Clause
from guestpv.validate.disruption import Resumed, Switched
from guestpv.validate.guest import Guest

_STOOD_STILL_S = 1.5
"""A VM that was not stopped seems to have been for up to one second."""
_ERROR_NS = 10_000_000


@check(
    "life.paused",
    "The VM was not stopped while it was validated",
    Clause.STOPPED,
    level=Level.KVM,
)
def paused(guest: Guest) -> Finding:
    stood_still_s = _wait(guest)
    if stood_still_s is None:
        return skipped("there is no RTC by which the guest could tell")
    if stood_still_s < _STOOD_STILL_S:
        return passed("by its RTC, which shows stops of three seconds or more")
    return warned(
        f"it stood still for about {stood_still_s:.0f} s",
        "it was paused, saved and restored, or migrated; neither the guest's clocks nor the counts"
        " show that time",
        stood_still_s=round(stood_still_s, 1),
    )


@check(
    "life.survives",
    "The counts go on where they were when the VM goes on, here or elsewhere",
    Clause.SURVIVES,
    level=Level.DERIVED,
)
def survives(guest: Guest) -> Finding:
    stood_still_s = _wait(guest)
    if stood_still_s is None:
        return skipped("there is no RTC by which the guest could tell that it was moved")
    stopped = stood_still_s >= _STOOD_STILL_S
    if not stopped and not guest.options.wait_s:
        return skipped("the VM was not saved or migrated meanwhile: do it within --wait SECONDS")
    moved = guest.first_ipas != guest.entries["ipa"]
    if cpus := [cpu for cpu in guest.asked if moved[cpu]]:
        return failed("its structure is no longer where it was").on(cpus)
    counted = [cpu for cpu in guest.asked if guest.first[cpu]["valid"]]
    first, now = guest.first[counted], guest.reader.snapshot()[counted]
    if not now["valid"].all():
        other = now[~now["valid"]]
        return failed(
            f"revision {other[0]['revision']}, attributes {other[0]['attributes']:#x}",
            "guestpv does not interpret it: move the VM to a host that has the interface it had",
        ).on(other["cpu"])
    new_epoch = now["epoch"] != first["epoch"]
    if not stopped and new_epoch.any():
        cpus = now["cpu"][new_epoch].tolist()
        return skipped(f"cpu{listed(cpus)}: a new epoch, but no stop was seen: offline meanwhile?")
    lost = new_epoch | (now["stolen_ns"] < first["stolen_ns"])
    if lost.any():
        before, after = first[lost][0], now[lost][0]
        return failed(
            f"{before['stolen_ns']} ns in epoch {before['epoch']} before,"
            f" {after['stolen_ns']} ns in epoch {after['epoch']} after",
            "the new host began a new count: leave out rates across the move, and report it to"
            " whoever runs the hosts",
        ).on(now["cpu"][lost])
    if not stopped:
        return skipped("no stop was seen, as a short one is not; every count went on")
    return passed(f"across a stop of about {stood_still_s:.0f} s")


@check(
    "life.hotplug",
    "A CPU that was offline counts on where it was, or anew from zero in a new epoch",
    Clause.HOTPLUG,
    Effect.HOTPLUG,
    level=Level.DERIVED,
)
def hotplug(guest: Guest) -> Finding:
    if isinstance(guest.hotplug, str):
        return skipped(guest.hotplug)
    wrong = {switched.cpu: text for switched in guest.hotplug if (text := _wrong(switched))}
    if wrong:
        return failed(next(iter(wrong.values()))).on(wrong)
    return passed(f"cpu{listed([switched.cpu for switched in guest.hotplug])}: it did")


def _wrong(switched: Switched) -> str:
    """What is wrong with a CPU's count after it was offline; empty if nothing is."""
    before, after = switched.before, switched.after
    if switched.offline["state"] != State.OFFLINE or after["state"] != State.ONLINE:
        return "the module did not follow it offline and back"
    restarts = int(after["epoch"]) - int(before["epoch"])
    if restarts not in (0, 1):
        return f"epoch {before['epoch']} before, {after['epoch']} after"
    if not (before["valid"] and after["valid"]):
        return ""
    grown_ns = int(after["stolen_ns"]) - (0 if restarts else int(before["stolen_ns"]))
    if grown_ns < 0:
        return f"the module did not see that its count is {-grown_ns} ns lower"
    if grown_ns > switched.away_and_back_ns:
        return (
            f"it grew by {grown_ns} ns in less than {switched.away_and_back_ns} ns: it neither"
            " counted on nor began from zero"
        )
    switching_ns = switched.away_and_back_ns - switched.offline_ns
    if grown_ns > switching_ns:
        return (
            f"it grew by {grown_ns} ns in {switching_ns} ns of going and coming back: the"
            f" {switched.offline_ns} ns in which it was offline are counted"
        )
    return ""


@check(
    "life.suspend",
    "Counts go on over suspend to idle, in their epoch, where they were",
    Clause.SURVIVES,
    Effect.SUSPEND,
    level=Level.DERIVED,
)
def suspend(guest: Guest) -> Finding:
    if isinstance(guest.suspended, str):
        return skipped(guest.suspended)
    return _went_on(guest.suspended) or passed(f"over {guest.suspended.boot_ns / 1e9:.1f} s")


@check(
    "life.reload",
    "A module that is loaded again finds the same structures; what the kernel owns counts on",
    Clause.ADOPTS,
    Effect.RELOAD,
    level=Level.GUESTPV,
)
def reload(guest: Guest) -> Finding:
    if isinstance(guest.reloaded, str):
        return skipped(guest.reloaded)
    if guest.adopted:
        return _went_on(guest.reloaded, same_epoch=False) or passed("nothing was reset")
    return _moved(guest.reloaded) or passed("claimed again: every count has restarted")


def _went_on(resumed: Resumed, *, same_epoch: bool = True) -> Finding | None:
    """What is wrong if counts should have gone on; None if nothing is."""

    def wrong(before: np.void, after: np.void) -> str:
        if before["valid"] and not after["valid"]:
            return "its count can't be interpreted any more"
        if same_epoch and before["epoch"] != after["epoch"]:
            return f"epoch {before['epoch']} before, {after['epoch']} after"
        if not before["valid"] or before["origin"] == Origin.NONE:
            return ""
        if after["stolen_ns"] < before["stolen_ns"]:
            return f"{before['stolen_ns']} ns before, {after['stolen_ns']} ns after"
        if int(after["stolen_ns"] - before["stolen_ns"]) > resumed.boot_ns + _ERROR_NS:
            return f"more was stolen than the {resumed.boot_ns / 1e9:.1f} s it took"
        return ""

    texts = {
        int(before["cpu"]): text
        for before, after in zip(resumed.before, resumed.after, strict=True)
        if (text := wrong(before, after))
    }
    if texts:
        return failed(next(iter(texts.values()))).on(texts)
    return _moved(resumed)


def _moved(resumed: Resumed) -> Finding | None:
    pairs = enumerate(zip(resumed.ipas_before, resumed.ipas_after, strict=True))
    moved = {cpu: pair for cpu, pair in pairs if pair[0] != pair[1]}
    if not moved:
        return None
    before, after = next(iter(moved.values()))
    return failed(f"its structure was at {before:#x}, and is at {after:#x}").on(moved)


def _wait(guest: Guest) -> float | None:
    """For how long the VM stood still since the run began; waits for that if asked to."""
    while True:
        stood_still_s = guest.stood_still_s()
        left_s = guest.wait_until_s - time.monotonic()
        if stood_still_s is None or stood_still_s >= _STOOD_STILL_S or left_s <= 0:
            return stood_still_s
        guest.progress(f"pause, save or migrate the VM now: {left_s:.0f} s left")
        time.sleep(0.2)

# SPDX-License-Identifier: MIT
"""What happened, in words: to a CPU, to its count, to the VM, to what tells of them.

`guestpv watch`, `guestpv events` and `guestpv.events` say the same of the same.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from guestpv.page.abi import GONE, Reason, State
from guestpv.page.names import fault_text, name_of, reason_text
from guestpv.source.reader import Snapshot

if TYPE_CHECKING:
    from guestpv.driver.events import Event

_RESTORED_ONCE_IN_S = 5.0


@dataclass(frozen=True, slots=True)
class Change:
    """Something that happened."""

    time_s: float
    """Unix time at which it was noticed."""
    kind: str
    """One of those that `guestpv.events` documents."""
    cpu: int | None
    """None if it happened to the whole machine."""
    text: str
    """In words, for a person; it begins with the CPU if there is one."""
    epoch: int | None = None
    """Of a count that restarted: the one that began. It goes up by one with each restart."""
    reason: str | None = None
    """Of a count that restarted: why, as the name of a `guestpv.page.abi.Reason`."""


def change(kind: str, text: str, cpu: int | None = None) -> Change:
    """A change that happened just now."""
    return Change(time.time(), kind, cpu, text)


def changes(before: Snapshot, now: Snapshot, step: npt.NDArray[np.void]) -> Iterator[Change]:
    """What happened to each CPU between two snapshots; *step* is the `guestpv.delta` of them."""
    changed = step["restarted"] | (step["backwards_ns"] != 0)
    for field in "state", "revision", "attributes":
        changed |= before[field] != now[field]
    for row in np.flatnonzero(changed):
        yield from _changes_of(before[row], now[row], step[row])


def _changes_of(before: np.void, now: np.void, step: np.void) -> Iterator[Change]:
    """What happened to one CPU, in its order."""
    cpu = int(now["cpu"])
    if before["state"] != now["state"]:
        match now["state"]:
            case State.ONLINE:
                yield cpu_online(cpu, True)
            case State.OFFLINE | State.ABSENT if before["state"] in GONE:
                pass  # and the module, loaded anew, has not seen it online
            case State.OFFLINE | State.ABSENT if before["state"] == State.STARTING:
                yield change("offline", f"cpu{cpu} is offline", cpu)  # it went, or failed to come
            case State.OFFLINE | State.ABSENT:
                yield cpu_online(cpu, False)
            case State.REFUSED:
                why = fault_text(now["fault"])
                text = f"cpu{cpu} has no structure to be trusted: {why}"
                yield change("refused", text, cpu)
    if step["restarted"]:
        yield _restart(cpu, int(before["epoch"]), now)
    # That of /proc/stat (epoch 0) is told with the kernel's account, which it is.
    if step["backwards_ns"] and now["epoch"]:
        text = f"cpu{cpu} count ran backwards by {step['backwards_ns']:,} ns in its epoch"
        yield change("backwards", text, cpu)
    if (now["revision"], now["attributes"]) != (before["revision"], before["attributes"]):
        meaning = "its count goes on" if now["valid"] else "its count is not interpreted"
        structure = f"revision {now['revision']}, attributes {now['attributes']:#x}"
        yield change("revision", f"cpu{cpu} has {structure}: {meaning}", cpu)


def _restart(cpu: int, epoch_before: int, now: np.void) -> Change:
    epoch = int(now["epoch"])
    # Of the others between the two nobody knows more than that they were.
    times = epoch - epoch_before
    often = f" {times} times" if times > 1 else ""
    why = reason_text(now["reason"])
    text = f"cpu{cpu} restarted its count{often} (epoch {epoch}): {why}"
    reason = name_of(Reason, now["reason"])
    return Change(time.time(), "restart", cpu, text, epoch, reason)


def cpu_online(cpu: int, online: bool) -> Change:
    """A CPU came, or went."""
    if online:
        return change("online", f"cpu{cpu} came online", cpu)
    return change("offline", f"cpu{cpu} went offline", cpu)


def procstat_backwards(now: Snapshot, backwards_ns: npt.NDArray[Any]) -> Iterator[Change]:
    """*backwards_ns*: of each row, by how much /proc/stat ran backwards; 0 if it did not."""
    for row in np.flatnonzero(backwards_ns):
        lost_ms = backwards_ns[row] // 1_000_000
        text = f"cpu{now['cpu'][row]} steal in /proc/stat ran backwards by {lost_ms} ms"
        yield change("procstat_backwards", text, int(now["cpu"][row]))


class VmChanges:
    """What happened to the VM, by the kernel's events: once, however many tell of the same."""

    def __init__(self) -> None:
        self._restored_s = -math.inf

    def change(self, event: Event) -> Change | None:
        """None if it is about something else, or was told before."""
        from guestpv.driver.events import ClockDisruptionEvent, CountEvent, VmGenerationEvent

        match event:
            case VmGenerationEvent() | CountEvent(what="restored"):
                before, self._restored_s = self._restored_s, time.monotonic()
                # The module, vmgenid and vmclock may all tell of it.
                if self._restored_s - before > _RESTORED_ONCE_IN_S:
                    return change("restored", "the VM was restored or cloned")
            case ClockDisruptionEvent():
                return change("moved", "the VM was moved to another host, or its clock disrupted")
        return None

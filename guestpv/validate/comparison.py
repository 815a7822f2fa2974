# SPDX-License-Identifier: MIT
"""A guest before and after something happened to its VM: did it, and what became of each count?"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, StrEnum, auto

import numpy as np

from guestpv.errors import MismatchError
from guestpv.page.abi import Origin, Reason, State
from guestpv.validate.record import Record


class Event(StrEnum):
    """What happened to the VM, as whoever did it says."""

    MIGRATED = "migrated"
    """It goes on, on another host."""
    HOST_UPGRADED = "host-upgraded"
    """It goes on, and what serves it is of another version."""
    RESTORED = "restored"
    """It goes on from a snapshot, which may be older than the record."""
    CLONED = "cloned"
    """As restored, but it is another VM than the one that was recorded."""
    HOTPLUG = "hotplug"
    """CPUs went and came."""
    REBOOTED = "rebooted"
    KEXEC = "kexec"
    """The guest's kernel started another one; the hypervisor has not noticed."""

    @property
    def same_boot(self) -> bool:
        """Whether the guest's kernel goes on."""
        return self not in (Event.REBOOTED, Event.KEXEC)

    @property
    def sets_back(self) -> bool:
        """Whether counts may be those of an earlier time, or begin anew if that is announced."""
        return self in (Event.RESTORED, Event.CLONED)


class Fate(Enum):
    """What became of a count."""

    UNKNOWN = auto()
    """There was none, or there is none that can be compared."""
    GONE = auto()
    """There is none any more."""
    WENT_ON = auto()
    """In its epoch."""
    LOWER = auto()
    """In the same epoch."""
    EARLIER = auto()
    """It is in an epoch that was over when it was recorded."""
    RESTARTED = auto()
    """It is in a newer epoch."""


_CAME_ONLINE = (Reason.HOTPLUG, Reason.RELEARNED)


@dataclass(frozen=True, slots=True)
class Compared:
    """One CPU that had a count."""

    before: np.void
    """A row of `guestpv.validate.record.CPU`."""
    now: np.void
    fate: Fate

    @property
    def cpu(self) -> int:
        return int(self.before["cpu"])

    @property
    def grown_ns(self) -> int:
        """Negative where the count is lower."""
        return int(self.now["stolen_ns"]) - int(self.before["stolen_ns"])

    @property
    def by_hotplug(self) -> bool:
        """Whether its count began anew when the CPU came online, which is the guest's doing."""
        return self.fate == Fate.RESTARTED and self.now["reason"] in _CAME_ONLINE


@dataclass(frozen=True, slots=True)
class Comparison:
    """The guest as it was recorded, and as it is after *event*."""

    before: Record
    now: Record
    event: Event

    @property
    def same_instance(self) -> bool:
        return self.before.instance == self.now.instance

    @property
    def same_boot(self) -> bool:
        """Whether it is the same kernel that runs.

        Linux draws the boot id when it is first read: a snapshot may be older than that.
        """
        return self.same_instance or self.before.boot_id == self.now.boot_id

    @property
    def set_back(self) -> bool:
        """Whether it goes on from an earlier time than that of the record, as far as it shows."""
        return (
            self.now.ended.boottime_ns < self.before.began.boottime_ns
            or self.now.ended.monotonic_raw_ns < self.before.began.monotonic_raw_ns
            or (self.same_instance and self.now.sequence < self.before.sequence)
        )

    @property
    def passed_ns(self) -> int:
        """The most that passed for the guest, in the same boot; negative if it was set back."""
        before, now = self.before.began, self.now.ended
        return max(
            now.boottime_ns - before.boottime_ns, now.monotonic_raw_ns - before.monotonic_raw_ns
        )

    @property
    def real_ns(self) -> int | None:
        """The most that passed by the RTC, which counts seconds; None if it can't be known."""
        before, now = self.before.began.rtc_s, self.now.ended.rtc_s
        return None if before is None or now is None else (now - before + 1) * 1_000_000_000

    @property
    def rows(self) -> list[Compared]:
        """A row for each CPU that had a count when it was recorded."""
        now = {int(row["cpu"]): row for row in self.now.cpus}
        absent = np.zeros(1, self.now.cpus.dtype)[0]
        pairs = ((row, now.get(int(row["cpu"]), absent)) for row in self.before.cpus)
        return [Compared(row, then, self._fate(row, then)) for row, then in pairs if row["valid"]]

    def _fate(self, before: np.void, now: np.void) -> Fate:
        if now["state"] in (State.ABSENT, State.REFUSED):
            return Fate.GONE
        if not now["valid"]:
            return Fate.UNKNOWN  # it is on its way, or not to be interpreted
        if not self.same_instance:
            # What the kernel owns went on while the module was away; what was claimed did not.
            if not self.event.same_boot or not before["origin"] == now["origin"] == Origin.ADOPTED:
                return Fate.UNKNOWN
        elif now["epoch"] > before["epoch"]:
            return Fate.RESTARTED
        elif now["epoch"] < before["epoch"]:
            return Fate.EARLIER
        return Fate.LOWER if now["stolen_ns"] < before["stolen_ns"] else Fate.WENT_ON

    def with_fate(self, *fates: Fate) -> list[Compared]:
        return [row for row in self.rows if row.fate in fates]

    def unannounced(self) -> list[Compared]:
        """CPUs whose count is lower, of which the module's page says nothing (yet)."""
        return self.with_fate(Fate.LOWER) if self.same_instance else []


def compare(before: Record, now: Record, event: Event) -> Comparison:
    """Raises MismatchError if *before* is no record of this guest, or *event* did not happen."""
    comparison = Comparison(before, now, event)
    for why, fix in _objections(comparison):
        raise MismatchError(f"--compare, --event {event}: nothing to judge", why, fix)
    return comparison


_SAME = "compare on the machine that was recorded"
_SAY_WHICH = "say with --event what did happen"


def _objections(comparison: Comparison) -> Iterator[tuple[str, str]]:
    """Why what is said can't be so, and what to do."""
    before, now, event = comparison.before, comparison.now, comparison.event
    if before.source != now.source:
        yield f"The record is of {_kind(before)}, and this is {_kind(now)}", _SAME
    if not comparison.same_boot and _differ(before.machine, now.machine):
        yield "The record is of another machine", _SAME
    if comparison.same_boot and not event.same_boot:
        yield "The guest has not booted since it was recorded", _SAY_WHICH
    if not event.same_boot:
        return
    if not comparison.same_boot:
        yield "The guest has booted since it was recorded, by its boot id", _SAY_WHICH
    if not comparison.same_instance and event != Event.HOST_UPGRADED:
        yield (
            "The module was loaded again since it was recorded, so that epochs and counts can't be"
            " compared",
            "leave it loaded from --record to --compare",
        )
    if comparison.set_back and not event.sets_back:
        yield (
            "Clocks, or the index, are earlier than in the record, so the VM was restored",
            "say --event restored",
        )
    if event == Event.HOTPLUG and before.sequence == now.sequence:
        yield "The module has seen no CPU go or come since it was recorded", _SAY_WHICH


def _differ(before: str | None, now: str | None) -> bool:
    return before is not None and now is not None and before != now


def _kind(record: Record) -> str:
    return "a device" if record.source == "device" else f"a page {record.source}"


def numbers(rows: Sequence[Compared]) -> list[int]:
    """Their CPUs."""
    return [row.cpu for row in rows]

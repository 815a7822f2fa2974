# SPDX-License-Identifier: MIT
"""What became of each CPU's stolen time, interval by interval, since somebody began to watch."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from guestpv.account.delta import delta
from guestpv.account.kernel import KernelAccount
from guestpv.page.abi import State
from guestpv.page.names import fault_text
from guestpv.source.procstat import Accounts
from guestpv.source.reader import Snapshot

Rows = npt.NDArray[np.intp]
"""Which rows of a snapshot are meant, in which order."""

TRAIL = 240
"""Intervals that are remembered: as many as a wide terminal can show."""

_MOST_NS = np.iinfo(np.int64).max


@dataclass(frozen=True, slots=True)
class Figures:
    """What is known of one CPU, or of several together. None is unknown.

    Percentages are of the time that really passed. One may exceed 100: the hypervisor adds what
    it took when the vCPU runs again, maybe intervals later.
    """

    stolen_ns: int | None
    """The raw count, as the hypervisor keeps it."""
    interval_stolen_ns: int | None
    """How much it grew in the last interval."""
    stolen_percent: float | None
    """The same, of the interval."""
    demand_stolen_percent: float | None
    """The same, of the time for which the CPU had something to run: how much slower it was."""
    worst_percent: float | None
    """The highest stolen_percent since watching began."""
    restarts: int
    """How often the count started again since watching began."""
    interval_run_ns: int | None
    """For how long it ran something in the interval, by /proc/stat."""
    interval_procstat_ns: int | None
    """How much was stolen in the interval by /proc/stat; negative if that ran backwards."""
    procstat_percent: float | None
    """The same, of the interval."""
    procstat_differs: bool
    """Whether /proc/stat contradicts the hypervisor since watching began."""


@dataclass(frozen=True, slots=True)
class Change:
    """Something that happened; *cpu* is None if it happened to the whole machine."""

    time_s: float  # Unix time
    kind: str
    cpu: int | None
    text: str


def change(kind: str, text: str, cpu: int | None = None) -> Change:
    """A change that happened just now."""
    return Change(time.time(), kind, cpu, text)


class History:
    """Interval by interval, what a snapshot's rows became. Arrays have one element per row."""

    def __init__(self, first: Snapshot, account: Accounts) -> None:
        n = len(first)
        self.rows = first
        self.intervals = 0
        self.interval_ns = 0
        self.watched_ns = 0
        self.known = np.zeros(n, np.bool_)  # whether the last interval's figure is
        self.stolen_ns = np.zeros(n, np.int64)  # in the last interval; 292 years at most
        self.watched_stolen_ns = np.zeros(n, np.int64)
        self.percent = np.full(n, np.nan)
        self.trail = np.full((n, TRAIL), np.nan)  # of percent, the newest last
        self.worst_percent = np.full(n, np.nan)
        self.worst_time = np.zeros(n)
        self.restarts = np.zeros(n, np.int64)
        self.kernel = KernelAccount(account)
        self._interval_began = first

    def look(self, now: Snapshot) -> list[Change]:
        """Take note of what changed since the last look. No interval ends."""
        before, self.rows = self.rows, now
        step = delta(before, now)
        self.restarts += step["restarted"]
        return list(_changes(before, now, step))

    def tick(self, now: Snapshot, account: Accounts) -> list[Change]:
        """End an interval. Returns what changed since the last look."""
        changes = self.look(now)
        passed = delta(self._interval_began, now)
        self._interval_began = now
        self.intervals += 1
        self.interval_ns = int(passed["interval_ns"][0])
        self.watched_ns += self.interval_ns

        self.known = passed["valid"] & (now["state"] == State.ONLINE)
        stolen_ns = np.minimum(passed["stolen_ns"], np.uint64(_MOST_NS)).astype(np.int64)
        self.stolen_ns = np.where(self.known, stolen_ns, 0)
        self.watched_stolen_ns += self.stolen_ns
        self.percent = np.where(self.known, self.stolen_ns * 100.0 / self.interval_ns, np.nan)
        self._remember()
        self.kernel.tick(account, self.stolen_ns, ~passed["valid"])
        changes += _backwards(now, self.kernel.steal_ns)
        return changes

    def _remember(self) -> None:
        self.trail[:, :-1] = self.trail[:, 1:]
        self.trail[:, -1] = self.percent
        worse = self.percent > np.nan_to_num(self.worst_percent, nan=-1)
        self.worst_percent[worse] = self.percent[worse]
        self.worst_time[worse] = time.time()

    def figures(self, rows: Rows) -> Figures:
        """What is known of these rows together. A sum leaves out the rows that are not known."""
        valid = rows[self.rows["valid"][rows]]
        known = rows[self.known[rows]]
        stolen_ns = _sum(self.stolen_ns, known)
        time_ns = self.interval_ns * len(known)

        compared = known[self.kernel.steal_known[known]]
        ran = known[self.kernel.run_known[known]]
        run_ns = _sum(self.kernel.run_ns, ran)
        procstat_ns = _sum(self.kernel.steal_ns, compared)
        compared_ns = self.interval_ns * len(compared)
        ran_stolen_ns = _sum(self.stolen_ns, ran)
        demand_ns = (run_ns or 0) + (ran_stolen_ns or 0)

        worst = self.worst_percent[rows]
        return Figures(
            stolen_ns=_sum(self.rows["stolen_ns"], valid),
            interval_stolen_ns=stolen_ns,
            stolen_percent=_percent(stolen_ns, time_ns),
            demand_stolen_percent=_percent(ran_stolen_ns, demand_ns),
            worst_percent=None if np.isnan(worst).all() else float(np.nanmax(worst)),
            restarts=int(self.restarts[rows].sum()),
            interval_run_ns=run_ns,
            interval_procstat_ns=procstat_ns,
            procstat_percent=_percent(procstat_ns, compared_ns),
            procstat_differs=bool(self.kernel.differs[compared].any()),
        )


def _sum(figures: npt.NDArray[Any], rows: Rows) -> int | None:
    """Exact, as NumPy's is not from 64 bits on."""
    return sum(figures[rows].tolist()) if len(rows) else None


def _percent(part_ns: int | None, whole_ns: int) -> float | None:
    return None if part_ns is None or whole_ns == 0 else 100.0 * part_ns / whole_ns


def _changes(before: Snapshot, now: Snapshot, step: npt.NDArray[np.void]) -> Iterator[Change]:
    moved = (
        step["restarted"]
        | (step["backwards_ns"] != 0)
        | (before["state"] != now["state"])
        | (before["valid"] != now["valid"])
    )
    moved |= (before["revision"] != now["revision"]) | (before["attributes"] != now["attributes"])
    for row in np.flatnonzero(moved):
        for kind, text in _story(before[row], now[row], step[row]):
            yield change(kind, f"cpu{now['cpu'][row]} {text}", int(now["cpu"][row]))


def _story(before: np.void, now: np.void, step: np.void) -> Iterator[tuple[str, str]]:
    """What happened to one CPU between two looks: kinds and texts, in their order."""
    if before["state"] != now["state"]:
        match now["state"]:
            case State.ONLINE:
                yield "online", "came online"
            case State.OFFLINE | State.ABSENT:
                yield "offline", "went offline"
            case State.REFUSED:
                yield "refused", f"has no structure to be trusted: {fault_text(now['fault'])}"
    if step["restarted"]:
        yield "restart", f"restarted its count (epoch {now['epoch']})"
    if step["backwards_ns"]:
        yield "backwards", f"count ran backwards by {step['backwards_ns'] // 1_000_000} ms"
    if (now["revision"], now["attributes"]) != (before["revision"], before["attributes"]):
        meaning = "its count goes on" if now["valid"] else "its count is not interpreted"
        structure = f"revision {now['revision']}, attributes {now['attributes']:#x}"
        yield "revision", f"has {structure}: {meaning}"


def _backwards(now: Snapshot, steal_ns: npt.NDArray[np.int64]) -> Iterator[Change]:
    for row in np.flatnonzero(steal_ns < 0):
        lost_ms = -int(steal_ns[row]) // 1_000_000
        text = f"cpu{now['cpu'][row]} steal in /proc/stat ran backwards by {lost_ms} ms"
        yield change("procstat_backwards", text, int(now["cpu"][row]))

# SPDX-License-Identifier: MIT
"""What became of each CPU's stolen time, interval by interval, since somebody began to watch."""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from guestpv.account.changes import Change, changes, procstat_backwards
from guestpv.account.kernel import KernelAccount
from guestpv.account.totals import Totals
from guestpv.page.abi import State
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
    """How much it grew in the last interval; None where that is only known to be at least so much,
    as in one in which the count started again."""
    stolen_percent: float | None
    """The same, of the interval."""
    demand_stolen_percent: float | None
    """The same, of the time for which the CPU had something to run: how much slower it was."""
    worst_percent: float | None
    """The highest stolen_percent since watching began."""
    restarts: int
    """How often the count started again since watching began."""
    total_ns: int
    """What was stolen since watching began, at least; it never falls."""
    unknown_ns: int
    """For how long since then it is not known whether that was all: of several CPUs, the sum."""
    interval_run_ns: int | None
    """For how long it ran something in the interval, by /proc/stat."""
    interval_procstat_ns: int | None
    """How much was stolen in the interval by /proc/stat; negative if that ran backwards."""
    procstat_percent: float | None
    """The same, of the interval."""
    procstat_differs: bool
    """Whether /proc/stat contradicts the hypervisor since watching began."""


class History:
    """Interval by interval, what a snapshot's rows became. Arrays have one element per row."""

    def __init__(self, first: Snapshot, account: Accounts) -> None:
        n = len(first)
        self.rows = first
        self.totals = Totals(None, first)  # since watching began
        self.intervals = 0
        self.interval_ns = 0
        self.watched_ns = 0
        # Whether stolen_ns is. Of a CPU that is offline never, though its totals go on.
        self.known = np.zeros(n, np.bool_)
        self.stolen_ns = np.zeros(n, np.int64)  # in the last interval; 292 years at most
        self.percent = np.full(n, np.nan)
        self.trail = np.full((n, TRAIL), np.nan)  # of percent, the newest last
        self.worst_percent = np.full(n, np.nan)
        self.worst_time = np.zeros(n)
        self.kernel = KernelAccount(account)
        # Of the interval that has not ended:
        self._began_ns = int(first["monotonic_ns"][0])
        self._began_total_ns = self.totals.rows["total_ns"]
        # Whether all that was stolen is in the totals, be the CPU online or not:
        self._exact = np.ones(n, np.bool_)

    def update(self, now: Snapshot) -> list[Change]:
        """Returns what changed since the last update. No interval ends."""
        before, self.rows = self.rows, now
        step = self.totals.update(now)
        self._exact &= step["valid"]
        return list(changes(before, now, step))

    def tick(self, now: Snapshot, account: Accounts) -> list[Change]:
        """End an interval. Returns what changed since the last update."""
        happened = self.update(now)
        now_ns, total_ns = int(now["monotonic_ns"][0]), self.totals.rows["total_ns"]
        self.intervals += 1
        self.interval_ns = now_ns - self._began_ns
        self.watched_ns += self.interval_ns
        exact, grown_ns = self._exact, total_ns - self._began_total_ns
        self._began_ns, self._began_total_ns = now_ns, total_ns
        self._exact = np.ones_like(exact)

        self.known = exact & (now["state"] == State.ONLINE)
        grown_ns = np.minimum(grown_ns, np.uint64(_MOST_NS))
        self.stolen_ns = np.where(self.known, grown_ns, 0).astype(np.int64)
        whole_ns = self.interval_ns or np.nan  # two snapshots may be of the same nanosecond
        self.percent = np.where(self.known, self.stolen_ns * 100.0 / whole_ns, np.nan)
        self._remember()
        self.kernel.tick(account, self.stolen_ns, ~exact)
        happened += procstat_backwards(now, self.kernel.backwards_ns)
        return happened

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
        totals = self.totals.rows[rows]
        return Figures(
            stolen_ns=_sum(self.rows["stolen_ns"], valid),
            interval_stolen_ns=stolen_ns,
            stolen_percent=_percent(stolen_ns, time_ns),
            demand_stolen_percent=_percent(ran_stolen_ns, demand_ns),
            worst_percent=None if np.isnan(worst).all() else float(np.nanmax(worst)),
            restarts=sum(totals["restarts"].tolist()),
            total_ns=sum(totals["total_ns"].tolist()),
            unknown_ns=sum(totals["unknown_ns"].tolist()),
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

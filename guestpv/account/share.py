# SPDX-License-Identifier: MIT
"""Which share of their time vCPUs lost over a while, between bounds that nothing unknown breaks."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from guestpv.account.totals import Totals
from guestpv.page.abi import GONE
from guestpv.source.reader import Snapshot


@dataclass(frozen=True, slots=True)
class Share:
    """Of one vCPU, or of several together: nanoseconds, and what they come to."""

    online_ns: int
    """For how long it was online, or may have been."""
    stolen_ns: int
    """What was stolen of that, at least."""
    unknown_ns: int
    """What may have been stolen beside that: all time of which nothing is known."""
    error_ns: int
    """By how much stolen_ns may be wrong, since the source counts in ticks."""

    @property
    def percent(self) -> float:
        return 100 * self.stolen_ns / self.online_ns

    @property
    def low_percent(self) -> float:
        return 100 * max(0, self.stolen_ns - self.error_ns) / self.online_ns

    @property
    def high_percent(self) -> float:
        return 100 * (self.stolen_ns + self.error_ns + self.unknown_ns) / self.online_ns


class Shares:
    """Adds up, from snapshot to snapshot, what was stolen and for how long that is not known.

    A vCPU that is offline at both ends of an interval loses nothing in it. Of one that comes or
    goes in it, or whose count restarts or must not be interpreted, the interval is unknown.
    """

    def __init__(self, first: Snapshot, resolution_ns: int) -> None:
        """*resolution_ns* is the source's, by which a count may be wrong at each end."""
        self.watched_ns = 0
        self._resolution_ns = resolution_ns
        self._totals = Totals(None, first)
        self._last = first.copy()
        self._online_ns = np.zeros(len(first), np.int64)
        self._stolen_ns = np.zeros(len(first), np.uint64)
        self._unknown_ns = np.zeros(len(first), np.int64)

    def update(self, now: Snapshot) -> None:
        before, self._last = self._last, now.copy()
        step = self._totals.update(now)
        gone_before, gone_now = np.isin(before["state"], GONE), np.isin(now["state"], GONE)
        left_out = gone_before & gone_now & (before["epoch"] == now["epoch"])
        interval_ns = np.where(left_out, 0, step["interval_ns"].astype(np.int64))
        exact = step["valid"] & ~gone_before & ~gone_now
        rest_ns = (interval_ns - np.minimum(step["stolen_ns"], 1 << 62).astype(np.int64)).clip(0)
        self.watched_ns += int(step["interval_ns"][0])
        self._online_ns += interval_ns
        self._stolen_ns += step["stolen_ns"]
        self._unknown_ns += np.where(exact, 0, rest_ns)

    def of(self, rows: npt.NDArray[np.intp]) -> Share | None:
        """Of these rows of the snapshots together; None if none of them was online."""
        judged = rows[self._online_ns[rows] > 0]
        if not len(judged):
            return None
        online_ns, stolen_ns, unknown_ns = (
            sum(figures[judged].tolist())  # NumPy's sum would end at 63 bits
            for figures in (self._online_ns, self._stolen_ns, self._unknown_ns)
        )
        # One tick each: a count may have been just before the next at either end.
        error_ns = len(judged) * self._resolution_ns if self._resolution_ns > 1 else 0
        return Share(online_ns, stolen_ns, unknown_ns, error_ns)

# SPDX-License-Identifier: MIT
"""The kernel's own account of each CPU's time, from /proc/stat, beside what the hypervisor says."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

ACCOUNT = np.dtype(
    [
        ("present", np.bool_),
        ("run_ns", np.int64),
        ("interrupts_ns", np.int64),
        ("steal_ns", np.int64),
        ("slack_ns", np.int64),
    ]
)
"""One CPU: whether /proc/stat lists it (not while it is offline), the time for which it ran
something, how much of that went to interrupts, and the time that was stolen from it, all in whole
ticks; and how far the latter may be from a count that was read just before, because time was
stolen between."""

Accounts = npt.NDArray[np.void]
"""An array of ACCOUNT rows."""

TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")

_TOLERANCE_NS = 3 * TICK_NS
_TOLERANCE = 0.05


def accounts(cpus: Sequence[int], path: str = "/proc/stat") -> Accounts:
    """A row for each of *cpus*; none is present where /proc/stat can't be read."""
    rows = no_accounts(cpus)
    row_of = {b"cpu%d" % cpu: row for row, cpu in enumerate(cpus)}
    try:
        lines = Path(path).read_bytes().splitlines()
    except OSError:
        return rows
    for line in lines:
        if not line.startswith(b"cpu"):
            break
        name, *ticks = line.split()
        if (row := row_of.get(name)) is not None:
            user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, ticks[:8])
            interrupts = irq + softirq
            run = user + nice + system + interrupts  # the time of own guests is in user
            rows[row] = (True, run * TICK_NS, interrupts * TICK_NS, steal * TICK_NS, 0)
    return rows


def no_accounts(cpus: Sequence[int]) -> Accounts:
    """In place of accounts() where /proc/stat says nothing of *cpus*, as for a page image."""
    return np.zeros(len(cpus), ACCOUNT)


class KernelAccount:
    """The kernel's account of the last interval, and whether it agrees since the beginning.

    Arrays have one element per CPU.
    """

    def __init__(self, first: Accounts) -> None:
        n = len(first)
        self.steal_ns = np.zeros(n, np.int64)
        """Stolen in the last interval; negative where the kernel's count ran backwards."""
        self.run_ns = np.zeros(n, np.int64)
        """Ran something in the last interval."""
        self.known = np.zeros(n, np.bool_)
        """Whether the CPU was there at both ends of the last interval."""
        self._last = first
        # Since the comparison began, which is afresh after an interval that can't be compared:
        self._kernel_sum = np.zeros(n, np.int64)
        self._stolen_sum = np.zeros(n, np.int64)
        self._first_slack_ns = first["slack_ns"]

    def tick(
        self,
        now: Accounts,
        stolen_ns: npt.NDArray[np.int64],
        broken: npt.NDArray[np.bool_],
    ) -> None:
        """End an interval in which *stolen_ns* went by on the hypervisor's count.

        Where the count is *broken* (it restarted, or was unknown at one end), the CPU is compared
        afresh: what was stolen between is not known.
        """
        self.known = now["present"] & self._last["present"]
        self.steal_ns = np.where(self.known, now["steal_ns"] - self._last["steal_ns"], 0)
        self.run_ns = np.where(self.known, now["run_ns"] - self._last["run_ns"], 0).clip(0)
        self._last = now
        afresh = broken | ~self.known
        self._kernel_sum = np.where(afresh, 0, self._kernel_sum + self.steal_ns)
        self._stolen_sum = np.where(afresh, 0, self._stolen_sum + stolen_ns)
        self._first_slack_ns = np.where(afresh, now["slack_ns"], self._first_slack_ns)

    @property
    def differs(self) -> npt.NDArray[np.bool_]:
        """Whether the two sums are further apart than ticks and late accounting explain."""
        apart = np.abs(self._kernel_sum - self._stolen_sum)
        apart -= self._first_slack_ns + self._last["slack_ns"]
        tolerance = np.maximum(_TOLERANCE_NS, _TOLERANCE * self._stolen_sum)
        differs: npt.NDArray[np.bool_] = apart > tolerance
        return differs

# SPDX-License-Identifier: MIT
"""The kernel's own account of stolen time over intervals, beside the hypervisor's count."""

import numpy as np
import numpy.typing as npt

from guestpv.account.delta import delta
from guestpv.source.procstat import TICK_NS, Accounts, accounts
from guestpv.source.reader import Reader, Snapshot

_TOLERANCE_NS = 3 * TICK_NS
_TOLERANCE = 0.05


def sample(reader: Reader) -> tuple[Snapshot, Accounts]:
    """A snapshot, and what the kernel says just after it.

    The account's slack_ns is what was stolen meanwhile. Raises as `Reader.snapshot` does.
    """
    rows = reader.snapshot()
    account = accounts(reader.cpus)
    stolen_ns = delta(rows, reader.snapshot())["stolen_ns"]
    account["slack_ns"] = np.minimum(stolen_ns, np.uint64(np.iinfo(np.int64).max))
    return rows, account


class Backwards:
    """By how much each CPU's steal has run backwards since it was last known.

    That may be several samples ago: a CPU that is offline has no line in /proc/stat.
    """

    def __init__(self, first: Accounts) -> None:
        self._last_ns = np.where(first["steal_known"], first["steal_ns"], 0)

    def update(self, now: Accounts) -> npt.NDArray[np.int64]:
        """Nanoseconds, by CPU; 0 where it did not, or is not known *now*."""
        known = now["steal_known"]
        backwards_ns = np.where(known, self._last_ns - now["steal_ns"], 0).clip(0)
        self._last_ns = np.where(known, now["steal_ns"], self._last_ns)
        return backwards_ns


class KernelAccount:
    """The kernel's account of the last interval, and whether it agrees since the beginning.

    Arrays have one element per CPU.
    """

    def __init__(self, first: Accounts) -> None:
        n = len(first)
        self.steal_ns = np.zeros(n, np.int64)
        """Stolen in the last interval; negative where the kernel's count ran backwards in it."""
        self.backwards_ns = np.zeros(n, np.int64)
        """By how much that was found to have run backwards, be it since an earlier interval."""
        self.run_ns = np.zeros(n, np.int64)
        """Ran something in the last interval."""
        self.steal_known = np.zeros(n, np.bool_)
        """Whether steal_ns is: it was at both ends of the last interval."""
        self.run_known = np.zeros(n, np.bool_)
        """Whether run_ns is."""
        self.differs = np.zeros(n, np.bool_)
        """Whether the sums of both are further apart than ticks and late accounting explain."""
        self._last = first
        self._backwards = Backwards(first)
        # Since the comparison began, which is afresh after an interval that can't be compared:
        self._kernel_sum = np.zeros(n)  # floats don't wrap, whatever stood on a page
        self._stolen_sum = np.zeros(n)
        self._first_slack_ns = first["slack_ns"]

    def tick(
        self,
        now: Accounts,
        stolen_ns: npt.NDArray[np.int64],
        broken: npt.NDArray[np.bool_],
    ) -> None:
        """End an interval in which *stolen_ns* went by on the hypervisor's count.

        Where the count is *broken* (it started again, or was unknown), the CPU is compared afresh:
        what was stolen between is not known.
        """
        self.steal_known = now["steal_known"] & self._last["steal_known"]
        self.run_known = now["run_known"] & self._last["run_known"]
        self.steal_ns = np.where(self.steal_known, now["steal_ns"] - self._last["steal_ns"], 0)
        self.run_ns = np.where(self.run_known, now["run_ns"] - self._last["run_ns"], 0).clip(0)
        self.backwards_ns = self._backwards.update(now)
        self._last = now
        afresh = broken | ~self.steal_known
        self._kernel_sum = np.where(afresh, 0, self._kernel_sum + self.steal_ns)
        self._stolen_sum = np.where(afresh, 0, self._stolen_sum + stolen_ns)
        self._first_slack_ns = np.where(afresh, now["slack_ns"], self._first_slack_ns)
        apart = np.abs(self._kernel_sum - self._stolen_sum)
        apart -= self._first_slack_ns
        apart -= self._last["slack_ns"]
        tolerance = np.maximum(_TOLERANCE_NS, _TOLERANCE * self._stolen_sum)
        self.differs = apart > tolerance

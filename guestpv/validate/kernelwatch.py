# SPDX-License-Identifier: MIT
"""The kernel's account, looked at again and again beside the counts."""

import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from guestpv.account.kernel import Backwards, sample
from guestpv.source.procstat import Accounts
from guestpv.source.reader import Reader, Snapshot

_IDLE_AGAIN_S = 0.1


@dataclass(frozen=True, slots=True)
class Sample:
    """The counts, and what the kernel says at the same time."""

    rows: Snapshot
    kernel: Accounts


class KernelWatch:
    """Samples /proc/stat again and again."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._settled = False
        self.began = self.first = self.last = self._sample()
        self._backwards = Backwards(self.first.kernel)
        self._most_backwards_ns = np.zeros(len(reader.cpus), np.int64)
        self._listed = self.first.kernel["present"].copy()

    def update(self, *, settled: bool) -> None:
        """Sample now. The first sample is the first that was taken when things had *settled*."""
        self.last = self._sample()
        backwards_ns = self._backwards.update(self.last.kernel)
        self._most_backwards_ns = np.maximum(self._most_backwards_ns, backwards_ns)
        self._listed &= self.last.kernel["present"]
        if settled and not self._settled:
            self.first, self._settled = self.last, True

    def afterwards(self) -> Sample:
        """Sample when the CPUs are idle again, and have booked whatever they had not yet."""
        time.sleep(_IDLE_AGAIN_S)
        return self._sample()

    @property
    def backwards_ns(self) -> npt.NDArray[np.int64]:
        """Per CPU, the most by which steal was less than when it was last known.

        0 of a CPU that was offline at a sample: what Linux's own defect does to steal when one
        goes or comes is judged by kernel.hotplug.
        """
        return np.where(self._listed, self._most_backwards_ns, 0)

    @property
    def interrupts_ns(self) -> npt.NDArray[np.int64]:
        """Per CPU, what went to interrupts, since this was made until the last sample.

        0 where that is not known, as of a CPU that was offline at one of the two.
        """
        began, last = self.began.kernel, self.last.kernel
        known = began["run_known"] & last["run_known"]
        spent: npt.NDArray[np.int64] = last["interrupts_ns"] - began["interrupts_ns"]
        return np.where(known, spent, 0).clip(0)

    def _sample(self) -> Sample:
        return Sample(*sample(self._reader))

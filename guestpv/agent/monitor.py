# SPDX-License-Identifier: MIT
"""Keeps totals up by looking again and again, whatever becomes of the source meanwhile."""

import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from guestpv.account.kernel import KernelAccount, sample
from guestpv.account.totals import Rows, Totals
from guestpv.errors import BusyError, Error, FormatError, NoSourceError, PermissionDeniedError
from guestpv.page.abi import State
from guestpv.source.open import open as open_source
from guestpv.source.procstat import Accounts
from guestpv.source.reader import Reader, Snapshot, Source

WINDOW_S = 60.0
"""For how long the greatest step is remembered."""

ERRORS: dict[type[Exception], str] = {
    NoSourceError: "no_source",
    PermissionDeniedError: "permission_denied",
    FormatError: "format",
    BusyError: "busy",
    Exception: "other",
}
"""The kinds of errors that are counted, by what they are."""

_TOGETHER_S = 1.0  # so that many looks take no more memory
_MOST_NS = np.uint64(np.iinfo(np.int64).max)


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen at a time; arrays have an element for each CPU."""

    source: Source
    snapshot: Snapshot
    totals: Rows
    """Since the first look, as `guestpv.TOTALS`."""
    procstat: Accounts | None
    """What the kernel says; None where that is the source itself, or of another machine."""
    procstat_differs: npt.NDArray[np.bool_]
    """Whether that contradicts the count since the two were last compared afresh."""
    greatest_step_ns: npt.NDArray[np.uint64]
    """The most that was stolen between two looks of the last minute."""
    step_known: npt.NDArray[np.bool_]
    """Whether it is: not if a count restarted, or had none, in that time."""


@dataclass(frozen=True, slots=True)
class _Steps:
    """Those of a second: the greatest for each CPU, and whether all of them were exact."""

    began_s: float
    greatest_ns: npt.NDArray[np.uint64]
    valid: npt.NDArray[np.bool_]

    def add(self, rows: Rows) -> None:
        np.maximum(self.greatest_ns, rows["stolen_ns"], out=self.greatest_ns)
        np.logical_and(self.valid, rows["valid"], out=self.valid)


class Monitor:
    """Looks at a source, which is opened for each look: so it may go, come back, and be another,
    and a module that nobody has open can be removed. For one thread at a time.
    """

    def __init__(self, source: str, say: Callable[[str], None]) -> None:
        """*say* is told, in words, when the source can't be read, and when it can again."""
        self.errors: Counter[str] = Counter(dict.fromkeys(ERRORS.values(), 0))
        """How often a look failed, by kind."""
        self.instances = 0
        """How many instances of the source were seen."""
        self.looks = 0
        self.last: Look | None = None
        """What the last look gave; None if it failed."""
        self.last_time_s = 0.0
        """Unix time of the last look that did not fail; 0 before there was one."""
        self._source = source
        self._say = say
        self._said = ""
        self._instance = 0
        self._totals: Totals | None = None
        self._kernel: KernelAccount | None = None
        self._steps: deque[_Steps] = deque()

    def look(self) -> None:
        """Never raises what the source may do."""
        self.looks += 1
        try:
            with open_source(self._source) as reader:
                snapshot, account = _sample(reader)
                source = reader.source
        except (Error, OSError) as error:
            self.last = None
            kind = next(name for kind, name in ERRORS.items() if isinstance(error, kind))
            self.errors[kind] += 1
            self._tell(str(error))
            return
        if self._said:
            self._tell("")
            self._say(f"{source.path}: read again")
        self.last_time_s = time.time()
        self.last = self._take(source, snapshot, account)

    def _take(self, source: Source, snapshot: Snapshot, account: Accounts | None) -> Look:
        instance = int(snapshot["instance"][0])
        if instance != self._instance:
            self._instance = instance
            self.instances += 1
        if self._totals is None or len(self._totals.rows) != len(snapshot):
            # Of another machine: totals begin anew, as a counter does that was reset.
            self._totals = Totals(None, snapshot)
            self._kernel = None
            self._steps.clear()
            rows = self._totals.rows
        else:
            rows = self._totals.update(snapshot, same_boot=source.kind == "device")
        differs = np.zeros(len(snapshot), np.bool_)
        if account is None:
            self._kernel = None
        elif self._kernel is None:
            self._kernel = KernelAccount(account)
        else:
            grown_ns = np.minimum(rows["stolen_ns"], _MOST_NS).astype(np.int64)
            self._kernel.tick(account, grown_ns, ~rows["valid"])
            differs = self._kernel.differs
        greatest_ns, known = self._greatest_step(snapshot, rows)
        return Look(source, snapshot, rows, account, differs, greatest_ns, known)

    def _greatest_step(
        self, snapshot: Snapshot, rows: Rows
    ) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.bool_]]:
        now_s = int(snapshot["monotonic_ns"][0]) / 1e9
        while self._steps and self._steps[0].began_s < now_s - WINDOW_S:
            self._steps.popleft()
        if rows["interval_ns"][0]:
            if not self._steps or self._steps[-1].began_s < now_s - _TOGETHER_S:
                self._steps.append(_Steps(now_s, rows["stolen_ns"].copy(), rows["valid"].copy()))
            else:
                self._steps[-1].add(rows)
        greatest_ns = np.zeros(len(rows), np.uint64)
        known = (snapshot["state"] != State.ABSENT) & bool(self._steps)
        for steps in self._steps:
            np.maximum(greatest_ns, steps.greatest_ns, out=greatest_ns)
            known &= steps.valid
        return greatest_ns, known

    def _tell(self, trouble: str) -> None:
        """Once, and not at each look."""
        if trouble and trouble != self._said:
            self._say(trouble)
        self._said = trouble


def _sample(reader: Reader) -> tuple[Snapshot, Accounts | None]:
    if reader.source.kind == "device":
        return sample(reader)
    return reader.snapshot(), None

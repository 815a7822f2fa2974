# SPDX-License-Identifier: MIT
"""Clocks that stand still while the hypervisor has taken the vCPU away.

::

    begin = guestpv.clock.unstolen_ns()  # in a thread that is pinned to one CPU
    work()
    print(guestpv.clock.unstolen_ns() - begin)

What was stolen is read, then the time, then what was stolen again, until both are the same: so it
is what had been stolen at that time, whatever the host does meanwhile.
"""

import os
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple, Self, TypeVar

from guestpv.errors import BusyError, Error, StructureError
from guestpv.latency.perf import PerfGroup

if TYPE_CHECKING:
    from guestpv.source.mapped import MappedReader
    from guestpv.source.reader import Reading

_SLACK_NS = 1_000_000
"""Counts and the guest's clock are two clocks; kmod/total.c allows them the same."""
_TRIES = 1000

T = TypeVar("T")


class Elapsed(NamedTuple):
    """What passed of a clock's time; plain ints, nanoseconds."""

    wall_ns: int
    """By CLOCK_MONOTONIC."""
    stolen_ns: int
    """So much of it was stolen, at least,"""
    unknown_ns: int
    """and up to so much more: the time of which nobody can tell."""

    def since(self, earlier: Self) -> "Elapsed":
        """What passed after *earlier*."""
        return Elapsed(
            self.wall_ns - earlier.wall_ns,
            self.stolen_ns - earlier.stolen_ns,
            self.unknown_ns - earlier.unknown_ns,
        )

    @property
    def least_percent(self) -> float:
        """How much of it was stolen, at least."""
        return 100 * self.stolen_ns / self.wall_ns if self.wall_ns else 0.0

    @property
    def most_percent(self) -> float:
        """How much of it was stolen, at most."""
        return self.least_percent + (100 * self.unknown_ns / self.wall_ns if self.wall_ns else 0.0)


class Clock(ABC):
    """A clock of the thread that makes it. A context manager.

    Where it can't be told what was stolen, `elapsed` has the time as unknown, and `unstolen_ns`
    raises. Both go on as soon as it can be told again.
    """

    __slots__ = ("_last_ns", "_thread", "_told_ns", "_why", "began_ns")

    def __init__(self, began_ns: int) -> None:
        self._thread = threading.get_native_id()
        self.began_ns = began_ns
        """When it was made, by CLOCK_MONOTONIC."""
        self._last_ns = 0
        self._told_ns = 0
        self._why: Error | None = None

    def elapsed(self) -> Elapsed:
        """What passed since the clock was made. None of its fields ever falls.

        Raises Error in another thread or process than the one that made it.
        """
        if threading.get_native_id() != self._thread:
            raise Error(
                "unstolen clock: read by another thread or process than made it",
                "It is the clock of one thread",
                "make one in each, and after fork",
            )
        return self._elapsed()

    def unstolen_ns(self) -> int:
        """CLOCK_MONOTONIC without what was stolen since the clock was made; strictly advancing.

        Raises Error if it is not known what was stolen since the last call, and says why. Who goes
        on has a clock that knows nothing of what was stolen in between, and is exact from there on.
        """
        now = self.elapsed()
        if now.unknown_ns != self._told_ns:
            self._told_ns = now.unknown_ns
            raise self._why or _unknown("The count of the vCPU meant nothing, or started again")
        at_ns = self.began_ns + now.wall_ns - now.stolen_ns
        self._last_ns = max(at_ns, self._last_ns + 1)
        return self._last_ns

    @abstractmethod
    def _elapsed(self) -> Elapsed: ...

    @abstractmethod
    def close(self) -> None:
        """Let go of what it reads from. May be called twice; reading afterwards is a ValueError."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class CpuClock(Clock):
    """The clock of a thread that is pinned to one CPU, by that CPU's own count.

    All that was stolen from the vCPU is left out, also while the thread slept, or waited for
    others that ran on it. Unknown is the time in which

    - the thread was not pinned, or was moved to another CPU;
    - the count started again (a new epoch, or lower than before), since nobody saw its end;
    - revision or attributes were not 0, or there was no structure;
    - the count grew by more than time passed, so that it can't be true.

    Who moves a thread away and back between two readings is not noticed.
    """

    __slots__ = ("_count", "_cpu", "_now", "_reader")

    def __init__(self, reader: "MappedReader | None" = None) -> None:
        """*reader* is the device if not given; it is closed with the clock.

        Raises Error if the thread is not pinned to one CPU, else as `guestpv.open` and
        `Reader.read` do. As long as the clock is open, the module can't be unloaded.
        """
        self._cpu = _pinned_to()
        if reader is None:
            from guestpv.source.open import open as open_source  # with NumPy: slow to import

            reader = open_source("device")
        self._reader = reader
        self._now = Elapsed(0, 0, 0)
        began_ns, count = self._look()
        self._count: Reading | None = count
        super().__init__(began_ns)

    def _elapsed(self) -> Elapsed:
        cpu, before, last = self._cpu, self._count, self._now
        self._count = None
        try:
            monotonic_ns, self._count = self._look()
        except (BusyError, StructureError, _NotPinnedError) as error:
            self._why = error
            monotonic_ns = time.monotonic_ns()
        wall_ns = monotonic_ns - self.began_ns
        passed_ns = wall_ns - last.wall_ns
        if self._count is None:
            grown_ns = None
        elif before is None:
            grown_ns, self._why = None, _unknown("It was not known where it was read before")
        elif cpu != self._cpu:
            grown_ns = None
            self._why = _unknown(f"The thread was moved from cpu{cpu} to cpu{self._cpu}")
        else:
            grown_ns = self._grown_ns(before, self._count, passed_ns)
        if grown_ns is None:
            self._now = Elapsed(wall_ns, last.stolen_ns, last.unknown_ns + passed_ns)
        else:
            self._now = Elapsed(wall_ns, last.stolen_ns + grown_ns, last.unknown_ns)
        return self._now

    def _grown_ns(self, before: "Reading", now: "Reading", passed_ns: int) -> int | None:
        grown_ns = now.stolen_ns - before.stolen_ns
        if now.epoch != before.epoch or grown_ns < 0:
            self._why = _unknown(f"The count of cpu{self._cpu} started again")
        elif grown_ns > passed_ns + _SLACK_NS:
            self._why = _unknown(
                f"The count of cpu{self._cpu} grew by {grown_ns} ns while {passed_ns} ns passed",
                "'guestpv validate' says whether it can be trusted",
            )
        else:
            return min(grown_ns, passed_ns)
        return None

    def _look(self) -> "tuple[int, Reading]":
        """A time, and the count of the CPU to which the thread was pinned all along."""
        while True:
            cpu = self._cpu
            looked = _undisturbed(lambda cpu=cpu: self._reader.read(cpu))  # type: ignore[misc]
            self._cpu = _pinned_to()
            if self._cpu == cpu:
                return looked

    def close(self) -> None:
        self._reader.close()


class ThreadClock(Clock):
    """The clock of a thread wherever it runs, by the module's perf events, which users have, too.

    What was stolen from the thread while it was on a vCPU is left out. While it sleeps or waits for
    others of the guest, nothing is stolen from it, whatever its vCPU loses.
    """

    __slots__ = ("_group", "_unknown_ns")

    def __init__(self, *, tree: bool = False) -> None:
        """*tree*: also what is stolen from the threads and processes that it starts from now on.

        Raises as `guestpv.counter` does; where there are no perf events, NoSourceError.
        """
        self._unknown_ns = 0
        self._group = PerfGroup("this thread", 0, tree=tree)
        super().__init__(time.monotonic_ns())

    def _elapsed(self) -> Elapsed:
        monotonic_ns, stolen_ns = _undisturbed(self._stolen_ns)
        return Elapsed(monotonic_ns - self.began_ns, stolen_ns, self._unknown_ns)

    def _stolen_ns(self) -> int:
        _, stolen = self._group.read()
        self._unknown_ns = stolen.most_ns - stolen.least_ns
        return stolen.least_ns

    def close(self) -> None:
        self._group.close()


def of_this_thread(*, tree: bool = False) -> Clock:
    """A `CpuClock` if the thread is pinned and may read the device, else a `ThreadClock`.

    Raises as the latter does.
    """
    with suppress(Error):
        return CpuClock()
    return ThreadClock(tree=tree)


_local = threading.local()


def unstolen_ns() -> int:
    """CLOCK_MONOTONIC without what was stolen from the vCPU to which this thread is pinned.

    Each thread has its own, which begins with its first call; only its differences mean something.
    Strictly advancing. `CpuClock` says what it leaves out; one that is not pinned has
    `ThreadClock`.

    Raises:
        Error: the thread is not pinned to one CPU, or it is not known what was stolen since the
            last call; the message says why.
        NoSourceError, PermissionDeniedError, StructureError: as `guestpv.open` and `Reader.read`.
    """
    clock: CpuClock | None = getattr(_local, "clock", None)
    # After a fork(2) what is kept is the parent's.
    if clock is None or clock._thread != threading.get_native_id():
        clock = _local.clock = CpuClock()
    return clock.unstolen_ns()


class _NotPinnedError(Error):
    """A thread may run on several CPUs."""


def _pinned_to() -> int:
    cpu, *others = os.sched_getaffinity(0)
    if others:
        raise _NotPinnedError(
            "unstolen clock: the thread is not pinned",
            f"It may run on {len(others) + 1} CPUs, and each has a count of its own",
            "call os.sched_setaffinity(0, {cpu}) first, or take guestpv.clock.ThreadClock",
        )
    return cpu


def _undisturbed(read: Callable[[], T]) -> tuple[int, T]:
    """A time (CLOCK_MONOTONIC), and what was read just before it and just after it."""
    before = read()
    for _ in range(_TRIES):
        monotonic_ns = time.monotonic_ns()
        after = read()
        if after == before:
            return monotonic_ns, after
        before = after
    raise BusyError(
        "unstolen clock: not read",
        "What was stolen changed whenever it was read",
        "'guestpv validate' says whether it can be trusted",
    )


def _unknown(why: str, fix: str = "go on: it is known again from here") -> Error:
    return Error("unstolen clock: it is not known what was stolen since it was read last", why, fix)

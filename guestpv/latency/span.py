# SPDX-License-Identifier: MIT
"""Where the time of a block of code went: it ran, it was stolen, it waited, or it slept."""

import os
import re
import resource
import threading
import time
from dataclasses import dataclass
from typing import Self

from guestpv.errors import Error
from guestpv.latency import cputime
from guestpv.latency.bounds import Bounds
from guestpv.latency.counter import Counter, counter

_MIGRATIONS = re.compile(rb"^se\.nr_migrations *: *(\d+)", re.MULTILINE)


class _File:
    """A file of /proc of the thread that opens it, read again and again; it need not be there."""

    __slots__ = ("_fd",)

    def __init__(self, name: str) -> None:
        try:
            self._fd = os.open(f"/proc/thread-self/{name}", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._fd = -1

    def read(self) -> bytes:
        return os.pread(self._fd, 8192, 0) if self._fd >= 0 else b""

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)


class _Thread:
    """What is kept open of a thread, for all its spans."""

    __slots__ = ("counter", "id", "sched", "schedstat")

    def __init__(self, id: int) -> None:
        self.id = id
        self.counter: Counter = counter()
        self.schedstat = _File("schedstat")
        self.sched = _File("sched")

    def waited_ns(self) -> int | None:
        fields = self.schedstat.read().split()
        return int(fields[1]) if fields else None

    def migrations(self) -> int | None:
        found = _MIGRATIONS.search(self.sched.read())
        return int(found[1]) if found else None


_local = threading.local()


def _this_thread() -> _Thread:
    id = threading.get_native_id()
    kept: _Thread | None = getattr(_local, "thread", None)
    # After a fork(2) what is kept is the parent's.
    if kept is None or kept.id != id:
        kept = _local.thread = _Thread(id)
    return kept


@dataclass(frozen=True, slots=True)
class _Reading:
    wall_ns: int
    cpu_ns: int
    switches: int
    preemptions: int
    waited_ns: int | None
    migrations: int | None
    stolen: Bounds


class Span:
    """A block of code that one thread runs; get one from `guestpv.span`.

    When the block has ended there are, all plain ints, and of this thread alone:

    ===============  =============================================================================
    ``wall_ns``      what passed (CLOCK_MONOTONIC)
    ``cpu_ns``       CPU time as the kernel has it (CLOCK_THREAD_CPUTIME_ID)
    ``stolen``       what the hypervisor took while the thread was on a vCPU: `Bounds`
    ``ran``          CPU time without what was stolen: `Bounds`. A kernel may count stolen time as
                     CPU time or not: that is looked up, and if it is nowhere said, the bounds are
                     those of both
    ``waited_ns``    what the thread waited for a vCPU on which something else of the guest ran;
                     None if the kernel does not count it (CONFIG_SCHED_INFO)
    ``switches``     how often it gave its vCPU up, to sleep
    ``preemptions``  how often its vCPU was taken from it, by the guest's own scheduler
    ``migrations``   how often it moved to another vCPU; None if the kernel does not say
                     (CONFIG_SCHED_DEBUG)
    ===============  =============================================================================

    The rest of ``wall_ns`` it slept. What the span itself does, some microseconds, is in all of it.
    """

    __slots__ = (
        *("_begin", "_thread", "cpu_ns", "migrations", "preemptions", "ran"),
        *("stolen", "switches", "waited_ns", "wall_ns"),
    )

    wall_ns: int
    cpu_ns: int
    stolen: Bounds
    ran: Bounds
    waited_ns: int | None
    switches: int
    preemptions: int
    migrations: int | None

    def __init__(self) -> None:
        self._begin: _Reading | None = None

    def __enter__(self) -> Self:
        if self._begin:
            raise Error(
                "guestpv.span(): begun twice",
                "It measures one block at a time",
                "make one for each block",
            )
        self._thread = _this_thread()
        self._begin = self._read_first()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._begin, "ended, and never begun"
        if threading.get_native_id() != self._thread.id:
            raise Error(
                "guestpv.span(): ended by another thread or process than began it",
                "It measures one thread",
                "begin and end it in the same one, and not across fork",
            )
        begin, end, self._begin = self._begin, self._read_last(), None
        self.wall_ns = end.wall_ns - begin.wall_ns
        self.cpu_ns = end.cpu_ns - begin.cpu_ns
        self.switches = end.switches - begin.switches
        self.preemptions = end.preemptions - begin.preemptions
        self.waited_ns = _difference(end.waited_ns, begin.waited_ns)
        self.migrations = _difference(end.migrations, begin.migrations)
        contained = cputime.contains_stolen()
        stolen = end.stolen.since(begin.stolen)
        # All that is stolen from a thread is within its CPU time, where that has stolen time in it.
        self.stolen = stolen.within(self.cpu_ns if contained else self.wall_ns)
        self.ran = {
            True: self.stolen.taken_from(self.cpu_ns),
            False: Bounds(self.cpu_ns, self.cpu_ns),
            None: Bounds(self.stolen.taken_from(self.cpu_ns).least_ns, self.cpu_ns),
        }[contained]

    # What is part of another is read within it, at both ends.

    def _read_first(self) -> _Reading:
        thread = self._thread
        waited_ns, migrations = thread.waited_ns(), thread.migrations()
        usage = resource.getrusage(resource.RUSAGE_THREAD)
        wall_ns, cpu_ns = time.monotonic_ns(), time.thread_time_ns()
        stolen = thread.counter.read()
        return _Reading(
            wall_ns, cpu_ns, usage.ru_nvcsw, usage.ru_nivcsw, waited_ns, migrations, stolen
        )

    def _read_last(self) -> _Reading:
        thread = self._thread
        stolen = thread.counter.read()
        cpu_ns, wall_ns = time.thread_time_ns(), time.monotonic_ns()
        usage = resource.getrusage(resource.RUSAGE_THREAD)
        waited_ns, migrations = thread.waited_ns(), thread.migrations()
        return _Reading(
            wall_ns, cpu_ns, usage.ru_nvcsw, usage.ru_nivcsw, waited_ns, migrations, stolen
        )


def _difference(end: int | None, begin: int | None) -> int | None:
    return None if end is None or begin is None else end - begin


def span() -> Span:
    """Measure where a block's time went, for the thread that runs it. Spans may be nested.

    ::

        with guestpv.span() as s:
            work()
        print(s.wall_ns, s.stolen.least_ns, s.ran, s.waited_ns)

    Entering the block raises as `guestpv.counter` does, if the stolen time is not to be had.
    """
    return Span()

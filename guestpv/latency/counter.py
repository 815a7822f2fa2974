# SPDX-License-Identifier: MIT
"""Stolen time of a thread or a process tree, by the module's perf events.

A vCPU can't switch tasks while it does not run, so what its count grows by while a thread is on it
was stolen from that thread, whole; the module counts just that, wherever the thread moves.
"""

import errno
import os
import struct
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Self

from guestpv._native import perf_event_open
from guestpv.errors import Error, NoSourceError, PermissionDeniedError, StructureError
from guestpv.latency.bounds import Bounds
from guestpv.page.abi import PerfEvent, State

if TYPE_CHECKING:
    from guestpv.source.mapped import MappedReader

PMU = Path("/sys/bus/event_source/devices/guestpv")
PARANOID = Path("/proc/sys/kernel/perf_event_paranoid")

# nr, time_enabled, time_running, and a value of each event: perf_event_open(2), PERF_FORMAT_GROUP
_GROUP = struct.Struct("@5Q")


class Counter(ABC):
    """What was stolen since it was made. A context manager; get one from `guestpv.counter`."""

    __slots__ = ()

    @abstractmethod
    def read(self) -> Bounds:
        """How much was stolen up to now.

        Neither bound ever falls. They differ by the time of which nobody can tell: a count started
        again meanwhile, or meant nothing.
        """

    @abstractmethod
    def close(self) -> None:
        """Stop counting. May be called twice; reading afterwards is a ValueError."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class PerfCounter(Counter):
    """By perf events: of those that are counted alone, wherever they ran. One read(2)."""

    __slots__ = ("_fds",)

    def __init__(self, pid: int, tree: bool, on_exec: bool) -> None:
        self._fds: list[int] = []
        try:
            pmu = int((PMU / "type").read_text())
            for event in PerfEvent:
                group = self._fds[0] if self._fds else -1
                self._fds.append(perf_event_open(pmu, event, pid, group, tree, on_exec))
        except OSError as error:
            self.close()
            raise _explain(error, pid) from error

    def read(self) -> Bounds:
        return self.read_with_cpu()[1]

    def read_with_cpu(self) -> tuple[int, Bounds]:
        """Also for how long they were on a CPU up to now (ns), with all that was stolen."""
        if not self._fds:
            raise ValueError("read of a closed counter")
        _, enabled, running, stolen, unknown = _GROUP.unpack(os.read(self._fds[0], _GROUP.size))
        # Events of software are never refused a CPU; should one be, that is unknown, too.
        return enabled, Bounds(stolen, stolen + unknown + enabled - running)

    def close(self) -> None:
        while self._fds:
            os.close(self._fds.pop())

    def __del__(self) -> None:
        self.close()


class CpuCounter(Counter):
    """By the counts of all CPUs together, where there are no perf events: at most so much."""

    __slots__ = ("_before", "_reader")

    def __init__(self, reader: "MappedReader") -> None:
        self._reader = reader
        self._before = reader.snapshot()

    def read(self) -> Bounds:
        before, now = self._before, self._reader.snapshot()
        grown = now["stolen_ns"] - before["stolen_ns"]
        elapsed = now["monotonic_ns"] - before["monotonic_ns"]
        known = before["valid"] & now["valid"] & (before["epoch"] == now["epoch"])
        known &= now["stolen_ns"] >= before["stolen_ns"]
        absent = (before["state"] == State.ABSENT) & (now["state"] == State.ABSENT)
        elapsed[absent] = 0
        grown[~known] = elapsed[~known]
        return Bounds(0, sum(grown.tolist()))

    def close(self) -> None:
        self._reader.close()


def counter(pid: int = 0, *, tree: bool = False) -> Counter:
    """Count from now on what is stolen from a thread.

    Args:
        pid: of a thread, or of a process, which means its first thread; 0: the calling thread.
        tree: also of all threads and processes that it starts from now on, those that end included.

    Where the module has no perf events, there are still the CPUs' counts: then the bounds are wide.

    Raises:
        NoSourceError: neither the module's perf events nor its device are there, or no such thread.
        PermissionDeniedError: this user may not count that; says what to set.
        StructureError: no CPU has a count that means anything.
    """
    return _counter(pid, tree, on_exec=False)


def counter_on_exec(pid: int) -> Counter:
    """As `counter` of a tree, but of each of its processes from its next execve(2) on."""
    return _counter(pid, tree=True, on_exec=True)


def _counter(pid: int, tree: bool, on_exec: bool) -> Counter:
    if PMU.exists():
        return PerfCounter(pid, tree, on_exec)
    from guestpv.source.open import open as open_source  # with NumPy, which takes long to import

    return CpuCounter(open_source("device"))


def _explain(error: OSError, pid: int) -> Error:
    of = f"thread {pid}" if pid else "this thread"
    what = f"perf event guestpv/stolen/ of {of}: {os.strerror(error.errno or 0).lower()}"
    match error.errno:
        case errno.EACCES | errno.EPERM | errno.ENOSYS:
            return _not_permitted(what)
        case errno.ENODATA:
            return StructureError(
                what,
                "No vCPU has a count that means anything",
                "'guestpv info' says what is wrong with each",
            )
        case errno.ESRCH:
            return NoSourceError(what, "It has ended, or never was")
        case errno.ENOENT | errno.ENODEV:
            return NoSourceError(
                what, "The module was unloaded meanwhile", "run 'sudo guestpv load'"
            )
        case errno.EMFILE:
            return Error(what, "Each counter takes two of them", "raise 'ulimit -n'")
        case _:
            return Error(what, "The kernel refused it")


def _not_permitted(what: str) -> Error:
    try:
        level = int(PARANOID.read_text())
    except (OSError, ValueError):
        return PermissionDeniedError(what, "A filter of system calls forbids it, or the kernel")
    if level > 2:
        return PermissionDeniedError(
            what,
            f"kernel.perf_event_paranoid is {level}, which forbids all perf events to users",
            "run 'sudo sysctl kernel.perf_event_paranoid=2', or be root",
        )
    return PermissionDeniedError(
        what,
        "It is another user's, or a filter of system calls (a container's) forbids perf events",
        "be root, or have CAP_PERFMON and CAP_SYS_PTRACE",
    )

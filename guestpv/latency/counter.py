# SPDX-License-Identifier: MIT
"""Stolen time of a thread or a process tree, by the module's perf events.

A vCPU can't switch tasks while it does not run, so what its count grows by while a thread is on it
was stolen from that thread, whole; the module counts just that, wherever the thread moves.
"""

import os
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self

from guestpv.cpulist import ONLINE, CpuList
from guestpv.errors import Error, NoSourceError, PermissionDeniedError
from guestpv.latency import perf
from guestpv.latency.bounds import NOTHING, Bounds
from guestpv.latency.perf import PerfGroup
from guestpv.page.abi import DEVICE, State
from guestpv.source.file import open_file

if TYPE_CHECKING:
    from guestpv.source.mapped import MappedReader


class Counter(ABC):
    """What was stolen since it was made. A context manager; get one from `guestpv.counter`."""

    __slots__ = ()

    @abstractmethod
    def read(self) -> Bounds:
        """How much was stolen up to now.

        Neither bound ever falls. They differ by the time of which nobody can tell: a count started
        again meanwhile, or meant nothing. BusyError if the counts can't be read for a second.
        """

    @abstractmethod
    def close(self) -> None:
        """Stop counting. May be called twice; reading afterwards is a ValueError."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class PerfCounter(Counter):
    """By perf events: of those that are counted alone, wherever they ran."""

    __slots__ = ("_group",)

    def __init__(self, pid: int, tree: bool, on_exec: bool) -> None:
        of = f"thread {pid}" if pid else "this thread"
        self._group = PerfGroup(of, pid, tree=tree, on_exec=on_exec)

    def read(self) -> Bounds:
        return self.read_with_cpu()[1]

    def read_with_cpu(self) -> tuple[int, Bounds]:
        """Also for how long they were on a CPU up to now (ns), with all that was stolen."""
        return self._group.read()

    def close(self) -> None:
        self._group.close()


class CgroupCounter(Counter):
    """By perf events on each CPU, which count while a task of the cgroup is on it.

    The events of a CPU end when it goes offline. So if a CPU went or came between two reads, what
    was stolen from the cgroup on it meanwhile is unknown, up to that time. Of one that came and
    went nothing is seen: read once a second.
    """

    __slots__ = ("_directory", "_ended", "_groups", "_name", "_read_ns")

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._directory = -1
        self._groups: dict[int, _OnCpu] = {}
        self._name = f"cgroup {os.fspath(path)}"
        self._ended = NOTHING
        self._directory = _open_cgroup(path, self._name)
        self._read_ns = time.monotonic_ns()
        try:
            self._groups = {cpu: self._on(cpu) for cpu in _online()}
        except Error:
            self.close()
            raise

    def read(self) -> Bounds:
        if self._directory < 0:
            raise ValueError("read of a closed counter")
        now_ns = time.monotonic_ns()
        passed_ns, self._read_ns = now_ns - self._read_ns, now_ns
        online, known = _online(), self._groups.keys()
        stayed = {cpu for cpu, group in self._groups.items() if group.stayed()}
        for cpu in (online | known) - stayed:
            if group := self._groups.pop(cpu, None):
                self._ended = self._ended.plus(group.stolen)
                group.close()
            self._ended = self._ended.plus(Bounds(0, passed_ns))
            if cpu in online:
                with suppress(NoSourceError):  # it has gone again
                    self._groups[cpu] = self._on(cpu)
        total = self._ended
        for group in self._groups.values():
            total = total.plus(group.stolen)
        return total

    def is_of(self, path: str | os.PathLike[str]) -> bool:
        """Whether *path* is the cgroup that is counted; not one that was made anew in its place."""
        try:
            return os.path.samestat(os.fstat(self._directory), os.stat(path))
        except OSError:
            return False

    def _on(self, cpu: int) -> "_OnCpu":
        return _OnCpu(self._name, self._directory, cpu)

    def close(self) -> None:
        for group in self._groups.values():
            group.close()
        self._groups.clear()
        if self._directory >= 0:
            os.close(self._directory)
            self._directory = -1

    def __del__(self) -> None:
        self.close()


class _OnCpu:
    """The events of a cgroup on one CPU, and one of the CPU itself, which shows that it stayed."""

    __slots__ = ("_cgroup", "_cpu", "stolen")

    def __init__(self, name: str, directory: int, cpu: int) -> None:
        self._cgroup = PerfGroup(f"{name} on cpu{cpu}", directory, cpu, cgroup=True)
        try:
            self._cpu = PerfGroup(f"cpu{cpu}", -1, cpu)
        except Error:
            self._cgroup.close()
            raise
        self.stolen = NOTHING

    def stayed(self) -> bool:
        """Read it; whether its CPU was online all of this time.

        When a CPU goes offline the kernel takes its events away, and they never count again
        (perf_event_exit_cpu() in kernel/events/core.c). So it stayed if the CPU's own event goes on
        between two reads now, however long ago it began and however often the vCPU was taken away.
        """
        self.stolen = self._cgroup.read()[1]
        return self._cpu.read()[0] < self._cpu.read()[0]

    def close(self) -> None:
        self._cgroup.close()
        self._cpu.close()


class CpuCounter(Counter):
    """By the counts of all CPUs together, where there are no perf events: at most so much."""

    __slots__ = ("_before", "_most_ns", "_reader")

    def __init__(self, reader: "MappedReader") -> None:
        self._reader = reader
        self._before = reader.snapshot()
        self._most_ns = 0

    def read(self) -> Bounds:
        before, now = self._before, self._reader.snapshot()
        self._before = now
        grown = now["stolen_ns"] - before["stolen_ns"]
        elapsed = now["monotonic_ns"] - before["monotonic_ns"]
        known = before["valid"] & now["valid"] & (before["epoch"] == now["epoch"])
        known &= now["stolen_ns"] >= before["stolen_ns"]
        absent = (before["state"] == State.ABSENT) & (now["state"] == State.ABSENT)
        elapsed[absent] = 0
        grown[~known] = elapsed[~known]
        self._most_ns += sum(grown.tolist())
        return Bounds(0, self._most_ns)

    def close(self) -> None:
        self._reader.close()


def counter(
    pid: int = 0, *, tree: bool = False, cgroup: str | os.PathLike[str] | None = None
) -> Counter:
    """Count from now on what is stolen from a thread, or from a cgroup.

    Args:
        pid: of a thread, or of a process, which means its first thread; 0: the calling thread.
        tree: also of all threads and processes that it starts from now on, those that end included.
        cgroup: a directory of cgroup v2; instead of a thread, all tasks in it and below.

    Of a cgroup a counter takes four file descriptors for each CPU. What it does on a CPU that goes
    or comes between two reads is unknown for that time.

    Where the module has no perf events, there are still the CPUs' counts: then the bounds are wide.

    Raises:
        NoSourceError: neither the module's perf events nor its device are there, or no such thread
            or cgroup.
        PermissionDeniedError: this user may not count that; says what to set.
        StructureError: no CPU has a count that means anything.
        Error: the kernel has no perf events of this cgroup, or too many files are open.
    """
    if cgroup is not None:
        if pid or tree:
            raise ValueError("a cgroup has all its tasks: neither pid nor tree goes with it")
        return CgroupCounter(cgroup)
    return _counter(pid, tree, on_exec=False)


def counter_on_exec(pid: int) -> Counter:
    """As `counter` of a tree, but of each of its processes from its next execve(2) on."""
    return _counter(pid, tree=True, on_exec=True)


def _counter(pid: int, tree: bool, on_exec: bool) -> Counter:
    if perf.PMU.exists():
        return PerfCounter(pid, tree, on_exec)
    os.close(open_file(DEVICE))  # if it is not there, NumPy is not to be waited for
    from guestpv.source.open import open as open_source

    return CpuCounter(open_source("device"))


def _open_cgroup(path: str | os.PathLike[str], name: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError as error:
        raise PermissionDeniedError(f"{name}: permission denied", "It is another user's") from error
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise NoSourceError(
            f"{name}: no such cgroup", why, "name a directory of cgroup v2"
        ) from error


def _online() -> set[int]:
    return set(CpuList.parse(Path(ONLINE).read_text()).cpus)

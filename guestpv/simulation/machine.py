# SPDX-License-Identifier: MIT
"""A simulated VM: counts that grow as a hypervisor's do, and the index that a module keeps."""

import fcntl
import os
import stat
import time
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from guestpv._native import store
from guestpv.cpulist import CpuList
from guestpv.errors import BusyError, Error
from guestpv.page import abi, layout
from guestpv.page.abi import FLAG_SIMULATED, Origin, Reason, State
from guestpv.page.image import structures, write_image
from guestpv.simulation.script import (
    Contention,
    Event,
    Freeze,
    Migrate,
    Offline,
    Online,
    Reload,
    Restart,
    Revision,
    Scheduled,
    Starve,
)
from guestpv.source.header import read_header

MOST_VCPUS = 4096
LOOK_NS = 1_000_000_000
"""How often the simulated module looks for what the hypervisor changed, as the real one does."""

_EVENNESS = 4.0  # of the steal in the steps: with more of it they are more alike
_WORDS = np.dtype([("known", "<u8"), ("stolen_time", "<u8")])  # as they are stored: at once
_LEARNED_ONLINE = {"state", "origin", "reason", "epoch", "ipa", "offset", "st_call", *abi.CALLS}

Cpus = npt.NDArray[np.intp]


class SimulatedMachine:
    """A VM in a page image at *path*, which says that it is simulated. A context manager.

    For example, for the tests of an agent::

        with SimulatedMachine("/dev/shm/page", vcpus=8, seed=1, percent=30) as machine:
            ... guestpv.open("/dev/shm/page") ...
            machine.advance(10)  # ten seconds of the VM, at once

    What the counts are after so many steps is a matter of *seed* and *script* alone; the instance
    is another one each time. In each step of *step_ns* a vCPU loses a random part of it, *percent*
    on average and never more than all.

    A page obeys the contract of kmod/uapi/guestpv.h. Each word is written by one aligned store in
    release order, which neither NumPy nor `struct` promises.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        vcpus: int,
        *,
        seed: int,
        percent: float = 0.0,
        script: Iterable[Scheduled] = (),
        step_ns: int = 10_000_000,
    ) -> None:
        """Raises Error if *path* is something else than a simulated page, BusyError if another
        process fills it, NoSuchCpuError if the script has more CPUs, OSError if it can't be
        written."""
        if not (1 <= vcpus <= MOST_VCPUS and 0 <= percent <= 100 and step_ns > 0):
            raise ValueError("vcpus, percent or step_ns can't be")
        self.path = Path(path)
        self._random = np.random.default_rng(seed)
        self._step_ns = step_ns
        self._now_ns = 0
        self._events = deque(script)
        for scheduled in self._events:
            _chosen(getattr(scheduled.event, "cpus", None), vcpus)  # before anything is written

        # The hypervisor:
        self._counts = np.zeros(vcpus, np.uint64)
        self._share = np.full(vcpus, percent / 100)
        self._starved_ns = np.zeros(vcpus, np.uint64)
        self._starves_until_ns = np.zeros(vcpus, np.int64)
        self._known = np.zeros(vcpus, np.uint64)  # revision, and attributes above it
        self._stands_until_ns = 0
        # The guest and its module:
        self._is_online = np.ones(vcpus, np.bool_)
        self._absent_until_ns: int | None = None
        self._seen = self._counts.copy()
        _check_replaceable(self.path)
        self._load()

    @property
    def time_s(self) -> float:
        """Seconds of the simulation that have passed."""
        return self._now_ns / 1e9

    @property
    def instance(self) -> int:
        """As in `guestpv.SNAPSHOT`; another one after each reload."""
        return self._instance

    def advance(self, seconds: float) -> list[Scheduled]:
        """Let so much time pass, in whole steps. Returns the script's events that happened."""
        happened = []
        for _ in range(int(seconds * 1e9 / self._step_ns + 1e-6)):
            happened += self._step()
        return happened

    def close(self) -> None:
        """The machine is gone: what remains is an image in which all CPUs are offline."""
        if self._mapped:
            self._end_page()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _step(self) -> list[Scheduled]:
        self._now_ns += self._step_ns
        if self._now_ns <= self._stands_until_ns:
            return []
        self._grow()
        happened = []
        while self._events and self._events[0].at_s * 1e9 <= self._now_ns:
            happened.append(self._events.popleft())
            self._do(happened[-1].event)
        if self._absent_until_ns is not None and self._now_ns >= self._absent_until_ns:
            self._load()
        if self._mapped:
            store(self._words["stolen_time"], self._counts)
            if self._now_ns % LOOK_NS < self._step_ns:
                self._look()
        return happened

    def _grow(self) -> None:
        starving = self._starves_until_ns >= self._now_ns
        running = self._is_online & ~starving
        stolen = np.where(self._share >= 1, 1.0, 0.0)
        mixed = (self._share > 0) & (self._share < 1)
        share = self._share[mixed]
        stolen[mixed] = self._random.beta(_EVENNESS * share, _EVENNESS * (1 - share))
        stolen_ns = (stolen * self._step_ns).astype(np.uint64)
        self._counts[running] += stolen_ns[running] + self._starved_ns[running]
        self._starved_ns[running] = 0
        self._starved_ns[self._is_online & starving] += np.uint64(self._step_ns)

    def _do(self, event: Event) -> None:
        cpus = _chosen(getattr(event, "cpus", None), len(self._counts))
        match event:
            case Contention(percent=percent):
                self._share[cpus] = percent / 100
            case Starve(seconds=seconds):
                self._starves_until_ns[cpus] = self._now_ns + _ns(seconds)
            case Restart():
                self._counts[cpus] = 0
            case Revision(revision=revision, attributes=attributes):
                self._known[cpus] = attributes << 32 | revision
                if self._mapped:
                    store(self._words["known"], self._known)
            case Offline():
                self._is_online[cpus] = False
                self._enter(cpus[self._entries["state"][cpus] == State.ONLINE], State.OFFLINE)
            case Online():
                self._bring_online(cpus[~self._is_online[cpus]])
            case Freeze(seconds=seconds):
                self._stands_until_ns = self._now_ns + _ns(seconds)
            case Migrate(seconds=seconds, keeps_counts=keeps_counts):
                self._stands_until_ns = self._now_ns + _ns(seconds)
                if not keeps_counts:
                    self._counts[:] = 0
            case Reload(seconds=seconds):
                self._unload()
                self._absent_until_ns = self._now_ns + _ns(seconds)

    def _enter(self, cpus: Cpus, state: State) -> None:
        self._entries["state"][cpus] = state
        self._publish()

    def _bring_online(self, cpus: Cpus) -> None:
        """The kernel asks for the structures again, and the hypervisor counts from 0."""
        self._is_online[cpus] = True
        self._counts[cpus] = 0
        self._starved_ns[cpus] = 0
        self._known[cpus] = 0
        first = cpus[self._entries["epoch"][cpus] == 0]
        self._begin_epoch(first, Reason.FIRST_SEEN)
        self._begin_epoch(cpus[self._seen[cpus] > 0], Reason.HOTPLUG)
        self._seen[cpus] = 0
        for field in _LEARNED_ONLINE - {"epoch", "reason"}:
            self._entries[field][cpus] = self._whole[field][cpus]
        if self._mapped:
            store(self._words["known"], self._known)
        self._publish()

    def _begin_epoch(self, cpus: Cpus, reason: Reason) -> None:
        self._entries["epoch"][cpus] += 1
        self._entries["reason"][cpus] = reason
        self._entries["epoch_stolen_ns"][cpus] = self._counts[cpus]

    def _look(self) -> None:
        """What the module does once a second: an epoch follows from a count that is lower."""
        looked_at = np.flatnonzero(self._entries["origin"] != Origin.NONE)
        known = looked_at[self._known[looked_at] == 0]
        lower = known[self._counts[known] < self._seen[known]]
        self._begin_epoch(lower, Reason.FOUND_LOWER)
        self._seen[known] = self._counts[known]

        noted = self._entries["attributes"].astype(np.uint64) << np.uint64(32)
        noted |= self._entries["revision"]
        revised = looked_at[noted[looked_at] != self._known[looked_at]]
        self._note_revision(revised)
        if len(lower) or len(revised):
            self._publish()

    def _note_revision(self, cpus: Cpus) -> None:
        self._entries["revision"][cpus] = self._known[cpus] & np.uint64(0xFFFFFFFF)
        self._entries["attributes"][cpus] = self._known[cpus] >> np.uint64(32)
        self._entries["since_ns"][cpus] = time.clock_gettime_ns(time.CLOCK_BOOTTIME)

    def _load(self) -> None:
        """As the module when it is inserted: a page of another instance appears whole."""
        self._absent_until_ns = None
        new = Path(f"{self.path}.new")
        write_image(new, self._counts.tolist(), flags=FLAG_SIMULATED)
        self._map(new)
        self._whole = self._entries.copy()
        self._seen = np.where(self._is_online, self._counts, np.uint64(0))
        self._entries["epoch_stolen_ns"] = self._counts
        offline = np.flatnonzero(~self._is_online)
        for field in _LEARNED_ONLINE:  # not online since then, so nothing is known
            self._entries[field][offline] = abi.NOT_CALLED if field in abi.CALLS else 0
        self._note_revision(np.flatnonzero(self._known))
        store(self._words["known"], self._known)
        self._publish()
        new.replace(self.path)

    def _map(self, path: Path) -> None:
        self._image = np.memmap(path, np.uint8, "r+")
        self._mapped = True
        self._lock = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self._words = structures(self._image).view(_WORDS)
        header = self._image[: layout.HEADER.itemsize].view(layout.HEADER)
        self._sequence = header["sequence"]
        self._instance = int(header["instance"][0])
        index = self._image[layout.HEADER.itemsize :][: len(self._counts) * layout.ENTRY.itemsize]
        self._index = index.view(np.uint64)
        self._entries = index.view(layout.ENTRY).copy()  # what is published as a whole

    def _end_page(self) -> None:
        """Whoever has it open sees that nothing of it goes on."""
        self._entries["state"][self._entries["state"] == State.ONLINE] = State.OFFLINE
        self._publish()
        self._mapped = False
        del self._image, self._words, self._sequence, self._index
        os.close(self._lock)

    def _unload(self) -> None:
        if self._mapped:
            with suppress(FileNotFoundError):
                self.path.unlink()
            self._end_page()

    def _publish(self) -> None:
        """Counts and index change together for a reader: the sequence is odd meanwhile."""
        if not self._mapped:
            return
        store(self._sequence, self._sequence + np.uint32(1))
        store(self._words["stolen_time"], self._counts)
        store(self._index, self._entries.view(np.uint64))
        store(self._sequence, self._sequence + np.uint32(1))


def _chosen(cpus: CpuList | None, vcpus: int) -> Cpus:
    every = range(vcpus)
    return np.array(cpus.choose(every) if cpus else every, np.intp)


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)


def _check_replaceable(path: Path) -> None:
    """Whether there is nothing that would be lost: nothing at all, or an earlier simulation."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return
    try:
        if not _is_simulated(fd, path):
            raise Error(
                f"{path}: not replaced",
                "It is there, and no simulated page",
                "give the simulation a path of its own",
            )
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BusyError(
                f"{path}: not replaced", "Another simulation fills it", "end that one first"
            ) from error
    finally:
        os.close(fd)


def _is_simulated(fd: int, path: Path) -> bool:
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        return False
    try:
        return bool(FLAG_SIMULATED & int(read_header(fd, str(path))["flags"]))
    except Error:
        return False

# SPDX-License-Identifier: MIT
"""/proc/stat as the source, where there is no PV-time: the kernel's figure, in its ticks."""

import errno
import re
import time
import zlib
from collections.abc import Sequence
from operator import index
from pathlib import Path
from typing import SupportsIndex
from uuid import UUID

import numpy as np

from guestpv.cpulist import POSSIBLE, CpuList, listed
from guestpv.errors import (
    EXHAUSTED,
    Error,
    FormatError,
    NoSourceError,
    NoSuchCpuError,
    StructureError,
)
from guestpv.page.abi import State
from guestpv.source.procstat import TICK_NS, Accounts, parse
from guestpv.source.reader import SNAPSHOT, Reader, Reading, Snapshot, Source, check_rows

BOOT_ID = "/proc/sys/kernel/random/boot_id"


class ProcfsReader(Reader):
    """Steal as the kernel accounts for it: whole ticks, and no epochs (they are all 0).

    There is no structure, so revision and attributes are 0, and the origin is NONE.

    A CPU that is offline has no line, so its row is ABSENT and not valid. One whose figure can't be
    (negative, or of centuries) is ONLINE and not valid. After a hotplug a count may be lower than
    before, and nothing here says so.
    """

    def __init__(self, path: str = "/proc/stat", possible: str = POSSIBLE) -> None:
        """Raises NoSourceError if the kernel does not show its account here, FormatError if what
        it shows is not as a kernel writes it."""
        self._cpus = _possible_cpus(possible)
        self._instance = zlib.crc32(boot_id().encode()) | 1 << 32  # never 0
        self._path = path
        _content(path)
        self._closed = False

    @property
    def source(self) -> Source:
        ticks = f"the kernel's account, in ticks of {TICK_NS // 1_000_000} ms"
        return Source("procfs", self._path, TICK_NS, f"{self._path}: {ticks}")

    @property
    def cpus(self) -> tuple[int, ...]:
        return self._cpus

    @property
    def instance(self) -> int:
        return self._instance

    def read(self, cpu: SupportsIndex, /) -> Reading:
        return Reading(0, 0, self.stolen_ns(cpu), 0)

    def stolen_ns(self, cpu: SupportsIndex, /) -> int:
        self._check_open()
        nr = index(cpu)
        if nr not in self._cpus:
            raise NoSuchCpuError(
                f"cpu{nr}: no such CPU",
                f"The possible CPUs are {listed(self._cpus)}",
                "use one of them",
            )
        row = self._accounts((nr,))[0]
        if not row["present"]:
            raise StructureError(
                f"cpu{nr}: no stolen time",
                f"{self._path} has no whole line for it",
                "take it online, if it is not",
            )
        if not row["steal_known"]:
            raise StructureError(
                f"cpu{nr}: no stolen time",
                f"{self._path} has none for it, or one that can't be",
                "where there is PV-time, the hypervisor's own count can be read: --source device",
            )
        return int(row["steal_ns"])

    def snapshot(self, out: Snapshot | None = None) -> Snapshot:
        self._check_open()
        rows = np.empty(len(self._cpus), SNAPSHOT) if out is None else out
        check_rows(rows, len(self._cpus))
        now = time.monotonic_ns()
        account = self._accounts(self._cpus)
        rows[...] = np.zeros(1, rows.dtype)
        rows["cpu"] = self._cpus
        rows["state"] = np.where(account["present"], State.ONLINE, State.ABSENT)
        rows["valid"] = account["steal_known"]
        rows["instance"] = self._instance
        rows["stolen_ns"] = account["steal_ns"]
        rows["monotonic_ns"] = now
        return rows

    def _accounts(self, cpus: Sequence[int]) -> Accounts:
        """Raises NoSourceError: that it can't be read does not say that no CPU is there."""
        return parse(cpus, _content(self._path))

    def close(self) -> None:
        self._closed = True

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError("the reader is closed")


def boot_id(path: str = BOOT_ID, stat: str = "/proc/stat") -> str:
    """What is of this boot alone: its random UUID or, where that is not shown, when it was.

    Raises NoSourceError if the kernel shows neither here, FormatError if it is not as it writes it.
    """
    try:
        uuid = _content(path)
    except NoSourceError:  # as in some sandboxes
        btime = re.search(rb"^btime (\d+)$", _content(stat), re.MULTILINE)
        if not btime:
            raise
        return f"btime {int(btime[1])}"
    try:
        return str(UUID(uuid.decode().strip()))
    except ValueError as error:
        raise _malformed(path, "a UUID", error) from error


def _possible_cpus(path: str) -> tuple[int, ...]:
    try:
        return CpuList.parse(_content(path).decode()).cpus
    except ValueError as error:
        raise _malformed(path, "a list of CPUs, as 0-3", error) from error


def _malformed(path: str, wanted: str, error: ValueError) -> FormatError:
    why = f"It should hold {wanted} ({error})"
    return FormatError(f"{path}: not understood", why, "see what is mounted there")


def _content(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        missing = error.errno in (errno.ENOENT, errno.ENOTDIR)
        kind = Error if error.errno in EXHAUSTED else NoSourceError
        raise kind(
            f"{path}: not read",
            error.strerror or str(error),
            "mount /proc and /sys" if missing else "try again",
        ) from error

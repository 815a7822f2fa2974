# SPDX-License-Identifier: MIT
"""/proc/stat as the source, where there is no PV-time: the kernel's figure, in its ticks."""

import time
from operator import index
from pathlib import Path
from typing import SupportsIndex

import numpy as np

from guestpv.errors import NoSourceError, NoSuchCpuError, StructureError
from guestpv.layout import State
from guestpv.procstat import TICK_NS, accounts
from guestpv.reader import SNAPSHOT, Reader, Reading, Snapshot, Source, check_rows

POSSIBLE = "/sys/devices/system/cpu/possible"


class ProcfsReader(Reader):
    """Steal as the kernel accounts for it: whole ticks, and no epochs (they are all 0).

    There is no structure, so revision and attributes are 0, and the origin is NONE.

    A CPU that is offline has no line, so its row is ABSENT and not valid. After a hotplug a count
    may be lower than before, and nothing here says so.
    """

    def __init__(self, path: str = "/proc/stat", possible: str = POSSIBLE) -> None:
        """Raises NoSourceError if the kernel does not show its account here."""
        try:
            self._cpus = _cpus(Path(possible).read_text())
            Path(path).read_bytes()
        except OSError as error:
            raise NoSourceError(
                f"{error.filename}: not read", error.strerror or str(error), "mount /proc and /sys"
            ) from error
        self._path = path
        self._closed = False

    @property
    def source(self) -> Source:
        ticks = f"the kernel's account, in ticks of {TICK_NS // 1_000_000} ms"
        return Source("procfs", self._path, TICK_NS, f"{self._path}: {ticks}")

    @property
    def cpus(self) -> tuple[int, ...]:
        return self._cpus

    @property
    def header(self) -> None:
        return None

    @property
    def entries(self) -> None:
        return None

    def read(self, cpu: SupportsIndex, /) -> Reading:
        return Reading(0, 0, self.stolen_ns(cpu), 0)

    def stolen_ns(self, cpu: SupportsIndex, /) -> int:
        self._check_open()
        nr = index(cpu)
        if nr not in self._cpus:
            raise NoSuchCpuError(
                f"cpu{nr}: no such CPU",
                f"The possible CPUs are {self._cpus[0]} to {self._cpus[-1]}",
                "use one of them",
            )
        row = accounts((nr,), self._path)[0]
        if not row["present"]:
            raise StructureError(
                f"cpu{nr}: no stolen time", f"{self._path} has no line for it", "take it online"
            )
        return int(row["steal_ns"])

    def snapshot(self, out: Snapshot | None = None) -> Snapshot:
        self._check_open()
        rows = np.empty(len(self._cpus), SNAPSHOT) if out is None else out
        check_rows(rows, len(self._cpus))
        now = time.monotonic_ns()
        account = accounts(self._cpus, self._path)
        rows[...] = np.zeros(1, rows.dtype)
        rows["cpu"] = self._cpus
        rows["state"] = np.where(account["present"], State.ONLINE, State.ABSENT)
        rows["valid"] = account["present"]
        rows["stolen_ns"] = account["steal_ns"]
        rows["monotonic_ns"] = now
        return rows

    def close(self) -> None:
        self._closed = True

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError("the reader is closed")


def _cpus(possible: str) -> tuple[int, ...]:
    """The CPU numbers of a list as in ``0-3,8``."""
    cpus: list[int] = []
    for part in possible.strip().split(","):
        first, _, last = part.partition("-")
        cpus += range(int(first), int(last or first) + 1)
    return tuple(cpus)

# SPDX-License-Identifier: MIT
"""Lists of CPU numbers as the kernel writes them: ``0,2-5``."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

from guestpv.errors import NoSuchCpuError

POSSIBLE = "/sys/devices/system/cpu/possible"
"""Where the kernel lists the CPUs that there can be."""
ONLINE = "/sys/devices/system/cpu/online"
"""And those that are there now."""


@dataclass(frozen=True, slots=True)
class CpuList:
    """CPUs that a user named; whether they exist shows when some are chosen."""

    text: str
    ranges: tuple[range, ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ValueError if *text* is no such list."""
        ranges = []
        for part in text.split(","):
            first, dash, last = part.strip().partition("-")
            cpus = range(_number(first), _number(last if dash else first) + 1)
            if not cpus:
                raise ValueError(f"{part} counts down")
            ranges.append(cpus)
        return cls(text, tuple(ranges))

    @property
    def cpus(self) -> tuple[int, ...]:
        """All of them, as they stand in the list."""
        return tuple(cpu for run in self.ranges for cpu in run)

    def choose(self, cpus: Sequence[int]) -> tuple[int, ...]:
        """Those of *cpus* that are in the list. Raises NoSuchCpuError if the list has others."""
        known = set(cpus)
        for cpu in (cpu for listed in self.ranges for cpu in (listed[0], listed[-1])):
            if cpu not in known:
                why = f"The list {self.text} goes beyond the CPUs that there are"
                raise NoSuchCpuError(f"cpu{cpu}: no such CPU", why, f"use {listed(cpus)}")
        return tuple(cpu for cpu in cpus if any(cpu in listed for listed in self.ranges))


def listed(cpus: Iterable[int]) -> str:
    """The list of *cpus*, which are in ascending order."""
    runs: list[list[int]] = []
    for cpu in cpus:
        if runs and cpu == runs[-1][-1] + 1:
            runs[-1].append(cpu)
        else:
            runs.append([cpu])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"{text!r} is no CPU number")
    return int(text)

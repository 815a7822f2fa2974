# SPDX-License-Identifier: MIT
"""/dev/vmclock0, where a hypervisor says that it restored or moved the VM (Linux 6.13 and later).

Layout: struct vmclock_abi, include/uapi/linux/vmclock-abi.h of the kernel; all is little-endian.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import Self

from guestpv.driver.events import ClockDisruptionEvent, Event, VmGenerationEvent

PATH = "/dev/vmclock0"

# magic, size, version, counter_id, time_type, seq_count, disruption_marker, flags
_HEAD = struct.Struct("<IIHBBIQQ")
_GENERATION = struct.Struct("<Q")
_GENERATION_AT = 104
_SIZE = _GENERATION_AT + _GENERATION.size

_MAGIC = 0x4B4C4356  # "VCLK"
_VERSION = 1
_HAS_GENERATION = 1 << 8
_NOTIFIES = 1 << 9


@dataclass(frozen=True, slots=True)
class _Sample:
    disruption: int
    generation: int | None  # None: the hypervisor has no such counter
    notifies: bool


class VmClock:
    """Tells of what happened between two calls of read()."""

    @classmethod
    def find(cls, path: str) -> Self | None:
        """None where there is none that can be read, or one of another format."""
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        first = _sample(fd)
        if first is None:
            os.close(fd)
            return None
        return cls(fd, first)

    def __init__(self, fd: int, first: _Sample) -> None:
        self._fd = fd
        self._last = first

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def fileno(self) -> int:
        return self._fd

    @property
    def notifies(self) -> bool:
        """Whether the hypervisor says when to read, so that poll(2) of the file is of use."""
        return self._last.notifies

    @property
    def generation(self) -> int | None:
        """Another one once the VM was restored or cloned; None where the hypervisor has no such
        counter."""
        return self._last.generation

    def read(self) -> list[Event]:
        """What happened since the last call, without waiting. A restore is a disruption, too."""
        now = _sample(self._fd)
        if now is None:
            return []  # it is being changed; the next call sees how
        last, self._last = self._last, now
        if now.generation != last.generation:
            return [VmGenerationEvent()]
        if now.disruption != last.disruption:
            return [ClockDisruptionEvent()]
        return []


def _sample(fd: int) -> _Sample | None:
    """None while the hypervisor changes it, or if it is of another format."""
    try:
        # One read is one state: the driver repeats it while seq_count changes, and gives up with
        # ETIMEDOUT.
        page = os.pread(fd, _SIZE, 0)
    except OSError:
        return None
    if len(page) < _HEAD.size:
        return None
    magic, size, version, _, _, seq_count, disruption, flags = _HEAD.unpack_from(page)
    if (magic, version) != (_MAGIC, _VERSION) or seq_count % 2:
        return None
    generation = None
    if flags & _HAS_GENERATION and min(size, len(page)) >= _SIZE:
        (generation,) = _GENERATION.unpack_from(page, _GENERATION_AT)
    return _Sample(disruption, generation, bool(flags & _NOTIFIES))

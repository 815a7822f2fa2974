# SPDX-License-Identifier: MIT
from collections.abc import Callable
from typing import Any, NoReturn, Self, SupportsIndex, final

import numpy as np
import numpy.typing as npt

from guestpv.source.reader import Snapshot

def pin(cpu: int, /) -> None:
    """Have the calling thread run on a CPU alone. Raises OSError where that can't be."""

def store(to: npt.NDArray[Any], words: npt.NDArray[Any], /) -> None:
    """Store each of a row of words at its place in *to*: by one aligned store each, in their
    order, and after all that was stored before (release order). Both are of one dimension and have
    words of 4 or 8 bytes; ValueError if they do not fit, or are not aligned."""

def perf_event_open(
    type: int,
    config: int,
    pid: int,
    cpu: int,
    group: int,
    inherit: bool,
    on_exec: bool,
    cgroup: bool,
    /,
) -> int:
    """Count an event for a thread (pid; 0: the calling one), or where *cpu* is not -1 on that CPU:
    all that runs there (pid -1), or that of a cgroup (pid is a descriptor of its directory).

    It is read in the format PERF_FORMAT_GROUP, with both times. Raises OSError.
    """

def counter() -> tuple[int, int]:
    """The rate of the finest clock that there is, in ticks a second, and the ticks of its step: on
    arm64 the architected counter, elsewhere CLOCK_MONOTONIC_RAW."""

def jitter(
    cpu: int,
    duration_ns: int,
    threshold: int,
    limit_ns: int,
    stop: bytearray,
    noise: npt.NDArray[np.void],
    histogram: npt.NDArray[np.uint64],
    worst: npt.NDArray[np.void],
    /,
) -> None:
    """As `NativeReader.jitter`, where there is no count: nothing is known of what is stolen."""

@final
class Reading:
    """What one read of a CPU's structure gave (DEN0057A, 3.2.2), with its epoch.

    Immutable; it compares, copies and pickles by its four fields.
    """

    def __init__(self, revision: int, attributes: int, stolen_ns: int, epoch: int) -> None: ...
    @property
    def revision(self) -> int: ...
    @property
    def attributes(self) -> int: ...
    @property
    def stolen_ns(self) -> int: ...
    @property
    def epoch(self) -> int: ...

class NativeReader:
    """The ordered loads from a mapping of the device or of a page image."""

    def __new__(cls, fd: int, header: bytes, refuse: Callable[..., NoReturn], /) -> Self: ...
    def stolen_ns(self, cpu: SupportsIndex, /) -> int: ...
    def read(self, cpu: SupportsIndex, /) -> Reading: ...
    def close(self) -> None: ...
    def observe(
        self,
        cpu: int,
        other: int,
        duration_ns: int,
        gap_ns: int,
        long_ns: int,
        stop: bytearray,
        log: npt.NDArray[np.void],
        /,
    ) -> bytes: ...
    def jitter(
        self,
        cpu: int,
        duration_ns: int,
        threshold: int,
        limit_ns: int,
        stop: bytearray,
        noise: npt.NDArray[np.void],
        histogram: npt.NDArray[np.uint64],
        worst: npt.NDArray[np.void],
        /,
    ) -> None: ...
    def _fill(self, rows: Snapshot, /) -> None: ...
    def _header(self) -> memoryview: ...
    def _entries(self) -> memoryview: ...
    def _structure(self, cpu: SupportsIndex, /) -> memoryview: ...
    @classmethod
    def _own_reads(cls) -> None: ...

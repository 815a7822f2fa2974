# SPDX-License-Identifier: MIT
"""What a reader of stolen time is, whichever source it reads."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal, Self, SupportsIndex

import numpy as np
import numpy.typing as npt

from guestpv._native import Reading

__all__ = ["SNAPSHOT", "Reader", "Reading", "Snapshot", "Source"]

Snapshot = npt.NDArray[np.void]
"""An array of `SNAPSHOT` rows."""

SNAPSHOT = np.dtype(
    [
        ("cpu", np.uint32),
        ("epoch", np.uint32),
        ("state", np.uint8),
        ("origin", np.uint8),
        ("fault", np.uint8),
        ("valid", np.bool_),
        ("reason", np.uint8),
        ("revision", np.uint32),
        ("attributes", np.uint32),
        ("stolen_ns", np.uint64),
        ("epoch_stolen_ns", np.uint64),
        ("instance", np.uint64),
        ("monotonic_ns", np.uint64),
    ],
    align=True,
)
"""One CPU in a snapshot: 56 bytes.

========================  ========================================================================
``cpu``                   CPU number; row *n* is of CPU ``reader.cpus[n]``
``epoch``                 goes up each time the count is known to have started again; 0: unknown
``state``                 a `guestpv.page.abi.State`
``origin``                a `guestpv.page.abi.Origin`
``fault``                 a `guestpv.page.abi.Fault`
``valid``                 whether ``stolen_ns`` is a count
``reason``                a `guestpv.page.abi.Reason`: why the epoch began
``revision, attributes``  the structure's own; if one is not 0, the row is not valid
``stolen_ns``             raw stolen time in nanoseconds; 0 where the row is not valid
``epoch_stolen_ns``       the count when the module first saw it in this epoch; all ones: not yet
``instance``              of which load of the module this is, the same in all rows: only within one
                          instance are epochs, and counts, to be compared; for procfs, of which boot
``monotonic_ns``          `time.monotonic_ns` just before the first count was read; the same in all
========================  ========================================================================
"""


@dataclass(frozen=True, slots=True)
class Source:
    """Where a reader's counts come from."""

    kind: Literal["device", "image", "procfs"]
    path: str
    resolution_ns: int
    """Nanoseconds from one value that a count can have to the next."""
    description: str
    """In words, for a person."""
    simulated: bool = False
    """Whether a simulation wrote them, as `guestpv sim` does: nothing was stolen from anybody."""


class Reader(ABC):
    """Reads each CPU's stolen time. A context manager; get one from `guestpv.open`."""

    __slots__ = ()

    @property
    @abstractmethod
    def source(self) -> Source:
        """Where the counts come from."""

    @property
    @abstractmethod
    def cpus(self) -> tuple[int, ...]:
        """The numbers of all possible CPUs, in the order of a snapshot's rows."""

    @property
    @abstractmethod
    def instance(self) -> int:
        """As in `SNAPSHOT`: counts of two instances can't be compared. Not 0."""

    @abstractmethod
    def stolen_ns(self, cpu: SupportsIndex, /) -> int:
        """Raw stolen time of a CPU in nanoseconds.

        Raises as `read` does.
        """

    @abstractmethod
    def read(self, cpu: SupportsIndex, /) -> Reading:
        """One CPU's structure as a whole, with its epoch.

        Raises:
            NoSuchCpuError: the source has no such CPU.
            StructureError: the CPU has no structure, or its revision or attributes are not 0, so
                that the count must not be interpreted (DEN0057A, 3.2.2).
            BusyError: the index kept changing for a second.
            FormatError: the index became unreadable, as in a page image that was cut short.
            ValueError: the reader is closed.
        """

    @abstractmethod
    def snapshot(self, out: Snapshot | None = None) -> Snapshot:
        """All CPUs: an array of `SNAPSHOT`, a row per possible CPU, shape ``(len(cpus),)``.

        Args:
            out: array to fill and return, C-contiguous; a new one if not given.

        A CPU whose count must not be interpreted is flagged by ``valid``, not raised.
        Raises `BusyError`, `FormatError` and ValueError as `read` does.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of the source. May be called twice; reading afterwards is a ValueError."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.source.path}, {len(self.cpus)} CPUs>"


def check_rows(out: Snapshot, cpus: int) -> None:
    """Raise ValueError if `out` is no array for a snapshot of so many CPUs."""
    if out.dtype != SNAPSHOT:
        raise ValueError(f"out is an array of {out.dtype}, not of guestpv.SNAPSHOT")
    if out.shape != (cpus,):
        raise ValueError(f"out has shape {out.shape}, not ({cpus},)")

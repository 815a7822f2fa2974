# SPDX-License-Identifier: MIT
"""The device and page images: a mapping in the layout of kmod/uapi/guestpv.h."""

import os
import stat
from operator import index
from typing import NoReturn, Self, SupportsIndex

import numpy as np
import numpy.typing as npt

from guestpv._native import NativeReader
from guestpv.errors import (
    EXHAUSTED,
    BusyError,
    Error,
    FormatError,
    NoSuchCpuError,
    StructureError,
)
from guestpv.page import abi, layout
from guestpv.page.abi import DEVICE, FLAG_SIMULATED
from guestpv.page.names import fault_text
from guestpv.page.since import since_text
from guestpv.source.file import open_file
from guestpv.source.header import read_header
from guestpv.source.reader import SNAPSHOT, Reader, Snapshot, Source, check_rows


class MappedReader(NativeReader, Reader):
    """Reads the device, or a file of the same layout. `read` and `stolen_ns` are C.

    Beside the counts it shows what they come from, live and without a copy: `header`, `entries`
    and each CPU's `structure`. This is all of the mapping that is vouched for, so nothing that is
    given out here can raise SIGBUS, however it is copied.
    """

    __slots__ = ("_cpus", "_entry_size", "_instance", "_source")

    _cpus: tuple[int, ...]
    _entry_size: int
    _instance: int
    _source: Source

    # Not __init__, which could be called again: a reader that was closed stays closed.
    def __new__(cls, path: str | os.PathLike[str] = DEVICE) -> Self:
        """Map *path*.

        Raises:
            NoSourceError: there is no such device or file.
            PermissionDeniedError: it may not be opened.
            FormatError: it is not of the layout that this guestpv knows.
        """
        name = os.fspath(path)
        fd = open_file(name)
        try:
            header = read_header(fd, name)
            try:
                self = super().__new__(cls, fd, header.tobytes(), _refuse)
            except OSError as error:
                kind = Error if error.errno in EXHAUSTED else FormatError
                raise kind(f"{name}: not mapped", os.strerror(error.errno or 0)) from error
            self._source = _source(fd, name, int(header["flags"]))
        finally:
            os.close(fd)
        self._cpus = tuple(range(int(header["nr_entries"])))
        self._instance = int(header["instance"])
        self._entry_size = int(header["entry_size"])
        return self

    @property
    def source(self) -> Source:
        return self._source

    @property
    def cpus(self) -> tuple[int, ...]:
        return self._cpus

    @property
    def instance(self) -> int:
        return self._instance

    # Views are not kept: close() lets go of the mapping, unless somebody else looks at it.

    @property
    def header(self) -> np.void:
        """The index's header (a `guestpv.page.layout.HEADER`), live, without a copy."""
        header: np.void = np.ndarray(1, layout.HEADER, self._header())[0]
        return header

    @property
    def entries(self) -> npt.NDArray[np.void]:
        """The index (`guestpv.page.layout.ENTRY`), an entry per CPU number, live, without a copy.

        It may be read while the module changes it: what must agree with a count is in `snapshot`.
        """
        entries = self._entries()
        return np.ndarray(len(self._cpus), layout.ENTRY, entries, 0, (self._entry_size,))

    def structure(self, cpu: SupportsIndex, /) -> np.void:
        """What the hypervisor writes (a `guestpv.page.layout.STOLEN_TIME`), live, without a copy.

        Its fields are loaded one by one and in no order: what must belong together is in `read`.
        Unknown revisions and attributes can be seen here; all else raises as in `read`.
        """
        structure: np.void = np.ndarray(1, layout.STOLEN_TIME, self._structure(cpu))[0]
        return structure

    def snapshot(self, out: Snapshot | None = None) -> Snapshot:
        if out is None:
            out = np.empty(len(self._cpus), SNAPSHOT)
        elif out.dtype is not SNAPSHOT:
            check_rows(out, len(self._cpus))
        self._fill(out)
        return out


# Here, and not in the base that has them: else each call would look for them, and go round.
MappedReader._own_reads()


def _refuse(reader: MappedReader, what: str, cpu: SupportsIndex, *facts: int) -> NoReturn:
    """Raise what the native part found: it knows the facts, this knows the words."""
    name, nr, cpus = reader.source.path, index(cpu), len(reader.cpus)
    match what:
        case "no cpu":
            raise NoSuchCpuError(
                f"cpu{nr}: no such CPU", f"{name} has {cpus} CPUs", f"use 0 to {cpus - 1}"
            )
        case "no structure":
            state, fault = facts
            raise _no_structure(name, nr, state, fault, reader.entries[nr])
        case "unknown":
            revision, attributes = facts
            # A page image may be of any machine, and of any time.
            device = reader.source.kind == "device"
            since = since_text(reader.entries[nr]) if device else ""
            raise StructureError(
                f"cpu{nr}: the stolen time is not interpreted",
                f"Its structure has revision {revision} and attributes {attributes:#x}"
                f"{since}, and only 0 and 0 are known (DEN0057A)",
                "read on: the count is given again as soon as they are known",
                revision=revision,
                attributes=attributes,
            )
        case "busy":
            raise BusyError(f"{name}: not read", "It kept changing for a second", "try again")
        case "offset":
            offset = reader.entries["offset"][nr]
            raise FormatError(
                f"{name}: not read",
                f"Its index says that cpu{nr}'s structure is at offset {offset:#x}, which is"
                " outside or not 64-byte aligned",
                "write the page image again",
            )
        case "header":
            why = "Its header changed while it was open"
        case _:
            why = "It was cut short while it was open"
    raise FormatError(f"{name}: not read", why, "open it again")


def _source(fd: int, name: str, flags: int) -> Source:
    if stat.S_ISCHR(os.fstat(fd).st_mode):
        return Source("device", name, 1, "the hypervisor's PV-time structures")
    if flags & FLAG_SIMULATED:
        return Source("image", name, 1, f"simulated, by a page image: {name}", simulated=True)
    return Source("image", name, 1, f"a page image: {name}")


def _no_structure(name: str, cpu: int, state: int, fault: int, entry: np.void) -> StructureError:
    what = f"cpu{cpu}: no stolen time"
    match state:
        case abi.State.REFUSED:
            known = next((one for one in abi.Fault if one == fault), abi.Fault.NONE)
            return StructureError(
                what,
                f"The address of its structure, {entry['ipa']:#x}, was refused:"
                f" {fault_text(fault)}",
                "'guestpv info' shows what the hypervisor answered",
                fault=known,
            )
        case abi.State.STARTING:
            return StructureError(
                what,
                "It is on its way up or down, and its count may be starting again",
                "try again",
            )
        case _:
            return StructureError(
                what,
                "It is offline, and without a structure",
                "take it online" if name == DEVICE else "",
            )

# SPDX-License-Identifier: MIT
"""The device and page images: a mapping in the layout of kmod/uapi/guestpv.h."""

import os
import stat
from operator import index
from typing import NoReturn, SupportsIndex

import numpy as np
import numpy.typing as npt

from guestpv._native import NativeReader
from guestpv.errors import (
    BusyError,
    FormatError,
    NoSourceError,
    NoSuchCpuError,
    PermissionDeniedError,
    StructureError,
)
from guestpv.page import abi, layout
from guestpv.page.since import since_text
from guestpv.source.header import read_header
from guestpv.source.reader import SNAPSHOT, Reader, Snapshot, Source, check_rows

DEVICE = "/dev/guestpv"

_MEANWHILE = "(/proc/stat can be read meanwhile: --source procfs)"


class MappedReader(NativeReader, Reader):
    """Reads the device, or a file of the same layout. `read` and `stolen_ns` are C."""

    __slots__ = ("_cpus", "_index", "_instance", "_source")

    def __init__(self, path: str | os.PathLike[str] = DEVICE) -> None:
        """Map *path*.

        Raises:
            NoSourceError: there is no such device or file.
            PermissionDeniedError: it may not be opened.
            FormatError: it is not of the layout that this guestpv knows.
        """
        name = os.fspath(path)
        fd = _open(name)
        try:
            header = read_header(fd, name)
            try:
                self._map(fd, header.tobytes())
            except OSError as error:
                raise FormatError(f"{name}: not mapped", os.strerror(error.errno or 0)) from error
            self._source = _source(fd, name)
        finally:
            os.close(fd)
        self._instance = int(header["instance"])
        self._cpus = tuple(range(int(header["nr_entries"])))
        self._index = int(header["header_size"]), int(header["entry_size"])

    @property
    def source(self) -> Source:
        return self._source

    @property
    def cpus(self) -> tuple[int, ...]:
        return self._cpus

    @property
    def instance(self) -> int:
        return self._instance

    @property
    def header(self) -> np.void:
        header: np.void = np.ndarray(1, layout.HEADER, self.memory)[0]
        return header

    @property
    def entries(self) -> npt.NDArray[np.void]:
        # Not kept: close() lets go of the mapping, unless somebody else looks at it.
        return np.ndarray(len(self._cpus), layout.ENTRY, self.memory, *self._index)

    def snapshot(self, out: Snapshot | None = None) -> Snapshot:
        if out is None:
            out = np.empty(len(self._cpus), SNAPSHOT)
        elif out.dtype is not SNAPSHOT:
            check_rows(out, len(self._cpus))
        self._fill(out)
        return out

    def _since(self, cpu: int) -> str:
        """Since when, in words; a page image may be of any machine, and of any time."""
        return since_text(self.entries[cpu]) if self._source.kind == "device" else ""

    def _refuse(self, what: str, cpu: SupportsIndex, revision: int, attributes: int) -> NoReturn:
        """Raise what the native part found: it knows the facts, this knows the words."""
        name, nr = self._source.path, index(cpu)
        match what:
            case "no cpu":
                last = len(self._cpus) - 1
                raise NoSuchCpuError(
                    f"cpu{nr}: no such CPU", f"{name} has {last + 1} CPUs", f"use 0 to {last}"
                )
            case "no structure":
                raise _no_structure(name, nr, self.entries[nr])
            case "unknown":
                raise StructureError(
                    f"cpu{nr}: the stolen time is not interpreted",
                    f"Its structure has revision {revision} and attributes {attributes:#x}"
                    f"{self._since(nr)}, and only 0 and 0 are known (DEN0057A)",
                    "read on: the count is given again as soon as they are known",
                    revision=revision,
                    attributes=attributes,
                )
            case "busy":
                raise BusyError(f"{name}: not read", "It kept changing for a second", "try again")
            case "offset":
                raise FormatError(
                    f"{name}: not read",
                    f"Its index says that cpu{nr}'s structure is at offset"
                    f" {self.entries[nr]['offset']:#x}, which is outside or not 64-byte aligned",
                    "write the page image again",
                )
            case "header":
                why = "Its header changed while it was open"
            case _:
                why = "It was cut short while it was open"
        raise FormatError(f"{name}: not read", why, "open it again")


def _open(name: str) -> int:
    try:
        fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError as error:
        if name == DEVICE:
            raise NoSourceError(
                f"{DEVICE}: no such device",
                "The module is not loaded",
                f"run 'sudo guestpv load' {_MEANWHILE}",
            ) from error
        raise NoSourceError(
            f"{name}: no such file",
            "A source is auto, device, procfs or a path of a page image",
            "check the path",
        ) from error
    except PermissionError as error:
        fix = "run as root, or give the device a group with a udev rule"
        raise PermissionDeniedError(
            f"{name}: permission denied",
            "Only its owner and group may read it",
            f"{fix} {_MEANWHILE}" if name == DEVICE else "ask its owner",
        ) from error
    except OSError as error:
        raise NoSourceError(f"{name}: not opened", os.strerror(error.errno or 0)) from error
    mode = os.fstat(fd).st_mode
    if stat.S_ISREG(mode) or stat.S_ISCHR(mode):
        return fd
    os.close(fd)
    raise FormatError(
        f"{name}: no page image", "It is neither a file nor a device", "check the path"
    )


def _source(fd: int, name: str) -> Source:
    if stat.S_ISCHR(os.fstat(fd).st_mode):
        return Source("device", name, 1, "the hypervisor's PV-time structures")
    return Source("image", name, 1, f"a page image: {name}")


def _no_structure(name: str, cpu: int, entry: np.void) -> StructureError:
    if entry["state"] == abi.State.REFUSED:
        known = [fault for fault in abi.Fault if fault == entry["fault"]]
        fault = known[0] if known else abi.Fault.NONE
        why = known[0].text if known else f"unknown fault {entry['fault']}"
        return StructureError(
            f"cpu{cpu}: no stolen time",
            f"The address of its structure, {entry['ipa']:#x}, was refused: {why}",
            "'guestpv info' shows what the hypervisor answered",
            fault=fault,
        )
    return StructureError(
        f"cpu{cpu}: no stolen time",
        "It is offline, and without a structure",
        "take it online" if name == DEVICE else "",
    )

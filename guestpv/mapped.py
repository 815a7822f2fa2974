# SPDX-License-Identifier: MIT
"""The device and page images: a mapping in the layout of kmod/uapi/guestpv.h."""

import os
import stat
from typing import NoReturn

import numpy as np
import numpy.typing as npt

from guestpv import layout
from guestpv._native import Mapping
from guestpv.errors import (
    BusyError,
    FormatError,
    NoSourceError,
    NoSuchCpuError,
    PermissionDeniedError,
    StructureError,
)
from guestpv.reader import SNAPSHOT, Reader, Reading, Snapshot, Source, check_rows

DEVICE = "/dev/guestpv"

_MEANWHILE = "(/proc/stat can be read meanwhile: --source procfs)"


class MappedReader(Mapping, Reader):
    """Reads the device, or a file of the same layout. `read` and `stolen_ns` are C."""

    def __init__(self, path: str | os.PathLike[str] = DEVICE) -> None:
        """Maps *path*.

        Raises NoSourceError, PermissionDeniedError or FormatError.
        """
        name = os.fspath(path)
        fd = _open(name)
        try:
            header = _header(fd, name)
            self._source = _source(fd, name)
            self._cpus = tuple(range(int(header["nr_entries"])))
            try:
                super().__init__(Reading, fd, int(header["size"]), len(self._cpus))
            except OSError as error:
                raise FormatError(f"{name}: not mapped", os.strerror(error.errno or 0)) from error
        finally:
            os.close(fd)
        view = memoryview(self)
        self._header: np.void = np.frombuffer(view, layout.HEADER, 1)[0]
        self._entries = np.ndarray(
            len(self._cpus),
            layout.ENTRY,
            view,
            int(header["header_size"]),
            int(header["entry_size"]),
        )

    @property
    def source(self) -> Source:
        return self._source

    @property
    def cpus(self) -> tuple[int, ...]:
        return self._cpus

    @property
    def header(self) -> np.void:
        return self._header

    @property
    def entries(self) -> npt.NDArray[np.void]:
        return self._entries

    def snapshot(self, out: Snapshot | None = None) -> Snapshot:
        if out is None:
            out = np.empty(len(self._cpus), SNAPSHOT)
        elif out.dtype is not SNAPSHOT:
            check_rows(out, len(self._cpus))
        self._fill(out)
        return out

    def _refuse(self, outcome: str, cpu: object, revision: int, attributes: int) -> NoReturn:
        """Raise what the native part found: it knows the facts, this knows the words."""
        name = self._source.path
        match outcome:
            case "no cpu":
                raise NoSuchCpuError(
                    f"cpu{cpu}: no such CPU",
                    f"{name} has {len(self._cpus)} CPUs",
                    f"use 0 to {len(self._cpus) - 1}",
                )
            case "no structure":
                assert isinstance(cpu, int)
                raise _no_structure(name, cpu, self._entries[cpu])
            case "unknown":
                raise StructureError(
                    f"cpu{cpu}: the stolen time is not interpreted",
                    f"its structure has revision {revision} and attributes {attributes:#x}, and"
                    " only 0 and 0 are known (DEN0057A)",
                    "read on: the count is given again as soon as they are known",
                    revision=revision,
                    attributes=attributes,
                )
            case "busy":
                raise BusyError(f"{name}: not read", "it kept changing for a second", "try again")
            case "malformed":
                raise FormatError(
                    f"{name}: not read",
                    "its index points to a structure that is outside it or not 64-byte aligned",
                    "write the page image again",
                )
            case _:
                raise FormatError(
                    f"{name}: not read", "it was cut short while it was open", "open it again"
                )


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


def _header(fd: int, name: str) -> np.void:
    """The header, after its sizes were checked against each other and against the file's."""
    header: np.void = np.frombuffer(_beginning(fd, name), layout.HEADER, 1)[0]
    if header["magic"] != layout.MAGIC:
        raise _malformed(name, f"it does not begin with guestpv's magic number, {layout.MAGIC:#x}")
    if header["abi_version"] != layout.ABI_VERSION:
        raise FormatError(
            f"{name}: not read",
            f"It has version {header['abi_version']} of the layout, and this guestpv knows only"
            f" version {layout.ABI_VERSION}",
            "load the module that belongs to it: 'sudo guestpv unload', then 'sudo guestpv load'",
        )
    size, nr_entries = int(header["size"]), int(header["nr_entries"])
    if header["header_size"] < layout.HEADER.itemsize or header["header_size"] % 8:
        raise _malformed(name, f"its header says that it is {header['header_size']} bytes long")
    if header["entry_size"] < layout.ENTRY.itemsize or header["entry_size"] % 8:
        raise _malformed(name, f"its entries are {header['entry_size']} bytes long")
    if int(header["header_size"]) + nr_entries * int(header["entry_size"]) > size or not nr_entries:
        raise _malformed(name, f"{nr_entries} entries do not fit into {size} bytes")
    status = os.fstat(fd)
    if stat.S_ISREG(status.st_mode) and status.st_size < size:
        raise _malformed(name, f"it was cut short: {status.st_size} of {size} bytes are left")
    return header


def _beginning(fd: int, name: str) -> bytes:
    """As many bytes as a header has; the device gives them only to a mapping."""
    if stat.S_ISREG(os.fstat(fd).st_mode):
        beginning = os.pread(fd, layout.HEADER.itemsize, 0)
    else:
        try:
            beginning = memoryview(Mapping(Reading, fd, layout.HEADER.itemsize, 1)).tobytes()
        except OSError as error:
            raise _malformed(
                name, f"it cannot be mapped: {os.strerror(error.errno or 0)}"
            ) from error
    if len(beginning) < layout.HEADER.itemsize:
        raise _malformed(name, f"{len(beginning)} bytes are less than a header")
    return beginning


def _malformed(name: str, why: str) -> FormatError:
    return FormatError(f"{name}: no page image of guestpv", why, "check the path")


def _source(fd: int, name: str) -> Source:
    if stat.S_ISCHR(os.fstat(fd).st_mode):
        return Source("device", name, 1, "the hypervisor's PV-time structures")
    return Source("image", name, 1, f"a page image: {name}")


def _no_structure(name: str, cpu: int, entry: np.void) -> StructureError:
    if entry["state"] == layout.State.REFUSED:
        known = [fault for fault in layout.Fault if fault == entry["fault"]]
        fault = known[0] if known else layout.Fault.NONE
        why = known[0].text if known else f"unknown fault {entry['fault']}"
        return StructureError(
            f"cpu{cpu}: no stolen time",
            f"the address of its structure, {entry['ipa']:#x}, was refused: {why}",
            "'guestpv info' shows what the hypervisor answered",
            fault=fault,
        )
    return StructureError(
        f"cpu{cpu}: no stolen time",
        "it was not online since the module was loaded"
        if name == DEVICE
        else "it has no structure",
        "take it online" if name == DEVICE else "",
    )

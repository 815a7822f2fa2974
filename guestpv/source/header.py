# SPDX-License-Identifier: MIT
"""The header of the device or of a page image: is it of the layout that this guestpv knows?"""

import mmap
import os
import stat

import numpy as np

from guestpv.errors import FormatError
from guestpv.page import abi, layout


def read_header(fd: int, name: str) -> np.void:
    """A copy of the header, after its sizes were checked against each other and the file's.

    Raises FormatError, which calls the file *name*.
    """
    header: np.void = np.frombuffer(_beginning(fd, name), layout.HEADER, 1)[0]
    if header["magic"] != abi.MAGIC:
        raise _malformed(name, f"It does not begin with guestpv's magic number, {abi.MAGIC:#x}")
    if header["abi_version"] != abi.ABI_VERSION:
        raise FormatError(
            f"{name}: not read",
            f"It has version {header['abi_version']} of the layout, and this guestpv knows only"
            f" version {abi.ABI_VERSION}",
            "load the module that belongs to it: 'sudo guestpv unload', then 'sudo guestpv load'",
        )
    if not header["instance"]:
        raise FormatError(
            f"{name}: not read",
            "It has no instance: it was written before the layout was settled",
            "load the module, or write the page image, anew",
        )
    header_size, entry_size = int(header["header_size"]), int(header["entry_size"])
    if header_size < layout.HEADER.itemsize or header_size % 8:
        raise _malformed(name, f"Its header says that it is {header_size} bytes long")
    if entry_size < layout.ENTRY.itemsize or entry_size % 8:
        raise _malformed(name, f"Its entries are {entry_size} bytes long")
    nr_entries, size = int(header["nr_entries"]), int(header["size"])
    if not nr_entries or header_size + nr_entries * entry_size > size:
        raise _malformed(name, f"{nr_entries} entries do not fit into {size} bytes")
    status = os.fstat(fd)
    if stat.S_ISREG(status.st_mode) and status.st_size < size:
        raise _malformed(name, f"It was cut short: {status.st_size} of {size} bytes are left")
    return header


def _beginning(fd: int, name: str) -> bytes:
    """As many bytes as a header has; the device gives them only to a mapping."""
    size = layout.HEADER.itemsize
    is_file = stat.S_ISREG(os.fstat(fd).st_mode)
    try:
        if is_file:
            beginning = os.pread(fd, size, 0)
        else:
            with mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ) as page:
                beginning = page[:size]
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        how = "read" if is_file else "mapped"
        raise _malformed(name, f"It cannot be {how}: {reason}") from error
    if len(beginning) < size:
        raise _malformed(name, f"{len(beginning)} bytes are less than a header")
    return beginning


def _malformed(name: str, why: str) -> FormatError:
    return FormatError(f"{name}: no page image of guestpv", why, "check the path")

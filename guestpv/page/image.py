# SPDX-License-Identifier: MIT
"""Page images: files in the layout of the device, for recordings, simulation, tests, benchmarks."""

import mmap
import os
import secrets
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt

from guestpv.page import abi, layout
from guestpv.page.abi import Conduit, Origin, Reason, State

KVM_IPA = 0x090A0000
"""Where QEMU's virt machine puts the first structure; the next follow at 64 bytes."""


def write_image(
    path: str | os.PathLike[str],
    stolen_ns: Sequence[int],
    *,
    epochs: Sequence[int] | None = None,
    instance: int | None = None,
    ipa: int = KVM_IPA,
    flags: int = 0,
) -> None:
    """Write a page image: a CPU for each count in *stolen_ns* (nanoseconds), all online.

    The structures stand 64 bytes apart from *ipa* on, as KVM's do. *epochs* are 1 if not given,
    and *instance* is a random number.
    The file appears whole, or not at all; OSError with its path is raised then.
    """
    index, pages = _layout(len(stolen_ns), ipa)
    image = np.zeros(index + pages, np.uint8)

    header = image[: layout.HEADER.itemsize].view(layout.HEADER)[0]
    header["magic"] = abi.MAGIC
    header["abi_version"] = abi.ABI_VERSION
    # Its own, so that who has an image open sees that another was written over it.
    header["sequence"] = 2 * secrets.randbits(30)
    header["header_size"] = layout.HEADER.itemsize
    header["entry_size"] = layout.ENTRY.itemsize
    header["nr_entries"] = len(stolen_ns)
    header["page_size"] = mmap.PAGESIZE
    header["size"] = len(image)
    header["smccc_version"] = 0x10001
    header["conduit"] = Conduit.HVC
    header["instance"] = instance or 1 + secrets.randbits(63)
    header["flags"] = flags

    entries = np.ndarray(len(stolen_ns), layout.ENTRY, image, layout.HEADER.itemsize)
    entries["state"] = State.ONLINE
    entries["origin"] = Origin.ADOPTED
    entries["reason"] = Reason.FIRST_SEEN
    entries["epoch"] = 1 if epochs is None else epochs
    entries["ipa"] = ipa + np.arange(len(stolen_ns)) * abi.STRUCTURE_ALIGNMENT
    entries["offset"] = index + entries["ipa"] - ipa + ipa % mmap.PAGESIZE
    entries["st_call"] = abi.PV_TIME_ST
    entries["features_st_draft"] = -1
    entries["st_return"] = abi.NOT_CALLED
    for refused in "features_undefined", "features_st_smc32", "features_smc32":
        entries[refused] = -1

    structures(image)["stolen_time"] = stolen_ns

    temporary = Path(f"{os.fspath(path)}.partial")
    try:
        # What else has that name is neither followed as a link nor waited for as a pipe.
        temporary.unlink(missing_ok=True)
        with temporary.open("xb") as file:
            file.write(image.tobytes())
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error


def structures(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.void]:
    """The structures of an image that `write_image` laid out, as a view of its bytes."""
    header = image[: layout.HEADER.itemsize].view(layout.HEADER)[0]
    first = image[layout.HEADER.itemsize :][: layout.ENTRY.itemsize].view(layout.ENTRY)[0]
    return np.ndarray(
        int(header["nr_entries"]),
        layout.STOLEN_TIME,
        image,
        int(first["offset"]),
        abi.STRUCTURE_ALIGNMENT,
    )


def _layout(cpus: int, ipa: int) -> tuple[int, int]:
    """Bytes of the index and of the pages behind it."""
    index = layout.HEADER.itemsize + cpus * layout.ENTRY.itemsize
    pages = ipa % mmap.PAGESIZE + cpus * abi.STRUCTURE_ALIGNMENT
    return _whole_pages(index), _whole_pages(pages)


def _whole_pages(size: int) -> int:
    return -(-size // mmap.PAGESIZE) * mmap.PAGESIZE

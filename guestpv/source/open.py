# SPDX-License-Identifier: MIT
"""Which source a name means."""

import os
from typing import Literal, overload

from guestpv.page.abi import DEVICE
from guestpv.source.mapped import MappedReader
from guestpv.source.procfs import ProcfsReader


@overload
def open(source: Literal["procfs"]) -> ProcfsReader: ...
@overload
def open(source: Literal["auto", "device"] | os.PathLike[str] = "auto") -> MappedReader: ...
@overload
def open(source: str | os.PathLike[str]) -> MappedReader | ProcfsReader: ...
def open(source: str | os.PathLike[str] = "auto") -> MappedReader | ProcfsReader:
    """Open a source of stolen time.

    Args:
        source: ``auto`` or ``device`` for /dev/guestpv, ``procfs`` for /proc/stat, or the path of
            a page image. ``auto`` never falls back to /proc/stat: who asks for nanoseconds is not
            given ticks.

    Raises:
        NoSourceError: there is no such device or file.
        PermissionDeniedError: it may not be opened.
        FormatError: it is not of the layout that this guestpv knows.
    """
    match source:
        case "auto" | "device":
            return MappedReader(DEVICE)
        case "procfs":
            return ProcfsReader()
        case _:
            return MappedReader(source)

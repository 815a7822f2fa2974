# SPDX-License-Identifier: MIT
"""Stolen time, seen and verified from inside a Linux guest.

For example::

    import guestpv

    with guestpv.open() as reader:
        print(reader.read(0).stolen_ns)
"""

from guestpv.account.delta import DELTA, delta
from guestpv.errors import (
    BusyError,
    Error,
    FormatError,
    ModuleError,
    NoSourceError,
    NoSuchCpuError,
    PermissionDeniedError,
    StructureError,
    UnsupportedError,
)
from guestpv.source.open import open
from guestpv.source.reader import SNAPSHOT, Reader, Reading, Source

__all__ = [
    "DELTA",
    "SNAPSHOT",
    "BusyError",
    "Error",
    "FormatError",
    "ModuleError",
    "NoSourceError",
    "NoSuchCpuError",
    "PermissionDeniedError",
    "Reader",
    "Reading",
    "Source",
    "StructureError",
    "UnsupportedError",
    "delta",
    "open",
]

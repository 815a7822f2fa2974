# SPDX-License-Identifier: MIT
"""Stolen time, seen and verified from inside a Linux guest.

For example::

    import guestpv

    with guestpv.open() as reader:
        print(reader.read(0).stolen_ns)
"""

from guestpv.account.delta import DELTA, delta
from guestpv.account.totals import TOTALS, Totals
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
    "TOTALS",
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
    "Totals",
    "UnsupportedError",
    "delta",
    "open",
]

# SPDX-License-Identifier: MIT
"""Stolen time, seen and verified from inside a Linux guest.

For example::

    import guestpv

    with guestpv.open() as reader:
        print(reader.read(0).stolen_ns)
"""

import sysconfig

if sysconfig.get_config_var("Py_GIL_DISABLED"):
    raise ImportError(
        "guestpv needs a Python with the GIL: one thread at a time may decode the index."
        " Use the interpreter that is not built free-threaded (python3, not python3t)"
    )

from guestpv.account.changes import Change
from guestpv.account.delta import DELTA, delta
from guestpv.account.events import Events, events
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
from guestpv.latency.bounds import Bounds
from guestpv.latency.counter import Counter, counter
from guestpv.latency.span import Span, span
from guestpv.source.mapped import MappedReader
from guestpv.source.open import open
from guestpv.source.procfs import ProcfsReader
from guestpv.source.reader import SNAPSHOT, Reader, Reading, Source

__all__ = [
    "DELTA",
    "SNAPSHOT",
    "TOTALS",
    "Bounds",
    "BusyError",
    "Change",
    "Counter",
    "Error",
    "Events",
    "FormatError",
    "MappedReader",
    "ModuleError",
    "NoSourceError",
    "NoSuchCpuError",
    "PermissionDeniedError",
    "ProcfsReader",
    "Reader",
    "Reading",
    "Source",
    "Span",
    "StructureError",
    "Totals",
    "UnsupportedError",
    "counter",
    "delta",
    "events",
    "open",
    "span",
]

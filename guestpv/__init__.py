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

from importlib import import_module
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from guestpv.account.changes import Change
    from guestpv.account.delta import DELTA, delta
    from guestpv.account.events import Events, events
    from guestpv.account.totals import TOTALS, Totals
    from guestpv.latency import clock
    from guestpv.latency.bounds import Bounds
    from guestpv.latency.counter import Counter, counter
    from guestpv.latency.span import Span, span
    from guestpv.source.mapped import MappedReader
    from guestpv.source.open import open
    from guestpv.source.procfs import ProcfsReader
    from guestpv.source.reader import SNAPSHOT, Reader, Reading, Source

# The same for the interpreter, which imports them when they are asked for (PEP 562): NumPy takes
# longer to import than all of guestpv, and to load the module or to run a command needs no arrays.
_HOMES = {
    "account.changes": ("Change",),
    "account.delta": ("DELTA", "delta"),
    "account.events": ("Events", "events"),
    "account.totals": ("TOTALS", "Totals"),
    "latency.bounds": ("Bounds",),
    "latency.counter": ("Counter", "counter"),
    "latency.span": ("Span", "span"),
    "source.mapped": ("MappedReader",),
    "source.open": ("open",),
    "source.procfs": ("ProcfsReader",),
    "source.reader": ("SNAPSHOT", "Reader", "Reading", "Source"),
}
_MODULES = {"clock": "latency.clock"}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        value = globals()[name] = import_module(f"guestpv.{_MODULES[name]}")
        return value
    for home, names in _HOMES.items():
        if name in names:
            value = globals()[name] = getattr(import_module(f"guestpv.{home}"), name)
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


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
    "clock",
    "counter",
    "delta",
    "events",
    "open",
    "span",
]

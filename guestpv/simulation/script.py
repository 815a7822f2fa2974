# SPDX-License-Identifier: MIT
"""What happens to a simulated VM, and when: a TOML file of events.

For example::

    [[event]]
    at_s = 5
    what = "contention"
    cpus = "0-3"
    percent = 40

    [[event]]
    at_s = 20
    what = "migrate"
    seconds = 0.3

Times are seconds of the simulation. The other keys are the fields of the event's class.
"""

import math
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any

from guestpv.cpulist import CpuList
from guestpv.errors import ScriptError

_LONGEST_S = 1e9
_MOST_32_BITS = 2**32 - 1


@dataclass(frozen=True, slots=True)
class Contention:
    """From now on the host takes so much of these vCPUs' time, on average."""

    percent: float
    cpus: CpuList | None = None  # None: all


@dataclass(frozen=True, slots=True)
class Starve:
    """These vCPUs do not run for so long, which is counted at once when they run again."""

    seconds: float
    cpus: CpuList | None = None


@dataclass(frozen=True, slots=True)
class Restart:
    """These counts begin anew, and nobody says so: the module finds out at its next look."""

    cpus: CpuList | None = None


@dataclass(frozen=True, slots=True)
class Revision:
    """These structures get another revision and attributes; 0 and 0 are those that are known."""

    revision: int
    attributes: int = 0
    cpus: CpuList | None = None


@dataclass(frozen=True, slots=True)
class Offline:
    """These CPUs are taken offline in the guest."""

    cpus: CpuList | None = None


@dataclass(frozen=True, slots=True)
class Online:
    """These CPUs come online in the guest, and their counts begin anew, as KVM's do."""

    cpus: CpuList | None = None


@dataclass(frozen=True, slots=True)
class Freeze:
    """The VM stands still for so long; nothing of it is counted."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Migrate:
    """The VM is moved, and stands still for so long; the counts go on, or are lost on the way."""

    seconds: float = 0.1
    keeps_counts: bool = True


@dataclass(frozen=True, slots=True)
class Reload:
    """The module is removed, and so the file; after so long it is there again, as another
    instance."""

    seconds: float = 0.0


Event = Contention | Starve | Restart | Revision | Offline | Online | Freeze | Migrate | Reload

EVENTS: dict[str, type[Event]] = {
    "contention": Contention,
    "starve": Starve,
    "restart": Restart,
    "revision": Revision,
    "offline": Offline,
    "online": Online,
    "freeze": Freeze,
    "migrate": Migrate,
    "reload": Reload,
}
"""The events, by what a script calls them."""


@dataclass(frozen=True, slots=True)
class Scheduled:
    """An event of a script."""

    at_s: float
    what: str
    event: Event


def parse(text: str) -> tuple[Scheduled, ...]:
    """The events of a script, in the order of their times. Raises ScriptError."""
    try:
        script = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _refused("It is not TOML", str(error)) from error
    tables = script.pop("event", [])
    if script:
        raise _refused(f"There is nothing that is called {next(iter(script))!r}", "use [[event]]")
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise _refused("Its events are no tables", "begin each with [[event]]")
    scheduled = [_scheduled(number, table) for number, table in enumerate(tables, 1)]
    return tuple(sorted(scheduled, key=lambda one: one.at_s))


def _scheduled(number: int, table: Mapping[str, Any]) -> Scheduled:
    what = table.get("what")
    kind = EVENTS.get(what) if isinstance(what, str) else None
    if kind is None or not isinstance(what, str):
        raise _refused(f"Event {number} is {what!r}", f"what is one of {', '.join(EVENTS)}")
    known = {field.name: field for field in fields(kind)}
    given = {key: value for key, value in table.items() if key not in ("at_s", "what")}
    for key in given:
        if key not in known:
            raise _refused(
                f"Event {number} ({what}) has {key!r}",
                f"it can have {', '.join(('at_s', *known))}",
            )
    for name, field in known.items():
        if field.default is MISSING and name not in given:
            raise _refused(f"Event {number} ({what}) has no {name}", "add it")
    try:
        at_s = _number(table.get("at_s"), _LONGEST_S)
        values = {key: _VALUES[key](value) for key, value in given.items()}
    except ValueError as error:
        raise _refused(f"Event {number} ({what}): {error}", "change it") from error
    return Scheduled(at_s, what, kind(**values))


def _number(value: Any, most: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{value!r} is no number")
    if not (math.isfinite(value) and 0 <= value <= most):
        raise ValueError(f"{value} is not from 0 to {most:g}")
    return float(value)


def _word(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MOST_32_BITS:
        raise ValueError(f"{value!r} is no number of 32 bits")
    return value


def _yes_or_no(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{value!r} is neither true nor false")
    return value


def _cpus(value: Any) -> CpuList:
    if not isinstance(value, str):
        raise ValueError(f'{value!r} is no list of CPUs, as in "0,2-5"')
    return CpuList.parse(value)


_VALUES: dict[str, Any] = {
    "percent": lambda value: _number(value, 100),
    "seconds": lambda value: _number(value, _LONGEST_S),
    "revision": _word,
    "attributes": _word,
    "keeps_counts": _yes_or_no,
    "cpus": _cpus,
}


def _refused(why: str, fix: str) -> ScriptError:
    return ScriptError("The script: not understood", why, fix)

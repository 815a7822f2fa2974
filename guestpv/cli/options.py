# SPDX-License-Identifier: MIT
"""Options that several commands have."""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from guestpv.cli import completion
from guestpv.cli.failure import tell_as_json
from guestpv.cpulist import CpuList

MIN_INTERVAL_S = 0.01
MAX_INTERVAL_S = 3600.0


def _cpu_list(text: str) -> CpuList:
    try:
        return CpuList.parse(text)
    except ValueError as error:
        raise typer.BadParameter(f"{error}; a list looks like 0,2-5") from None


def number(what: str, least: float, most: float) -> Callable[[str], float]:
    """A parser for a number of *what*."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not least <= value <= most:  # neither is NaN
            raise typer.BadParameter(f"{text} is no number of {what} from {least:g} to {most:g}")
        return value

    return parse


_UNITS_S = {
    **{"ns": 1e-9, "us": 1e-6, "ms": 1e-3},
    **{"s": 1.0, "": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0},
}


def _seconds(text: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([a-z]*)", text)
    return float(found[1]) * _UNITS_S.get(found[2], math.nan) if found else math.nan


def duration(least: str, most: str) -> Callable[[str], float]:
    """A parser for a time with its unit; seconds where it has none. Returns seconds."""

    def parse(text: str) -> float:
        seconds = _seconds(text)
        if not _seconds(least) <= seconds <= _seconds(most):  # neither is NaN
            raise typer.BadParameter(
                f"{text} is no time from {least} to {most}, as in 60s or 500us"
            )
        return seconds

    return parse


def _cgroup_pattern(pattern: str) -> str:
    parts = Path(pattern).parts
    if not parts or parts[0] == "/" or ".." in parts:
        raise typer.BadParameter(
            f"{pattern!r} is no path below the root of cgroup v2, as in system.slice/*"
        )
    return pattern


SourceOption = Annotated[
    str,
    typer.Option(
        "--source",
        metavar="auto|device|procfs|PATH",
        autocompletion=completion.sources,
        help="Where to read: /dev/guestpv (auto, device), /proc/stat in 10 ms ticks (procfs), "
        "or a page image.",
    ),
]
CountSourceOption = Annotated[
    str,
    typer.Option(
        "--source",
        metavar="auto|device|PATH",
        autocompletion=completion.sources,
        help="Where to read: /dev/guestpv (auto, device), or a page image.",
    ),
]
"""Of those that /proc/stat can't serve."""
JsonOption = Annotated[
    bool,
    typer.Option(
        "--json", help="Write JSON with a stable schema.", is_eager=True, callback=tell_as_json
    ),
]
CpuOption = Annotated[
    CpuList | None,
    typer.Option(
        "--cpu",
        metavar="LIST",
        parser=_cpu_list,
        autocompletion=completion.cpus,
        help="Only these CPUs, as in 0,2-5.",
    ),
]
IntervalOption = Annotated[
    float,
    typer.Option(
        "--interval",
        metavar="SECONDS",
        parser=number("seconds", MIN_INTERVAL_S, MAX_INTERVAL_S),
        help="Time from one look to the next.",
    ),
]
CgroupOption = Annotated[
    list[str] | None,
    typer.Option(
        "--cgroup",
        metavar="PATTERN",
        parser=_cgroup_pattern,
        help="What cgroups lose, as in 'system.slice/*'; may be given again. Needs root.",
    ),
]

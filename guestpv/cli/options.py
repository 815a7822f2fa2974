# SPDX-License-Identifier: MIT
"""Options that several commands have."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from guestpv.cli import completion
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
JsonOption = Annotated[
    bool, typer.Option("--json", help="Write JSON with a stable schema instead of a table.")
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
        help="Time from one figure to the next.",
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

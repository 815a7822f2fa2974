# SPDX-License-Identifier: MIT
"""What a shell completes beside names of commands and options: CPU numbers, and sources."""

from glob import escape, glob
from pathlib import Path

from guestpv.cpulist import POSSIBLE, CpuList

_SOURCES = ("auto", "device", "procfs")


def cpus(incomplete: str) -> list[str]:
    """The next number of a list such as ``0,2-``."""
    try:
        possible = CpuList.parse(Path(POSSIBLE).read_text()).cpus
    except (OSError, ValueError):
        return []
    typed = incomplete.rstrip("0123456789")
    return [typed + cpu for cpu in map(str, possible) if cpu.startswith(incomplete[len(typed) :])]


def sources(incomplete: str) -> list[str]:
    """The names of sources, and the files that may be page images."""
    names = [name for name in _SOURCES if name.startswith(incomplete)]
    return names + [f"{path}/" if Path(path).is_dir() else path for path in _paths(incomplete)]


def _paths(incomplete: str) -> list[str]:
    try:
        return sorted(glob(f"{escape(incomplete)}*")) if incomplete else []
    except ValueError:  # no file has a NUL in its name
        return []

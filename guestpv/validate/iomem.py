# SPDX-License-Identifier: MIT
"""What an address is in the kernel's own map of memory, /proc/iomem."""

import re
from pathlib import Path

IOMEM = Path("/proc/iomem")

_LINE = re.compile(r"(?P<indent> *)(?P<start>[0-9a-f]+)-(?P<end>[0-9a-f]+) : (?P<name>.*)")


def names_of(address: int, text: str) -> list[str]:
    """The resources that the address is in, from the outermost to the innermost.

    *text* is that of /proc/iomem; all but root see zeroes there, in which no address is.
    """
    names: list[str] = []
    for line in text.splitlines():
        match = _LINE.fullmatch(line)
        if match and int(match["start"], 16) <= address <= int(match["end"], 16):
            names = [*names[: len(match["indent"]) // 2], match["name"]]
    return names


def is_reserved_ram(address: int) -> bool:
    """Whether it is in RAM of the guest's that its kernel was told to leave alone."""
    try:
        names = names_of(address, IOMEM.read_text())
    except OSError:
        return False
    return names[:1] == ["System RAM"] and "reserved" in names

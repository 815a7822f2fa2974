# SPDX-License-Identifier: MIT
"""What is stolen from each thread of this machine, as they come and go."""

import os
from contextlib import suppress
from pathlib import Path

from guestpv.latency.counter import Counter, counter
from guestpv.latency.many import Many


class Tasks(Many[int]):
    """All threads of all processes, by their numbers. One that ends before it was ever looked for
    is not seen."""

    most = 4096

    def name(self, tid: int) -> str:
        """What it calls itself, which may be any bytes; empty if it has ended."""
        try:
            comm = Path(f"/proc/{tid}/comm").read_bytes()
            return comm.removesuffix(b"\n").decode(errors="backslashreplace")
        except OSError:
            return ""

    def _there(self) -> set[int]:
        found: set[int] = set()
        for process in filter(str.isdigit, os.listdir("/proc")):
            with suppress(OSError):  # it has ended meanwhile
                found.update(map(int, os.listdir(f"/proc/{process}/task")))
        return found

    def _count(self, one: int) -> Counter:
        return counter(one)

    def _descriptors_each(self) -> int:
        return 2

# SPDX-License-Identifier: MIT
"""Whether the CPU time of this kernel's threads contains what was stolen from them.

It does, unless the kernel was built with CONFIG_PARAVIRT_TIME_ACCOUNTING and was not told
``no-steal-acc`` (update_rq_clock_task() in kernel/sched/core.c).
"""

import gzip
import os
import zlib
from functools import cache
from pathlib import Path

OPTION = b"CONFIG_PARAVIRT_TIME_ACCOUNTING=y\n"
MEMBER = b"\0prev_steal_time_rq\0"
"""struct rq has it with that option alone."""


@cache
def contains_stolen() -> bool | None:
    """Whether it does; None if the kernel does not say how it was built."""
    if "no-steal-acc" in Path("/proc/cmdline").read_text().split():
        return True
    accounting = is_accounting(Path("/"), os.uname().release)
    return None if accounting is None else not accounting


def is_accounting(root: Path, release: str) -> bool | None:
    """Whether the kernel has the option; None if no file below `root` says it."""
    for name, decompress in (
        (f"boot/config-{release}", bytes),
        ("proc/config.gz", gzip.decompress),
    ):
        try:
            config = decompress((root / name).read_bytes())
        except (OSError, EOFError, zlib.error):
            continue
        if b"CONFIG_" in config:
            return OPTION in config
    try:
        return MEMBER in (root / "sys/kernel/btf/vmlinux").read_bytes()
    except OSError:
        return None

# SPDX-License-Identifier: MIT
"""Threads that were bound to one CPU each, and have to end wherever that is possible."""

import os
import threading
from collections.abc import Iterable
from contextlib import suppress


def free(threads: Iterable[threading.Thread]) -> None:
    """Let *threads* run wherever the calling one may.

    A CPU that a real-time task keeps does not let a thread run to its end either, and a process
    with such a thread never ends, not even if it is killed.
    """
    allowed = os.sched_getaffinity(0)
    for thread in threads:
        if thread.native_id is not None and thread.is_alive():
            with suppress(OSError):  # it has just ended
                os.sched_setaffinity(thread.native_id, allowed)

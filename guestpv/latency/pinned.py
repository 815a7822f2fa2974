# SPDX-License-Identifier: MIT
"""A thread on each of some vCPUs, all for the same time."""

import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from guestpv._native import pin
from guestpv.latency.freeing import free

_TURN_S = 0.1
_START_S = 1.0
"""How long to wait for all threads to run before what they do counts as begun."""
_PATIENCE_S = 10
"""How long a thread may be late before it is given up."""


def allowed_cpus(cpus: Iterable[int]) -> set[int]:
    """Those of *cpus* that this process may run on if it wants to, whatever it was started on."""

    def ask() -> set[int]:
        os.sched_setaffinity(0, cpus)
        return os.sched_getaffinity(0)

    with ThreadPoolExecutor(1) as other:  # a thread's affinity is its own
        return other.submit(ask).result()


def run_pinned(
    cpus: Sequence[int],
    seconds: float,
    work: Callable[[int, int], None],
    stop: bytearray,
    progress: Callable[[], None] = lambda: None,
) -> dict[int, str]:
    """Call *work* with each of *cpus* and the nanoseconds that are left, in a thread pinned to it.

    It is to come back once they are over, or *stop* is not 0. *progress* is called a few times a
    second from when all of them are there; what it raises ends them at once, and so does what one
    of them raises. Returns the CPUs that can't be run on, or did not let their thread end, each
    with the reason.
    """
    errors: list[BaseException] = []
    unwatched: dict[int, str] = {}
    until = time.monotonic() + seconds
    running: set[int] = set()

    def run(cpu: int) -> None:
        try:
            try:
                pin(cpu)
            except OSError:
                unwatched[cpu] = "it is offline, or this process may not run on it"
                return
            running.add(cpu)
            left_ns = int(1e9 * (until - time.monotonic()))
            if left_ns > 0:
                work(cpu, left_ns)
            else:
                unwatched[cpu] = "no thread came to run on it before the time was over"
        except BaseException as error:
            errors.append(error)
            stop[0] = 1

    threads = {cpu: threading.Thread(target=run, args=(cpu,), daemon=True) for cpu in cpus}
    late = turns = 0  # of this loop: all clocks may go on while the machine sleeps
    try:
        for thread in threads.values():
            thread.start()
        while alive := {cpu for cpu, thread in threads.items() if thread.is_alive()}:
            turns += 1
            if len(running) == len(threads) or turns * _TURN_S > _START_S:
                progress()
            late += bool(stop[0]) or time.monotonic() > until
            if late * _TURN_S > _PATIENCE_S:
                why = f"it did not let a thread run for {_PATIENCE_S} s: a real-time task keeps it"
                unwatched |= dict.fromkeys(alive, why)
                break
            time.sleep(_TURN_S)
    finally:
        stop[0] = 1
        free(threads.values())
        for thread in threads.values():
            if thread.ident is not None:  # else it was never started
                thread.join(_PATIENCE_S)
    if errors:
        raise errors[0]
    return dict(sorted(unwatched.items()))

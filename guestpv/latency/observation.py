# SPDX-License-Identifier: MIT
"""A pinned thread on each vCPU that does nothing but look at the clock and at the vCPU's count.

Time that passes between two looks was taken from the thread, and whatever the count grew by must
fit into it. So a guest can judge its hypervisor's account without anybody's word on the host.
"""

import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from guestpv._native import pin
from guestpv.cpulist import listed
from guestpv.errors import BusyError
from guestpv.source.mapped import MappedReader

OBSERVATION = np.dtype(
    [
        (name, np.uint64)
        for name in (
            *("cpu", "other", "began_ns", "ended_ns", "looks", "step_ns"),
            *("first_ns", "last_ns", "advances"),
            *("decreases", "decrease_from_ns", "decrease_to_ns"),
            *("leaps", "leap_ns", "leap_within_ns", "torn", "torn_ns"),
            *("unknown", "unknown_word", "absent", "busy", "restarts"),
            *("gaps", "gaps_ns", "gaps_stolen_ns", "longest_ns", "unaccounted_ns"),
            *("quiet_ns", "quiet_excess_ns"),
            *("other_looks", "other_advances", "other_decreases", "waited_ns"),
        )
    ]
)
"""What one thread saw. All figures are numbers of looks, or nanoseconds of CLOCK_MONOTONIC_RAW.

==================  ==============================================================================
``cpu, other``      the vCPU that the thread was pinned to, and the one it looked at now and then
``began, ended``    when
``looks``           how often it saw a count that may be interpreted
``step_ns``         the shortest time from before one look to after the next: the error
``first, last``     the counts at both ends
``advances``        how often the count grew
``decreases``       how often it was lower than before in the same epoch; the first: from, to
``leaps``           how often it grew by more than the time that passed; the worst: by how much
                    more (``leap_ns``) than the ``leap_within_ns`` that passed
``torn``            how often it was soon back from a leap, or on from a decrease; the first of
                    the counts that stood between
``unknown``         looks at a revision or attributes that are not 0; the first of either, as a word
``absent``          looks that found no structure, or its CPU offline; and once more if the thread
                    could not stay on it to the end
``busy``            looks that did not succeed because what was looked at kept changing
``restarts``        new epochs
``gaps``            times between two looks that were *gap_ns* or longer: how many, all together,
                    what the count grew by in them, the longest, and the most of one for which
                    the count did not account
``quiet``           the other times, and what the count grew by in them though nothing was missing:
                    the looks came one after the other as fast as they do
``other_``          looks at the other vCPU's count; how often that grew, or was lower than before
``waited_ns``       how long the thread waited for its vCPU while something else of the guest ran
==================  ==============================================================================
"""

SCHEDSTAT = Path("/proc/thread-self/schedstat")
"""How long a thread waited for a CPU while something else of the guest ran, among others."""

GAP_NS = 10_000
"""From here on, the time between two looks is called a gap."""

_TURN_S = 0.1
_PATIENCE_S = 10
"""How long a thread may be late before it is given up."""

Observations = npt.NDArray[np.void]
"""An array of `OBSERVATION` rows."""


def observe(
    reader: MappedReader,
    cpus: Sequence[int],
    seconds: float,
    progress: Callable[[], None] = lambda: None,
    *,
    gap_ns: int = GAP_NS,
) -> Observations:
    """Keep each of *cpus* busy for so long. Returns an array of `OBSERVATION`, a row for each.

    Each thread also looks at the next vCPU's count. *progress* is called a few times a second while
    all of them are there; what it raises ends the observation at once. Raises what `Reader.read`
    does, and BusyError if a CPU can't be run on.
    """
    stop = bytearray(1)
    errors: list[BaseException] = []
    rows = np.zeros(len(cpus), OBSERVATION)
    until = time.monotonic() + seconds
    pinned: list[int] = []

    def look(row: int, cpu: int, other: int) -> None:
        try:
            _pin(cpu)
            pinned.append(cpu)
            waited_ns = _waited_ns()
            left_ns = int(1e9 * max(0.0, until - time.monotonic()))
            seen = reader.observe(cpu, other, left_ns, gap_ns, stop)
            rows[row] = (*np.frombuffer(seen, np.uint64), _waited_ns() - waited_ns)
            rows["absent"][row] += os.sched_getaffinity(0) != {cpu}
        except BaseException as error:
            errors.append(error)
            stop[0] = 1

    others = [*cpus[1:], *cpus[:1]]
    threads = {
        cpu: threading.Thread(target=look, args=(row, cpu, other), daemon=True)
        for row, (cpu, other) in enumerate(zip(cpus, others, strict=True))
    }
    late = 0  # in turns of this loop: all clocks may go on while the machine sleeps
    try:
        for thread in threads.values():
            thread.start()
        while alive := [cpu for cpu, thread in threads.items() if thread.is_alive()]:
            if len(alive) == len(pinned) == len(threads):
                progress()
            late += time.monotonic() > until
            if late * _TURN_S > _PATIENCE_S:
                raise BusyError(
                    f"cpu{listed(alive)}: not watched",
                    f"It did not let a thread run for {_PATIENCE_S} s: a real-time task keeps it",
                    "stop that, or keep it from this CPU",
                )
            time.sleep(_TURN_S)
    finally:
        stop[0] = 1
        for thread in threads.values():
            if thread.ident is not None:  # else it was never started
                thread.join(_PATIENCE_S)
    if errors:
        raise errors[0]
    return rows


def _pin(cpu: int) -> None:
    """Have this thread, and no other, run on a CPU alone."""
    try:
        pin(cpu)
    except OSError as error:
        raise BusyError(
            f"cpu{cpu}: not watched",
            "It went offline, or this process may no longer run on it",
            "try again",
        ) from error


def _waited_ns() -> int:
    """How long this thread has waited in the guest's own run queue."""
    try:
        return int(SCHEDSTAT.read_text().split()[1])
    except OSError:
        return 0  # CONFIG_SCHED_INFO is not in every kernel

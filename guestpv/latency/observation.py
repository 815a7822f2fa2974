# SPDX-License-Identifier: MIT
"""A pinned thread on each vCPU that does nothing but look at the clock and at the vCPU's count.

Time that passes between two looks was taken from the thread, and whatever the count grew by must
fit into it. So a guest can judge its hypervisor's account without anybody's word on the host.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from guestpv.latency.pinned import run_pinned
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
            *("gaps", "gaps_ns", "gaps_stolen_ns", "longest_ns", "unaccounted_ns", "long_gaps"),
            *("quiet_ns", "quiet_excess_ns", "quick_ns", "quick_advances", "quick_grown_ns"),
            *("late", "late_ns"),
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
                    what the count grew by in them; of those that followed upon each other as one:
                    the longest, the most of one for which the count did not account, and how many
                    were *long_ns* or longer (``long_gaps``)
``quiet``           the other times, and what the count grew by in them though nothing was missing:
                    the looks came one after the other as fast as they do
``quick_``          steps so short that the vCPU can't have been left and entered again: their time,
                    and how often and by how much the count grew in them all the same
``late``            how often the count grew by more than can have been stolen just then, but by no
                    more than what was missing in gaps that it had not accounted for; the longest
                    time from the end of the first of these (``late_ns``)
``other_``          looks at the other vCPU's count; how often that grew, or was lower than before
``waited_ns``       how long the thread waited for its vCPU while something else of the guest ran
==================  ==============================================================================
"""

LONG_GAP = np.dtype(
    [(name, np.uint64) for name in ("cpu", "began_ns", "length_ns", "stolen_ns", "switches")]
)
"""One long gap. What is missing in one piece from a thread that its own guest did not switch out is
what the host took, but for the guest's interrupts.

============  ====================================================================================
``cpu``       the vCPU from whose thread the time is missing
``began_ns``  when, by CLOCK_MONOTONIC_RAW
``length_ns`` how much
``stolen_ns`` what the count grew by meanwhile
``switches``  how often the thread was switched out (ru_nvcsw and ru_nivcsw of getrusage(2)) since
              the last gap of a tenth of *long_ns* or more
============  ====================================================================================
"""

SCHEDSTAT = Path("/proc/thread-self/schedstat")
"""How long a thread waited for a CPU while something else of the guest ran, among others."""

GAP_NS = 10_000
"""From here on, the time between two looks is called a gap."""

LONG_NS = 1_000_000
"""From here on, a gap is logged by itself."""

LOG_SIZE = 4096
"""How many gaps of a vCPU are logged. If there are more, it is a random choice of all of them."""

Observations = npt.NDArray[np.void]
"""An array of `OBSERVATION` rows."""

LongGaps = npt.NDArray[np.void]
"""An array of `LONG_GAP` rows."""


@dataclass(frozen=True, slots=True)
class Observed:
    """What all threads saw."""

    rows: Observations
    """A row for each CPU that was watched to the end."""
    long_gaps: LongGaps
    """Theirs, in order of CPU and time."""
    unwatched: dict[int, str]
    """The CPUs that were not, each with the reason."""


def observe(
    reader: MappedReader,
    cpus: Sequence[int],
    seconds: float,
    progress: Callable[[], None] = lambda: None,
    *,
    gap_ns: int = GAP_NS,
    long_ns: int = LONG_NS,
) -> Observed:
    """Keep each of *cpus* busy for so long, and watch each from itself.

    Each thread also looks at the next vCPU's count. *progress* is called a few times a second from
    when all of them are there; what it raises ends the observation at once. Raises what
    `Reader.read` does. A CPU that can't be run on is left out, and said.
    """
    stop = bytearray(1)
    seen: dict[int, tuple[Observations, LongGaps]] = {}
    others = dict(zip(cpus, [*cpus[1:], *cpus[:1]], strict=True))

    def watch(cpu: int, left_ns: int) -> None:
        seen[cpu] = _observe(reader, cpu, others[cpu], left_ns, gap_ns, long_ns, stop)

    unwatched = run_pinned(cpus, seconds, watch, stop, progress)
    watched = [seen[cpu] for cpu in cpus if cpu in seen and cpu not in unwatched]
    return Observed(
        np.concatenate([np.zeros(0, OBSERVATION), *(row for row, _ in watched)]),
        np.concatenate([np.zeros(0, LONG_GAP), *(gaps for _, gaps in watched)]),
        unwatched,
    )


def _observe(
    reader: MappedReader,
    cpu: int,
    other: int,
    duration_ns: int,
    gap_ns: int,
    long_ns: int,
    stop: bytearray,
) -> tuple[Observations, LongGaps]:
    """What the calling thread, which runs on *cpu*, sees."""
    log = np.zeros(LOG_SIZE, LONG_GAP)
    waited_ns = _waited_ns()
    sums = reader.observe(cpu, other, duration_ns, gap_ns, long_ns, stop, log)
    row = np.zeros(1, OBSERVATION)
    row[0] = (*np.frombuffer(sums, np.uint64), _waited_ns() - waited_ns)
    row["absent"] += os.sched_getaffinity(0) != {cpu}
    gaps = log[: int(row["long_gaps"][0])]
    return row, gaps[np.argsort(gaps["began_ns"])]


def _waited_ns() -> int:
    """How long this thread has waited in the guest's own run queue."""
    try:
        return int(SCHEDSTAT.read_text().split()[1])
    except OSError:
        return 0  # CONFIG_SCHED_INFO is not in every kernel

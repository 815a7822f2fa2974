# SPDX-License-Identifier: MIT
"""A pinned thread on each vCPU that finds the gaps in its own time, and whose each was.

It reads the architected counter without a pause. What is missing between two looks was stolen by
the hypervisor, by the vCPU's count; or the thread waited in the guest's own run queue; or it was
neither, as with interrupts, and with exits to a host that does not count them.
"""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from guestpv._native import counter
from guestpv._native import jitter as jitter_without_counts
from guestpv.errors import PermissionDeniedError
from guestpv.latency import throttling
from guestpv.latency.bounds import Bounds
from guestpv.latency.pinned import run_pinned
from guestpv.source.mapped import MappedReader

NOISE = np.dtype(
    [
        (name, np.uint64)
        for name in (
            *("cpu", "began_ns", "ended_ns", "looks", "shortest_ns", "measuring_ns"),
            *("gaps", "gaps_ns", "longest_ns", "stolen_least_ns", "stolen_most_ns"),
            *("queue_least_ns", "queue_most_ns", "other_least_ns", "other_most_ns"),
            *("voluntary", "involuntary", "unknown", "restarts", "late", "late_ns"),
            *("short_stolen_ns", "left_ns"),
        )
    ]
)
"""What one thread found, in numbers of times and nanoseconds; times are of CLOCK_MONOTONIC.

===================  ==============================================================================
``cpu``              the vCPU that the thread was pinned to
``began, ended``     when
``looks``            how often it read the counter; the shortest time from one to the next
``measuring_ns``     what it needed to find out about gaps
``gaps``             times between two looks that were as long as the threshold or longer: how many,
                     all together, the longest. Those that follow upon each other are one
``stolen_``          how much of them the hypervisor took: at least, at most
``queue_``           how much the thread only waited, while the vCPU ran something else of the guest
``other_``           the rest: the guest's interrupts, and exits that the host does not count
``voluntary``        how often the thread gave its vCPU up in gaps (ru_nvcsw)
``involuntary``      how often it was taken from it by the guest's scheduler (ru_nivcsw)
``unknown``          gaps of which it is not known what was stolen: the count began anew or fell,
                     there was none, or it grew by more than can be
``restarts``         how often the count began anew, or fell
``late``             how often the count grew by more than the time in which it did: it tells of
                     what was stolen before. By how much, all together
``short_stolen_ns``  what the count grew by in times that are shorter than the threshold
``left_ns``          when the thread found itself on another CPU, since its own went offline, or
                     somebody moved it; 0 if it did not. It ended then
===================  ==============================================================================
"""

GAP = np.dtype(
    [
        (name, np.uint64)
        for name in (
            *("cpu", "number", "began_ns", "length_ns", "stolen_least_ns", "stolen_most_ns"),
            *("waited_least_ns", "waited_most_ns", "queue_least_ns", "queue_most_ns"),
            *("other_least_ns", "other_most_ns", "voluntary", "involuntary"),
        )
    ]
)
"""One gap, in the words of `NOISE`; ``number`` is which of its thread's, and ``waited`` how long
the thread was in the run queue, be the vCPU stolen meanwhile or not. A row of zeros is none."""

LINEAR_BITS = 5
BUCKETS = (65 - LINEAR_BITS) << LINEAR_BITS
"""Of the histogram: each power of two is divided into 32, so that a length is known to 3 %."""

THRESHOLD_NS = 5_000
"""From here on, the time between two looks is called a gap, as osnoise has it."""

WORST = 32
"""How many gaps of a vCPU are kept as they were: the longest."""

PERCENTILES = (50, 90, 99, 99.9)
"""Of the gaps' lengths, which are shown."""

_TRIAL_NS = 2_000_000
_NEVER = 1 << 63

Gaps = npt.NDArray[np.void]
"""An array of `GAP` rows."""

Histogram = npt.NDArray[np.uint64]
"""How many gaps there were, for each of `BUCKETS` lengths."""


def bucket_edges() -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """The least and the greatest length in nanoseconds that is in each bucket of a histogram."""
    number = np.arange(BUCKETS, dtype=np.uint64)
    bits, one = np.uint64(LINEAR_BITS), np.uint64(1)
    shift = np.maximum(number >> bits, one) - one
    least = (number - (shift << bits)) << shift
    return least, least + ((one << shift) - one)


@dataclass(frozen=True, slots=True)
class Counter:
    """The clock by which gaps are found."""

    hz: int
    step_ticks: int
    """By how many ticks it goes on at once."""

    @classmethod
    def here(cls) -> Self:
        return cls(*counter())

    @property
    def step_ns(self) -> float:
        return self.step_ticks * 1e9 / self.hz

    def whole_steps(self, ns: float) -> int:
        """The ticks of as many steps as take that long or a little longer."""
        # What a division leaves behind must not be a step more.
        return math.ceil(ns / self.step_ns - 1e-6) * self.step_ticks

    def ns(self, ticks: int) -> float:
        return ticks * 1e9 / self.hz


@dataclass(frozen=True, slots=True)
class Gap:
    """One gap: when it began by CLOCK_MONOTONIC, how long it was, and whose."""

    cpu: int
    began_ns: int
    length_ns: int
    stolen: Bounds | None
    """None where there is no count."""
    queue: Bounds
    other: Bounds
    voluntary: int
    involuntary: int


@dataclass(frozen=True, slots=True)
class VcpuNoise:
    """What the thread on one vCPU found; the fields are those of `NOISE`."""

    cpu: int
    wall_ns: int
    noise_ns: int
    """All gaps together."""
    longest_ns: int
    gaps: int
    stolen: Bounds | None
    """None where there is no count."""
    queue: Bounds
    other: Bounds
    looks: int
    shortest_ns: int
    measuring_ns: int
    voluntary: int
    involuntary: int
    unknown: int
    restarts: int
    late: int
    late_ns: int
    short_stolen_ns: int
    left_ns: int | None
    histogram: Histogram
    worst: tuple[Gap, ...]
    """The longest, the longest first."""

    @property
    def noise_percent(self) -> float:
        return 100 * self.noise_ns / self.wall_ns if self.wall_ns else 0.0

    def percentile_ns(self, percent: float) -> int | None:
        """So many percent of the gaps are no longer; None if there were none."""
        return percentile_ns(self.histogram, percent, self.longest_ns)


def percentile_ns(histogram: Histogram, percent: float, longest_ns: int) -> int | None:
    """The greatest length in the bucket of the gap of that rank, which is at most 1/32 more than
    it, and no more than the longest."""
    counts = np.cumsum(histogram, dtype=np.uint64)
    if not counts[-1]:
        return None
    rank = max(1, math.ceil(int(counts[-1]) * percent / 100 - 1e-9))
    _, most = bucket_edges()
    return min(int(most[np.searchsorted(counts, np.uint64(rank))]), longest_ns)


class Jitter:
    """Threads that look for gaps, each on a vCPU of its own.

    What they found can be asked for while `run` lasts: it grows meanwhile, and its figures need not
    be of one moment then.
    """

    def __init__(
        self,
        reader: MappedReader | None,
        cpus: Sequence[int],
        *,
        threshold: int,
        until_gap_ns: int = 0,
        priority: int = 0,
    ) -> None:
        """Of *cpus*, which are CPUs of *reader*; without one it is not known what is stolen.

        Args:
            threshold: from how many ticks of the counter on it is a gap.
            until_gap_ns: a gap as long as this ends all; 0 if none does.
            priority: of SCHED_FIFO; 0 to be scheduled as others are.
        """
        self.cpus = cpus
        self._reader = reader
        self._threshold = threshold
        self._until_gap_ns = until_gap_ns
        self._priority = priority
        self._stop = bytearray(1)
        self._noise = np.zeros(len(cpus), NOISE)
        self._histograms = np.zeros((len(cpus), BUCKETS), np.uint64)
        self._worst = np.zeros((len(cpus), WORST), GAP)
        self.left_out: dict[int, str] = {}
        """The vCPUs of which nothing can be said, each with the reason; known in the end."""

    def run(self, seconds: float, progress: Callable[[], None] = lambda: None) -> None:
        """Look for so long, or until the first gap of that length, or `stop`.

        *progress* is called a few times a second; what it raises ends all at once. The calling
        thread keeps off the vCPUs meanwhile, if there are others for it. Raises what `Reader.read`
        does, and PermissionDeniedError or Error if the priority is not to be had.
        """
        if self._priority:
            throttling.check(self.cpus)
        rows = {cpu: row for row, cpu in enumerate(self.cpus)}

        def look(cpu: int, left_ns: int) -> None:
            if self._priority:
                _set_priority(self._priority)
            self._look(rows[cpu], cpu, left_ns)

        allowed = os.sched_getaffinity(0)
        os.sched_setaffinity(0, allowed.difference(self.cpus) or allowed)
        try:
            self.left_out = run_pinned(self.cpus, seconds, look, self._stop, progress)
        finally:
            os.sched_setaffinity(0, allowed)

    def stop(self) -> None:
        """Have `run` come back soon."""
        self._stop[0] = 1

    def vcpus(self) -> tuple[VcpuNoise, ...]:
        """What was found so far, of each that is not left out."""
        return tuple(
            self._vcpu(row)
            for row, cpu in enumerate(self.cpus)
            if cpu not in self.left_out and self._noise["began_ns"][row]
        )

    def outlier(self) -> Gap | None:
        """The first gap that was so long as to end it."""
        gaps = [
            gap
            for vcpu in self.vcpus()
            for gap in vcpu.worst
            if 0 < self._until_gap_ns <= gap.length_ns
        ]
        return min(gaps, key=lambda gap: gap.began_ns + gap.length_ns, default=None)

    def shortest_look_ns(self) -> int:
        """How long a look takes on the CPU that this thread runs on."""
        row, histogram = np.zeros(1, NOISE), np.zeros(BUCKETS, np.uint64)
        loop = self._reader.jitter if self._reader else jitter_without_counts
        loop(
            *(self.cpus[0], _TRIAL_NS, _NEVER, 0, bytearray(1)),
            *(row, histogram, np.zeros(0, GAP)),
        )
        return int(row["shortest_ns"][0])

    def _look(self, row: int, cpu: int, left_ns: int) -> None:
        loop = self._reader.jitter if self._reader else jitter_without_counts
        loop(
            *(cpu, left_ns, self._threshold, self._until_gap_ns, self._stop),
            *(self._noise[row : row + 1], self._histograms[row], self._worst[row]),
        )

    def _vcpu(self, row: int) -> VcpuNoise:
        noise = {name: int(self._noise[name][row]) for name in NOISE.names or ()}
        same = (
            *("cpu", "longest_ns", "gaps", "looks", "shortest_ns", "measuring_ns"),
            *("voluntary", "involuntary", "unknown", "restarts", "late", "late_ns"),
            "short_stolen_ns",
        )
        return VcpuNoise(
            **{name: noise[name] for name in same},
            wall_ns=max(0, noise["ended_ns"] - noise["began_ns"]),
            noise_ns=noise["gaps_ns"],
            stolen=_part(noise, "stolen") if self._reader else None,
            queue=_part(noise, "queue"),
            other=_part(noise, "other"),
            left_ns=noise["left_ns"] or None,
            histogram=self._histograms[row].copy(),
            worst=tuple(self._gap(gap) for gap in self._worst[row] if gap["length_ns"]),
        )

    def _gap(self, row: np.void) -> Gap:
        gap = {name: int(row[name]) for name in GAP.names or ()}
        return Gap(
            cpu=gap["cpu"],
            began_ns=gap["began_ns"],
            length_ns=gap["length_ns"],
            stolen=_part(gap, "stolen") if self._reader else None,
            queue=_part(gap, "queue"),
            other=_part(gap, "other"),
            voluntary=gap["voluntary"],
            involuntary=gap["involuntary"],
        )


def _part(row: dict[str, int], part: str) -> Bounds:
    return Bounds(row[f"{part}_least_ns"], row[f"{part}_most_ns"])


def _set_priority(priority: int) -> None:
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))
    except PermissionError:
        raise PermissionDeniedError(
            f"SCHED_FIFO with priority {priority}: not permitted",
            "It takes CAP_SYS_NICE, or a limit RLIMIT_RTPRIO as high, and in a cgroup with a"
            " share of real-time (cpu.rt_runtime_us) some of that",
            f"run it as root, or raise the limit ('ulimit -r {priority}'), or leave --priority out",
        ) from None

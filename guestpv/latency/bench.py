# SPDX-License-Identifier: MIT
"""What reading a count costs, and how the counts behave while a thread on each vCPU watches."""

import time
import timeit
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import psutil
from pytest_benchmark.stats import Stats

from guestpv.latency.observation import (
    GAP_NS,
    LONG_NS,
    LongGaps,
    Observations,
    Observed,
    observe,
)
from guestpv.source.mapped import MappedReader
from guestpv.source.procstat import Accounts, accounts, no_accounts

ROUNDS = 5
"""As which the time is divided: what differs from one to the next is not steady."""

_TIMINGS = 100
_TIMING_S = 0.0005
_STEADY = 0.1
_STEADY_PERCENT = 2.0


@dataclass(frozen=True, slots=True)
class Cost:
    """Nanoseconds of one call: the median of many timings, and their quartiles."""

    median_ns: float
    q1_ns: float
    q3_ns: float

    @property
    def steady(self) -> bool:
        """Whether the middle half of the timings is no further apart than a tenth of the median."""
        return self.q3_ns - self.q1_ns <= _STEADY * self.median_ns


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What the count of one vCPU did, all in nanoseconds but for numbers of times.

    =====================  =======================================================================
    ``cpu``                the vCPU
    ``wall_ns``            for how long it was watched
    ``stolen_ns``          what the count grew by meanwhile
    ``round_percent``      how much that is of each round
    ``moves``              how often it grew
    ``step_ns, worst_ns``  by how much in a gap of 10 us or longer: the median, and the most; None
                           if there was no such gap
    ``missing_ns``         what was missing from the thread in gaps of 1 ms or longer, if its own
                           guest did not switch it out meanwhile: shorter ones are interrupts and
                           exits of the guest, too. A random choice where there are thousands
    ``counted_ns``         what the count grew by in these
    ``late, late_ns``      how often something was told only after the vCPU was back, and how long
                           at worst; 0 where each gap was in the first count that was read after it
    ``explained_percent``  how much of the time the vCPU ran or was idle, by /proc/stat, or was
                           stolen from, by its count; None if /proc/stat says nothing, as of a page
                           image. More than 100 where a kernel takes stolen time for its own, less
                           where it counts ticks, and misses those for which the vCPU was away
    ``waited_ns``          how long the thread waited for the vCPU, which ran something else
    =====================  =======================================================================
    """

    cpu: int
    wall_ns: int
    stolen_ns: int
    round_percent: tuple[float, ...]
    moves: int
    step_ns: int | None
    worst_ns: int | None
    missing_ns: int
    counted_ns: int
    late: int
    late_ns: int
    explained_percent: float | None
    waited_ns: int


@dataclass(frozen=True, slots=True)
class Behaviours:
    """What all of them did."""

    vcpus: tuple[Behaviour, ...]
    left_out: dict[int, str]
    """The vCPUs of which nothing can be said, each with the reason."""
    rounds: int = ROUNDS
    """Fewer if it was interrupted: what is said is of these."""


def digits(ns: float) -> str:
    """Those that count, and no exponent."""
    return f"{ns:.0f}" if ns >= 1000 else f"{ns:.4g}"


def costs(reader: MappedReader, cpu: int) -> dict[str, Cost]:
    """What one call costs, beside what it replaces. Takes about a second.

    Raises as `Reader.read` does if the count of *cpu* can't be read.
    """
    reader.read(cpu)
    calls: dict[str, tuple[str, dict[str, Any]]] = {
        "stolen_ns(cpu)": ("reader.stolen_ns(cpu)", {"reader": reader, "cpu": cpu}),
        "read(cpu)": ("reader.read(cpu)", {"reader": reader, "cpu": cpu}),
        f"snapshot of {len(reader.cpus)}": ("reader.snapshot()", {"reader": reader}),
        "time.monotonic_ns": ("monotonic_ns()", {"monotonic_ns": time.monotonic_ns}),
        "/proc/stat, split": ("read_stat()", {"read_stat": _read_stat}),
        "psutil.cpu_times": ("cpu_times(percpu=True)", {"cpu_times": psutil.cpu_times}),
    }
    return {name: _cost(statement, names) for name, (statement, names) in calls.items()}


def _read_stat() -> list[list[bytes]]:
    return [line.split() for line in Path("/proc/stat").read_bytes().splitlines()]


def _cost(statement: str, names: dict[str, Any]) -> Cost:
    timer = timeit.Timer(statement, globals=names)
    calls = 1
    while timer.timeit(calls) < _TIMING_S:
        calls *= 2
    stats = Stats()  # type: ignore[no-untyped-call]
    for seconds in timer.repeat(_TIMINGS, calls):
        stats.update(1e9 * seconds / calls)  # type: ignore[no-untyped-call]
    return Cost(stats.median, stats.q1, stats.q3)


def behaviours(
    reader: MappedReader,
    cpus: Sequence[int],
    seconds: float,
    progress: Callable[[], None] = lambda: None,
) -> Behaviours:
    """Keep each of *cpus* busy for so long, and see what its count does.

    *progress* is called a few times a second. Raises as `observe` does; a KeyboardInterrupt ends
    it with the rounds that are complete, if there are any.
    """
    begin = end = _Instant.now(reader, cpus)
    rounds: list[Observed] = []
    try:
        for _ in range(ROUNDS):
            observed = observe(reader, cpus, seconds / ROUNDS, progress, long_ns=GAP_NS)
            end = _Instant.now(reader, cpus)
            rounds.append(observed)
    except KeyboardInterrupt:
        if not rounds:
            raise

    left_out = {cpu: why for each in rounds for cpu, why in each.unwatched.items()}
    rows = np.concatenate([each.rows for each in rounds])
    gaps = np.concatenate([each.long_gaps for each in rounds])
    vcpus = []
    for at, cpu in enumerate(cpus):
        own = rows[rows["cpu"] == cpu]
        if cpu not in left_out and (why := _useless(own)):
            left_out[cpu] = why
        if cpu not in left_out:
            explained_percent = end.explained_percent(begin, at)
            vcpus.append(_behaviour(own, gaps[gaps["cpu"] == cpu], explained_percent))
    return Behaviours(tuple(vcpus), dict(sorted(left_out.items())), len(rounds))


@dataclass(frozen=True, slots=True)
class _Instant:
    """A clock, and both accounts of each CPU at about that time."""

    monotonic_ns: int
    stolen_ns: list[int]
    accounts: Accounts

    @classmethod
    def now(cls, reader: MappedReader, cpus: Sequence[int]) -> Self:
        rows = reader.snapshot()
        stolen_ns = rows["stolen_ns"][np.searchsorted(rows["cpu"], cpus)].tolist()
        of_here = reader.source.kind == "device"  # and /proc/stat is of this machine
        return cls(time.monotonic_ns(), stolen_ns, (accounts if of_here else no_accounts)(cpus))

    def explained_percent(self, begin: "_Instant", at: int) -> float | None:
        before, after = begin.accounts[at], self.accounts[at]
        if not (before["run_known"] and after["run_known"]):
            return None
        explained_ns = self.stolen_ns[at] - begin.stolen_ns[at]
        explained_ns += sum(int(after[name] - before[name]) for name in ("run_ns", "idle_ns"))
        return 100 * explained_ns / (self.monotonic_ns - begin.monotonic_ns)


def _useless(rows: Observations) -> str | None:
    """Why nothing can be said of a vCPU of which this was seen; None if something can."""
    if rows["absent"].any():
        return "it went offline, or its structure did"
    if rows["unknown"].any():
        return "its revision or attributes are not 0, so its count may mean anything"
    if rows["restarts"].any():
        return "its count started again meanwhile"
    if rows["decreases"].any():
        return "its count fell: 'guestpv validate' says more"
    return None


def _behaviour(rows: Observations, gaps: LongGaps, explained_percent: float | None) -> Behaviour:
    walls_ns, grown_ns = rows["ended_ns"] - rows["began_ns"], rows["last_ns"] - rows["first_ns"]
    steps_ns = gaps["stolen_ns"][gaps["stolen_ns"] > 0]
    own = gaps[(gaps["switches"] == 0) & (gaps["length_ns"] >= LONG_NS)]
    return Behaviour(
        cpu=int(rows["cpu"][0]),
        wall_ns=int(walls_ns.sum()),
        stolen_ns=int(grown_ns.sum()),
        round_percent=tuple((100 * grown_ns / walls_ns).tolist()),
        moves=int(rows["advances"].sum()),
        step_ns=int(np.median(steps_ns)) if len(steps_ns) else None,
        worst_ns=int(steps_ns.max()) if len(steps_ns) else None,
        missing_ns=int(own["length_ns"].sum()),
        counted_ns=int(own["stolen_ns"].sum()),
        late=int(rows["late"].sum()),
        late_ns=int(rows["late_ns"].max()),
        explained_percent=explained_percent,
        waited_ns=int(rows["waited_ns"].sum()),
    )


def unsteady(costs: Mapping[str, Cost], behaviours: Behaviours) -> list[str]:
    """Why figures of this run should not be quoted; empty if they may be."""
    reasons = [
        f"{name}: the middle half of its timings goes from {digits(cost.q1_ns)} to"
        f" {digits(cost.q3_ns)} ns"
        for name, cost in costs.items()
        if not cost.steady
    ]
    for vcpu in behaviours.vcpus:
        low, high = min(vcpu.round_percent), max(vcpu.round_percent)
        if high - low > max(_STEADY_PERCENT, _STEADY * high):
            reasons.append(
                f"cpu{vcpu.cpu}: {low:.1f} to {high:.1f} % was stolen from one round to the next"
            )
        if vcpu.waited_ns > _STEADY * vcpu.wall_ns:
            reasons.append(
                f"cpu{vcpu.cpu}: something else of this guest ran on it for"
                f" {100 * vcpu.waited_ns / vcpu.wall_ns:.0f} % of the time"
            )
    return reasons

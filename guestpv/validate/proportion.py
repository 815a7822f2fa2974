# SPDX-License-Identifier: MIT
"""How a count grows with the time that is missing: slope, and what does not lie on the line.

What is missing in one piece from a busy thread that its own guest did not switch out was taken by
the host, and the count should have grown by that much. In truth there is something beside it:

- a constant, for the world switches and the host's interrupts, which nobody counts;
- now and then, what a host lost itself, because it is virtual, too: that it can't know of.

Both make a gap longer than what is counted of it, and neither depends on how much that is: through
what is missing and what is counted there is a line (line.py), and the second lies beside it.

A gap that is not counted at all may be a slice of time that the host took and did not report, or a
loss of its own. Lengths don't tell the two apart: the host's host may give slices like its own. But
a loss comes at any moment. First, also when the host is about to take a slice, and then the gap is
longer than its count by the loss: where gaps go uncounted and hardly any other has one of the kind
in it, they are no losses. Second, it cuts in two what the vCPU would have run for; a slice comes
after a run and before another.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from guestpv.latency.observation import LongGaps
from guestpv.validate.line import CONFIDENCE, ENOUGH, Floats, Line, through, usual_ns

PAUSE_NS = 1_000_000_000
"""What is missing for so long is a VM that was paused."""

_COUNTED = 0.1
"""Part of what the line promises from which on a gap was counted at all."""
_BESIDE_NS = 1_500_000
"""How much longer than the line says a gap must be to have something else in it."""
_MOST_OF_IT = 0.5
"""One honest host lost 4 ms itself at each tick, and took half of one, or nothing, beside it: what
is as long as the counted gaps is then no slice that was not counted."""
_ALIKE = 1.25
"""By how much an uncounted gap may be outside of what most of the counted are, and be like them."""
_NEAR_NS = 500_000_000
"""How far around a gap the host is taken to do what it does when that comes."""
_SAME_NS = 1_000
_CAP_NS = 100 * _SAME_NS
"""What a gap is counted as at least where many are counted as the same, to the percent: some
microseconds come with whatever a host loses itself."""
_SUSPECT = 5
"""Uncounted gaps like the counted that call for more of both."""
_WHOLE_RUN = 0.75
"""Of what a vCPU usually runs for at least before and after a slice: a whole run, and no half."""
_UNIT = 1.7
"""A tenth of what is counted of gaps is no more than so much above the half, if hardly anything is
and that is by a unit: no gap is counted as more. What comes with a host's own losses, some are."""
_NEARLY_ALL = 0.8
_AS_OFTEN = 2
"""A host's own losses are no more than a quarter of the slices until these end, then, and do not
come as often as half of those from there on."""
_APART_NS = 1e9
"""There is at least a gap in such a time, or the guest was not watched."""
_TINY_NS = 100
"""Nobody takes a vCPU's time in pieces as short as this."""


@dataclass(frozen=True, slots=True)
class Proportion:
    """What the long gaps of one vCPU, or of all, say together."""

    gaps: int
    """Long gaps that the guest has no part in, as far as it can tell."""
    switched: int
    """Long gaps that are not judged: something else of the guest ran in them."""
    line: Line | None
    """None if there are too few gaps, or if the count does not depend on them."""
    uncounted: int
    """Gaps that were not counted at all."""
    beside: int
    """Gaps that were counted, but are longer than the line says: a host that lost time itself."""
    alike: int
    """Uncounted gaps that are about as long as the middle eighty percent of the counted."""
    joined: int
    """Counted gaps that are longer than the line says by about as much as those."""
    joined_expected: float
    """As many there would be at least if those were the host's own losses: they come any time."""
    in_place: int
    """Those of *alike* before and after which the vCPU ran for about as long as between slices."""
    in_place_by_chance: float
    """What part of them would be so, if they were the host's own losses."""
    stopped: int
    """Gaps like the counted after the last that was, on vCPUs where until then nearly all of them
    were, if there are many and they come as often as before."""
    tiny: int
    """Gaps of which some nanoseconds were counted."""
    shares: tuple[float, float]
    """What is counted of the longer half of the counted gaps: of half of these so much or more, and
    of a tenth. No host counts more than there is, and some gap has nothing else in it."""
    cap_ns: int
    """What very many gaps were counted as, however long they were; 0 if there is no such thing."""

    @property
    def muddled(self) -> bool:
        """Whether so many gaps have something else in them that a host loses time itself."""
        counted = self.gaps - self.uncounted
        return self.beside > max(3, counted // 10)

    @property
    def tells_too_little(self) -> bool:
        """Whether more of them would tell more: of what is hidden of each, or of lost slices."""
        return self.line is not None and (not self.line.sharp or self.alike >= _SUSPECT)


@dataclass(frozen=True, slots=True)
class Proportions:
    """What long gaps say."""

    gaps: LongGaps
    whole: Proportion
    """Of all vCPUs together."""
    each: dict[int, Proportion]
    """By CPU."""


def proportions(gaps: LongGaps, cpus: Sequence[int]) -> Proportions:
    """Of the long gaps of *cpus*, of which some may have none."""
    # Each of many may be off by chance, so each has to be surer of itself.
    confidence = 1 - (1 - CONFIDENCE) / len(cpus)
    each = {cpu: proportion(gaps[gaps["cpu"] == cpu], confidence) for cpu in cpus}
    return Proportions(gaps, proportion(gaps), each)


def proportion(gaps: LongGaps, confidence: float = CONFIDENCE) -> Proportion:
    """Of long gaps, as `observe` logs them."""
    switched = gaps["switches"] > 0
    judged = gaps[~switched & (gaps["length_ns"] < PAUSE_NS)]
    length_ns = judged["length_ns"].astype(np.float64)
    stolen_ns = judged["stolen_ns"].astype(np.float64)
    counted = stolen_ns > _COUNTED * length_ns
    by_unit = True
    if counted.sum() < max(ENOUGH, len(judged) // 5):  # or hardly anything is counted of any
        counted = stolen_ns > 0
        by_unit = _by_unit(length_ns[counted], stolen_ns[counted])
    line = None
    if by_unit:
        line = through(judged["cpu"][counted], length_ns[counted], stolen_ns[counted], confidence)
    factor = line.factor if line else 1.0
    uncounted = stolen_ns < _COUNTED * factor * length_ns
    expected_ns = stolen_ns / factor + (line.constant_ns if line else 0)
    beside = ~uncounted & (length_ns > expected_ns + _BESIDE_NS)
    usual_ns = _taken_ns(length_ns[~uncounted & ~beside], stolen_ns[~uncounted & ~beside] / factor)
    alike = uncounted & (usual_ns[0] / _ALIKE < length_ns) & (length_ns < usual_ns[1] * _ALIKE)
    longer = length_ns > usual_ns[0] / _ALIKE  # what is shorter is a part of a run
    in_place, by_chance = _in_place(judged[longer], alike[longer], ~uncounted[longer])
    return Proportion(
        gaps=len(judged),
        switched=int(switched.sum()),
        line=line,
        uncounted=int(uncounted.sum()),
        beside=int(beside.sum()),
        alike=int(alike.sum()),
        joined=int((~uncounted & (length_ns > expected_ns + usual_ns[0] / 2)).sum()),
        joined_expected=_expected(gaps, judged[alike], judged[~uncounted]),
        in_place=in_place,
        in_place_by_chance=by_chance,
        stopped=_stopped(judged, alike, ~uncounted),
        tiny=int(((stolen_ns > 0) & (stolen_ns < _TINY_NS)).sum()),
        shares=_shares(length_ns[~uncounted], stolen_ns[~uncounted]),
        cap_ns=_cap_ns(length_ns, stolen_ns),
    )


def _by_unit(length_ns: Floats, stolen_ns: Floats) -> bool:
    """Whether about the same part is counted of those gaps of which most is."""
    if not len(stolen_ns):
        return True
    half, tenth = np.quantile(stolen_ns / length_ns, [0.5, 0.9])
    return bool(tenth < _UNIT * half)


def _taken_ns(length_ns: Floats, stolen_ns: Floats) -> tuple[float, float]:
    """How long what the host takes usually is; nothing, if most of the gaps is its own losses."""
    if len(length_ns) and np.median(stolen_ns / length_ns) < _MOST_OF_IT:
        return 0.0, 0.0
    return usual_ns(length_ns)


def _in_place(
    gaps: LongGaps, alike: npt.NDArray[np.bool_], counted: npt.NDArray[np.bool_]
) -> tuple[int, float]:
    """How many of *alike* have a whole run before and after them; what part would by chance."""
    shorter_ns, between_ns = np.zeros(len(gaps)), [np.zeros(0)]
    for cpu in np.unique(gaps["cpu"]):
        (own,) = np.nonzero(gaps["cpu"] == cpu)
        runs_ns = _runs_ns(gaps[own])
        shorter_ns[own[1:-1]] = np.minimum(runs_ns[:-1], runs_ns[1:])
        between_ns.append(_runs_ns(gaps[own[counted[own]]], gaps[own[~counted[own]]]))
    if not counted.any():
        return 0, 1.0
    whole_ns = _WHOLE_RUN * float(np.median(shorter_ns[counted]))
    # A loss that comes at any moment has both if it is so far from either end of a run.
    all_ns = np.concatenate(between_ns)
    chance = np.maximum(all_ns - 2 * whole_ns, 0).sum() / max(all_ns.sum(), 1.0)
    return int((alike & (shorter_ns > whole_ns)).sum()), float(chance)


def _runs_ns(gaps: LongGaps, within: LongGaps | None = None) -> Floats:
    """For how long a vCPU ran between its *gaps*, without the gaps that lie *within*."""
    began_ns = gaps["began_ns"].astype(np.float64)
    runs_ns = began_ns[1:] - (began_ns + gaps["length_ns"])[:-1]
    if within is not None and len(runs_ns):
        at = np.searchsorted(gaps["began_ns"], within["began_ns"]) - 1
        inside = (at >= 0) & (at < len(runs_ns))
        np.subtract.at(runs_ns, at[inside], within["length_ns"][inside].astype(np.float64))
    runs: Floats = np.maximum(runs_ns, 0.0)
    return runs


def _stopped(gaps: LongGaps, alike: npt.NDArray[np.bool_], counted: npt.NDArray[np.bool_]) -> int:
    stopped = 0
    for cpu in np.unique(gaps["cpu"]):
        own = gaps["cpu"] == cpu
        began_ns = gaps["began_ns"][own & (alike | counted)].astype(np.float64)
        times_ns = gaps["began_ns"][own & counted].astype(np.float64)
        if len(times_ns) < ENOUGH:
            continue
        until_ns, after_ns = np.split(np.sort(began_ns), [(began_ns <= times_ns.max()).sum()])
        if (
            len(after_ns) >= ENOUGH
            and len(times_ns) >= _NEARLY_ALL * len(until_ns)
            and _apart_ns(after_ns) <= _AS_OFTEN * _apart_ns(until_ns)
        ):
            stopped += len(after_ns)
    return stopped


def _apart_ns(times_ns: Floats) -> float:
    return float(np.minimum(np.diff(times_ns), _APART_NS).mean())


def _shares(length_ns: Floats, stolen_ns: Floats) -> tuple[float, float]:
    if not len(stolen_ns):
        return 0.0, 0.0
    longer = stolen_ns >= np.median(stolen_ns)
    half, tenth = np.quantile(stolen_ns[longer] / length_ns[longer], [0.5, 0.9])
    return float(half), float(tenth)


def _expected(gaps: LongGaps, losses: LongGaps, counted: LongGaps) -> float:
    """In how many of *losses* the host would have begun to take a slice, had they come any time.

    That is each one's length, times how many slices the host begins meanwhile per time in which
    the guest runs.
    """
    expected = 0.0
    for cpu in np.unique(losses["cpu"]):
        own = np.sort(gaps[gaps["cpu"] == cpu], order="began_ns")
        began_ns = own["began_ns"].astype(np.float64)
        ended_ns = began_ns + own["length_ns"]
        missing_ns = np.concatenate([[0.0], np.cumsum(own["length_ns"].astype(np.float64))])
        taken_ns = np.sort(counted["began_ns"][counted["cpu"] == cpu]).astype(np.float64)
        lost = losses[losses["cpu"] == cpu]
        from_ns = np.maximum(lost["began_ns"].astype(np.float64) - _NEAR_NS, began_ns[0])
        to_ns = np.minimum(lost["began_ns"].astype(np.float64) + _NEAR_NS, ended_ns[-1])
        first, last = np.searchsorted(began_ns, from_ns), np.searchsorted(began_ns, to_ns)
        slices = np.searchsorted(taken_ns, to_ns) - np.searchsorted(taken_ns, from_ns)
        ran_ns = to_ns - from_ns - (missing_ns[last] - missing_ns[first])
        chance = lost["length_ns"] * slices / np.maximum(ran_ns, 1.0)
        expected += float(np.minimum(chance, 1.0).sum())
    return expected


def _cap_ns(length_ns: Floats, stolen_ns: Floats) -> int:
    """What at least ten gaps, and each fifth, are counted as to the microsecond, if their lengths
    differ by a fifth, and if not half as many are counted as a tenth more: some are two slices."""
    if not len(stolen_ns):
        return 0
    steps = np.round(stolen_ns / _SAME_NS)
    values, counts = np.unique(steps[steps >= _CAP_NS / _SAME_NS], return_counts=True)
    if not len(counts) or counts.max() < max(10, len(stolen_ns) // 5):
        return 0
    most = values[counts.argmax()]
    low, high = np.quantile(length_ns[steps == most], [0.1, 0.9])
    capped = high > 1.2 * low and counts[values > 1.1 * most].sum() < counts.max() / 2
    return int(most * _SAME_NS) if capped else 0

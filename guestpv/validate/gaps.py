# SPDX-License-Identifier: MIT
"""gaps: the time that is missing from threads that do nothing but look at the clock."""

import math
from typing import Any

import numpy as np

from guestpv.cpulist import listed
from guestpv.validate.check import Effect, Finding, Level, check, failed, passed, skipped, warned
from guestpv.validate.clauses import Clause
from guestpv.validate.guest import Guest
from guestpv.validate.line import Line, advice_on, excludes_1
from guestpv.validate.proportion import Proportion

_ERROR_NS = 1_000_000
_STOOD_STILL_NS = 1_000_000_000

_TOLERANCE = 0.03
"""How far from 1 a factor of several vCPUs together may be that is certain. Under an emulated host
that is healthy it is off by 1 or 2 %,"""
_TOLERANCE_OF_ONE = 0.05
"""and that of one vCPU by 3 %."""
_AWAY = 0.4
"""A factor is nobody's fault if 1 is closer to its bounds than so much of what lies between them,
all by their logarithms. Where little is taken, what a host loses itself is as long as that: one
honest host had "70 % (from 53 to 95)". Of 100 intervals of liars 0.49 was the closest."""
_VAGUE = 2
"""Where the bounds differ so much, 1 is to be twice as far as they are apart. Where gaps have
pieces in them that no count has, the more the longer they are, one honest host had "36 % (from 20
to 82)", under a guest that was interrupted all the time, and one "56 % (from 21 to 92)", with vCPUs
that QEMU held back. That of a liar is known within a few %; on a machine that was busy with
something else "49.6 % (from 41.6 to 63.6)" was the worst of twenty."""
_HIDDEN = 1 / 3
"""Part that must be hidden to be noticed under a host that loses time itself: that flattens the
line, but some gaps have little of it in them, and no host counts what is not missing."""
_LOST = 12
"""Gaps as long as those that are counted, and not counted, that are no accident,"""
_LIKE = 0.5
"""if so many of those that are not counted are as long as those that are,"""
_CHANCE = 1e-3
"""and if the chance is no greater that losses of the host's own come as seldom together with what
it takes,"""
_TOGETHER = 0.5
"""where only so much of that is expected as there should be."""
_SELDOM = 1 / 20
"""And only while no more than this part of what is expected came together, or too many have a whole
run before and after them. The losses of a host that is itself one of many on a busy machine don't
come at just any moment: an honest one had 12 % of what is expected, another 22 %, but they cut runs
in two. And a liar on a machine that is a little busy itself has some that came together."""
_WAY_OUT = (
    "what a host loses that is virtual itself looks like this, too: ask the host's own account"
    " (--host-account), or run it where the host has its CPUs for itself"
)


@check(
    "gaps.bound",
    "No more is reported as stolen than is missing",
    Clause.ONLY_INVOLUNTARY,
    Effect.LOAD,
    level=Level.DERIVED,
)
def bound(guest: Guest) -> Finding:
    rows = guest.watched.judged
    rows = rows[(rows["restarts"] == 0) & (rows["unknown"] == 0)]  # else it's not one difference
    if not len(rows):
        return skipped("no count went on from the beginning to the end")
    wrong: dict[int, tuple[int, int]] = {}
    """By CPU, what was reported and what can be missing at most."""
    for row in rows:
        reported_ns = int(row["last_ns"]) - int(row["first_ns"])
        # A step takes two looks. What the looks did not need, as fast as they can be, is missing.
        needed_ns = int(row["looks"]) * int(row["step_ns"]) // 2
        missing_ns = int(row["ended_ns"] - row["began_ns"]) - needed_ns
        if reported_ns > missing_ns + _ERROR_NS:
            wrong[int(row["cpu"])] = reported_ns, missing_ns
    if wrong:
        cpu, (reported_ns, missing_ns) = next(iter(wrong.items()))
        return failed(
            f"{reported_ns / 1e6:.1f} ms were reported, and no more than"
            f" {missing_ns / 1e6:.1f} ms can be missing",
            cpu=cpu,
            reported_ns=reported_ns,
            missing_ns=missing_ns,
        ).on(wrong)
    return passed(f"on cpu{listed(rows['cpu'].tolist())}")


@check(
    "gaps.proportion",
    "The count grows by what is missing in one piece",
    Clause.NANOSECONDS,
    Effect.LOAD,
    level=Level.MUST,
)
def proportional(guest: Guest) -> Finding:
    whole, each = guest.proportions.whole, guest.proportions.each
    figures: dict[str, Any] = {
        "gaps": whole.gaps,
        "switched": whole.switched,
        "factors": [
            {
                "cpu": cpu,
                "factor": one.line and round(one.line.factor, 6),
                "interrupts_ns": int(guest.watched.interrupts_ns[cpu]),
            }
            for cpu, one in each.items()
        ],
        "long_gaps": guest.proportions.gaps.tolist(),
    }
    capped = [cpu for cpu, one in each.items() if one.cap_ns]
    if capped:
        cap_ns = each[capped[0]].cap_ns
        return failed(
            f"no more than {cap_ns / 1e6:.3f} ms are counted of a gap, however long it is",
            "every figure that rests on this count is too low when it matters most: ask who runs"
            " the hypervisor",
            **figures,
        ).on(capped)
    tiny = [cpu for cpu, one in each.items() if one.tiny > max(_LOST, one.gaps // 2)]
    if tiny or whole.tiny > max(_LOST, whole.gaps // 2):
        found = each[tiny[0]] if tiny else whole
        return failed(
            f"of {found.tiny:,} of {found.gaps:,} long gaps some nanoseconds are counted",
            "its unit is none that the specification knows: ask who runs the hypervisor",
            **figures,
        ).on(tiny or each)
    if whole.line:
        figures |= {
            "factor": round(whole.line.factor, 6),
            "factor_low": round(whole.line.low, 6),
            "factor_high": round(whole.line.high, 6),
            "constant_ns": round(whole.line.constant_ns),
        }
    off = {
        cpu: one.line
        for cpu, one in each.items()
        if one.line and is_off(one, one.line, _TOLERANCE_OF_ONE)
    }
    if off:  # whatever all together say
        surest_first = sorted(off, key=lambda cpu: _width(off[cpu]))
        surest = surest_first[0]
        return _off(each[surest], off[surest], figures).on(surest_first)
    if whole.line is None:
        return _no_line(whole, figures)
    if is_off(whole, whole.line, _TOLERANCE if len(each) > 1 else _TOLERANCE_OF_ONE):
        return _off(whole, whole.line, figures).on(each)
    lines = [whole.line, *(one.line for one in each.values() if one.line)]
    vague = next((line for line in lines if _excludes_1(line)), None)
    if vague:
        return warned(
            f"{vague} of what is missing is counted, in {whole.gaps:,} gaps, which is too"
            " vague to blame anybody",
            f"run it while the guest has nothing else to do, or for longer; {_WAY_OUT}",
            **figures,
        )
    text = f"{whole.line} of what is missing is counted, in {whole.gaps:,} gaps"
    if whole.muddled:
        return warned(
            f"{text}; {whole.beside:,} of them are longer than that explains, so less than"
            " a third that is hidden would not be noticed",
            _WAY_OUT,
            **figures,
        )
    return passed(
        f"{text}; {whole.line.constant_ns / 1e6:.2f} ms of each is not the count's", **figures
    )


def _off(found: Proportion, line: Line, figures: dict[str, Any]) -> Finding:
    return failed(
        f"{line} of what is missing is counted, in {found.gaps:,} gaps{_looks_like(line)}",
        advice_on(line.factor),
        **figures,
    )


def _no_line(found: Proportion, figures: dict[str, Any]) -> Finding:
    if found.uncounted > found.gaps // 2 and found.uncounted >= _LOST:
        return warned(
            f"{found.uncounted:,} of {found.gaps:,} long gaps were not counted, and the count does"
            " not depend on them",
            _WAY_OUT,
            **figures,
        )
    others = (
        f"; in {found.switched:,} more something else of the guest ran" if found.switched else ""
    )
    text = f"{found.gaps:,} long gaps are too few{others}"
    return skipped(f"{text}: run it for longer, or while the host is busy")


def is_off(found: Proportion, line: Line, tolerance: float = _TOLERANCE) -> bool:
    """Whether the count does not grow as it should for certain.

    An estimate alone is not that. No host counts more of a gap than there is, and all of one that
    has nothing else in it: so what is counted of the best is less than all, too, or more.
    """
    if _is_vague(line):
        return False
    half, best = found.shares
    tolerance += line.blur
    short = line.high < 1 - tolerance and best < 1 - tolerance
    long = line.low > 1 + tolerance and best > 1
    if found.muddled:
        return (short and best < 1 - _HIDDEN) or (long and half > 1 + tolerance)
    return short or long


def _excludes_1(line: Line) -> bool:
    return excludes_1(line.low, line.high, _TOLERANCE_OF_ONE)


def _is_vague(line: Line) -> bool:
    far = _width(line) ** (2 if _width(line) > _VAGUE else _AWAY)
    return line.low / far < 1 < line.high * far


def _width(line: Line) -> float:
    return line.high / line.low


_COUNTERS_MHZ = (19.2, 24, 25, 50, 54, 62.5, 100)
_LOOKS = {
    0.5: "half of it",
    2.0: "the double of it",
    1e-3: "microseconds in the place of nanoseconds",
    1e-6: "milliseconds in the place of nanoseconds",
    **{mhz / 1000: f"ticks of a counter of {mhz:g} MHz" for mhz in _COUNTERS_MHZ},
}


def _looks_like(line: Line) -> str:
    """What a factor stands for, if it is one of those that one knows."""
    for factor, meaning in _LOOKS.items():
        if line.low * 0.98 <= factor <= line.high * 1.02 and _width(line) < 1.1:
            return f": that looks like {meaning}"
    return ""


@check(
    "gaps.lost",
    "No gap that is as long as those that are counted is left out",
    Clause.INVOLUNTARY,
    Effect.LOAD,
    level=Level.MUST,
    also=(Clause.BEFORE_IT_RUNS,),
)
def lost(guest: Guest) -> Finding:
    whole, each = guest.proportions.whole, guest.proportions.each
    text = f"{whole.uncounted:,} of {whole.gaps:,} long gaps were not counted"
    figures: dict[str, Any] = {
        "uncounted": whole.uncounted,
        "gaps": whole.gaps,
        "like_counted": whole.alike,
        "longer_than_counted": whole.beside,
        "joined": whole.joined,
        "joined_expected": round(whole.joined_expected, 3),
        "in_place": whole.in_place,
        "stopped": whole.stopped,
    }
    stopped = [cpu for cpu, one in each.items() if one.stopped]
    if stopped:
        return failed(
            f"the count stopped: {each[stopped[0]].stopped:,} long gaps in a row were not counted,"
            " as long and as often as those that were until then",
            "this count can't be used, nor can the kernel's, which is made of it: ask who runs the"
            " hypervisor",
            **figures,
        ).on(stopped)
    # Each of many may look so by chance, so each has to be surer.
    losing = [cpu for cpu, one in each.items() if loses(one, _CHANCE / len(each))]
    if losing:
        return _loses(each[losing[0]], figures).on(losing)
    if whole.line is None:
        return _no_line(whole, figures)
    if loses(whole, _CHANCE):
        return _loses(whole, figures).on(each)
    if whole.uncounted > max(_LOST, whole.gaps // 4) or whole.alike >= _LOST:
        return warned(f"{text}, maybe since the host lost time itself", _WAY_OUT, **figures)
    text += ": the host lost that time itself, maybe" if whole.uncounted else ""
    return passed(text, **figures)


def _loses(found: Proportion, figures: dict[str, Any]) -> Finding:
    come_together = max(1, math.floor(_TOGETHER * found.joined_expected))
    return failed(
        f"{found.uncounted:,} of {found.gaps:,} long gaps were not counted, {found.alike:,} of them"
        " as long as those that were; had the host lost those itself, more than"
        f" {come_together:,} of the others would have one in them, and {found.joined:,} have",
        "the host takes slices of time and does not report all of them: ask who runs it",
        **figures,
    )


def loses(found: Proportion, chance: float = _CHANCE) -> bool:
    """Whether gaps are not counted that are like those that are, and can't be the host's own.

    *chance* is that of an error, if those come at any moment. A host that is virtual has gaps of
    its own, as long as the others maybe; one by one they can be all there is, but now and then they
    come together with the others.
    """
    return (
        found.line is not None
        and not found.muddled
        and found.alike >= _LOST
        and found.alike >= _LIKE * found.uncounted
        and found.uncounted <= found.gaps // 2
        and _at_most(found.joined, _TOGETHER * found.joined_expected) < chance
        and (
            found.joined <= _SELDOM * found.joined_expected
            or _at_least(found.in_place, found.alike, found.in_place_by_chance) < chance
        )
    )


def _at_most(times: int, mean: float) -> float:
    """The chance that what happens *mean* times on average happens no more often (Poisson)."""
    if not mean:
        return 1.0
    log = math.log(mean)
    return sum(math.exp(n * log - mean - math.lgamma(n + 1)) for n in range(times + 1))


def _at_least(times: int, of: int, chance: float) -> float:
    """The chance that what has *chance* happens so often or more (binomial)."""
    if not 0 < chance < 1:
        return float(chance >= 1 or not times)

    def log_chance(n: int) -> float:
        ways = math.lgamma(of + 1) - math.lgamma(n + 1) - math.lgamma(of - n + 1)
        return ways + n * math.log(chance) + (of - n) * math.log1p(-chance)

    return sum(math.exp(log_chance(n)) for n in range(times, of + 1))


@check(
    "gaps.share",
    "What is missing is reported as stolen",
    Clause.INVOLUNTARY,
    Effect.LOAD,
    level=Level.DERIVED,
)
def share(guest: Guest) -> Finding:
    rows = guest.watched.judged
    gaps_ns, stolen_ns = int(rows["gaps_ns"].sum()), int(rows["gaps_stolen_ns"].sum())
    waited_ns = int(rows["waited_ns"].sum())
    figures = {
        "missing_ns": gaps_ns,
        "stolen_ns": stolen_ns,
        "waited_in_guest_ns": waited_ns,
        "gaps": int(rows["gaps"].sum()),
        "longest_ns": int(rows["longest_ns"].max()),
    }
    stood_still = rows[rows["unaccounted_ns"] >= _STOOD_STILL_NS]
    if len(stood_still):
        stood_still = stood_still[np.argsort(stood_still["unaccounted_ns"])[::-1]]
        return warned(
            f"{int(stood_still[0]['unaccounted_ns']) / 1e9:.1f} s are missing in one"
            " piece, and not reported as stolen",
            "the VM was paused, or its host lost time itself",
            **figures,
        ).on(stood_still["cpu"])
    if not gaps_ns:
        return passed("nothing is missing", **figures)
    return passed(
        f"{100 * stolen_ns / gaps_ns:.0f} % of {gaps_ns / 1e9:.3f} CPU-s in"
        f" {figures['gaps']:,} gaps; {100 * waited_ns / gaps_ns:.0f} % went to other tasks of the"
        f" guest",
        **figures,
    )

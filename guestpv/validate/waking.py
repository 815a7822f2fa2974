# SPDX-License-Identifier: MIT
"""gaps.waking: how late those come who wake while the host has something else to do.

What a host takes of a busy vCPU may be the same each time. Then a part of it that is hidden can't
be told from what nobody counts of each gap, such as the exit: there is no line through one point.
But who wakes in the midst of it waits for the rest only, and that is of any length: those waits lie
on a line, and its slope is known to one percent.

Many do not lie on it. What was taken before the vCPU had halted, or when something else woke it, is
counted as well and nobody came late by it; and some come late for reasons of the guest's own. So
the line is where they lie closest. And who is kept out twice came late by what it ran between, too:
so no wait is looked at that is much longer than what is usually taken in one piece.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from guestpv.cpulist import listed
from guestpv.latency.naps import Naps, Slept
from guestpv.latency.observation import LongGaps
from guestpv.validate.check import Effect, Finding, Level, check, failed, grouped, passed, skipped
from guestpv.validate.clauses import Clause
from guestpv.validate.guest import Guest
from guestpv.validate.line import CONFIDENCE, advice_on, excludes_1
from guestpv.validate.ridge import Ridge, ridge, together

_WAITED_NS = 500_000
"""What was counted from which on somebody woke while the host was busy, and not just after it."""
_ONE_PIECE = 1.25
"""How much longer than half of the pieces a wait may be, and be one of them."""
_ENOUGH = 200
"""Such waits of a vCPU, from which on there is a line through them,"""
_SURE = 0.012
"""if that has no greater error: with three times as much, 4 % could not be told from nothing."""
_TOLERANCE = 0.02
"""How far from 1 a factor of several vCPUs together may be that is certain. In the lab an honest
one is 1 % short, and 2 % now and then: who waited for long has the more to make up for before it
goes on, which takes 0.1 ms there. Of 32 no upper bound was below 0.995; of 26 from whom 4 % were
hidden none was above 0.976,"""
_TOLERANCE_OF_ONE = 0.03
"""and that of one vCPU now and then 3 %."""
_FIGURES = 6


@dataclass(frozen=True, slots=True)
class Waits:
    """Of one vCPU, how late they were who woke while the host had something else to do."""

    naps: Naps
    """All that ended then, by their counts."""
    line: Ridge | None
    """None if nothing can be told,"""
    why: str = ""
    """and why that is."""


@check(
    "gaps.waking",
    "Who wakes while the host is busy is told how long it waited",
    Clause.NANOSECONDS,
    Effect.LOAD,
    level=Level.MUST,
)
def waking(guest: Guest) -> Finding:
    gaps = guest.proportions.gaps
    each = {cpu: waits(slept, gaps[gaps["cpu"] == cpu]) for cpu, slept in guest.naps.items()}
    lines = {cpu: one.line for cpu, one in each.items() if one.line}
    total = sum(len(one.naps) for one in each.values())
    figures: dict[str, Any] = {
        "waits": total,
        "factors": [
            {
                "cpu": cpu,
                "factor": round(lines[cpu].factor, _FIGURES) if cpu in lines else None,
                "waits": len(one.naps),
            }
            for cpu, one in each.items()
        ],
        "long_waits": [(cpu, *nap) for cpu, one in each.items() for nap in one.naps.tolist()],
    }
    unjudged = grouped({cpu: one.why for cpu, one in each.items() if cpu not in lines})
    if not lines:
        whys = [f"cpu{listed(some.cpus)}: {some.why}" for some in unjudged]
        return skipped("; ".join(whys) or "no CPU was left to sleep", **figures)
    whole = together(list(lines.values()))
    low, high = whole.bounds(CONFIDENCE)
    figures |= {
        "factor": round(whole.factor, _FIGURES),
        "factor_low": round(low, _FIGURES),
        "factor_high": round(high, _FIGURES),
    }
    # Of many, one has to be the further off to be blamed.
    of_one = 1 - (1 - CONFIDENCE) / len(lines)
    off = [cpu for cpu, line in lines.items() if _is_off(line, of_one, _TOLERANCE_OF_ONE)]
    surest_first = sorted(off or lines, key=lambda cpu: lines[cpu].error)
    if off:
        surest = surest_first[0]
        finding = _off(lines[surest], of_one, len(each[surest].naps), figures).on(surest_first)
    elif _is_off(whole, CONFIDENCE, _TOLERANCE if len(lines) > 1 else _TOLERANCE_OF_ONE):
        finding = _off(whole, CONFIDENCE, total, figures).on(surest_first)
    else:
        finding = passed(_said(whole, CONFIDENCE, total), **figures)
    return replace(finding, unjudged=unjudged)


def _is_off(line: Ridge, confidence: float, tolerance: float) -> bool:
    return excludes_1(*line.bounds(confidence), tolerance)


def _off(line: Ridge, confidence: float, naps: int, figures: dict[str, Any]) -> Finding:
    return failed(
        _said(line, confidence, naps),
        advice_on(line.factor),
        **figures,
    )


def _said(line: Ridge, confidence: float, naps: int) -> str:
    return f"{line.text(confidence)} of a wait is counted, in {naps:,} waits"


def waits(slept: Slept, gaps: LongGaps) -> Waits:
    """What the naps of a CPU say, whose gaps those are while it was busy."""
    pieces_ns = gaps["stolen_ns"][gaps["stolen_ns"] > _WAITED_NS]
    longest_ns = _ONE_PIECE * float(np.median(pieces_ns)) if len(pieces_ns) else 0.0
    grown_ns = slept.naps["grown_ns"]
    naps = slept.naps[(grown_ns > _WAITED_NS) & (grown_ns < longest_ns)]
    if len(naps) < _ENOUGH:
        return Waits(naps, None, "too few waits: run it for longer, or while the host is busy")
    line = ridge(naps["late_ns"].astype(np.float64), naps["grown_ns"].astype(np.float64))
    if line is None or not line.error < _SURE:
        return Waits(
            naps, None, "they were all as long, or what woke came late for other reasons, too"
        )
    return Waits(naps, line)

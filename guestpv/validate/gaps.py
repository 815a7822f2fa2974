# SPDX-License-Identifier: MIT
"""gaps: the time that is missing from threads that do nothing but look at the clock."""

import numpy as np

from guestpv.cpulist import listed
from guestpv.validate.check import Effect, Finding, Level, check, failed, passed, skipped, warned
from guestpv.validate.clauses import Clause
from guestpv.validate.guest import Guest

_ERROR_NS = 1_000_000
_STOOD_STILL_NS = 1_000_000_000


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

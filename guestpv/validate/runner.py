# SPDX-License-Identifier: MIT
"""Running checks, one after the other."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from guestpv.validate.check import Check, Effect, Finding, Needs, Verdict, skipped
from guestpv.validate.guest import Guest


@dataclass(frozen=True, slots=True)
class Outcome:
    """A check, what it found, and how long that took."""

    check: Check
    finding: Finding
    duration_s: float

    @property
    def failed(self) -> bool:
        return self.finding.verdict == Verdict.FAIL


def run(checks: Sequence[Check], guest: Guest) -> Iterator[Outcome]:
    """Run *checks*, what changes the guest last, and give each outcome as soon as it is known.

    Raises what reading raises. Whatever ends it, the guest is left as it was.
    """
    for check in sorted(checks, key=lambda check: check.effect.disruptive):
        began = time.monotonic()
        guest.progress(check.id)
        finding = _judge(check, guest)
        yield Outcome(check, finding, time.monotonic() - began)


def _judge(check: Check, guest: Guest) -> Finding:
    if check.live and not guest.live:
        return skipped("needs a live hypervisor, not a page image")
    if check.needs >= Needs.STRUCTURES and guest.probed:
        return skipped(f"no structure is mapped: {guest.options.refusal}")
    if check.needs >= Needs.ANSWERS and not guest.asked:
        return skipped("no CPU that is online has been asked for its structure")
    if check.live and check.effect == Effect.LOAD and (reason := guest.unwatched):
        return skipped(reason)
    return check.judge(guest)

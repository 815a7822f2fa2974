# SPDX-License-Identifier: MIT
"""Running checks, one after the other."""

import os
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from guestpv.validate.check import Check, Effect, Finding, Needs, Verdict, errored, skipped
from guestpv.validate.guest import Guest

_EVIDENCE: dict[Effect, Callable[[Guest], object]] = {
    Effect.LOAD: lambda guest: guest.watched,
    Effect.HOTPLUG: lambda guest: guest.hotplug,
    Effect.SUSPEND: lambda guest: guest.suspended,
    Effect.RELOAD: lambda guest: guest.reloaded,
}
"""What a check of this effect judges. It is gathered once: if that fails, for all of them."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A check, what it found, and how long that took."""

    check: Check
    finding: Finding
    duration_s: float


def run(checks: Sequence[Check], guest: Guest) -> Iterator[Outcome]:
    """Run *checks*, what changes the guest last, and give each outcome as soon as it is known.

    What a check raises is its outcome, and the rest is run all the same. Whatever ends it, the
    guest is left as it was.
    """
    failures: dict[Effect, Exception] = {}
    for check in sorted(checks, key=lambda check: check.effect.disruptive):
        began = time.monotonic()
        guest.progress(check.id)
        try:
            finding = _judge(check, guest, failures)
        except Exception as error:
            if os.environ.get("GUESTPV_DEBUG"):
                traceback.print_exc()
            finding = errored(error)
        if finding.verdict == Verdict.FAIL and not finding.advice:
            finding = replace(finding, advice=check.advice)
        yield Outcome(check, finding, time.monotonic() - began)


def _judge(check: Check, guest: Guest, failures: dict[Effect, Exception]) -> Finding:
    """Raises what gathering the evidence does: again what it did for an earlier check."""
    if check.live and not guest.live:
        return skipped("needs a live hypervisor, not a page image")
    if check.needs >= Needs.STRUCTURES and guest.probed:
        return skipped(f"no structure is mapped: {guest.options.refusal}")
    if check.needs >= Needs.ANSWERS and not guest.asked:
        return skipped("no CPU that is online has been asked for its structure")
    if guest.live and check.effect in _EVIDENCE:
        if check.effect in failures:
            raise failures[check.effect]
        try:
            _EVIDENCE[check.effect](guest)
        except Exception as error:
            failures[check.effect] = error
            raise
    if check.live and check.effect == Effect.LOAD and (reason := guest.unwatched):
        return skipped(reason)
    return check.judge(guest)

# SPDX-License-Identifier: MIT
"""What `guestpv validate` says: a module for each format, imported only if it is wanted."""

from collections import Counter
from collections.abc import Sequence
from typing import Protocol

from guestpv.validate import Outcome, Verdict

NAMES = {
    Verdict.PASS: "passed",
    Verdict.WARN: "warned",
    Verdict.FAIL: "failed",
    Verdict.SKIP: "skipped",
}


class Report(Protocol):
    """Is told of each outcome as it comes, and at the end of all, in the catalogue's order."""

    def outcome(self, outcome: Outcome) -> None: ...

    def end(self, outcomes: Sequence[Outcome], duration_s: float) -> None: ...


def count(outcomes: Sequence[Outcome]) -> Counter[Verdict]:
    """How many of each verdict."""
    return Counter(outcome.finding.verdict for outcome in outcomes)

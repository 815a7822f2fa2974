# SPDX-License-Identifier: MIT
"""The report by the Test Anything Protocol, as it comes. A warning is ok, with a comment."""

import sys
from collections.abc import Sequence

from tap.tracker import Tracker

from guestpv.validate import Outcome, Verdict


class TapReport:
    def __init__(self) -> None:
        self._tracker = Tracker(streaming=True, stream=sys.stdout, header=False)

    def outcome(self, outcome: Outcome) -> None:
        check, finding = outcome.check, outcome.finding
        said = f"{finding.text}; {finding.advice}" if finding.advice else finding.text
        match finding.verdict:
            case Verdict.SKIP:
                self._tracker.add_skip(check.group, check.id, finding.text)
            case Verdict.FAIL:
                self._tracker.add_not_ok(check.group, check.id, diagnostics=f"# {said}")
            case verdict:
                self._tracker.add_ok(check.group, check.id, diagnostics=f"# {verdict}: {said}")
        sys.stdout.flush()

    def end(self, outcomes: Sequence[Outcome], duration_s: float) -> None:
        self._tracker.generate_tap_reports()

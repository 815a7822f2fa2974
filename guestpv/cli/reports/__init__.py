# SPDX-License-Identifier: MIT
"""What `guestpv validate` says: a module for each format, imported only if it is wanted."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from guestpv.source.reader import Source
from guestpv.validate import Check, Coverage, Finding, Outcome, Statement, Verdict

NAMES = {
    Verdict.PASS: "passed",
    Verdict.WARN: "warned",
    Verdict.FAIL: "failed",
    Verdict.ERROR: "errors",
    Verdict.SKIP: "skipped",
}


@dataclass(frozen=True, slots=True)
class Subject:
    """What was validated."""

    source: Source
    instance: int
    """As it was when the run began."""
    smccc_version: str
    """As in 1.1."""
    coverage: Coverage


@dataclass(frozen=True, slots=True)
class Condition:
    """What must be so of the run itself for its verdicts to be worth something."""

    name: str
    met: bool
    text: str
    is_error: bool = False
    """Where it is not met: whether something went wrong, or the run was only not worth enough."""


@dataclass(frozen=True, slots=True)
class Summary:
    """All that there is to be told when a run has ended, however it did."""

    outcomes: Sequence[Outcome]
    """Of every check that was chosen, in the catalogue's order."""
    duration_s: float
    subject: Subject | None
    """None if it could not be opened."""
    options: Mapping[str, Any]
    """Those of the command, as plain data."""
    versions: Mapping[str, str | None]
    conditions: Sequence[Condition]
    statements: Sequence[Statement]
    failing: frozenset[Verdict]
    """The verdicts that were chosen to be failures."""
    exit_code: int
    """What follows from all this; another one only if a report could not be written."""


class Report(Protocol):
    """Is told of what will be checked, of each outcome as it comes, and at the end of all."""

    def begin(self, checks: Sequence[Check], failing: frozenset[Verdict]) -> None: ...

    def outcome(self, outcome: Outcome) -> None: ...

    def end(self, summary: Summary) -> None: ...


class Reports:
    """All that are wanted. One that can't be written costs none of the others."""

    def __init__(self, reports: Sequence[Report]) -> None:
        self._reports = list(reports)
        self.trouble: list[OSError] = []
        """Why some could not be written."""

    def add(self, report: Report) -> None:
        self._reports.append(report)

    def begin(self, checks: Sequence[Check], failing: frozenset[Verdict]) -> None:
        self._each("begin", checks, failing)

    def outcome(self, outcome: Outcome) -> None:
        """Raises BrokenPipeError if nobody listens any more."""
        self._each("outcome", outcome)
        if not self._reports and isinstance(self.trouble[-1], BrokenPipeError):
            raise self.trouble[-1]

    def end(self, summary: Summary) -> None:
        self._each("end", summary)

    def _each(self, method: str, *arguments: object) -> None:
        for report in self._reports.copy():
            try:
                getattr(report, method)(*arguments)
            except OSError as error:
                self.trouble.append(error)
                self._reports.remove(report)


def count(outcomes: Sequence[Outcome]) -> Counter[Verdict]:
    """How many of each verdict."""
    return Counter(outcome.finding.verdict for outcome in outcomes)


def said(finding: Finding) -> str:
    """A finding's text and advice, as one."""
    return f"{finding.text}; {finding.advice}" if finding.advice else finding.text

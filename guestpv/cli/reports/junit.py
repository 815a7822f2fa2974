# SPDX-License-Identifier: MIT
"""The report as a file in JUnit's XML, for continuous integration: a suite for each group."""

from collections.abc import Sequence
from typing import IO

from junitparser import Failure, JUnitXml, Skipped, TestCase, TestSuite

from guestpv.validate import Outcome, Verdict


class JunitReport:
    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def outcome(self, outcome: Outcome) -> None:
        """Nothing is written before the end."""

    def end(self, outcomes: Sequence[Outcome], duration_s: float) -> None:
        xml = JUnitXml("guestpv validate")
        for group in dict.fromkeys(outcome.check.group for outcome in outcomes):
            suite = TestSuite(group)
            for outcome in outcomes:
                if outcome.check.group == group:
                    suite.add_testcase(_case(outcome))
            xml.add_testsuite(suite)
        xml.write(self._file, pretty=True)
        self._file.flush()


def _case(outcome: Outcome) -> TestCase:
    check, finding = outcome.check, outcome.finding
    case = TestCase(check.id, f"guestpv.{check.group}", outcome.duration_s)
    match finding.verdict:
        case Verdict.FAIL:
            case.result = [Failure(f"{finding.text}. {check.promise} ({check.clause})")]
        case Verdict.SKIP:
            case.result = [Skipped(finding.text)]
        case verdict:
            case.system_out = f"{verdict}: {finding.text}"
    return case

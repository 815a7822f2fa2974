# SPDX-License-Identifier: MIT
"""The report as a file in JUnit's XML, for continuous integration: a suite for each group.

The last suite, "run", has the conditions of the run itself.
"""

import json
import os
import re
import stat
from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from junitparser import Error, Failure, JUnitXml, Properties, Property, Skipped, TestCase, TestSuite

from guestpv.cli.records import plain
from guestpv.cli.reports import Condition, Summary, said
from guestpv.cli.reports.json import outcome_record, summary_record
from guestpv.validate import Check, Outcome, Verdict

_NO_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 does not have."""
_OF_THE_RUN = ("source", "instance", "versions", "options", "levels", "conclusion", "exit_code")
_OF_THE_CPUS = ("contention", "unjudged", "left_out")
_OF_A_CHECK = ("level", "severity", "verdict", "clause", "effect", "advice", "cpus", "unjudged")


class JunitReport:
    """There is a report in the file from the beginning: if this process is killed, it says so."""

    def __init__(self, path: Path) -> None:
        """Raises OSError if there can't be such a file."""
        self._path = path
        self._file = path.open("wb", buffering=0)  # so that nothing is left of a failed write
        self._is_file = stat.S_ISREG(os.fstat(self._file.fileno()).st_mode)
        self._failing: frozenset[Verdict] = frozenset()

    def begin(self, checks: Sequence[Check], failing: frozenset[Verdict]) -> None:
        self._failing = failing
        if not self._is_file:
            return  # what is written to a pipe stays there
        ended = Condition("run.complete", False, "the run did not end", is_error=True)
        self._write([_run_suite([ended], {})])

    def outcome(self, outcome: Outcome) -> None:
        """Nothing is written before the end."""

    def end(self, summary: Summary) -> None:
        suites = []
        for group in dict.fromkeys(outcome.check.group for outcome in summary.outcomes):
            suite = TestSuite(group)
            for outcome in summary.outcomes:
                if outcome.check.group == group:
                    suite.add_testcase(_case(outcome, self._failing))
            suites.append(suite)
        record = summary_record(summary)
        properties = {name: record[name] for name in (*_OF_THE_RUN, *_OF_THE_CPUS)}
        self._write([*suites, _run_suite(summary.conditions, properties)])

    def _write(self, suites: Iterable[TestSuite]) -> None:
        xml = JUnitXml("guestpv validate")
        for suite in suites:
            xml.add_testsuite(suite)
        content = BytesIO()
        xml.write(content, pretty=True)
        try:
            if self._is_file:
                self._file.seek(0)
                self._file.truncate()
            left = content.getbuffer()
            while left:
                left = left[self._file.write(left) :]
        except OSError as error:
            error.filename = os.fspath(self._path)
            raise


def _case(outcome: Outcome, failing: frozenset[Verdict]) -> TestCase:
    check, finding = outcome.check, outcome.finding
    case = TestCase(check.id, f"guestpv.{check.group}", outcome.duration_s)
    record = outcome_record(outcome)
    case.append(_properties({name: record[name] for name in _OF_A_CHECK}))  # type: ignore[no-untyped-call]
    promised = f"promised: {check.promise} ({check.clause})"
    match finding.verdict:
        case Verdict.SKIP:
            case.result = [Skipped(_clean(finding.text))]
        case Verdict.ERROR:
            case.result = [_result(Error, finding.text, "error", f"{said(finding)}\n{promised}")]
        case verdict if verdict in failing:
            kind = f"{verdict} {check.level} {check.severity}"
            case.result = [_result(Failure, finding.text, kind, f"{said(finding)}\n{promised}")]
        case verdict:
            case.system_out = _clean(f"{verdict}: {said(finding)}")
    return case


def _run_suite(conditions: Sequence[Condition], properties: Mapping[str, Any]) -> TestSuite:
    suite = TestSuite("run")
    for name, value in properties.items():
        suite.add_property(name, _text(value))
    for condition in conditions:
        case = TestCase(condition.name, "guestpv.run", 0)
        if condition.met:
            case.system_out = _clean(condition.text)
        else:
            kind = Error if condition.is_error else Failure
            case.result = [_result(kind, condition.text, "condition", condition.text)]
        suite.add_testcase(case)
    return suite


def _result(
    kind: type[Error] | type[Failure], message: str, type_: str, text: str
) -> Error | Failure:
    result = kind(_clean(message), type_)
    result.text = _clean(text)
    return result


def _properties(values: Mapping[str, Any]) -> Properties:
    properties = Properties()  # type: ignore[no-untyped-call]
    for name, value in values.items():
        properties.add_property(Property(name, _text(value)))
    return properties


def _text(value: Any) -> str:
    value = plain(value)
    return _clean(value if isinstance(value, str) else json.dumps(value))


def _clean(text: str) -> str:
    return _NO_XML.sub("\N{REPLACEMENT CHARACTER}", text)

# SPDX-License-Identifier: MIT
"""What `guestpv validate` says: for a person, as JSON, as JUnit's XML, and by the Test Anything
Protocol."""

import platform
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from typing import IO, Any, Protocol, Self

from junitparser import Failure, JUnitXml, Skipped, TestCase, TestSuite
from rich.console import Console
from rich.table import Table
from rich.text import Text
from tap.tracker import Tracker

from guestpv.cli.records import source_record, write
from guestpv.reader import Source
from guestpv.validate import Outcome, Verdict

_STYLES = {
    Verdict.PASS: "green",
    Verdict.WARN: "yellow",
    Verdict.FAIL: "bold red",
    Verdict.SKIP: "dim",
}


class Report(Protocol):
    """Is told of each outcome as it comes, and then of all, in the order of the catalogue."""

    def outcome(self, outcome: Outcome) -> None: ...

    def end(self, outcomes: Sequence[Outcome], duration_s: float) -> None: ...


class Progress:
    """What is being done, on stderr if that is a terminal."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._status = self._stack.enter_context(self._console.status("starting"))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def __call__(self, what: str) -> None:
        self._status.update(what)


class ForPeople:
    """A line for each check as it ends, with what to do where something is wrong."""

    def __init__(self) -> None:
        self._console = Console(highlight=False)
        self._id_width = 0

    def outcome(self, outcome: Outcome) -> None:
        check, finding = outcome.check, outcome.finding
        text = Text(finding.text)
        if finding.verdict in (Verdict.FAIL, Verdict.WARN):
            text.append(f"\npromised: {check.promise} ({check.clause})", style="dim")
            if finding.advice:
                text.append(f"\n{finding.advice}", style="italic")
        elif finding.advice:
            text.append(f"; {finding.advice}")
        line = Table.grid(padding=(0, 2))
        line.add_column(width=4)
        line.add_column(width=24)
        line.add_column()
        line.add_row(Text(finding.verdict.upper(), style=_STYLES[finding.verdict]), check.id, text)
        self._console.print(line)

    def end(self, outcomes: Sequence[Outcome], duration_s: float) -> None:
        counts = _counts(outcomes)
        said = ", ".join(f"{counts[verdict]} {name}" for verdict, name in _NAMES.items())
        self._console.print(f"\n{said} in {duration_s:.0f} s.")
        self._console.print(_conclusion(counts))


class Json:
    """One object."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def outcome(self, outcome: Outcome) -> None:
        """Nothing is written before the end."""

    def end(self, outcomes: Sequence[Outcome], duration_s: float) -> None:
        counts = _counts(outcomes)
        write(
            "guestpv.validate/1",
            {
                "source": source_record(self._source),
                "kernel": platform.release(),
                "duration_s": round(duration_s, 3),
                **{name: counts[verdict] for verdict, name in _NAMES.items()},
                "checks": [_record(outcome) for outcome in outcomes],
            },
        )


class Tap:
    """Version 12 of the protocol. A warning is an ok with a TODO's opposite: a comment."""

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


class JUnit:
    """A file for continuous integration: a suite for each group."""

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


_NAMES = {
    Verdict.PASS: "passed",
    Verdict.WARN: "warned",
    Verdict.FAIL: "failed",
    Verdict.SKIP: "skipped",
}


def _counts(outcomes: Sequence[Outcome]) -> Counter[Verdict]:
    return Counter(outcome.finding.verdict for outcome in outcomes)


def _conclusion(counts: Counter[Verdict]) -> Text:
    if counts[Verdict.FAIL]:
        return Text("Don't trust this hypervisor's stolen time.", style=_STYLES[Verdict.FAIL])
    if not counts[Verdict.PASS] + counts[Verdict.WARN]:
        return Text("Nothing was checked.", style=_STYLES[Verdict.WARN])
    return Text("No promise that was checked was broken.", style=_STYLES[Verdict.PASS])


def _record(outcome: Outcome) -> dict[str, Any]:
    check = outcome.check
    return {
        "id": check.id,
        "group": check.group,
        "promise": check.promise,
        "clause": check.clause,
        "effect": check.effect,
        **asdict(outcome.finding),
        "duration_s": round(outcome.duration_s, 3),
    }


def _case(outcome: Outcome) -> TestCase:
    check, finding = outcome.check, outcome.finding
    case = TestCase(check.id, f"guestpv.{check.group}", outcome.duration_s)
    said = f"{finding.text}. {check.promise} ({check.clause})"
    if finding.verdict == Verdict.FAIL:
        case.result = [Failure(said)]
    elif finding.verdict == Verdict.SKIP:
        case.result = [Skipped(finding.text)]
    else:
        case.system_out = f"{finding.verdict}: {finding.text}"
    return case

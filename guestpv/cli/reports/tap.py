# SPDX-License-Identifier: MIT
"""The report by the Test Anything Protocol, version 14, as it comes.

A warning is ok, if it was not chosen to be a failure. What was seen stands in a block of YAML
below each line. The conditions of the run come last.
"""

import math
import sys
from collections.abc import Sequence
from textwrap import indent
from typing import Any

import yaml

from guestpv.cli.records import plain
from guestpv.cli.reports import Summary
from guestpv.cli.reports.json import outcome_record
from guestpv.validate import Check, Outcome, Verdict

_TOLD = ("verdict", "level", "severity", "promise", "clause", "text", "advice", "cpus", "figures")
_REPORTED = ("exit_code", "levels", "conclusion", "versions", "options", "unjudged", "contention")


class TapReport:
    def __init__(self) -> None:
        self._number = 0
        self._told: set[str] = set()
        self._failing: frozenset[Verdict] = frozenset()

    def begin(self, checks: Sequence[Check], failing: frozenset[Verdict]) -> None:
        self._failing = failing
        self._write("TAP version 14")

    def outcome(self, outcome: Outcome) -> None:
        finding = outcome.finding
        self._told.add(outcome.check.id)
        if finding.verdict == Verdict.SKIP:
            self._point(True, outcome.check.id, f" # SKIP {_escaped(finding.text)}")
            return
        ok = finding.verdict not in self._failing
        record = outcome_record(outcome)
        self._point(ok, outcome.check.id, block={name: record[name] for name in _TOLD})

    def end(self, summary: Summary) -> None:
        from guestpv.cli.reports.json import summary_record

        for outcome in summary.outcomes:
            if outcome.check.id not in self._told:
                self.outcome(outcome)
        for condition in summary.conditions:
            self._point(condition.met, condition.name, block={"text": condition.text})
        self._write(f"1..{self._number}")
        record = summary_record(summary)
        for line in _yaml({name: record[name] for name in _REPORTED}).splitlines():
            self._write(f"# {line}")

    def _point(
        self, ok: bool, name: str, directive: str = "", block: dict[str, Any] | None = None
    ) -> None:
        self._number += 1
        lines = [f"{'ok' if ok else 'not ok'} {self._number} - {_escaped(name)}{directive}"]
        if block:
            lines.append(indent(f"---\n{_yaml(block)}...", "  "))
        self._write("\n".join(lines))

    def _write(self, text: str) -> None:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()


class _Dumper(yaml.SafeDumper):
    """Writes each string on one line, so that none of its lines looks like the end of a block."""

    def represent_str(self, text: str) -> yaml.ScalarNode:
        style = None if text.isprintable() else '"'
        return self.represent_scalar("tag:yaml.org,2002:str", text, style)


_Dumper.add_representer(str, _Dumper.represent_str)


def _yaml(record: dict[str, Any]) -> str:
    text: str = yaml.dump(plain(record), Dumper=_Dumper, sort_keys=False, width=math.inf)
    return text


def _escaped(text: str) -> str:
    """On one line, and without what would begin a directive."""
    return " ".join(text.split()).replace("\\", "\\\\").replace("#", "\\#")

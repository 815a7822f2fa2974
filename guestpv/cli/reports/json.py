# SPDX-License-Identifier: MIT
"""The report as one JSON object: validate.schema.json beside this file is its schema."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from guestpv.cli.records import instance_record, source_record, write
from guestpv.cli.reports import NAMES, Subject, Summary, count
from guestpv.validate import Check, Contention, Outcome, Verdict, verdict_by_level


class RecordReport:
    def begin(self, checks: Sequence[Check], failing: frozenset[Verdict]) -> None:
        """Nothing is written before the end."""

    def outcome(self, outcome: Outcome) -> None:
        """Nothing is written before the end."""

    def end(self, summary: Summary) -> None:
        write("guestpv.validate/1", summary_record(summary))


def summary_record(summary: Summary) -> dict[str, Any]:
    """All of a report but its schema and time."""
    counts = count(summary.outcomes)
    return {
        **_subject_record(summary.subject),
        "kernel": summary.versions["kernel"],
        "versions": dict(summary.versions),
        "options": dict(summary.options),
        "duration_s": round(summary.duration_s, 3),
        "exit_code": summary.exit_code,
        **{name: counts[verdict] for verdict, name in NAMES.items()},
        "levels": verdict_by_level(summary.outcomes),
        "conclusion": [asdict(statement) for statement in summary.statements],
        "conditions": [
            {"name": condition.name, "met": condition.met, "text": condition.text}
            for condition in summary.conditions
        ],
        "checks": [outcome_record(outcome) for outcome in summary.outcomes],
    }


def outcome_record(outcome: Outcome) -> dict[str, Any]:
    return {
        **check_record(outcome.check),
        **asdict(outcome.finding),
        "duration_s": round(outcome.duration_s, 3),
    }


def check_record(check: Check) -> dict[str, Any]:
    return {
        "id": check.id,
        "group": check.group,
        "promise": check.promise,
        "clause": str(check.clause),
        "level": check.level,
        "severity": check.severity,
        "effect": check.effect,
    }


def _subject_record(subject: Subject | None) -> dict[str, Any]:
    """null for all that could not be opened."""
    if subject is None:
        return dict.fromkeys(("source", "instance", "contention", "unjudged", "left_out"))
    seen = subject.coverage
    contention = seen.contention
    return {
        "source": source_record(subject.source),
        "instance": instance_record(subject.instance),
        "contention": contention and [_contention_record(vcpu) for vcpu in contention],
        "unjudged": [asdict(cpus) for cpus in seen.unjudged],
        "left_out": [asdict(cpus) for cpus in seen.left_out],
    }


def _contention_record(vcpu: Contention) -> dict[str, Any]:
    return asdict(vcpu) | {"contended": vcpu.contended}

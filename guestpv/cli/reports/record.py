# SPDX-License-Identifier: MIT
"""The report as one JSON object; guestpv.cli.records documents its fields."""

import platform
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from guestpv.cli.records import instance_record, source_record, write
from guestpv.cli.reports import NAMES, count
from guestpv.source.reader import Reader
from guestpv.validate import Outcome


class RecordReport:
    def __init__(self, reader: Reader | None) -> None:
        """There is no *reader* where nothing could be opened."""
        self._source = source_record(reader.source) if reader else None
        self._instance = instance_record(reader.instance) if reader else None

    def outcome(self, outcome: Outcome) -> None:
        """Nothing is written before the end."""

    def end(self, outcomes: Sequence[Outcome], duration_s: float) -> None:
        counts = count(outcomes)
        write(
            "guestpv.validate/1",
            {
                "source": self._source,
                "instance": self._instance,
                "kernel": platform.release(),
                "duration_s": round(duration_s, 3),
                **{name: counts[verdict] for verdict, name in NAMES.items()},
                "checks": [_record(outcome) for outcome in outcomes],
            },
        )


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

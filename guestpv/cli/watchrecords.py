# SPDX-License-Identifier: MIT
"""What `guestpv watch --json` writes."""

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np

from guestpv.account.changes import Change
from guestpv.account.history import History, Rows
from guestpv.cli.records import cpu_record, instance_record, source_record, write
from guestpv.cli.view import View
from guestpv.source.reader import Source


class WatchRecords(View):
    """Writes an object for each interval."""

    def __init__(self, source: Source, rows: Rows) -> None:
        self._source = source_record(source)
        self._rows = rows
        self._changes: list[Change] = []

    def show(self, history: History, changes: Sequence[Change], ended: bool) -> None:
        self._changes += changes
        if not ended:
            return
        events = [asdict(change) for change in self._changes]
        self._changes.clear()
        write(
            "guestpv.watch/1",
            {
                "source": self._source,
                "instance": instance_record(int(history.rows["instance"][0])),
                "interval_ns": history.interval_ns,
                "watched_ns": history.watched_ns,
                "cpus": [
                    cpu_record(history.rows[row]) | asdict(history.figures(np.array([row])))
                    for row in self._rows
                ],
                "total": asdict(history.figures(self._rows)),
                "events": events,
            },
        )

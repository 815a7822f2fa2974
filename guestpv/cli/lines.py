# SPDX-License-Identifier: MIT
"""`guestpv watch` where the output is no terminal: a line per CPU and interval, to grep."""

import sys
import time
from collections.abc import Sequence

import numpy as np

from guestpv.account.changes import Change
from guestpv.account.history import History, Rows
from guestpv.cli.columns import WIDTHS, cells
from guestpv.cli.order import Sort, order
from guestpv.cli.view import View, clock
from guestpv.page.abi import State
from guestpv.page.names import name_of


class Lines(View):
    """Prints what screen.Screen draws; what happened between is a line that begins with #."""

    def __init__(self, rows: Rows, columns: Sequence[str], sort: Sort) -> None:
        self._rows = rows
        self._columns = columns
        self._sort = sort

    def begin(self, history: History) -> None:
        self._print("TIME", {title: title for title in self._columns})
        sys.stdout.flush()

    def show(self, history: History, changes: Sequence[Change], ended: bool) -> None:
        for change in changes:
            print(f"# {_clock(change.time_s)} {change.text}")
        if ended:
            now = _clock(time.time())
            for row in order(history, self._rows, self._sort):
                entry = history.rows[row]
                state = name_of(State, entry["state"])
                self._print(now, cells(str(entry["cpu"]), state, history.figures(np.array([row]))))
            self._print(now, cells("all", "-", history.figures(self._rows)))
        sys.stdout.flush()

    def _print(self, when: str, cells: dict[str, str]) -> None:
        figures = " ".join(cells[title].rjust(WIDTHS[title]) for title in self._columns)
        print(f"{when:12} {figures}".rstrip())


def _clock(time_s: float) -> str:
    return f"{clock(time_s)}.{int(time_s % 1 * 1000):03}"

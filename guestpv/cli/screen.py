# SPDX-License-Identifier: MIT
"""`guestpv watch` on a terminal: one page, drawn anew at each interval, resize and event."""

import time
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import numpy as np
from rich.console import Console
from rich.text import Text

from guestpv.cli.order import Sort, order
from guestpv.cli.table import Table
from guestpv.cli.view import View, clock
from guestpv.history import Change, History, Rows

_SMALL = 12  # lines of a terminal that has no room for more than the table
_KEPT_CHANGES = 100


class Screen(View):
    """The page. While it is entered, it has the terminal's alternate screen."""

    def __init__(self, title: str, rows: Rows, columns: Sequence[str], sort: Sort | None) -> None:
        self._title = title
        self._rows = rows
        self._columns = columns
        self._sort = sort
        self._changes: deque[Change] = deque(maxlen=_KEPT_CHANGES)
        self._console = Console()
        self._screen = self._console.screen()

    def __enter__(self) -> Self:
        self._screen.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._screen.__exit__(kind, error, at)

    def key(self, key: str) -> None:
        """Key s changes the order."""
        if key == "s":
            sorts = tuple(Sort)
            self._sort = sorts[(sorts.index(self._sort or Sort.CPU) + 1) % len(sorts)]

    def show(self, history: History, changes: Sequence[Change], ended: bool) -> None:
        self._changes.extend(changes)
        self._screen.update(*self.lines(history, *self._console.size))

    def lines(self, history: History, width: int, height: int) -> list[Text]:
        """The page for a terminal of that size."""
        head = [_headline(self._title, width)]
        if height > _SMALL:
            head += [_now(history, self._rows), _since(history, self._rows), Text()]
        changes = list(self._changes)[-max(1, height // 6) :]

        room = max(1, height - len(head) - len(changes) - 3)  # titles, sum and keys take three
        sort = self._sort or (Sort.CPU if len(self._rows) <= room else Sort.PERCENT)
        worst = order(history, self._rows, Sort.PERCENT if sort == Sort.CPU else sort)[:room]
        shown = order(history, worst, sort)

        table = Table(history, self._rows, self._columns, width)
        lines = [*head, table.titles(), *map(table.cpu, shown), table.all()]
        lines += [Text()] * (room - len(shown))
        lines += [Text(f" {clock(c.time_s)}  {c.text}", style="yellow") for c in changes]
        lines.append(_keys(sort, len(shown), len(self._rows)))
        for line in lines:
            line.no_wrap, line.overflow = True, "crop"
        return lines


def _headline(title: str, width: int) -> Text:
    now = clock(time.time())
    line = Text(" guestpv", style="bold")
    line.append(f"  {title}", style="not bold")
    line.truncate(width - len(now) - 2)
    line.append(" " * (width - len(line.plain) - len(now) - 1) + now)
    return line


def _now(history: History, rows: Rows) -> Text:
    """The last interval in a sentence."""
    if not history.intervals:
        return Text(" measuring")
    stolen = history.stolen_ns[rows]
    figures = history.figures(rows)
    text = f" {stolen.sum() / history.interval_ns:.2f} CPU-seconds a second are stolen"
    if figures.stolen_percent is not None:
        text += f", {figures.stolen_percent:.1f} % of {np.count_nonzero(history.known[rows])} vCPUs"
    if len(rows) > 1 and stolen.any():
        most = int(stolen.argmax())
        share = 100 * stolen[most] / stolen.sum()
        text += f"; {share:.0f} % of it from cpu{history.rows['cpu'][rows[most]]}"
    return Text(text)


def _since(history: History, rows: Rows) -> Text:
    """All intervals in a sentence."""
    stolen_s = history.watched_stolen_ns[rows].sum() / 1e9
    text = f" {stolen_s:.3f} s in the {history.watched_ns / 1e9:.0f} s since watching began"
    worst = history.worst_percent[rows]
    if not np.isnan(worst).all():
        row = rows[int(np.nanargmax(worst))]
        text += f"; worst: {history.worst_percent[row]:.1f} % of cpu{history.rows['cpu'][row]}"
        text += f" at {clock(history.worst_time[row])}"
    return Text(text)


def _keys(sort: Sort, shown: int, watched: int) -> Text:
    line = Text(f" q quit   s sort (by {sort})", style="dim")
    if shown < watched:
        line.append(
            f"   {watched - shown} of {watched} vCPUs hidden, the worst shown", style="not dim bold"
        )
    return line

# SPDX-License-Identifier: MIT
"""`guestpv watch` on a terminal: one page, drawn anew at each interval, resize and event."""

import time
from collections import deque
from collections.abc import Sequence

from rich.console import Group
from rich.text import Text

from guestpv.account.changes import Change
from guestpv.account.history import History, Rows
from guestpv.cli.order import Sort, order
from guestpv.cli.summary import summary
from guestpv.cli.table import Table
from guestpv.cli.view import View, clock
from guestpv.cli.waiting import WholeTerminal

_SMALL = 12  # lines of a terminal that has no room for more than the table
_MIN_CHART, _MAX_CHART = 4, 12
_KEPT_CHANGES = 100


class Screen(WholeTerminal, View):
    """The page."""

    def __init__(self, title: str, rows: Rows, columns: Sequence[str], sort: Sort | None) -> None:
        super().__init__()
        self._title = title
        self._rows = rows
        self._columns = columns
        self._sort = sort
        self._changes: deque[Change] = deque(maxlen=_KEPT_CHANGES)

    def key(self, key: str) -> None:
        """Key s changes the order."""
        if key == "s":
            sorts = tuple(Sort)
            self._sort = sorts[(sorts.index(self._sort or Sort.CPU) + 1) % len(sorts)]

    def begin(self, history: History) -> None:
        self.show(history, (), ended=False)

    def show(self, history: History, changes: Sequence[Change], ended: bool) -> None:
        self._changes.extend(changes)
        self.draw(Group(*self.lines(history, *self._console.size)))

    def lines(self, history: History, width: int, height: int) -> list[Text]:
        """The page for a terminal of that size."""
        head = [_headline(self._title, width)]
        if height > _SMALL:
            head += [*_summary(history, self._rows), Text()]
        changes = list(self._changes)[-max(1, height // 6) :]

        room = max(1, height - len(head) - len(changes) - 3)  # titles, sum and keys take three
        sort = self._sort or (Sort.CPU if len(self._rows) <= room else Sort.PERCENT)
        worst = order(history, self._rows, Sort.PERCENT if sort == Sort.CPU else sort)[:room]
        shown = order(history, worst, sort)

        table = Table(history, self._rows, self._columns, width)
        lines = [*head, table.titles(), *map(table.cpu, shown), table.all()]
        lines += _filled(room - len(shown), table)
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


def _summary(history: History, rows: Rows) -> list[Text]:
    return [
        Text(f" {about:8}", style="dim").append(sentence, style="not dim")
        for about, sentence in summary(history, rows).items()
    ]


def _filled(space: int, table: Table) -> list[Text]:
    """Lines that nothing else needs: a chart, where there is room for one."""
    chart = table.chart(min(space - 1, _MAX_CHART)) if space > _MIN_CHART else []
    return [Text()] * (space - len(chart)) + chart


def _keys(sort: Sort, shown: int, watched: int) -> Text:
    line = Text(f" q quit   s sort (by {sort})", style="dim")
    if shown < watched:
        line.append(
            f"   {watched - shown} of {watched} vCPUs hidden, the worst shown", style="not dim bold"
        )
    return line

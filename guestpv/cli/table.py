# SPDX-License-Identifier: MIT
"""The table of `guestpv watch` on a terminal: as many columns as fit, and each CPU's history."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from rich.text import Text
from sparklines import sparklines

from guestpv.account.history import TRAIL, Figures, History, Rows
from guestpv.cli.columns import WIDTHS, cells, objection
from guestpv.page.abi import State
from guestpv.page.names import name_of

_GIVE_UP = ("RESTARTS", "WORST %", "STATE", "DEMAND %", "KERNEL %", "STOLEN s")
"""Columns that a narrow terminal does without, the first first."""

_TRAIL_AFTER = "STOLEN %"
_MIN_TRAIL = 10
_SCALES = (5, 10, 25, 50, 100)


class Table:
    """Draws rows of a history as lines of one width."""

    def __init__(self, history: History, rows: Rows, columns: Sequence[str], width: int) -> None:
        """*rows* are all that are watched: the scale and the last line are theirs."""
        self._history = history
        self._rows = rows
        self._width = width
        self._columns = _that_fit(columns, width)
        self._trail_width = min(TRAIL, max(1, width - _width(self._columns) - 1))
        highest = np.nanmax(history.trail[rows, -self._trail_width :], initial=0.0)
        self._scale = next((scale for scale in _SCALES if scale >= highest), _SCALES[-1])

    def titles(self) -> Text:
        trail = f"HISTORY 0-{self._scale} %" if self._trail_width > 16 else f"0-{self._scale} %"
        line = self._line({title: title for title in self._columns}, trail[: self._trail_width])
        line.stylize("reverse")
        return line

    def cpu(self, row: int) -> Text:
        """The line of one CPU."""
        history = self._history
        entry = history.rows[row]
        figures = history.figures(np.array([row]))
        line = self._line(
            cells(str(entry["cpu"]), name_of(State, entry["state"]), figures),
            objection(entry) or self._spark(history.trail[row]),
        )
        line.stylize(_heat(figures) if entry["state"] == State.ONLINE else "dim")
        return line

    def all(self) -> Text:
        """The line of all rows together."""
        figures = self._history.figures(self._rows)
        line = self._line(cells("all", "", figures), self._spark(self._mean()))
        line.stylize("bold")
        return line

    def chart(self, height: int) -> list[Text]:
        """The history of all rows together, so many lines high with its title."""
        width = self._width - 2
        trail = _drawable(self._mean()[-width:])
        lines = sparklines(trail, num_lines=height - 1, minimum=0, maximum=self._scale)
        title = f"all, 0-{self._scale} %".rjust(width)
        return [Text(f" {title}", style="dim"), *(Text(f" {line:>{width}}") for line in lines)]

    def _mean(self) -> npt.NDArray[np.float64]:
        """Percent of all rows that were known in each interval."""
        trails = self._history.trail[self._rows]
        known = np.count_nonzero(~np.isnan(trails), axis=0)
        mean = np.full(TRAIL, np.nan)
        np.divide(np.nansum(trails, axis=0), known, out=mean, where=known > 0)
        return mean

    def _line(self, cells: dict[str, str], trail: str) -> Text:
        line = Text()
        for title in self._columns:
            line.append(cells[title].rjust(WIDTHS[title]) + " ")
            if title == _TRAIL_AFTER:
                line.append(trail.rjust(self._trail_width) + " ")
        return line

    def _spark(self, trail: npt.NDArray[np.float64]) -> str:
        figures = _drawable(trail[-self._trail_width :])
        return str(sparklines(figures, minimum=0, maximum=self._scale)[0])


def _drawable(trail: npt.NDArray[np.float64]) -> list[float | None]:
    return [None if np.isnan(percent) else percent for percent in trail.tolist()]


def _that_fit(columns: Sequence[str], width: int) -> list[str]:
    fitting = list(columns)
    for title in _GIVE_UP:
        if _width(fitting) + _MIN_TRAIL <= width:
            break
        if title in fitting:
            fitting.remove(title)
    return fitting


def _width(columns: Sequence[str]) -> int:
    return sum(WIDTHS[title] + 1 for title in columns)


def _heat(figures: Figures) -> str:
    """The colour of a line, by how much is being stolen."""
    stolen = figures.stolen_percent or 0.0
    return "red" if stolen >= 10 else "yellow" if stolen >= 1 else ""

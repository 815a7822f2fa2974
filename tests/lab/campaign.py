# SPDX-License-Identifier: MIT
"""Many runs of `guestpv validate`, and the tables of what they said.

With GUESTPV_CAMPAIGN=FILE every run is a line of JSON at the end of that file, and the tables are
those of all runs in it: a campaign may take many evenings.
"""

import json
import os
import statistics
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich import box
from rich.table import Table

PROPERTY = "validated"
"""Of a test: a run of its, as a record."""
FILE = os.environ.get("GUESTPV_CAMPAIGN")
LIARS_RUNS = int(os.environ.get("GUESTPV_LIARS", 0))
HEALTHY_RUNS = int(os.environ.get("GUESTPV_HEALTHY", 0))


@dataclass(frozen=True, slots=True)
class Run:
    """One run of `guestpv validate`.

    by: the checks of which one must catch it; none where nothing is wrong
    failed: those that blamed the hypervisor, and how long after the beginning, in seconds
    found: verdict and text of all that did not pass
    long_gaps, long_waits: the logs, by which another rule can judge the run again
    """

    name: str
    by: list[str]
    kernel: str
    steal: int
    observe_s: float
    failed: dict[str, float]
    found: dict[str, list[str]]
    long_gaps: list[list[int]] = field(default_factory=list)
    long_waits: list[list[int]] = field(default_factory=list)

    @property
    def caught(self) -> bool:
        return not self.failed.keys().isdisjoint(self.by)

    @property
    def caught_after_s(self) -> float:
        """Until the first check that must catch it did."""
        return min(self.failed[id] for id in self.by if id in self.failed)

    def record(self) -> dict[str, object]:
        return asdict(self)


def keep(run: Run) -> None:
    """Have it in the campaign's file, even if what follows is interrupted."""
    if FILE:
        with open(FILE, "a") as file:
            print(json.dumps(run.record()), file=file)


def kept() -> list[Run] | None:
    """All of the campaign; None if there is no file of one."""
    if not FILE or not Path(FILE).exists():
        return None
    return [Run(**json.loads(line)) for line in Path(FILE).read_text().splitlines()]


def tables(runs: Iterable[Run]) -> Iterator[Table]:
    """The liars and what caught them; the healthy guests and who was blamed all the same."""
    by_name: dict[tuple[str, float, bool], list[Run]] = {}
    for run in runs:
        by_name.setdefault((run.name, run.observe_s, not run.by), []).append(run)
    liars = [group for (*_, healthy), group in by_name.items() if not healthy]
    well = [group for (*_, healthy), group in by_name.items() if healthy]
    if liars:
        yield _liars(liars)
    if well:
        yield _healthy(well)


def _liars(groups: list[list[Run]]) -> Table:
    table = Table(box=box.MARKDOWN)
    for column in ("LIAR", "WATCHED", "CAUGHT", "MEDIAN", "WORST", "BY"):
        table.add_column(column, justify="left" if column in ("LIAR", "BY") else "right")
    for runs in groups:
        after_s = [run.caught_after_s for run in runs if run.caught]
        by = _counted(id for run in runs for id in run.failed)
        table.add_row(
            runs[0].name,
            f"{runs[0].observe_s:g} s",
            f"{len(after_s)}/{len(runs)}",
            f"{statistics.median(after_s):.1f} s" if after_s else "",
            f"{max(after_s):.1f} s" if after_s else "",
            by or f"not caught; to be, by {' or '.join(runs[0].by)}",
        )
    return table


def _healthy(groups: list[list[Run]]) -> Table:
    table = Table(box=box.MARKDOWN)
    for column in ("GUEST", "WATCHED", "RUNS", "FALSE ALARMS", "BY"):
        table.add_column(column, justify="left" if column in ("GUEST", "BY") else "right")
    for runs in groups:
        blamed = [run for run in runs if run.failed]
        by = _counted(id for run in blamed for id in run.failed)
        watched = f"{runs[0].observe_s:g} s"
        table.add_row(runs[0].name, watched, str(len(runs)), str(len(blamed)), by)
    return table


def _counted(ids: Iterable[str]) -> str:
    times: dict[str, int] = {}
    for id in ids:
        times[id] = times.get(id, 0) + 1
    ordered = sorted(times, key=lambda id: -times[id])
    return ", ".join(f"{id} {times[id]}" for id in ordered)

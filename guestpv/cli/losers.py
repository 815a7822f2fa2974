# SPDX-License-Identifier: MIT
"""`guestpv watch --tasks` and `--cgroup`: from whom most is stolen."""

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Self

import typer

from guestpv.cli.records import bounds_record, write
from guestpv.cli.source import unavailable
from guestpv.cli.waiting import Ticks, Waiting, WholeTerminal, suspend
from guestpv.errors import NoSourceError
from guestpv.latency.bounds import NOTHING, Bounds
from guestpv.latency.cgroups import Cgroups
from guestpv.latency.many import Many
from guestpv.latency.perf import require_pmu
from guestpv.latency.tasks import Tasks

_HEADING = 3  # lines of a screen that are no rows


@dataclass(frozen=True, slots=True)
class Loser:
    """What was stolen from one."""

    name: str
    interval: Bounds
    """In the last interval."""
    total: Bounds
    """Since it is counted."""


def watch_tasks(interval_s: float, count: int | None, as_json: bool) -> None:
    """Until Ctrl-C. Raises as `guestpv.counter` does if no thread can be counted."""
    said: list[str] = []
    tasks = Tasks(said.append)
    name = lambda tid: f"{tid} {tasks.name(tid)}"  # noqa: E731
    _watch(tasks, said, "task", name, interval_s, count, as_json)


def watch_cgroups(
    patterns: Sequence[str], interval_s: float, count: int | None, as_json: bool
) -> None:
    """The same of the cgroups that match."""
    said: list[str] = []
    _watch(Cgroups(patterns, said.append), said, "cgroup", str, interval_s, count, as_json)


def _tell(said: list[str]) -> None:
    while said:
        typer.echo(f"guestpv: {said.pop()}", err=True)


def _watch(
    many: Many[Any],
    said: list[str],
    kind: str,
    name: Callable[[Any], str],
    interval_s: float,
    count: int | None,
    as_json: bool,
) -> None:
    try:
        require_pmu()
    except NoSourceError as error:
        raise unavailable(error) from None
    with ExitStack() as stack:
        stack.enter_context(many)
        before, began_ns = many.read(), time.monotonic_ns()
        if many.refused and not before:
            raise many.refused
        _tell(said)
        on_terminal = sys.stdout.isatty() and not as_json
        waiting = stack.enter_context(Waiting(keys=on_terminal))
        if not on_terminal:
            waiting.stop_without_reader(sys.stdout.fileno())
        screen = stack.enter_context(_Screen(kind)) if on_terminal else None
        show = screen.show if screen else _records(kind) if as_json else _lines(kind)
        ticks = Ticks(interval_s)
        while count is None or count > 0:
            woken = waiting.wait(ticks.remaining_s())
            if woken.stop or "q" in woken.keys:
                return
            if woken.suspend:
                screen.suspend() if screen else suspend()
            if not ticks.due():
                continue
            now, now_ns = many.read(), time.monotonic_ns()
            _tell(said)
            losers = (
                Loser(name(one), total.since(before.get(one, NOTHING)), total)
                for one, total in now.items()
            )
            show(sorted(losers, key=_how_much), now_ns - began_ns, many.left_out)
            before, began_ns = now, now_ns
            count = None if count is None else count - 1


def _how_much(loser: Loser) -> tuple[int, int, int, str]:
    """The worst first."""
    return (
        *(-loser.interval.least_ns, -loser.interval.most_ns, -loser.total.least_ns),
        loser.name,
    )


Show = Callable[[list[Loser], int, int], None]


def _records(kind: str) -> Show:
    def show(losers: list[Loser], interval_ns: int, left_out: int) -> None:
        write(
            f"guestpv.{kind}s/1",
            {
                "interval_ns": interval_ns,
                "left_out": left_out,
                f"{kind}s": [
                    {
                        kind: loser.name,
                        "stolen_ns": bounds_record(loser.interval),
                        "total_ns": bounds_record(loser.total),
                    }
                    for loser in losers
                ],
            },
        )

    return show


def _lines(kind: str) -> Show:
    """Of those that lost something; what is no loser begins with #, as in lines.Lines."""
    print(f"{'TIME':8} {'STOLEN %':>14} {'TOTAL s':>17} {kind.upper()}", flush=True)
    said = 0

    def show(losers: list[Loser], interval_ns: int, left_out: int) -> None:
        nonlocal said
        moment = time.strftime("%H:%M:%S")
        if left_out != said:
            said = left_out
            print(f"# {moment} {left_out} left out: those are not counted")
        for loser in losers:
            if loser.interval.most_ns:
                percent, total = _cells(loser, interval_ns)
                print(f"{moment} {percent:>14} {total:>17} {_printable(loser.name)}")
        sys.stdout.flush()

    return show


def _cells(loser: Loser, interval_ns: int) -> tuple[str, str]:
    return (
        _range(loser.interval, 100 / interval_ns, ".1f"),
        _range(loser.total, 1e-9, ".3f"),
    )


def _range(bounds: Bounds, scale: float, form: str) -> str:
    low, high = (format(scale * ns, form) for ns in (bounds.least_ns, bounds.most_ns))
    return low if low == high else f"{low} to {high}"


def _printable(name: str) -> str:
    """Whoever chose the name is not to have a say in what a terminal does."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in name)


class _Screen(WholeTerminal):
    """As many as fit."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self._kind = kind

    def __enter__(self) -> Self:
        super().__enter__()
        self.show([], 1, 0)  # also when it goes on after Ctrl-Z
        return self

    def show(self, losers: list[Loser], interval_ns: int, left_out: int) -> None:
        from rich.table import Table

        count = f"{len(losers)} {self._kind}{'s' * (len(losers) != 1)}"
        count += f", {left_out} left out" * bool(left_out)
        table = Table(box=None, pad_edge=False, title=f"{count}: the worst first; q ends")
        table.title_justify = "left"
        for column in "STOLEN %", "TOTAL s":
            table.add_column(column, justify="right", no_wrap=True)
        table.add_column(self._kind.upper(), no_wrap=True, overflow="ellipsis")
        for loser in losers[: max(1, self._console.height - _HEADING)]:
            table.add_row(*_cells(loser, interval_ns), _printable(loser.name))
        self.draw(table)

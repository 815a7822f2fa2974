# SPDX-License-Identifier: MIT
"""pytest-benchmark: what was stolen from each round, and timings without it.

A round begins and ends with a call of the benchmark's timer, and nothing calls it after the last
one: so the last calls are the rounds.
"""

import sys
import threading
import time
from argparse import ArgumentTypeError
from array import array
from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from guestpv.errors import Error

if TYPE_CHECKING:
    from guestpv.latency.clock import Clock, Elapsed

MODES = ("mark", "drop", "correct", "off")
KEY = "guestpv"
"""Where a benchmark's `extra_info` has what was stolen."""

_SWIFT_NS = 20_000
"""Nothing of consequence is stolen in so little time: a host's slices are longer."""
_TRIES = 3
_USUAL_TIMER = "time.perf_counter"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("guestpv", "stolen time")
    group.addoption(
        "--guestpv",
        choices=MODES,
        default="mark",
        help="What to do with benchmarks from which the hypervisor takes time. mark (default): say"
        " so; drop: leave disturbed rounds out; correct: take what was stolen off each round; off:"
        " nothing. With drop and correct the timer stands still while the vCPU does.",
    )
    group.addoption(
        "--guestpv-max",
        type=_percent_from,
        default=1.0,
        metavar="PERCENT",
        help="A round is disturbed if more than that of it was stolen. Default: %(default)s",
    )


def _percent_from(text: str) -> float:
    percent = float(text)
    if 0 <= percent <= 100:  # which NaN is not
        return percent
    raise ArgumentTypeError(f"{text} is no percentage")


def pytest_configure(config: pytest.Config) -> None:
    if config.option.guestpv != "off":
        config.pluginmanager.register(_Session(config.option), "guestpv-benchmarks")


class Call:
    """What a call of the timer gives, of which pytest-benchmark takes differences, in seconds.

    A round begins when the call before it ends, and ends when the call after it begins: reading
    what was stolen takes some microseconds, which are in neither.
    """

    __slots__ = ("_corrects", "_early", "_late")

    def __init__(self, early: "Elapsed", late: "Elapsed", corrects: bool) -> None:
        self._early = early
        self._late = late
        self._corrects = corrects

    def __sub__(self, begin: "Call") -> float:
        passed = self._early.since(begin._late)
        stolen_ns = passed.stolen_ns if self._corrects else 0
        return max(passed.wall_ns - stolen_ns, 1) / 1e9


class Timer:
    """The timer of all benchmarks of a session; it keeps what was stolen up to each call."""

    def __init__(self, corrects: bool) -> None:
        self.__name__ = "unstolen_clock" if corrects else "wall_clock"
        self._corrects = corrects
        self._clock: Clock | None = None
        self.begin()

    def begin(self) -> None:
        """The next calls are another benchmark's."""
        if self._clock is not None:
            self._clock.close()
        self._thread = 0
        self._calls = array("q")  # four figures of each: there may be many
        self.why: Error | None = None
        """Why nothing is known of what was stolen."""

    def __call__(self) -> Call:
        if self._thread != threading.get_ident():
            self._begin_here()
        called_ns = time.monotonic_ns() - self._began_ns
        now = self._elapsed()
        # What was stolen is that of now. If it was slow to come, some may have been stolen between.
        if now.wall_ns - called_ns > _SWIFT_NS:
            called_ns = now.wall_ns
        for _ in range(_TRIES):
            late_ns = time.monotonic_ns() - self._began_ns
            if late_ns - now.wall_ns <= _SWIFT_NS:
                break
            now = self._elapsed()
        else:
            late_ns = now.wall_ns
        _, *stolen = now
        self._calls.extend((called_ns, late_ns, *stolen))
        return Call(now._replace(wall_ns=called_ns), now._replace(wall_ns=late_ns), self._corrects)

    def _begin_here(self) -> None:
        """A benchmark need not run in the thread that began the test."""
        from guestpv.latency import clock

        self.begin()
        self._thread = threading.get_ident()
        try:
            self._clock = clock.of_this_thread()
            self._began_ns = self._clock.began_ns
        except Error as error:
            self._clock, self.why = None, error
            self._began_ns = time.monotonic_ns()

    def _elapsed(self) -> "Elapsed":
        if self._clock is not None:
            return self._clock.elapsed()
        from guestpv.latency.clock import Elapsed

        passed_ns = time.monotonic_ns() - self._began_ns
        return Elapsed(passed_ns, 0, passed_ns)

    def was_called(self) -> bool:
        return bool(self._calls)

    def rounds(self, number: int) -> "list[Elapsed]":
        """The last so many."""
        from guestpv.latency.clock import Elapsed

        figures = self._calls[len(self._calls) - 8 * number :]
        return [
            Elapsed(early_ns - late_ns, stolen_ns - before_ns, unknown_ns - unknown_before_ns)
            for _, late_ns, before_ns, unknown_before_ns, early_ns, _, stolen_ns, unknown_ns in zip(
                *(figures[n::8] for n in range(8)), strict=True
            )
        ]


@dataclass(frozen=True, slots=True)
class _Row:
    """What the table says of a benchmark."""

    name: str
    rounds: int
    disturbed: int
    percent: tuple[float, float]
    worst_percent: float
    left: int
    note: str


class _Session:
    """The benchmarks of a session."""

    def __init__(self, options: Any) -> None:
        self._mode: str = options.guestpv
        self._limit: float = options.guestpv_max
        self._all_have_a_timer = getattr(options, "benchmark_timer", "") != _USUAL_TIMER
        self._timer = Timer(corrects=self._mode != "mark")
        self._rows: list[_Row] = []
        self._unknown: Error | None = None

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Give each benchmark the timer, by its marker, unless it has one of its own."""
        benchmarks = [item for item in items if "benchmark" in getattr(item, "fixturenames", ())]
        if not benchmarks or self._all_have_a_timer:
            return
        from guestpv.latency import clock

        try:
            clock.of_this_thread().close()
        except Error as error:
            self._unknown = error
            return
        for item in benchmarks:
            marker = item.get_closest_marker("benchmark")
            args, options = (marker.args, marker.kwargs) if marker else ((), {})
            timed = pytest.mark.benchmark(*args, **{"timer": self._timer, **options})
            item.add_marker(timed, append=False)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        benchmark: Any = getattr(item, "funcargs", {}).get("benchmark")
        if not _is_of_pytest_benchmark(benchmark):
            return (yield)
        self._timer.begin()
        try:
            return (yield)
        finally:
            if benchmark.stats and self._timer.was_called() and not benchmark.has_error:
                self._judge(item.name, benchmark.stats, benchmark.extra_info)
            self._timer.begin()

    def _judge(self, name: str, stats: Any, extra_info: dict[str, Any]) -> None:
        """Say what was stolen from a benchmark's rounds, and do what is to be done about it."""
        data: list[float] = stats.stats.data
        rounds = self._timer.rounds(len(data))
        disturbed = [n for n, one in enumerate(rounds) if one.most_percent > self._limit]
        unknown = [n for n, one in enumerate(rounds) if one.unknown_ns]
        dropped, note = self._to_drop(len(data), disturbed, unknown)
        if dropped:
            gone = set(dropped)
            data[:] = [seconds for n, seconds in enumerate(data) if n not in gone]
        for figure in vars(stats.stats).keys() - {"data"}:  # what was worked out from it before
            del vars(stats.stats)[figure]

        wall_ns = sum(one.wall_ns for one in rounds)
        stolen_ns = sum(one.stolen_ns for one in rounds)
        most_ns = stolen_ns + sum(one.unknown_ns for one in rounds)
        extra_info[KEY] = {
            "mode": self._mode,
            "max_percent": self._limit,
            "stolen_percent": [100 * part / wall_ns for part in (stolen_ns, most_ns)],
            "wall_ns": wall_ns,
            "stolen_ns": [one.stolen_ns for one in rounds],
            "unknown_ns": {n: rounds[n].unknown_ns for n in unknown},
            "disturbed": len(disturbed),
            "dropped": dropped,
        }
        self._rows.append(
            _Row(
                name,
                len(rounds),
                len(disturbed),
                (100 * stolen_ns / wall_ns, 100 * most_ns / wall_ns),
                max(one.most_percent for one in rounds),
                len(data),
                f"{note}: {self._timer.why}" if self._timer.why else note,
            )
        )

    def _to_drop(
        self, rounds: int, disturbed: list[int], unknown: list[int]
    ) -> tuple[list[int], str]:
        """Which rounds to leave out, never all; and what there is to say."""
        if len(unknown) == rounds:
            return [], "what was stolen from it is not known"
        if self._mode == "drop" and disturbed:
            if len(disturbed) == rounds:
                return unknown, "every round was disturbed: all are corrected instead"
            return disturbed, ""
        if self._mode == "correct" and unknown:
            number = "one round" if len(unknown) == 1 else f"{len(unknown)} rounds"
            return unknown, f"of {number} it is not known what was stolen"
        return [], "not corrected" if self._mode == "mark" and disturbed else ""

    @pytest.hookimpl(wrapper=True, optionalhook=True)
    def pytest_benchmark_group_stats(self) -> Generator[None, Any, Any]:
        """Mark in pytest-benchmark's own table what is in it uncorrected."""
        groups = yield
        for _, benchmarks in groups if self._mode == "mark" else ():
            for benchmark in benchmarks:
                said = benchmark["extra_info"].get(KEY)
                if said and said["disturbed"] and benchmark["path"] is None:
                    mark = f" (stolen: {_percent(said['stolen_percent'])} %)"
                    benchmark["name"] += mark
                    benchmark["fullname"] += mark
        return groups

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self._unknown is not None:
            terminalreporter.write_line(f"guestpv: benchmarks are as they are: {self._unknown}")
        if not self._rows:
            return
        from rich.console import Console
        from rich.table import Table

        table = Table(box=None, pad_edge=False)
        table.add_column("BENCHMARK")
        for title in ("STOLEN %", "WORST ROUND %", "DISTURBED", "ROUNDS", "LEFT"):
            table.add_column(title, justify="right", no_wrap=True)
        table.add_column("")
        for row in self._rows:
            cells = (row.disturbed, row.rounds, row.left)
            table.add_row(
                row.name,
                _percent(row.percent),
                f"{row.worst_percent:.1f}",
                *map(str, cells),
                row.note,
            )
        width = None if terminalreporter.isatty else 140
        console = Console(highlight=False, markup=False, emoji=False, width=width)
        with console.capture() as said:
            console.print(table)
        terminalreporter.section(f"guestpv: stolen time, {self._mode}", sep="-")
        terminalreporter.write(said.get())


def _is_of_pytest_benchmark(fixture: object) -> bool:
    """Where that is not there, a fixture of that name is somebody else's."""
    module = sys.modules.get("pytest_benchmark.fixture")
    return module is not None and isinstance(fixture, module.BenchmarkFixture)


def _percent(bounds: "tuple[float, float] | list[float]") -> str:
    least, most = (f"{one:.1f}" for one in bounds)
    return least if least == most else f"{least} to {most}"

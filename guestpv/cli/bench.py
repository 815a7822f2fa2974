# SPDX-License-Identifier: MIT
"""guestpv bench: what reading the counts costs here, and how they behave under load."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from math import inf
from typing import TYPE_CHECKING, Annotated, Any

import typer

from guestpv.cli.exitcodes import INTERRUPTED
from guestpv.cli.options import CountSourceOption, CpuOption, JsonOption, number
from guestpv.cpulist import CpuList, listed
from guestpv.errors import FormatError, ModuleError, NoSourceError

if TYPE_CHECKING:
    from guestpv.source.mapped import MappedReader

SCHEMA = "guestpv.bench/1"
_LARGEST = 64 << 20


def _result(path: str) -> dict[str, Any]:
    """What an earlier run wrote with --json."""
    try:
        with open(path, "rb") as file:
            record: dict[str, Any] | None = json.loads(file.read(_LARGEST))
    except OSError as error:
        raise NoSourceError(
            f"{path}: no result", str(error.strerror), "make one: guestpv bench --json >FILE"
        ) from None
    except (ValueError, RecursionError):
        record = None
    if record is None or not _is_result(record):
        raise FormatError(
            f"{path}: no result", f"It is not of {SCHEMA}", "make one: guestpv bench --json >FILE"
        )
    return record


def _is_result(record: Any) -> bool:
    """Whether it has what is shown of it."""
    try:
        return (
            record["schema"] == SCHEMA
            and all(0 < float(cost["median_ns"]) < inf for cost in record["costs"].values())
            and all(
                vcpu["cpu"] >= 0
                and 0 <= float(vcpu["stolen_ns"]) < inf
                and 0 < float(vcpu["wall_ns"]) < inf
                for vcpu in record["cpus"]
            )
        )
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        return False


def bench(
    seconds: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            parser=number("seconds", 0.5, 86400),
            help="How long to watch the counts.",
        ),
    ] = "10",  # type: ignore[assignment] # parsed, as what a user gives
    compare: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="An earlier result (of --json), to show beside this."),
    ] = None,
    source: CountSourceOption = "auto",
    cpu: CpuOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure what a read of the counts costs, and how they behave under load.

    A thread on each vCPU keeps it busy and reads its count without a pause, for --seconds. Run
    something beside it, or have the host busy, to see what the counts make of it. COUNTED is how
    much of the time that was missing from these threads in pieces of 1 ms and more is in the
    counts, EXPLAINED how much of all time is stolen, or by /proc/stat busy or idle: more than all
    where a kernel takes stolen time for its own, less where it missed ticks.

    Figures that were not steady are named at the end: they are not worth quoting. Ctrl-C ends it
    with what there is, once a fifth of the time is over.
    """
    if compare and as_json:
        raise typer.BadParameter("it is for the tables, and not for --json", param_hint="--compare")
    before = _result(compare) if compare else None
    try:
        from guestpv.latency import bench as measured
    except ModuleNotFoundError as error:
        raise ModuleError(
            "guestpv bench: not started",
            f"It needs the Python package {error.name}, which is not installed",
            f"get it by {sys.executable} -m pip install 'guestpv[bench]'",
        ) from None
    with _open(source) as reader:
        cpus = _readable(reader, cpu)
        with _progress() as say:
            say("timing reads")
            costs = measured.costs(reader, cpus[0])
            behaviours = measured.behaviours(
                reader, cpus, seconds, lambda: say(f"watching cpu{listed(cpus)} for {seconds:g} s")
            )
        record = {
            **_about(reader, seconds),
            "costs": {
                name: {**asdict(cost), "steady": cost.steady} for name, cost in costs.items()
            },
            "cpus": [asdict(vcpu) for vcpu in behaviours.vcpus],
            "left_out": {str(number): why for number, why in behaviours.left_out.items()},
            "unsteady": measured.unsteady(costs, behaviours),
            "finished": behaviours.rounds == measured.ROUNDS,
        }
    if as_json:
        from guestpv.cli.records import write

        write(SCHEMA, record)
    else:
        _show(record, before)
    if not record["finished"]:
        raise typer.Exit(INTERRUPTED)


def _open(source: str) -> MappedReader:
    from guestpv.cli.source import open_source
    from guestpv.source.mapped import MappedReader

    reader = open_source(source)
    if isinstance(reader, MappedReader):
        return reader
    reader.close()
    raise NoSourceError(
        f"{reader.source.path}: no counts in nanoseconds",
        "/proc/stat has ticks of 10 ms, and no steps to be seen",
        "leave --source out, or name a page image",
    )


def _readable(reader: MappedReader, chosen: CpuList | None) -> list[int]:
    """Those of the chosen CPUs that have a count. Raises StructureError if none has one."""
    cpus = chosen.choose(reader.cpus) if chosen else reader.cpus
    rows = reader.snapshot()
    readable = [int(row["cpu"]) for row in rows if row["cpu"] in cpus and row["valid"]]
    if not readable:
        reader.read(cpus[0])
    return readable


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """What is being done, on a terminal; elsewhere once a minute."""
    from rich.console import Console

    from guestpv.cli.reports.progress import progress, seldom

    console = Console(stderr=True, markup=False, emoji=False)
    with progress(console) if console.is_terminal else seldom() as say:
        yield say


def _about(reader: MappedReader, seconds: float) -> dict[str, Any]:
    from guestpv.cli.records import instance_record, source_record

    return {
        "source": source_record(reader.source),
        "instance": instance_record(int(reader.header["instance"])),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "seconds": seconds,
    }


def _show(record: dict[str, Any], before: dict[str, Any] | None) -> None:
    from rich.console import Console
    from rich.table import Table

    from guestpv.cli.columns import SIMULATED
    from guestpv.latency.bench import digits

    console = Console(highlight=False, markup=False, emoji=False)
    path, seconds = record["source"]["path"], record["seconds"]
    simulated = f"{SIMULATED} " if record["source"]["simulated"] else ""

    def table(title: str, *columns: str) -> Table:
        table = Table(box=None, pad_edge=False, title=title, title_justify="left")
        for at, column in enumerate(columns):
            table.add_column(column, justify="right" if at else "left")
        return table

    earlier = ("BEFORE ns", "RATIO") if before else ()
    costs = table(f"What a call costs, {path}", "CALL", "MEDIAN ns", "QUARTILES ns", *earlier)
    for name, cost in record["costs"].items():
        median, q1, q3 = (digits(cost[figure]) for figure in ("median_ns", "q1_ns", "q3_ns"))
        cells = [name, median, f"{q1} to {q3}"]
        costs.add_row(*cells, *_beside(cost, before["costs"].get(name) if before else None))
    console.print(costs)

    earlier_percent = ["BEFORE"] if before else []
    title = f"\nWhat {simulated}counts did in {seconds:g} s, with a busy thread on each vCPU"
    columns = ("STOLEN %", *earlier_percent, "MOVES/s", "STEP ms", "WORST ms", "COUNTED")
    counts = table(title, "CPU", *columns, "LATE ms", "EXPLAINED")
    stolen_before = {
        vcpu["cpu"]: f"{_stolen_percent(vcpu):.1f}" for vcpu in (before["cpus"] if before else ())
    }
    for vcpu in record["cpus"]:
        counts.add_row(
            str(vcpu["cpu"]),
            f"{_stolen_percent(vcpu):.1f}",
            *([stolen_before.get(vcpu["cpu"], "-")] if before else ()),
            f"{1e9 * vcpu['moves'] / vcpu['wall_ns']:.1f}",
            _ms(vcpu["step_ns"]),
            _ms(vcpu["worst_ns"]),
            _percent(100 * vcpu["counted_ns"] / vcpu["missing_ns"] if vcpu["missing_ns"] else None),
            _ms(vcpu["late_ns"]) if vcpu["late"] else "-",
            _percent(vcpu["explained_percent"]),
        )
    console.print(counts)
    notes = [f"cpu{number}: left out, {why}" for number, why in record["left_out"].items()]
    notes += [f"not steady: {why}" for why in record["unsteady"]]
    if not record["finished"]:
        notes.append("it was interrupted: the counts are of a part of that time")
    if before and before.get("unsteady"):
        notes.append("the earlier result was not steady either")
    if notes:
        console.print("", *(f"  {note}" for note in notes), sep="\n", soft_wrap=True)


def _beside(now: dict[str, Any], before: dict[str, Any] | None) -> tuple[str, ...]:
    if before is None:
        return ()
    from guestpv.latency.bench import digits

    before_ns = float(before["median_ns"])
    return digits(before_ns), f"{now['median_ns'] / before_ns:.2f}"


def _stolen_percent(vcpu: dict[str, Any]) -> float:
    return 100 * float(vcpu["stolen_ns"]) / float(vcpu["wall_ns"])


def _ms(ns: int | None) -> str:
    return "-" if ns is None else f"{ns / 1e6:.3f}"


def _percent(figure: float | None) -> str:
    return "-" if figure is None else f"{figure:.1f} %"

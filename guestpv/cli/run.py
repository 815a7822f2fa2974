# SPDX-License-Identifier: MIT
"""guestpv run: what a command's time was spent on, and what of it the hypervisor took."""

import os
import resource
import shlex
import signal
import sys
from contextlib import ExitStack
from math import isinf
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from guestpv.cli.exitcodes import SLOWED
from guestpv.cli.options import JsonOption, number
from guestpv.cli.records import dumps
from guestpv.cli.source import unavailable
from guestpv.errors import Error
from guestpv.latency.bounds import Bounds
from guestpv.latency.command import CommandTimes, Signals, why_unknown
from guestpv.latency.command import run as run_command

if TYPE_CHECKING:
    from guestpv.latency.ended import EndedTasks

SETTINGS = {
    # What follows the command's name is the command's.
    "context_settings": {"allow_interspersed_args": False}
}


def run(
    command: Annotated[
        list[str],
        typer.Argument(metavar="COMMAND...", help="The command and its arguments, after '--'."),
    ],
    repeat: Annotated[
        int, typer.Option(min=1, metavar="N", help="Run it N times; say medians and ranges.")
    ] = 1,
    fail_above: Annotated[
        float | None,
        typer.Option(
            metavar="PERCENT",
            parser=number("percent", 0, 1e6),
            help=f"Exit with {SLOWED} unless the host certainly slowed it by no more.",
        ),
    ] = None,
    all_waits: Annotated[
        bool,
        typer.Option(
            "--all-waits", help="'waited' of all its tasks that end, not the first alone (root)."
        ),
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--output", metavar="FILE", help="Report to a file, not stderr.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Run a command, and say what the hypervisor took from it and from all that it starts.

    The report goes to stderr. The exit code is the command's own; if a signal ends it, the same
    ends guestpv; 127 says that there is no such command, 126 that it can't be executed. Signals
    are passed on to it. With --repeat it ends with the first run that fails, or that was to end.

    'slower' is how much longer it took than on a host that takes nothing, if it did not wait for
    a timer anyway. It is exact for what one thread does. Of several at once it is known to lie
    between two figures: what they lost at the same time held the whole up only once, or not at all.

    The module's perf events count what is stolen, for users too (kernel.perf_event_paranoid up to
    2), for their own commands. Without them root has the counts of all vCPUs, as an upper bound.
    'waited' is of the command's first thread; as root, --all-waits has it of all tasks that end.
    """
    why = why_unknown()
    unknown = why and unavailable(why)
    if unknown and fail_above is not None:
        raise unknown
    with ExitStack() as stack:
        file: TextIO = sys.stderr
        if output:
            file = stack.enter_context(_opened(output))
        runs: list[CommandTimes] = []
        ended = stack.enter_context(_ended_tasks()) if all_waits else None
        with Signals() as signals:
            while len(runs) < repeat and not any(one.status for one in runs):
                if signals.asked_to_end():
                    break
                runs.append(run_command(command, not unknown, signals, ended))
        # A command may end well at Ctrl-C: then the runs that are missing did not.
        ending = -signals.ending if signals.ending and len(runs) < repeat else 0
        if not runs:
            _end_like(ending)
        if as_json:
            record = _record(command, runs, unknown, all_waits)
            record["finished"] = len(runs) == repeat
            print(dumps("guestpv.run/1", record), file=file, flush=True)
        else:
            lines = [*_lines(command, runs, unknown, all_waits), *_why_no_more(runs, repeat)]
            print(*lines, sep="\n", file=file, flush=True)
    _end_like(runs[-1].status or ending)
    slower = _medians(runs)["slower"]
    if fail_above is not None and slower is not None and slower[1] > fail_above:
        raise typer.Exit(SLOWED)


def _ended_tasks() -> "EndedTasks":
    from guestpv.latency.ended import EndedTasks  # to import it takes as long as a short command

    return EndedTasks()


def _opened(output: Path) -> TextIO:
    try:
        return output.open("w", errors="backslashreplace")  # a name may be of any bytes
    except OSError as error:
        why = error.strerror or str(error)
        fix = "give another path to --output"
        raise Error(f"{output}: no report can be written", why, fix) from error


def _end_like(status: int) -> None:
    if status > 0:
        raise typer.Exit(status)
    if status < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the command has left its core
        if -status != signal.SIGKILL:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
        raise typer.Exit(128 - status)  # a signal that ended it, and does not end this


Range = tuple[float, float]
"""At least, and at most."""

_FIGURES = ("wall", "cpu", "stolen", "ran", "waited", "idle", "slower")


def _figure(times: CommandTimes, name: str) -> Range | None:
    """As a range: seconds, or percent."""
    if name == "slower":
        return times.slower_percent
    value: Bounds | int | None = getattr(
        times, name if name in ("stolen", "ran", "idle") else f"{name}_ns"
    )
    if value is None:
        return None
    if isinstance(value, int):
        value = Bounds(value, value)
    return value.least_ns / 1e9, value.most_ns / 1e9


def _ranges(runs: list[CommandTimes], name: str) -> list[Range] | None:
    """Of each run, or None if it is unknown of one."""
    ranges = [_figure(one, name) for one in runs]
    known = [one for one in ranges if one is not None]
    return known if len(known) == len(ranges) else None


def _medians(runs: list[CommandTimes]) -> dict[str, Range | None]:
    """A median of what lies within bounds lies between the medians of the bounds."""
    return {
        name: (median(low for low, _ in ranges), median(high for _, high in ranges))
        if (ranges := _ranges(runs, name))
        else None
        for name in _FIGURES
    }


def _spread(ranges: list[Range]) -> Range:
    """From the least to the greatest of values that lie within bounds."""
    lows, highs = [low for low, _ in ranges], [high for _, high in ranges]
    return max(max(lows) - min(highs), 0.0), max(highs) - min(lows)


def _text(value: Range, digits: int = 3) -> str:
    low, high = (f"{one:.{digits}f}" for one in value)
    return low if low == high else f"{low} to {high}"


def _lines(
    command: list[str], runs: list[CommandTimes], unknown: Error | None, all_waits: bool = False
) -> list[str]:
    medians, alone = _medians(runs), all(one.alone for one in runs)
    whose = "all its tasks that ended" if all_waits else "its first thread"
    times = f", {len(runs)} runs, medians" if len(runs) > 1 else ""
    lines = ["", f"guestpv run: {shlex.join(command)}{times}", ""]
    explained = {
        "wall": "",
        "cpu": "as the kernel counts it"
        if unknown or not alone
        else "on vCPUs, stolen time included",
        "stolen": _share(medians["stolen"], medians["cpu"]),
        "ran": "on vCPUs, without it",
        "waited": f"{whose}, while this guest ran something else",
        "idle": "wall, on a host that takes nothing",
    }
    for name, explanation in explained.items():
        value = medians[name]
        said = "not known" if value is None else f"{_text(value)} s"
        lines.append(f"  {name:<7} {said:>16}  {explanation}".rstrip())
    if slower := medians["slower"]:
        said = f"{slower[0]:.1f} % or more" if isinf(slower[1]) else f"{_text(slower, 1)} %"
        lines.append(f"  {'slower':<7} {said:>16}  than on such a host")
    wall, idle = _ranges(runs, "wall"), _ranges(runs, "idle")
    if len(runs) > 1 and wall:
        lines += ["", f"  From run to run, wall varied by {_text(_spread(wall))} s"]
        if idle:
            lines[-1] += f"; without what was stolen, by {_text(_spread(idle))} s"
        lines[-1] += "."
    if unknown:
        lines += ["", f"  What was stolen is not known: {unknown}"]
    if not alone:
        lines += [
            "",
            "  What was stolen is at most what all vCPUs lost meanwhile: the module has no perf"
            " events here.",
        ]
    if uncounted_ns := max(one.uncounted_ns for one in runs):
        lines += [
            "",
            f"  Only root can count what was stolen in {uncounted_ns / 1e9:.3f} s of it: those of"
            " programs that are set-user-ID, as sudo is, or may not be read.",
        ]
    return lines


def _why_no_more(runs: list[CommandTimes], repeat: int) -> list[str]:
    """Of a series: the last run, which may be a part of one, is in its medians."""
    status = runs[-1].status
    if repeat == 1 or (len(runs) == repeat and not status):
        return []
    series = f"  The series of {repeat}"
    if not status:
        return ["", f"{series} was interrupted in run {len(runs)}, or after it."]
    how = f"exited with {status}" if status > 0 else f"was ended by signal {-status}"
    return ["", f"{series} ended with run {len(runs)}, which {how}, and is in these figures."]


def _share(stolen: Range | None, cpu: Range | None) -> str:
    if not stolen or not cpu or not 0 < cpu[1] >= stolen[1]:
        return "taken from it by the hypervisor"
    percent = 100 * stolen[0] / cpu[1], 100 * stolen[1] / cpu[1]
    return f"taken from it by the hypervisor, {_text(percent, 1)} % of that"


def _record(
    command: list[str], runs: list[CommandTimes], unknown: Error | None, all_waits: bool
) -> dict[str, Any]:
    return {
        "command": command,
        "runs": [
            {"status": one.status, **_run_record(one), "uncounted_ns": one.uncounted_ns}
            for one in runs
        ],
        "alone": None if unknown else all(one.alone for one in runs),
        "all_waits": all_waits,
        "median": {
            _key(name): None if value is None else _in_units(name, value)
            for name, value in _medians(runs).items()
        },
        "spread": {
            _key(name): _in_units(name, _spread(ranges))
            if (ranges := _ranges(runs, name))
            else None
            for name in ("wall", "idle")
        },
        "unknown": str(unknown) if unknown else None,
    }


def _run_record(times: CommandTimes) -> dict[str, Any]:
    return {
        _key(name): None if (value := _figure(times, name)) is None else _in_units(name, value)
        for name in _FIGURES
    }


def _key(name: str) -> str:
    return f"{name}_percent" if name == "slower" else f"{name}_ns"


def _in_units(name: str, value: Range) -> list[float] | list[int]:
    return list(value) if name == "slower" else [round(one * 1e9) for one in value]

# SPDX-License-Identifier: MIT
"""guestpv watch: stolen time while it is being stolen."""

import sys
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from typing import Annotated

import numpy as np
import typer

from guestpv.account.history import History
from guestpv.account.kernel import sample
from guestpv.cli.announcements import Announcements
from guestpv.cli.columns import SIMULATED, WIDTHS
from guestpv.cli.lines import Lines
from guestpv.cli.options import CgroupOption, CpuOption, IntervalOption, JsonOption, SourceOption
from guestpv.cli.order import Sort
from guestpv.cli.source import open_source
from guestpv.cli.view import View
from guestpv.cli.waiting import Ticks, Waiting
from guestpv.cli.watchrecords import WatchRecords
from guestpv.page.abi import Origin
from guestpv.page.names import name_of
from guestpv.source.mapped import MappedReader
from guestpv.source.procstat import Accounts, no_accounts
from guestpv.source.reader import Reader, Snapshot


def watch(
    source: SourceOption = "auto",
    cpu: CpuOption = None,
    interval: IntervalOption = 1.0,
    count: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="End after N intervals.")
    ] = None,
    sort: Annotated[
        Sort | None,
        typer.Option(help="Order of the CPUs. By number, or if not all fit, the worst first."),
    ] = None,
    tasks: Annotated[
        bool, typer.Option("--tasks", help="Instead, from which threads most is stolen.")
    ] = False,
    cgroup: CgroupOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show stolen time live, until q or Ctrl-C: for each vCPU, and for all together.

    STOLEN s is the hypervisor's count, STOLEN % what it grew by in the last interval, with its
    history beside it, and DEMAND % the same of the time for which the vCPU had something to run.
    KERNEL % is what /proc/stat says, with ≠ where it contradicts the count. RESTARTS are counts
    that began anew, as a CPU's does that was offline.

    --tasks and --cgroup name those who lose most, by the module's perf events.
    """
    if tasks or cgroup:
        if (tasks and cgroup) or cpu or sort or source not in ("auto", "device"):
            raise typer.BadParameter(
                "--tasks and --cgroup go with --interval, --count and --json alone"
            )
        _watch_losers(cgroup or (), interval, count, as_json)
        return
    with ExitStack() as stack:
        reader = stack.enter_context(open_source(source))
        cpus = cpu.choose(reader.cpus) if cpu else reader.cpus
        rows = np.flatnonzero(np.isin(reader.cpus, cpus))
        on_terminal = sys.stdout.isatty() and not as_json
        waiting = stack.enter_context(Waiting(keys=on_terminal))
        if as_json:
            view: View = WatchRecords(reader.source, rows)
        elif not on_terminal:
            if reader.source.simulated:
                print(f"# {SIMULATED}: {reader.source.path}")
            view = Lines(rows, _columns(reader), sort or Sort.CPU)
        else:
            from guestpv.cli.screen import Screen  # takes long to import, and few need it

            title = _title(reader, interval)
            view = stack.enter_context(Screen(title, rows, _columns(reader), sort))
        _run(reader, cpus, view, waiting, interval, count)


def _watch_losers(
    patterns: Sequence[str], interval: float, count: int | None, as_json: bool
) -> None:
    from guestpv.cli.losers import watch_cgroups, watch_tasks  # few need them

    if patterns:
        watch_cgroups(patterns, interval, count, as_json)
    else:
        watch_tasks(interval, count, as_json)


def _run(
    reader: Reader,
    cpus: Collection[int],
    view: View,
    waiting: Waiting,
    interval: float,
    count: int | None,
) -> None:
    history = History(*_sample(reader))
    ticks = Ticks(interval)
    view.begin(history)
    with Announcements(waiting, reader.source) as announcements:
        while count is None or history.intervals < count:
            woken = waiting.wait(ticks.remaining_s())
            if woken.stop or "q" in woken.keys:
                return
            if woken.suspend:
                view.suspend()
            for key in woken.keys:
                view.key(key)
            ended = ticks.due()
            changes = history.tick(*_sample(reader)) if ended else history.update(reader.snapshot())
            changes = [*announcements.changes(), *changes]
            watched = [change for change in changes if change.cpu is None or change.cpu in cpus]
            view.show(history, watched, ended)


def _sample(reader: Reader) -> tuple[Snapshot, Accounts]:
    """A snapshot, and what the kernel says at the same time, as far as that can be had."""
    if reader.source.kind == "image":  # of any machine, and /proc/stat is of this one
        return reader.snapshot(), no_accounts(reader.cpus)
    return sample(reader)


def _title(reader: Reader, interval: float) -> str:
    words = [reader.source.path]
    if reader.source.simulated:
        words.insert(0, SIMULATED)
    if reader.source.kind == "procfs":
        words.append(f"in ticks of {reader.source.resolution_ns // 1_000_000} ms")
    if isinstance(reader, MappedReader):
        known = reader.entries[reader.entries["origin"] != Origin.NONE]
        if len(known):
            words.append(f"{name_of(Origin, known[0]['origin'])} at {known[0]['ipa']:#x}")
    return ", ".join([*words, f"every {interval:g} s"])


def _columns(reader: Reader) -> list[str]:
    """/proc/stat has something to say only of this machine, and nothing against itself."""
    leave_out = {"device": set(), "procfs": {"KERNEL %"}, "image": {"KERNEL %", "DEMAND %"}}
    return [title for title in WIDTHS if title not in leave_out[reader.source.kind]]

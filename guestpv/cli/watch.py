# SPDX-License-Identifier: MIT
"""guestpv watch: stolen time while it is being stolen."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from guestpv.cli.columns import WIDTHS
from guestpv.cli.lines import Lines
from guestpv.cli.options import CpuOption, IntervalOption, JsonOption, SourceOption
from guestpv.cli.order import Sort
from guestpv.cli.records import WatchRecords
from guestpv.cli.source import open_source
from guestpv.cli.view import View
from guestpv.cli.waiting import Ticks, Waiting
from guestpv.errors import PermissionDeniedError
from guestpv.history import Change, History, change
from guestpv.layout import Origin
from guestpv.names import name_of
from guestpv.procstat import accounts, no_accounts
from guestpv.reader import Reader

if TYPE_CHECKING:
    from guestpv.events import Event


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
    as_json: JsonOption = False,
) -> None:
    """Show stolen time live, until q or Ctrl-C: for each vCPU, and for all together.

    ...
    """
    with ExitStack() as stack:
        reader = stack.enter_context(open_source(source))
        rows = np.flatnonzero(np.isin(reader.cpus, cpu.choose(reader.cpus) if cpu else reader.cpus))
        on_terminal = sys.stdout.isatty() and not as_json
        waiting = stack.enter_context(Waiting(keys=on_terminal))
        if as_json:
            view: View = WatchRecords(reader.source, rows)
        elif not on_terminal:
            view = Lines(rows, _columns(reader), sort or Sort.CPU)
        else:
            from guestpv.cli.screen import Screen  # takes long to import, and few need it

            title = _title(reader, interval)
            view = stack.enter_context(Screen(title, rows, _columns(reader), sort))
        _run(reader, view, waiting, interval, count)


def _run(reader: Reader, view: View, waiting: Waiting, interval: float, count: int | None) -> None:
    # A page image may be of any machine; /proc/stat and the kernel's events are of this one.
    live = reader.source.kind != "image"
    account = accounts if live else no_accounts
    history = History(reader.snapshot(), account(reader.cpus))
    ticks = Ticks(interval)
    view.begin(history)
    with ExitStack() as stack:
        while count is None or history.intervals < count:
            woken = waiting.wait(ticks.remaining_s())
            if woken.stop or "q" in woken.keys:
                return
            if woken.suspend:
                view.suspend()
            for key in woken.keys:
                view.key(key)
            now, ended = reader.snapshot(), ticks.due()
            changes = history.tick(now, account(reader.cpus)) if ended else history.look(now)
            view.show(history, [*_announced(woken.events), *changes], ended)
            if live and ended and history.intervals == 1:
                view.show(history, _listen(waiting, stack), ended=False)


def _listen(waiting: Waiting, stack: ExitStack) -> list[Change]:
    """Let the kernel's events end a wait; where they can't be had, watching goes on without."""
    from guestpv.events import EventSource  # not before there are figures: it takes long

    try:
        waiting.listen(stack.enter_context(EventSource()))
    except PermissionDeniedError as error:
        return [change("no_events", str(error))]
    return []


def _announced(events: list[Event]) -> Iterator[Change]:
    """What the events say that no snapshot shows."""
    if not events:
        return
    from guestpv.events import VmGenerationEvent

    for event in events:
        if isinstance(event, VmGenerationEvent):
            yield change("restored", "the VM was restored or cloned")


def _title(reader: Reader, interval: float) -> str:
    words = [reader.source.path]
    if reader.source.kind == "procfs":
        words.append(f"in ticks of {reader.source.resolution_ns // 1_000_000} ms")
    if reader.entries is not None:
        known = reader.entries[reader.entries["origin"] != Origin.NONE]
        if len(known):
            words.append(f"{name_of(Origin, known[0]['origin'])} at {known[0]['ipa']:#x}")
    return ", ".join([*words, f"every {interval:g} s"])


def _columns(reader: Reader) -> list[str]:
    """/proc/stat has something to say only of this machine, and nothing against itself."""
    leave_out = {"device": set(), "procfs": {"KERNEL %"}, "image": {"KERNEL %", "DEMAND %"}}
    return [title for title in WIDTHS if title not in leave_out[reader.source.kind]]

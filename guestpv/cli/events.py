# SPDX-License-Identifier: MIT
"""guestpv events: a line for each thing that happens."""

import sys
import time
from dataclasses import asdict
from typing import Annotated

import typer

from guestpv.account.changes import Change, change
from guestpv.account.events import events as open_events
from guestpv.cli.columns import SIMULATED
from guestpv.cli.options import MAX_INTERVAL_S, MIN_INTERVAL_S, CpuOption, SourceOption, number
from guestpv.cli.records import source_record, write
from guestpv.cli.source import open_source
from guestpv.cli.waiting import Waiting
from guestpv.source.reader import Source


def events(
    source: SourceOption = "auto",
    cpu: CpuOption = None,
    interval: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            parser=number("seconds", MIN_INTERVAL_S, MAX_INTERVAL_S),
            help="Time from one look to the next at what nobody announces.",
        ),
    ] = 1.0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Write a JSON object a line, with a stable schema.")
    ] = False,
) -> None:
    """Say what happens, a line for each event, until Ctrl-C.

    CPUs that come online and go, counts that restart and why, revisions that change, a VM that was
    restored, cloned or moved, the module gone and there again. The first line says that it has
    begun. Each has its time (as in 2026-01-31T12:00:00.000), its kind, and what there is to say.
    --cpu leaves out other CPUs, and not what happens to the whole machine.
    """
    with open_source(source) as reader:  # whose errors say more than those of the library
        cpus = cpu.choose(reader.cpus) if cpu else None
    with Waiting(keys=False) as waiting, open_events(source, interval_s=interval) as happening:
        waiting.listen(happening)
        waiting.stop_without_reader(sys.stdout.fileno())
        name = happening.source.path
        said = f"{SIMULATED}: {name}" if happening.source.simulated else name
        _say(happening.source, change("begin", said), as_json)
        while not waiting.wait(happening.remaining_s).stop:
            for event in happening.read():
                if event.cpu is None or cpus is None or event.cpu in cpus:
                    _say(happening.source, event, as_json)


def _say(source: Source, event: Change, as_json: bool) -> None:
    if as_json:
        write("guestpv.event/1", {"source": source_record(source), **asdict(event)})
        return
    moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(event.time_s))
    print(f"{moment}.{int(event.time_s % 1 * 1000):03} {event.kind} {event.text}", flush=True)

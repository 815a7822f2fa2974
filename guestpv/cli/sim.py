# SPDX-License-Identifier: MIT
"""guestpv sim: a page image that a simulated hypervisor writes."""

from __future__ import annotations

import secrets
import time
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from guestpv.cli.options import JsonOption, number
from guestpv.cli.records import instance_record, write
from guestpv.cli.waiting import Waiting
from guestpv.cpulist import CpuList
from guestpv.errors import Error, ScriptError

if TYPE_CHECKING:
    from guestpv.simulation.machine import SimulatedMachine
    from guestpv.simulation.script import Scheduled

_MOST_VCPUS = 4096
_LATE_S = 1.0
_LARGEST_SCRIPT = 1 << 24


def sim(
    path: Annotated[
        Path, typer.Argument(metavar="PATH", help="The file to write, best in /dev/shm or /run.")
    ],
    vcpus: Annotated[
        int, typer.Option(min=1, max=_MOST_VCPUS, metavar="N", help="How many vCPUs.")
    ] = 4,
    steal: Annotated[
        float,
        typer.Option(
            metavar="PERCENT",
            parser=number("percent", 0, 100),
            help="How much is taken of each vCPU.",
        ),
    ] = 20.0,
    script: Annotated[Path | None, typer.Option(metavar="FILE", help="What happens when.")] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help="For the same counts again; random if not given."),
    ] = None,
    step: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            parser=number("seconds", 0.001, 1),
            help="Time from one change of the counts to the next.",
        ),
    ] = 0.01,
    duration: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS", parser=number("seconds", 0, 1e9), help="End after so long."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write a page image as a hypervisor would that takes time from its vCPUs, until Ctrl-C.

    'guestpv watch --source PATH' and whatever else reads it says that it is simulated. In the end
    all its CPUs are offline.

    A script is TOML, with a table for each event: at_s, what, and cpus as in "0-3" (or all). It is
    contention (percent), starve (for seconds, counted at once), restart, revision (revision,
    attributes), offline or online; or of the whole VM freeze (for seconds), migrate (for seconds,
    keeps_counts) or reload (seconds without a file).
    """
    from guestpv.simulation.machine import SimulatedMachine  # which only this command needs
    from guestpv.simulation.script import parse

    seed = secrets.randbits(32) if seed is None else seed
    events = parse(_content(script)) if script else ()
    try:
        machine = SimulatedMachine(
            *(path, vcpus), seed=seed, percent=steal, script=events, step_ns=round(step * 1e9)
        )
    except OSError as error:
        why = error.strerror or str(error)
        raise Error(f"{path}: no page can be written", why, "give another path") from error
    with machine, Waiting(keys=False) as waiting:
        _say_begin(machine, vcpus, seed, as_json)
        _run(machine, waiting, step, duration, as_json)


def _run(
    machine: SimulatedMachine,
    waiting: Waiting,
    step: float,
    duration: float | None,
    as_json: bool,
) -> None:
    began_s = time.monotonic()
    while duration is None or machine.time_s < duration - step / 2:
        if waiting.wait(max(0.0, began_s + machine.time_s + step - time.monotonic())).stop:
            return
        late_s = time.monotonic() - began_s - machine.time_s
        if late_s > _LATE_S:  # this process stood still, and so did the VM
            began_s += late_s
        elif late_s >= step:
            for scheduled in machine.advance(late_s):
                _say(machine, scheduled, as_json)


def _content(script: Path) -> str:
    try:
        with script.open("rb") as file:
            content = file.read(_LARGEST_SCRIPT + 1)
        if len(content) > _LARGEST_SCRIPT:
            raise ScriptError(f"{script}: not read", "It is larger than 16 MiB")
        return content.decode()
    except OSError as error:
        raise ScriptError(f"{script}: not read", error.strerror or str(error)) from error
    except UnicodeDecodeError as error:
        raise ScriptError(f"{script}: not understood", "It is not UTF-8") from error


def _say_begin(machine: SimulatedMachine, vcpus: int, seed: int, as_json: bool) -> None:
    if as_json:
        about = {"path": str(machine.path), "instance": instance_record(machine.instance)}
        write("guestpv.sim/1", {**about, "vcpus": vcpus, "seed": seed})
    else:
        print(
            f"Simulating {vcpus} vCPU{'s' * (vcpus > 1)} in {machine.path}, seed {seed}."
            f" Try 'guestpv watch --source {machine.path}'; Ctrl-C ends it.",
            flush=True,
        )


def _say(machine: SimulatedMachine, scheduled: Scheduled, as_json: bool) -> None:
    event = scheduled.event
    given = {field.name: getattr(event, field.name) for field in fields(event)}
    values = {
        name: value.text if isinstance(value, CpuList) else value
        for name, value in given.items()
        if value is not None
    }
    if as_json:
        write("guestpv.sim-event/1", {"at_s": scheduled.at_s, "what": scheduled.what, **values})
    else:
        said = ", ".join(f"{name} {value}" for name, value in values.items())
        print(
            f"{machine.time_s:9.3f} s  {scheduled.what}" + (f": {said}" if said else ""), flush=True
        )

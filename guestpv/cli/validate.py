# SPDX-License-Identifier: MIT
"""guestpv validate: can this hypervisor's stolen time be trusted?"""

from __future__ import annotations

import os
import stat
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from guestpv.cli.options import CountSourceOption, CpuOption, JsonOption, number
from guestpv.cli.recordfile import CompareOption, EventOption, RecordOption, record_guest
from guestpv.cli.records import write

if TYPE_CHECKING:
    from guestpv.validate import Check, HostAccount, Requirement

_DEFAULT_S, _QUICK_S, _SHORTEST_S, _LONGEST_S = 20.0, 2.0, 1.0, 86_400.0


class FailOn(StrEnum):
    """From which verdict on a check has failed."""

    WARN = "warn"
    FAIL = "fail"


class Expect(StrEnum):
    """What the hypervisor is to offer."""

    PV_TIME = "pv-time"
    NONE = "none"


def _host_account(text: str) -> HostAccount:
    from guestpv.validate import HostAccount

    try:
        return HostAccount.parse(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def validate(
    source: CountSourceOption = "auto",
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="ID|GROUP", help="Only these checks. May be given again, or a list."),
    ] = None,
    skip: Annotated[
        list[str] | None, typer.Option(metavar="ID|GROUP", help="All but these checks.")
    ] = None,
    cpu: CpuOption = None,
    leave_isolated: Annotated[
        bool, typer.Option("--leave-isolated", help="Keep no isolated CPU busy.")
    ] = False,
    seconds: Annotated[
        float | None,
        typer.Option(
            parser=number("seconds", _SHORTEST_S, _LONGEST_S),
            metavar="SECONDS",
            help=f"How long to watch every vCPU; {_DEFAULT_S:g} if not given.",
        ),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help=f"Watch for {_QUICK_S:g} s only.")] = False,
    disruptive: Annotated[
        bool,
        typer.Option(
            "--disruptive", help="Also what changes the guest: hotplug, suspend, reload. Undone."
        ),
    ] = False,
    wait: Annotated[
        float,
        typer.Option(
            parser=number("seconds", 0, 3600),
            metavar="SECONDS",
            help="Wait for the VM to be paused or moved.",
        ),
    ] = 0.0,
    host_account: Annotated[
        Any,
        typer.Option(
            parser=_host_account,
            metavar="HOST:PORT",
            envvar="GUESTPV_HOST_ACCOUNT",
            help="Where the host's own account is given: a line 'VCPU NANOSECONDS' for each.",
        ),
    ] = None,
    expect: Annotated[
        Expect,
        typer.Option(
            help="Whether the hypervisor is to offer stolen time; if none, that it refuses is"
            " what is checked."
        ),
    ] = Expect.PV_TIME,
    fail_on: Annotated[
        FailOn, typer.Option(help="From which verdict on the exit code says that a check failed.")
    ] = FailOn.FAIL,
    require: Annotated[
        list[str] | None,
        typer.Option(
            metavar="contended|all-cpus",
            help="Fail if the host took no time from a vCPU that was watched (contended), or if a "
            "CPU was not judged (all-cpus). May be a list.",
        ),
    ] = None,
    record: RecordOption = None,
    compare: CompareOption = None,
    event: EventOption = None,
    junit: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write a report in JUnit's XML.")
    ] = None,
    as_tap: Annotated[
        bool, typer.Option("--tap", help="Report by the Test Anything Protocol, version 14.")
    ] = False,
    as_json: JsonOption = False,
    list_only: Annotated[
        bool, typer.Option("--list", help="Say what the checks are, and run none.")
    ] = False,
    schema: Annotated[
        bool, typer.Option("--schema", help="Write the JSON Schema of --json, and run no check.")
    ] = False,
) -> None:
    """Check what the specification promises of stolen time, in this guest, and say what was seen.

    Every vCPU is kept busy and watched from itself, which judges the hypervisor's account without
    anybody's word on the host. If the module is not loaded, it is for the run, where root asks for
    it. The exit code is 0 only if something was judged, and nothing failed.

    What happens to the VM is judged from a record: --record FILE, then migrate it, or save and
    restore, clone, reboot it, and --compare FILE --event EVENT.
    """
    if (compare is None) != (event is None):
        raise typer.BadParameter("--compare and --event go together: what happened since FILE?")
    if compare and not only:
        from guestpv.validate.life_events import IDS

        only = [*IDS]
    checks = _selected(only or [], skip or [], expect)
    if list_only:
        _list(checks, as_json)
        return
    if schema:
        _write_schema()
        return
    if as_json and as_tap:
        raise typer.BadParameter("--json and --tap are two formats of one report")
    if quick and seconds is not None:
        raise typer.BadParameter("--quick and --seconds are two answers to one question")
    image = None if source in ("auto", "device", "procfs") else Path(source)
    stdout = Path("/dev/stdout") if compare or not record else None  # else no report is written
    _apart(record, image, stdout)
    _apart(junit, image, stdout, record, compare)
    if record and not compare:
        # Not --host-account, which may come from the environment.
        of_a_run = (only, skip, cpu, leave_isolated, seconds, quick, disruptive, wait, require)
        changed = fail_on != FailOn.FAIL or expect != Expect.PV_TIME
        if any((*of_a_run, changed, junit, as_tap)):
            raise typer.BadParameter("--record runs no check, unless it is given with --compare")
        record_guest(record, source, as_json)
        return

    from guestpv.cli.validation import Request, perform
    from guestpv.validate import Options, Verdict

    request = Request(
        checks=checks,
        source=source,
        cpus=cpu,
        options=Options(
            observe_s=seconds or (_QUICK_S if quick else _DEFAULT_S),
            disruptive=disruptive,
            wait_s=wait,
            host_account=host_account,
            leave_isolated=leave_isolated,
            event=event,
        ),
        only=_names(only or []),
        skip=_names(skip or []),
        pv_time=expect == Expect.PV_TIME,
        failing=frozenset({Verdict.FAIL, Verdict.ERROR, Verdict(fail_on)}),
        requirements=_requirements(require or []),
        form="tap" if as_tap else "json" if as_json else "people",
        junit=junit,
        compare=compare,
        record=record,
    )
    raise typer.Exit(perform(request))


def _apart(written: Path | None, *others: Path | None) -> None:
    """Refuse to write to a file that has another part in the run: one of the two would be lost."""
    file = written and _file(written)
    if file and file in map(_file, filter(None, others)):
        raise typer.BadParameter(f"{written} has another part in this, and would be overwritten")


def _file(path: Path) -> object:
    """What is the same for all names of a regular file, also of one that will be; else None."""
    try:
        found = path.stat()
    except OSError:
        return os.path.realpath(path)
    return (found.st_dev, found.st_ino) if stat.S_ISREG(found.st_mode) else None


def _selected(only: list[str], skip: list[str], expect: Expect) -> list[Check]:
    from guestpv.validate import select

    try:
        checks = select(_names(only), _names(skip), pv_time=expect == Expect.PV_TIME)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    if not checks:
        raise typer.BadParameter("--expect, --only and --skip leave no check")
    return checks


def _names(lists: list[str]) -> list[str]:
    return [name.strip() for names in lists for name in names.split(",")]


def _requirements(lists: list[str]) -> list[Requirement]:
    from guestpv.validate import Requirement

    names = dict.fromkeys(_names(lists))
    for name in names:
        if name not in [*Requirement]:
            raise typer.BadParameter(
                f"{name!r} is none of {', '.join(Requirement)}", param_hint="--require"
            )
    return [Requirement(name) for name in names]


def _list(checks: list[Check], as_json: bool) -> None:
    if as_json:
        from guestpv.cli.reports.json import check_record

        records = [
            check_record(check) | {"live": check.live, "advice": check.advice} for check in checks
        ]
        write("guestpv.checks/1", {"checks": records})
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("ID", "PROMISE", box=None, pad_edge=False)
    for check in checks:
        text = Text(f"{check.promise}\n")
        about = f"{check.level}, {check.severity}, effect: {check.effect}; {check.clause}"
        table.add_row(check.id, text.append(about, style="dim"))
    Console(markup=False, emoji=False).print(table)


def _write_schema() -> None:
    from importlib.resources import files

    typer.echo((files("guestpv.cli.reports") / "validate.schema.json").read_text(), nl=False)

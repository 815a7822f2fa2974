# SPDX-License-Identifier: MIT
"""guestpv validate: can this hypervisor's stolen time be trusted?"""

from __future__ import annotations

import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from guestpv.cli.compare import (
    CompareOption,
    EventOption,
    RecordOption,
    read_record,
    record_guest,
)
from guestpv.cli.options import JsonOption, SourceOption
from guestpv.cli.records import write
from guestpv.cli.source import open_source
from guestpv.cpulist import listed
from guestpv.errors import Error, NoSourceError
from guestpv.page.abi import DEVICE

if TYPE_CHECKING:
    from rich.console import Console

    from guestpv.cli.reports import Report
    from guestpv.validate import Check, Guest, HostAccount, Outcome

    Progress = AbstractContextManager[Callable[[str], None]]

FAILED, INTERRUPTED = 11, 130

_DEFAULT_S, _QUICK_S = 20.0, 2.0


def _host_account(text: str) -> HostAccount:
    from guestpv.validate import HostAccount

    try:
        return HostAccount.parse(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def _number(seconds: float) -> float:
    if math.isnan(seconds):
        raise typer.BadParameter("nan is no number")
    return seconds


def validate(
    source: SourceOption = "auto",
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="ID|GROUP", help="Only these checks. May be given again, or a list."),
    ] = None,
    skip: Annotated[
        list[str] | None, typer.Option(metavar="ID|GROUP", help="All but these checks.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help=f"Watch for {_QUICK_S:g} s instead of {_DEFAULT_S:g} s.")
    ] = False,
    disruptive: Annotated[
        bool,
        typer.Option(
            "--disruptive", help="Also what changes the guest: hotplug, suspend, reload. Undone."
        ),
    ] = False,
    wait: Annotated[
        float,
        typer.Option(
            callback=_number,
            min=0,
            max=3600,
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
    record: RecordOption = None,
    compare: CompareOption = None,
    event: EventOption = None,
    junit: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write a report in JUnit's XML.")
    ] = None,
    as_tap: Annotated[
        bool, typer.Option("--tap", help="Report by the Test Anything Protocol.")
    ] = False,
    as_json: JsonOption = False,
    list_only: Annotated[
        bool, typer.Option("--list", help="Say what the checks are, and run none.")
    ] = False,
) -> None:
    """Check what the specification promises of stolen time, in this guest, and say what was seen.

    Every vCPU is kept busy and watched from itself, which judges the hypervisor's account without
    anybody's word on the host. If the module is not loaded, it is for the run, where root asks for
    it. The exit code is 0 only if no check failed, and 11 if one did.

    What happens to the VM is judged from a record: --record FILE, then migrate it, or save and
    restore, clone, reboot it, and --compare FILE --event EVENT.
    """
    if (compare is None) != (event is None):
        raise typer.BadParameter("--compare and --event go together: what happened since FILE?")
    if compare and not only:
        from guestpv.validate.compare import IDS

        only = [*IDS]
    checks = _selected(only or [], skip or [])
    if list_only:
        _list(checks, as_json)
        return
    if as_json and as_tap:
        raise typer.BadParameter("--json and --tap are two formats of one report")
    before = read_record(compare) if compare else None
    if record:
        # Not --host-account, which may come from the environment.
        of_a_run = (only, skip, quick, disruptive, wait, junit, as_tap)
        if not compare and any(of_a_run):
            raise typer.BadParameter("--record runs no check, unless it is given with --compare")
        record_guest(record, source, as_json and not compare)
        if not compare:
            return
    try:
        with _interruptible(), ExitStack() as stack:
            file = stack.enter_context(_created(junit)) if junit else None
            _load_for_now(stack, source)
            path = _path(source)

            from guestpv.validate import Guest, Options

            options = Options(
                observe_s=_QUICK_S if quick else _DEFAULT_S,
                disruptive=disruptive,
                wait_s=wait,
                host_account=host_account,
                before=before,
                event=event,
            )
            guest = Guest(path, options)
            stack.callback(lambda: guest.reader.close())
            if guest.live and (cpus := guest.unwatchable):
                why = "not watched, since this process may not run there (see cpuset(7))"
                typer.echo(f"guestpv: cpu{listed(cpus)}: {why}", err=True)
            code = _run(checks, guest, *_reports(guest, file, as_json, as_tap))
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BrokenPipeError:  # whoever read had enough: now that all is undone, end as a filter does
        signal.raise_signal(signal.SIGPIPE)
        raise
    raise typer.Exit(code)


def _run(checks: list[Check], guest: Guest, reports: list[Report], progress: Progress) -> int:
    """Run the checks and report; returns the exit code."""
    from guestpv.validate import run

    outcomes: dict[str, Outcome] = {}
    began, code = time.monotonic(), 0
    trouble: Error | OSError | None = None
    try:
        with progress as guest.progress:
            for outcome in run(checks, guest):
                outcomes[outcome.check.id] = outcome
                for report in reports:
                    report.outcome(outcome)
    except KeyboardInterrupt:
        code = INTERRUPTED
    except (Error, OSError) as error:  # the device went away, or who read the report: what was
        trouble = error  # found before is worth one
    reason = str(trouble) if trouble else "interrupted"
    ordered = [outcomes.get(check.id) or _not_run(check, reason) for check in checks]
    missing = [outcome for outcome in ordered if outcome.check.id not in outcomes]
    for report in reports:
        try:
            for outcome in missing:
                report.outcome(outcome)
            report.end(ordered, time.monotonic() - began)
        except OSError as error:  # of one report; the others are written all the same
            trouble = trouble or error
    if trouble:
        raise trouble
    return code or (FAILED if any(outcome.failed for outcome in ordered) else 0)


def _not_run(check: Check, reason: str) -> Outcome:
    from guestpv.validate import Finding, Outcome, Verdict

    return Outcome(check, Finding(Verdict.SKIP, reason), 0.0)


def _selected(only: list[str], skip: list[str]) -> list[Check]:
    from guestpv.validate import select

    try:
        checks = select(_names(only), _names(skip))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    if not checks:
        raise typer.BadParameter("--only and --skip leave no check")
    return checks


def _names(lists: list[str]) -> list[str]:
    return [name.strip() for names in lists for name in names.split(",")]


def _load_for_now(stack: ExitStack, source: str) -> None:
    """If nothing but the module is missing, have it while *stack* lasts."""
    if source not in ("auto", "device") or os.geteuid() or os.path.exists(DEVICE):
        return
    from guestpv.driver import module
    from guestpv.validate.undisturbed import undisturbed

    if module.is_loaded():
        return  # and its device is not to be seen here

    def unload() -> None:
        try:
            module.unload()
        except Error as error:  # somebody uses it: what was found counts for more
            typer.echo(f"guestpv: {error}", err=True)

    found = module.find(say=lambda what: typer.echo(f"guestpv: {what}", err=True))
    with undisturbed():
        if module.load(found):
            stack.callback(unload)
            typer.echo("guestpv: the module was not loaded, and is for this run", err=True)


def _path(source: str) -> str:
    """The device or page image that is meant. Raises what is wrong with it."""
    with open_source(source) as reader:
        if reader.source.kind == "procfs":
            raise NoSourceError(
                "/proc/stat: nothing to validate",
                "It is the kernel's own account, and not what a hypervisor promised",
                "validate the device: 'sudo guestpv validate'",
            )
        if reader.source.simulated:
            raise NoSourceError(
                f"{reader.source.path}: nothing to validate",
                "It is simulated, and no hypervisor promised anything",
                "validate the device: 'sudo guestpv validate'",
            )
        return reader.source.path


def _list(checks: list[Check], as_json: bool) -> None:
    if as_json:
        fields = ("id", "group", "promise", "clause", "effect", "live")
        records = [{field: getattr(check, field) for field in fields} for check in checks]
        write("guestpv.checks/1", {"checks": records})
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, expand=True)
    table.add_column("ID", no_wrap=True)
    table.add_column("PROMISE", ratio=3)
    table.add_column("CLAUSE", ratio=2, overflow="fold")
    table.add_column("EFFECT", no_wrap=True)
    for check in checks:
        table.add_row(check.id, check.promise, check.clause, check.effect)
    Console().print(table)


def _reports(
    guest: Guest, junit: IO[bytes] | None, as_json: bool, as_tap: bool
) -> tuple[list[Report], Progress]:
    """Who reports, and what shows what is being done: on a terminal, and nowhere else."""
    reports: list[Report] = []
    progress: Progress = nullcontext(lambda _: None)
    if junit:
        from guestpv.cli.reports.junit import JunitReport

        reports.append(JunitReport(junit))
    if as_tap:
        from guestpv.cli.reports.tap import TapReport

        reports.append(TapReport())  # shows what is done as it is done
    elif as_json:
        from guestpv.cli.reports.record import RecordReport

        reports.append(RecordReport(guest.reader))
        if sys.stderr.isatty():
            from rich.console import Console

            progress = _shown_on(Console(stderr=True))
    else:
        from guestpv.cli.reports.people import PeopleConsole, PeopleReport

        console = PeopleConsole(highlight=False)
        reports.append(PeopleReport(console))
        if console.is_terminal:
            progress = _shown_on(console)
    return reports, progress


def _shown_on(console: Console) -> Progress:
    from guestpv.cli.reports.progress import progress

    return progress(console)


def _created(path: Path) -> IO[bytes]:
    """Before the run, so that a report that can't be written costs nobody a minute."""
    try:
        return path.open("wb")
    except OSError as error:
        raise Error(
            f"{path}: no report can be written",
            error.strerror or str(error),
            "give another path to --junit",
        ) from error


@contextmanager
def _interruptible() -> Iterator[None]:
    """Whatever signal ends the run, what was changed is undone, and what was found is told."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    handlers: dict[signal.Signals, Any] = {
        signal.SIGTERM: interrupt,
        signal.SIGHUP: interrupt,
        signal.SIGPIPE: signal.SIG_IGN,  # writing fails instead, and the stack is unwound
    }
    before = {number: signal.getsignal(number) for number in handlers}
    try:
        for number, handler in handlers.items():
            if before[number] != signal.SIG_IGN:  # as nohup has it
                signal.signal(number, handler)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

# SPDX-License-Identifier: MIT
"""One run of `guestpv validate`: whatever ends it, what was found is told, and a FAIL counts."""

import os
import platform
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import typer

from guestpv.cli.exitcodes import (
    ERROR,
    FAILED,
    FAILED_ELSEWHERE,
    INTERRUPTED,
    NOT_JUDGED,
    UNMET,
)
from guestpv.cli.failure import as_error, tell
from guestpv.cli.recordfile import read_record, record_guest
from guestpv.cli.reports import Condition, Report, Reports, Subject, Summary
from guestpv.cli.source import open_source
from guestpv.cpulist import CpuList
from guestpv.errors import Error, ModuleError, NoSourceError, UnsupportedError
from guestpv.page.abi import DEVICE
from guestpv.page.names import version_text
from guestpv.validate import (
    Check,
    Coverage,
    Finding,
    Guest,
    Options,
    Outcome,
    Requirement,
    Verdict,
    conclude,
    errored,
    run,
    unmet,
    was_judged,
)
from guestpv.validate.undisturbed import undisturbed

Progress = AbstractContextManager[Callable[[str], None]]

_MODULE_VERSION = Path("/sys/module/guestpv/version")


@dataclass(frozen=True, slots=True)
class Request:
    """What the command line asks for."""

    checks: list[Check]
    source: str
    cpus: CpuList | None
    options: Options
    """But for the CPUs, which only the source can choose, and what is read from *compare*."""
    only: list[str]
    skip: list[str]
    pv_time: bool
    """Whether the hypervisor is to offer stolen time."""
    failing: frozenset[Verdict]
    requirements: list[Requirement]
    form: Literal["people", "json", "tap"]
    junit: Path | None
    compare: Path | None
    """The record to judge the event by, which is read before *record* is written."""
    record: Path | None


@dataclass(slots=True)
class _Run:
    """What has become of it so far."""

    outcomes: dict[str, Outcome] = field(default_factory=dict)
    """By check."""
    subject: Subject | None = None
    module_version: str | None = None
    interrupted: bool = False
    unheard: bool = False
    """Nobody reads the report any more."""
    trouble: Exception | None = None
    """What ended it early, or went wrong when it had ended."""


def perform(request: Request) -> int:
    """Run the checks and report. Returns the exit code; an error has been told then."""
    began = time.monotonic()
    state = _Run()
    report, progress = _report(request.form)
    reports = Reports([report])
    code = INTERRUPTED
    with _interruptible():
        try:
            _judge(request, reports, progress, state)
        except KeyboardInterrupt:
            state.interrupted = True
        except BrokenPipeError:
            state.unheard = True
        except Exception as error:
            state.trouble = error
        try:
            with undisturbed():
                summary = _summary(request, state, time.monotonic() - began)
                reports.end(summary)
                code = _ended(summary.exit_code, state, reports.trouble)
        except KeyboardInterrupt:  # came while it was reported
            code = code or INTERRUPTED
    return code


def _judge(request: Request, reports: Reports, progress: Progress, state: _Run) -> None:
    """Raises what ends it early; what was found until then is in *state*."""
    with ExitStack() as stack:
        if request.junit:
            reports.add(_junit(request.junit))
        reports.begin(request.checks, request.failing)
        guest, refusal = _guest(stack, request)
        state.subject = _subject(guest)
        state.module_version = _content(_MODULE_VERSION) if guest.live else None
        try:
            with progress as guest.progress:
                if request.compare:
                    guest.compared  # noqa: B018 - nothing is judged if it is another guest
                for outcome in run(request.checks, guest):
                    state.outcomes[outcome.check.id] = outcome
                    reports.outcome(outcome)
            verdicts = {outcome.finding.verdict for outcome in state.outcomes.values()}
            if refusal and request.pv_time and Verdict.FAIL not in verdicts:
                raise refusal  # none of the checks has found what is to blame for it
        finally:
            with suppress(Exception):  # its reader may be gone: what was known before is kept
                state.subject = _subject(guest)


def _ended(code: int, state: _Run, unwritten: Sequence[OSError]) -> int:
    """Tell of what went wrong, and what is the exit code then."""
    if state.trouble:
        if not isinstance(state.trouble, Error) and os.environ.get("GUESTPV_DEBUG"):
            raise state.trouble
        tell(as_error(state.trouble))
    for error in unwritten:
        if not isinstance(error, BrokenPipeError):
            tell(_unwritten(error))
            code = code or Error.exit_code
    if not code and any(isinstance(error, BrokenPipeError) for error in unwritten):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # whoever read had enough: end as a filter
        signal.raise_signal(signal.SIGPIPE)
    return code


def _summary(request: Request, state: _Run, duration_s: float) -> Summary:
    outcomes = [
        state.outcomes.get(check.id) or Outcome(check, _not_run(state), 0.0)
        for check in request.checks
    ]
    coverage = state.subject.coverage if state.subject else None
    conditions = _conditions(request, state, outcomes, coverage)
    return Summary(
        outcomes=outcomes,
        duration_s=duration_s,
        subject=state.subject,
        options=_options(request),
        versions=_versions(state),
        conditions=conditions,
        statements=conclude(outcomes, coverage),
        failing=request.failing,
        exit_code=_exit_code(request, state, outcomes, conditions),
    )


def _not_run(state: _Run) -> Finding:
    if state.trouble:
        return errored(state.trouble)
    reason = "nobody reads the report any more" if state.unheard else "interrupted"
    return Finding(Verdict.SKIP, reason)


def _conditions(
    request: Request, state: _Run, outcomes: Sequence[Outcome], coverage: Coverage | None
) -> list[Condition]:
    ended = state.interrupted or state.unheard or state.trouble
    why = str(as_error(state.trouble)) if state.trouble else _not_run(state).text
    judged = was_judged(outcomes)
    conditions = [
        Condition("run.complete", not ended, why if ended else "it ran to its end", is_error=True),
        Condition("run.judged", judged, "there is a verdict" if judged else "nothing was judged"),
    ]
    for requirement in request.requirements:
        lacking = unmet(requirement, coverage)
        text = lacking or "it was met"
        conditions.append(Condition(f"require.{requirement}", not lacking, text))
    return conditions


def _exit_code(
    request: Request,
    state: _Run,
    outcomes: Sequence[Outcome],
    conditions: Sequence[Condition],
) -> int:
    """What failed comes first, whatever else there was."""
    chosen = request.failing - {Verdict.ERROR}
    failed = [outcome.check for outcome in outcomes if outcome.finding.verdict in chosen]
    if any(check.level.blames_hypervisor for check in failed):
        return FAILED
    if failed:
        return FAILED_ELSEWHERE
    if state.interrupted:
        return INTERRUPTED
    if state.trouble:
        return as_error(state.trouble).exit_code
    if any(outcome.finding.verdict == Verdict.ERROR for outcome in outcomes):
        return ERROR
    if any(not condition.met and "require." in condition.name for condition in conditions):
        return UNMET
    return 0 if was_judged(outcomes) or state.unheard else NOT_JUDGED


def _guest(stack: ExitStack, request: Request) -> tuple[Guest, Error | None]:
    """Open what is to be judged, while *stack* lasts; also gives why it is only probed, if so.

    Raises what is wrong with it.
    """
    before = read_record(request.compare) if request.compare else None
    if request.record:
        record_guest(request.record, request.source)
    refusal = _load_for_now(stack, request.source)
    path, cpus = _chosen(request)
    options = replace(request.options, cpus=cpus, before=before)
    if refusal:
        options = replace(options, refusal=refusal.why)
    guest = Guest(path, options)
    stack.callback(lambda: guest.reader.close())
    return guest, refusal


def _chosen(request: Request) -> tuple[str, tuple[int, ...] | None]:
    """The path of the device or page image that is meant, and the CPUs."""
    with open_source(request.source) as reader:
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
        chosen = request.cpus
        return reader.source.path, chosen.choose(reader.cpus) if chosen else None


def _subject(guest: Guest) -> Subject:
    return Subject(
        source=guest.reader.source,
        instance=int(guest.first["instance"][0]),
        smccc_version=version_text(int(guest.reader.header["smccc_version"])),
        coverage=Coverage.of(guest),
    )


def _load_for_now(stack: ExitStack, source: str) -> Error | None:
    """If nothing but the module is missing, have it while *stack* lasts.

    Where it would not load, it is only to probe, and why it would not is returned.
    """
    if source not in ("auto", "device") or os.geteuid() or os.path.exists(DEVICE):
        return None
    from guestpv.driver import module

    if module.is_loaded():
        return None  # and its device is not to be seen here

    def unload() -> None:
        try:
            module.unload()
        except Error as error:  # somebody uses it: what was found counts for more
            typer.echo(f"guestpv: {error}", err=True)

    found = module.find(say=lambda what: typer.echo(f"guestpv: {what}", err=True))
    refusal: Error | None = None
    with undisturbed():
        try:
            loaded = module.load(found)
        except (ModuleError, UnsupportedError) as error:
            refusal = error
            try:
                loaded = module.load(found, probe=True)
            except Error:
                raise refusal from None
        if loaded:
            stack.callback(unload)
            only = "" if refusal is None else f" to probe only, since it was refused: {refusal.why}"
            typer.echo(f"guestpv: the module was not loaded, and is for this run{only}", err=True)
    return refusal


def _options(request: Request) -> dict[str, Any]:
    """As plain data, for who wants to run it again."""
    options = request.options
    return {
        "source": request.source,
        "only": request.only,
        "skip": request.skip,
        "cpu": request.cpus.text if request.cpus else None,
        "leave_isolated": options.leave_isolated,
        "seconds": options.observe_s,
        "disruptive": options.disruptive,
        "wait_s": options.wait_s,
        "host_account": str(options.host_account) if options.host_account else None,
        "expect": "pv-time" if request.pv_time else "none",
        "fail_on": "warn" if Verdict.WARN in request.failing else "fail",
        "require": list(request.requirements),
        "compare": request.compare and str(request.compare),
        "event": options.event,
        "record": request.record and str(request.record),
    }


def _versions(state: _Run) -> dict[str, str | None]:
    from importlib.metadata import version

    return {
        "guestpv": version("guestpv"),
        "module": state.module_version,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "smccc": state.subject.smccc_version if state.subject else None,
    }


def _report(form: str) -> tuple[Report, Progress]:
    """What goes to stdout, and what shows what is being done."""
    from rich.console import Console

    from guestpv.cli.reports.progress import progress, seldom

    if form == "tap":
        from guestpv.cli.reports.tap import TapReport

        return TapReport(), seldom()
    if form == "json":
        from guestpv.cli.reports.json import RecordReport

        shown = progress(Console(stderr=True)) if sys.stderr.isatty() else seldom()
        return RecordReport(), shown
    from guestpv.cli.reports.people import PeopleConsole, PeopleReport

    console = PeopleConsole(highlight=False, markup=False, emoji=False)
    shows = console.is_terminal and not console.is_dumb_terminal
    return PeopleReport(console), progress(console) if shows else seldom()


def _junit(path: Path) -> Report:
    """Its file is made before the run, so that one that can't be costs nobody a minute."""
    from guestpv.cli.reports.junit import JunitReport

    try:
        return JunitReport(path)
    except OSError as error:
        raise Error(
            f"{path}: no report can be written",
            error.strerror or str(error),
            "give another path to --junit",
        ) from error


def _unwritten(error: OSError) -> Error:
    return Error(
        f"{error.filename or 'stdout'}: the report was not written, or not all of it",
        error.strerror or str(error),
        "make room, or write it elsewhere",
    )


def _content(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None


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

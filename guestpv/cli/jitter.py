# SPDX-License-Identifier: MIT
"""guestpv jitter: the gaps in a busy thread's time on each vCPU, and whose they were."""

import os
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from guestpv.cli.exitcodes import GAP_REACHED
from guestpv.cli.options import CountSourceOption, CpuOption, JsonOption, duration
from guestpv.cli.reports.progress import seldom
from guestpv.cli.waiting import Waiting, suspend
from guestpv.cpulist import ONLINE, POSSIBLE, CpuList, listed
from guestpv.errors import (
    Error,
    NoSourceError,
    NoSuchCpuError,
    PermissionDeniedError,
    UnsupportedError,
)

if TYPE_CHECKING:
    from guestpv.latency.jitter import Counter, Jitter
    from guestpv.source.mapped import MappedReader

SCHEMA = "guestpv.jitter/1"


def jitter(
    cpu: CpuOption = None,
    seconds: Annotated[
        float,
        typer.Option(
            "--duration",
            metavar="TIME",
            parser=duration("10ms", "30d"),
            help="How long to look, as in 10s or 2h.",
        ),
    ] = "10s",  # type: ignore[assignment] # parsed, as what a user gives
    threshold: Annotated[
        float,
        typer.Option(
            metavar="TIME",
            parser=duration("0ns", "1s"),
            help="From how long on it is a gap, in whole steps of the counter.",
        ),
    ] = "5us",  # type: ignore[assignment]
    until_gap: Annotated[
        float | None,
        typer.Option(
            metavar="TIME",
            parser=duration("1ns", "1h"),
            help="Stop at the first gap as long as this, and take it apart"
            f" (exit code {GAP_REACHED}).",
        ),
    ] = None,
    priority: Annotated[
        int,
        typer.Option(
            min=0, max=99, metavar="N", help="Real-time priority (SCHED_FIFO); 0 for none."
        ),
    ] = 0,
    source: CountSourceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Find the gaps in a busy thread's time on each vCPU, and say whose they were.

    A thread on each vCPU does nothing but read the counter. NOISE is all that is missing between
    two looks for --threshold or longer, MAX the longest such gap. STOLEN is what the hypervisor
    took of it, QUEUE what the thread waited while this guest ran something else on the vCPU,
    and OTHER is neither: interrupts of the guest, and exits that no host counts. Where that is not
    known exactly it is two figures, at least and at most.

    It ends after --duration, or with q or Ctrl-C, and reports what it found so far. Threads with
    --priority may be kept from running by the kernel for a while, which is in QUEUE.
    """
    from guestpv.latency.jitter import Counter, Jitter

    if until_gap is not None and until_gap < threshold:
        raise typer.BadParameter(
            "it is shorter than --threshold, and what is, is no gap", param_hint="--until-gap"
        )
    with ExitStack() as stack:
        reader, unknown = _open(source)
        if reader:
            stack.enter_context(reader)
        cpus = _choose(reader, cpu)
        counter = Counter.here()
        ticks, until_gap_ns = _ticks(counter, threshold), round(1e9 * (until_gap or 0))
        measured = Jitter(
            reader, cpus, threshold=ticks, until_gap_ns=until_gap_ns, priority=priority
        )
        _check_threshold(threshold, measured.shortest_look_ns())
        about = {
            "threshold_ns": counter.ns(ticks),
            "until_gap_ns": until_gap_ns or None,
            "step_ns": counter.step_ns,
            "priority": priority,
            "throttling": _throttling(cpus[0]) if priority else None,
            "unknown": str(unknown) if unknown else None,
        }
        if unknown:
            _say(f"what is stolen is not known: {about['unknown']}")
        if about["throttling"] and not as_json:
            _say(f"{about['throttling']}")
        finished = _run(measured, seconds, reader, about, as_json)
        _report(measured, reader, about | {"finished": finished}, as_json)
    if measured.outlier():
        raise typer.Exit(GAP_REACHED)


def _report(
    measured: "Jitter", reader: "MappedReader | None", about: dict[str, Any], as_json: bool
) -> None:
    vcpus = measured.vcpus()
    if not vcpus:
        why = "; ".join(sorted(set(measured.left_out.values()))) or "it was ended before it began"
        raise NoSuchCpuError(
            f"cpu{listed(measured.cpus)}: not measured",
            why[0].upper() + why[1:],
            "choose others with --cpu",
        )
    if as_json:
        from guestpv.cli.jitterrecord import record
        from guestpv.cli.records import write

        write(SCHEMA, record(measured, reader, about))
    else:
        from guestpv.cli.jitterreport import report

        simulated = reader is not None and reader.source.simulated
        report(vcpus, measured.outlier(), measured.left_out, about, simulated)


def _say(text: str) -> None:
    print(f"guestpv: {text}", file=sys.stderr, flush=True)


def _open(source: str) -> tuple["MappedReader | None", Error | None]:
    """Whoever does not ask for a source gets what can be had without one, and why it is less."""
    from guestpv.cli.source import open_source, unavailable
    from guestpv.source.mapped import MappedReader

    try:
        reader = open_source(source)
    except (NoSourceError, PermissionDeniedError, UnsupportedError) as error:
        if source != "auto":
            raise
        return None, unavailable(error)
    if isinstance(reader, MappedReader):
        return reader, None
    reader.close()
    raise NoSourceError(
        f"{reader.source.path}: no counts in nanoseconds",
        "/proc/stat has ticks of 10 ms, and gaps are shorter",
        "leave --source out: without a count all but the stolen time is measured",
    )


def _cpus_of(path: str) -> tuple[int, ...] | None:
    try:
        return CpuList.parse(Path(path).read_text()).cpus
    except (OSError, ValueError):
        return None


def _choose(reader: "MappedReader | None", chosen: CpuList | None) -> tuple[int, ...]:
    """Those that the user named, which may be isolated ones, or those that this process is on."""
    from guestpv.latency.pinned import allowed_cpus

    own = tuple(sorted(os.sched_getaffinity(0)))
    there = reader.cpus if reader else _cpus_of(POSSIBLE) or own
    if not chosen:
        cpus = tuple(cpu for cpu in own if cpu in there)
        if not cpus:
            raise NoSuchCpuError(
                f"cpu{listed(own)}: not in the source",
                "Those are the CPUs that this process was started on",
                f"choose others with --cpu {listed(there)}",
            )
        return cpus
    cpus = chosen.choose(there)
    online = _cpus_of(ONLINE) or own
    allowed = allowed_cpus(online)
    for cpu in cpus:
        if cpu not in online:
            raise NoSuchCpuError(
                f"cpu{cpu}: offline", "No thread can run on it", f"use {listed(online)}"
            )
        if cpu not in allowed:
            raise PermissionDeniedError(
                f"cpu{cpu}: this process may not run on it",
                f"Its cpuset has {listed(sorted(allowed))} (cpuset(7))",
                "leave it out of --cpu, or give the container or service more CPUs",
            )
    return cpus


def _ticks(counter: "Counter", threshold_s: float) -> int:
    if 1e9 * threshold_s < counter.step_ns - 1e-6:
        raise typer.BadParameter(
            f"{_time(1e9 * threshold_s)} is less than a step of the counter, which is"
            f" {_time(counter.step_ns)} on this machine",
            param_hint="--threshold",
        )
    return counter.whole_steps(1e9 * threshold_s)


def _check_threshold(threshold_s: float, look_ns: int) -> None:
    """Else all of the time would be one gap."""
    if 1e9 * threshold_s <= look_ns:
        raise typer.BadParameter(
            f"{_time(1e9 * threshold_s)} is no gap: a look at the counter takes"
            f" {_time(look_ns)} on this machine",
            param_hint="--threshold",
        )


def _time(ns: float) -> str:
    return f"{ns:.4g} ns" if ns < 1000 else f"{ns / 1e3:.4g} us"


def _throttling(cpu: int) -> str | None:
    """What becomes of real-time threads that never sleep."""
    from guestpv.latency.throttling import kept_for_others

    if not (kept := kept_for_others(cpu)):
        return None
    return (
        f"{kept.by}: in each {kept.of_ms / 1e3:g} s the kernel may keep real-time threads from"
        f" running for {kept.ms:g} ms, which is in QUEUE; '{kept.end_it}' ends that, and lets them"
        " starve all else"
    )


def _run(
    measured: "Jitter",
    seconds: float,
    reader: "MappedReader | None",
    about: dict[str, Any],
    as_json: bool,
) -> bool:
    """On a terminal, with what it finds so far. Returns whether the time was over in the end."""
    on_terminal = sys.stdout.isatty() and not as_json
    finished = True
    with ExitStack() as stack:
        waiting = stack.enter_context(Waiting(keys=on_terminal))
        if not on_terminal:
            waiting.stop_without_reader(sys.stdout.fileno())
        screen = None
        if on_terminal:
            from guestpv.cli.jitterscreen import Screen  # takes long to import, and few need it

            screen = stack.enter_context(Screen(reader.source if reader else None, about))
        say = stack.enter_context(seldom())
        began = time.monotonic()

        def progress() -> None:
            nonlocal finished
            woken = waiting.wait(0)
            if woken.stop or "q" in woken.keys:
                finished = False
                measured.stop()
            passed_s = time.monotonic() - began
            if screen:
                if woken.suspend:
                    screen.suspend()
                screen.show(measured.vcpus(), min(passed_s, seconds), seconds)
                return
            if woken.suspend:
                suspend()
            say(f"looking for gaps: {passed_s:.0f} of {seconds:g} s")

        measured.run(seconds, progress)
    return finished and not measured.outlier()

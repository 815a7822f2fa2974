# SPDX-License-Identifier: MIT
"""Where the time of a command went, with all that it starts."""

import errno
import os
import select
import signal
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from guestpv.errors import CommandError, Error, NoCommandError
from guestpv.latency import cputime
from guestpv.latency.bounds import Bounds
from guestpv.latency.counter import Counter, PerfCounter, counter_on_exec

if TYPE_CHECKING:
    from guestpv.latency.ended import EndedTasks

_ENDING = frozenset({signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP})
PASSED_ON = _ENDING | {signal.SIGUSR1, signal.SIGUSR2}
_OF_TERMINALS = (signal.SIGINT, signal.SIGQUIT)
_IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)

_UNNOTICED_NS = 20_000_000
_UNNOTICED = 0.02
"""So much more CPU time than the events counted a kernel may have anyway: its clocks are two."""


@dataclass(frozen=True, slots=True)
class CommandTimes:
    """Where a command's time went: nanoseconds, plain ints, of all that it started unless said."""

    status: int
    """Its exit code, or -N if signal N ended it."""
    wall_ns: int
    cpu_ns: int
    """What it was on vCPUs. By perf events with all that was stolen, and with those that it left
    behind; without them as the kernel has it, of those that were waited for."""
    stolen: Bounds | None
    """What the hypervisor took while it was on a vCPU; None if nothing is known of that."""
    ran: Bounds | None
    """The CPU time without what was stolen."""
    waited_ns: int | None
    """What its first thread waited for a vCPU on which something else of the guest ran, or all of
    its tasks that ended; None if the kernel has no count of it (CONFIG_SCHED_INFO) or lost it."""
    idle: Bounds | None
    """The wall time on a host that takes nothing: `lost` says how it is known."""
    uncounted_ns: int = 0
    """CPU time in which the kernel lets nobody but root count what is stolen: that of programs that
    are set-user-ID, as sudo is, or may not be read. As far as it was noticed."""
    alone: bool = True
    """Whether what is stolen was counted of the command alone, and not of all vCPUs together."""

    @property
    def slower_percent(self) -> tuple[float, float] | None:
        """By how much longer it took than on an idle host: at least, and at most."""
        if self.idle is None:
            return None
        least, most = self.idle.most_ns, self.idle.least_ns
        return _percent_more(self.wall_ns, least), _percent_more(self.wall_ns, most)


def _percent_more(what: int, than: int) -> float:
    return 100 * (what - than) / than if than else float("inf") if what else 0.0


def lost(stolen: Bounds, first_ns: int | None, cpu_ns: int, wall_ns: int, vcpus: int) -> Bounds:
    """By how much the wall time is longer for what was stolen, but for waiting for timers.

    What is stolen from one thread adds up. What is stolen from several at the same time holds the
    whole up only once, or not at all if another takes longer anyway. So the bounds are as far apart
    as what all but the first thread, which was on a vCPU for *first_ns*, had of *cpu_ns*. On a
    single vCPU all is one after the other.
    """
    if vcpus == 1:
        least = stolen.least_ns
    else:
        least = max(stolen.least_ns - max(cpu_ns - (first_ns or 0), 0), 0)
    return Bounds(least, stolen.most_ns).within(wall_ns)


def open_counter() -> Counter:
    """Of whatever this thread will have executed. Raises as `guestpv.counter` does."""
    return counter_on_exec(0)


def why_unknown() -> Error | None:
    """Why what is stolen from a command can't be known here, and what to do; None if it can."""
    try:
        open_counter().close()
    except Error as error:
        return error
    return None


def run(
    argv: list[str],
    counted: bool = True,
    signals: "Signals | None" = None,
    ended: "EndedTasks | None" = None,
) -> CommandTimes:
    """Run a command to its end, and measure it; signals that are sent to this process reach it.

    Args:
        argv: its name, to be found in PATH, and arguments.
        counted: whether what is stolen is to be counted; if not, it is unknown.
        signals: those of several runs, entered already.
        ended: entered as well; what they waited is then of all tasks that ended.

    Raises:
        NoCommandError, CommandError: it could not be executed.
        Error: as `guestpv.counter` does, if it is to be counted and can't be.
    """
    with ExitStack() as stack:
        counter = stack.enter_context(open_counter()) if counted else None
        return _run(argv, counter, signals or stack.enter_context(Signals()), ended)


def _run(
    argv: list[str], counter: Counter | None, signals: "Signals", ended: "EndedTasks | None"
) -> CommandTimes:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # if it was ignored, nobody could be waited for
    if ended:
        ended.forget()
    begin_ns = time.monotonic_ns()
    pid = _spawn(argv)
    before_ns = _before_execve_ns(pid, counter) if isinstance(counter, PerfCounter) else 0
    signals.pass_on_until_ended(pid, ended)
    wall_ns = time.monotonic_ns() - begin_ns
    first_ns, waited_ns = _schedstat(pid)
    if ended:
        ended.read(pid)
        waited_ns = ended.waited_ns()
    _, status, usage = os.wait4(pid, 0)
    status = os.waitstatus_to_exitcode(status)
    vcpus = os.sysconf("SC_NPROCESSORS_ONLN")

    cpu_ns = round((usage.ru_utime + usage.ru_stime) * 1e9)
    if counter is None:
        return CommandTimes(status, wall_ns, cpu_ns, None, None, waited_ns, None)
    uncounted_ns = 0
    if alone := isinstance(counter, PerfCounter):
        counted_ns, stolen = counter.read_with_cpu()
        stolen = stolen.within(counted_ns)
        ran = stolen.taken_from(counted_ns)
        cpu_ns -= before_ns
        if cpu_ns > (1 + _UNNOTICED) * counted_ns + _UNNOTICED_NS:
            uncounted_ns = cpu_ns - counted_ns
            contained = cputime.contains_stolen()
            most_ns = uncounted_ns if contained else max(vcpus * wall_ns - cpu_ns, 0)
            stolen = stolen.plus(Bounds(0, most_ns))
            ran = ran.plus(Bounds(uncounted_ns if contained is False else 0, uncounted_ns))
        cpu_ns = counted_ns + uncounted_ns
    else:
        contained = cputime.contains_stolen()
        stolen = counter.read().within(cpu_ns if contained else vcpus * wall_ns)
        ran = Bounds(
            cpu_ns if contained is False else stolen.taken_from(cpu_ns).least_ns,
            stolen.taken_from(cpu_ns).most_ns if contained else cpu_ns,
        )
    idle = lost(stolen, first_ns, cpu_ns, wall_ns, vcpus).taken_from(wall_ns)
    return CommandTimes(status, wall_ns, cpu_ns, stolen, ran, waited_ns, idle, uncounted_ns, alone)


class Signals:
    """Signals that are sent to this process while it is entered: they are the command's.

    By handlers, since blocking them is of no use: NumPy's threads have them unblocked.
    """

    def __init__(self) -> None:
        self.ending: int | None = None
        """The first that asked for an end, be it the command's or not; None so far."""
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._reading = reading
        for fd in reading, writing:
            self._stack.callback(os.close, fd)
        before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        self._stack.callback(signal.set_wakeup_fd, before)
        for one in PASSED_ON:
            handler = signal.getsignal(one)
            # What this was told to ignore, as by nohup, the command is to ignore, too.
            if handler != signal.SIG_IGN:
                self._stack.callback(signal.signal, one, handler)
                signal.signal(one, lambda *_: None)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def asked_to_end(self) -> bool:
        """Whether a signal asked for that until now, even if a command took no notice of it."""
        self._receive()
        return self.ending is not None

    def pass_on_until_ended(self, pid: int, tasks: "EndedTasks | None") -> None:
        """Wait for the end of a child, which gets each of them that it has not got already."""
        ended = os.pidfd_open(pid)
        watched: list[Any] = [self._reading, ended, *([tasks] if tasks else [])]
        try:
            while ended not in (ready := select.select(watched, [], [])[0]):
                for number in self._receive():
                    if number not in _OF_TERMINALS or not _in_foreground():
                        os.kill(pid, number)
                if tasks and tasks in ready:
                    tasks.read(pid)
        finally:
            os.close(ended)

    def _receive(self) -> bytes:
        try:
            numbers = os.read(self._reading, 1024)
        except BlockingIOError:
            return b""
        for number in numbers:
            if self.ending is None and number in _ENDING:
                self.ending = number
        return numbers


def _spawn(argv: list[str]) -> int:
    try:
        return os.posix_spawnp(argv[0], argv, os.environ, setsigdef=_IGNORED_BY_PYTHON)
    except FileNotFoundError:
        from shutil import which  # few need it

        if which(argv[0]):
            why = "What is to interpret it is not there: that of its first line, or its loader"
        else:
            why = "It is no file, or in no directory of PATH"
        raise NoCommandError(f"{argv[0]}: no such command", why) from None
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        of_no_format = isinstance(error, OSError) and error.errno == errno.ENOEXEC
        fix = f"if it is a script: guestpv run -- sh {argv[0]}" if of_no_format else ""
        raise CommandError(f"{argv[0]}: can't be executed", why, fix) from None


def _before_execve_ns(pid: int, counter: PerfCounter) -> int:
    """What a child that has just begun had of vCPUs before its events counted."""
    counted_ns, _ = counter.read_with_cpu()
    ran_ns, _ = _schedstat(pid)
    return max((ran_ns or 0) - counted_ns, 0)


def _in_foreground() -> bool:
    """Whether what a terminal sends reaches the command without help."""
    try:
        with open("/dev/tty", "rb", buffering=0) as terminal:
            return os.tcgetpgrp(terminal.fileno()) == os.getpgrp()
    except OSError:
        return False


def _schedstat(pid: int) -> tuple[int | None, int | None]:
    """What the first thread was on vCPUs, and what it waited for one; also of one that ended."""
    try:
        ran, waited, *_ = Path(f"/proc/{pid}/schedstat").read_text().split()
    except (OSError, ValueError):
        return None, None
    return int(ran), int(waited)

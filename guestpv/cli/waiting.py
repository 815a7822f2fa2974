# SPDX-License-Identifier: MIT
"""Waiting for the next interval, and for what comes earlier: a key, a signal, an event."""

import os
import select
import selectors
import signal
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Protocol, Self

if TYPE_CHECKING:
    from rich.console import RenderableType

_STOP = {signal.SIGINT, signal.SIGTERM}
_OTHERS = {signal.SIGTSTP, signal.SIGWINCH, signal.SIGCONT}


class HasFileno(Protocol):
    def fileno(self) -> int: ...


class Ticks:
    """Times that are a whole number of intervals after the beginning, so that none drifts."""

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._next = time.monotonic() + interval_s

    def remaining_s(self) -> float:
        return max(0.0, self._next - time.monotonic())

    def due(self) -> bool:
        """Whether an interval is over. Those that were missed meanwhile are left out."""
        late_s = time.monotonic() - self._next
        if late_s < 0:
            return False
        self._next += self._interval_s * (1 + late_s // self._interval_s)
        return True


@dataclass(slots=True)
class Woken:
    """Why the wait was over; if nothing is set, the time was, or the terminal has a new size."""

    stop: bool = False
    suspend: bool = False
    keys: str = ""


class Waiting:
    """While it is entered, signals end a wait instead of the process.

    With *keys*, the terminal's keys do, too.
    """

    def __init__(self, keys: bool) -> None:
        self._keys = keys
        self._selector = selectors.DefaultSelector()
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self._selector)
            signals = stack.enter_context(_signals())
            self._listen(signals, lambda woken: _take_signals(signals, woken))
            if self._keys and sys.stdin.isatty():
                keys = sys.stdin.fileno()
                self._listen(keys, lambda woken: self._take_keys(keys, woken))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def listen(self, source: HasFileno) -> None:
        """From now on, end a wait when *source* is readable."""
        self._listen(source.fileno(), lambda woken: None)

    def stop_without_reader(self, fd: int) -> None:
        """End when nobody reads any more from the pipe or socket *fd*, be there much to write or
        little."""
        gone = self._stack.enter_context(select.epoll())
        try:
            gone.register(fd, 0)  # that it has an error is reported unasked
        except PermissionError:  # a file, which is never without a reader
            return

        def stop(woken: Woken) -> None:
            woken.stop = True

        self._listen(gone.fileno(), stop)

    def wait(self, seconds: float) -> Woken:
        """Wait so long, or less if something comes."""
        woken = Woken()
        for ready, _ in self._selector.select(seconds):
            ready.data(woken)
        return woken

    def _listen(self, fd: int, take: Callable[[Woken], None]) -> None:
        self._selector.register(fd, selectors.EVENT_READ, take)

    def _take_keys(self, fd: int, woken: Woken) -> None:
        keys = os.read(fd, 64)
        if not keys:  # the terminal is gone, and nobody there to see more
            self._selector.unregister(fd)
            woken.stop = True
        woken.keys += keys.decode("ascii", errors="ignore")


def _take_signals(fd: int, woken: Woken) -> None:
    numbers = os.read(fd, 64)
    woken.stop |= not _STOP.isdisjoint(numbers)
    woken.suspend |= signal.SIGTSTP in numbers


@contextmanager
def _signals() -> Iterator[int]:
    """A pipe that each signal's number is written to, instead of what it does otherwise."""
    readable, writable = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    before = {number: signal.signal(number, _do_nothing) for number in _STOP | _OTHERS}
    signal.set_wakeup_fd(writable, warn_on_full_buffer=False)
    try:
        yield readable
    finally:
        signal.set_wakeup_fd(-1)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(readable)
        os.close(writable)


def _do_nothing(number: int, frame: FrameType | None) -> None:
    """The wake-up pipe says it all, but Python writes to it only for signals with a handler."""


class WholeTerminal:
    """A page that has the terminal's alternate screen, and each key, while this is entered."""

    def __init__(self) -> None:
        from rich.console import Console  # takes long to import, and few need it
        from rich.live import Live

        self._console = Console(highlight=False, markup=False, emoji=False)
        self._page = Live(console=self._console, screen=True, auto_refresh=False)
        self._entered = ExitStack()

    def draw(self, page: "RenderableType") -> None:
        """Show this in the place of what is there."""
        self._page.update(page, refresh=True)

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(_single_keys())
            stack.enter_context(self._page)
            self._entered = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._entered.close()

    def suspend(self) -> None:
        """Give it back and stop the process, as Ctrl-Z should; returns when it goes on."""
        self._entered.close()
        suspend()
        self.__enter__()


def suspend() -> None:
    """Stop the process; returns when it goes on."""
    os.kill(os.getpid(), signal.SIGSTOP)


@contextmanager
def _single_keys() -> Iterator[None]:
    """The terminal gives each key as it is pressed, and does not show it."""
    if not sys.stdin.isatty():
        yield
        return
    before = termios.tcgetattr(sys.stdin)
    tty.setcbreak(sys.stdin)
    try:
        yield
    finally:
        with suppress(termios.error):  # it may be gone
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)

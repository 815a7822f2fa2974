# SPDX-License-Identifier: MIT
"""What happens, as it happens: to CPUs, their counts, the module and the VM."""

from __future__ import annotations

import os
import selectors
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np

from guestpv.account.changes import (
    Change,
    VmChanges,
    change,
    changes,
    cpu_online,
    procstat_backwards,
)
from guestpv.account.delta import delta
from guestpv.cpulist import ONLINE, CpuList
from guestpv.errors import Error, NoSourceError
from guestpv.source.open import open as open_source
from guestpv.source.reader import Snapshot, Source

if TYPE_CHECKING:
    from guestpv.driver.announced import Announced
    from guestpv.driver.events import Event

_LONGEST_S = 24 * 3600.0  # poll(2) and the like do not wait for ever, if that is a number


class Events:
    """An iterator, and an asynchronous one, that waits for what happens next. A context manager;
    get one from `guestpv.events`.

    CPUs, the module and the VM are told of by the kernel's uevents, each time: a CPU that went and
    came back is two events, however fast it was. What became of the counts is seen by looking at
    them whenever something was announced, and once in an interval: a count that restarted more than
    once between two looks is one event that says how often. Where uevents can't be had, looking is
    all there is, and the device's poll(2) says when.

    The device is open only for a look, since a module can't be removed while somebody has it open;
    but for its poll(2), where that is needed, it stays open.
    """

    def __init__(self, source: str | os.PathLike[str], interval_s: float) -> None:
        self._path = source
        self._interval_s = interval_s
        self._pending: deque[Change] = deque()
        self._vm = VmChanges()
        self._is_there = True
        self._failed = self._told_failed = ""  # why the last look did; as far as it was told
        self._announced: Announced | None = None
        self._device: int | None = None  # where it is polled
        with open_source(source) as reader, ExitStack() as stack:
            self.source: Source = reader.source
            """Where the counts come from."""
            self._selector = stack.enter_context(selectors.DefaultSelector())
            # What is announced from here on is told, unless it shows in what is read after it.
            self._listens = self.source.kind != "image" and self._listen(stack)
            self._online = _online_cpus() if self._listens else set()
            self._snapshot: Snapshot = reader.snapshot()
            self._instance: int | None = reader.instance  # None: whichever is there next
            self._stack: ExitStack | None = stack.pop_all()
        self._next_look_s = time.monotonic() + interval_s

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Change:
        while not self._pending:
            if self._stack is None:
                raise StopIteration
            self._selector.select(self.remaining_s)
            self._update()
        return self._pending.popleft()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Change:
        while not self._pending:
            if self._stack is None:
                raise StopAsyncIteration
            await self._wait()
            self._update()
        return self._pending.popleft()

    def read(self) -> list[Change]:
        """All that happened since the last call, without waiting: for a poll loop of one's own."""
        self._update()
        happened = list(self._pending)
        self._pending.clear()
        return happened

    def fileno(self) -> int:
        """Readable when something was announced, so that `read` is due; which it is after
        `remaining_s`, too."""
        return int(self._selector.fileno())

    @property
    def remaining_s(self) -> float:
        """Seconds until the next look at what nobody announces."""
        if self._pending:
            return 0.0
        return min(max(0.0, self._next_look_s - time.monotonic()), _LONGEST_S)

    def close(self) -> None:
        """Stop listening. What is known already is still given out; then an iteration ends."""
        if self._stack is not None:
            self._stack.close()
            self._stack = None

    def _listen(self, stack: ExitStack) -> bool:
        """Returns whether the kernel's uevents can be had."""
        from guestpv.driver.announced import Announced  # takes long to import

        self._announced = stack.enter_context(Announced())
        self._selector.register(self._announced, selectors.EVENT_READ)
        if self._announced.trouble is None:
            return True
        text = str(self._announced.trouble)
        if self.source.kind == "device":
            self._device = os.open(self.source.path, os.O_RDONLY | os.O_CLOEXEC)
            stack.callback(os.close, self._device)
            self._selector.register(self._device, selectors.EVENT_READ)
            text += " Meanwhile poll(2) of the device tells of counts, and keeps the module loaded."
        self._pending.append(change("no_events", text))
        return False

    async def _wait(self) -> None:
        import asyncio  # takes long, and whoever waits so has it already

        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        fd = self.fileno()  # which another task may close meanwhile
        loop.add_reader(fd, ready.set)
        try:
            with suppress(TimeoutError):
                await asyncio.wait_for(ready.wait(), self.remaining_s)
        finally:
            loop.remove_reader(fd)

    def _update(self) -> None:
        if self._stack is None:
            return
        announced = bool(self._selector.select(0))
        late_s = time.monotonic() - self._next_look_s
        if late_s >= 0:
            self._next_look_s += self._interval_s * (1 + late_s // self._interval_s)
        elif not announced:
            return
        events = self._announced.read() if self._announced else []
        told = [one for event in events for one in self._changes_by(event)]
        self._pending += told
        if self._device is not None:
            os.read(self._device, 4)  # takes note of what the next look sees
        overrun = any(one.kind == "overrun" for one in told)
        self._look(afresh=overrun or not self._listens)
        if overrun:
            self._pending += self._cpus(_online_cpus())

    def _changes_by(self, event: Event) -> Iterator[Change]:
        from guestpv.driver.events import CpuEvent, ModuleEvent, OverrunEvent

        match event:
            case CpuEvent(cpu=cpu, online=online):
                yield from self._cpus(self._online | {cpu} if online else self._online - {cpu})
            case ModuleEvent(loaded=loaded):
                if self.source.kind == "device" and loaded != self._is_there:
                    yield self._module(loaded)
            case OverrunEvent():
                yield change(
                    "overrun",
                    "more was announced than the kernel keeps, and some of it is lost:"
                    " CPUs, counts and the module are looked at afresh",
                )
            case _:
                if told := self._vm.change(event):
                    yield told

    def _cpus(self, online: set[int]) -> Iterator[Change]:
        """Now these are online: what became of the others, as far as it was not told yet."""
        for cpu in sorted(self._online ^ online):
            yield cpu_online(cpu, cpu in online)
        self._online = online

    def _module(self, loaded: bool, *, same: bool = False) -> Change:
        """*same*: it is of the instance that it was of."""
        self._is_there = loaded
        self._instance = None
        name = "the module" if self.source.kind == "device" else self.source.path
        if loaded:
            counts = "go on" if same else "are of another instance"
            return change("module_loaded", f"{name} is there again: epochs and counts {counts}")
        return change("module_gone", f"{name} is gone")

    def _look(self, *, afresh: bool) -> None:
        """*afresh*: nobody else tells whether the module is there, and which CPUs are online."""
        try:
            with open_source(self._path) as reader:
                now = reader.snapshot()
        except NoSourceError:
            if afresh and self._is_there:
                self._pending.append(self._module(False))
            return
        except (Error, OSError) as error:
            self._fail(str(error))
            return
        self._succeed()
        instance = int(now["instance"][0])
        if afresh and (not self._is_there or self._instance not in (None, instance)):
            same = instance == int(self._snapshot["instance"][0])
            self._pending.append(self._module(True, same=same))
        self._instance = instance
        before, self._snapshot = self._snapshot, now
        if len(before) != len(now):  # a page image of another machine
            return
        step = delta(before, now)
        of_procfs = np.where(now["epoch"] == 0, step["backwards_ns"], 0)
        told = [*changes(before, now, step), *procstat_backwards(now, of_procfs)]
        if self._listens:
            told = [one for one in told if one.kind not in ("online", "offline")]
        self._pending += told

    def _fail(self, why: str) -> None:
        """Told if it lasts: a device that has just appeared may not have its permissions yet."""
        if why == self._failed and why != self._told_failed:
            self._told_failed = why
            self._pending.append(change("unreadable", why))
        self._failed = why

    def _succeed(self) -> None:
        if self._told_failed:
            self._pending.append(change("readable", f"{self.source.path} is read again"))
        self._failed = self._told_failed = ""


def events(source: str | os.PathLike[str] = "auto", *, interval_s: float = 1.0) -> Events:
    """What happens from now on, to be iterated over by ``for`` or ``async for``.

    For example::

        with guestpv.events() as events:
            for event in events:
                print(event.kind, event.text)

    Each event is a `guestpv.Change`. Its kind is

    ======================  ====================================================================
    ``online, offline``     a CPU came, or went
    ``restart``             a count started again; ``epoch`` and ``reason`` are set
    ``revision``            a structure has another revision or attributes
    ``refused``             the module does not trust a CPU's structure
    ``backwards``           a count went down within its epoch
    ``restored``            the VM was restored or cloned
    ``moved``               the VM was moved to another host, or its clock disrupted
    ``module_gone``         the module was removed (of a page image: the file)
    ``module_loaded``       it is there again, with epochs and counts that can't be compared; of a
                            page image, the text says whether they can
    ``unreadable``          the source can't be read, though it is there; ``readable``: it can again
    ``procstat_backwards``  /proc/stat ran backwards, where that is the source
    ``overrun``             the kernel announced more than it keeps: what follows is by comparison
    ``no_events``           the kernel's uevents can't be received; the text says what to do
    ======================  ====================================================================

    Args:
        source: as for `guestpv.open`. CPUs, module and VM are this machine's, or those of a page
            image.
        interval_s: seconds from one look to the next at what nobody announces.

    Raises:
        NoSourceError, PermissionDeniedError, FormatError: as `guestpv.open` does.
        ValueError: *interval_s* is not greater than 0.
    """
    if not interval_s > 0:
        raise ValueError("interval_s is not greater than 0")
    return Events(source, interval_s)


def _online_cpus() -> set[int]:
    return set(CpuList.parse(Path(ONLINE).read_text()).cpus)

# SPDX-License-Identifier: MIT
"""What the kernel announces while `guestpv watch` runs: it ends a wait, and so shows at once."""

from __future__ import annotations

import math
import time
from contextlib import ExitStack, suppress
from importlib import import_module
from threading import Thread
from typing import TYPE_CHECKING, Self

from guestpv.account.history import Change, change
from guestpv.cli.waiting import Waiting, Woken
from guestpv.errors import PermissionDeniedError
from guestpv.source.reader import Source

if TYPE_CHECKING:
    from guestpv.driver.events import Event
    from guestpv.driver.vmclock import VmClock

_RESTORED_ONCE_IN_S = 5.0


class Announcements:
    """Where they can't be had, watching goes on without: a snapshot shows the same, later."""

    def __init__(self, waiting: Waiting, source: Source) -> None:
        self._waiting = waiting
        self._stack = ExitStack()
        self._importing: Thread | None = None
        self._vmclock: VmClock | None = None  # one that has to be asked
        self._restored_s = -math.inf
        if source.kind != "image":  # which may be of any machine, and the events are of this one
            # pyroute2 takes long to import, above all where the hypervisor takes much of the
            # time: nobody should wait for it, at the beginning or at the end.
            self._importing = Thread(target=_import_events, daemon=True)
            self._importing.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def changes(self, woken: Woken) -> list[Change]:
        """What they say that no snapshot shows."""
        if self._importing is not None and not self._importing.is_alive():
            self._importing = None
            return self._listen()
        events = woken.events + (self._vmclock.read() if self._vmclock else [])
        return list(filter(None, map(self._change, events)))

    def _change(self, event: Event) -> Change | None:
        from guestpv.driver.events import ClockDisruptionEvent, CountEvent, VmGenerationEvent

        match event:
            case VmGenerationEvent() | CountEvent(what="restored"):
                before, self._restored_s = self._restored_s, time.monotonic()
                # The module, vmgenid and vmclock may all tell of the same.
                if self._restored_s - before > _RESTORED_ONCE_IN_S:
                    return change("restored", "the VM was restored or cloned")
            case ClockDisruptionEvent():
                return change("moved", "the VM was moved to another host, or its clock disrupted")
        return None

    def _listen(self) -> list[Change]:
        from guestpv.driver.events import EventSource
        from guestpv.driver.vmclock import PATH, VmClock

        if clock := VmClock.find(PATH):
            self._stack.enter_context(clock)
            if not (clock.notifies and self._is_polled(clock)):
                self._vmclock = clock
        try:
            self._waiting.listen(self._stack.enter_context(EventSource()))
        except PermissionDeniedError as error:
            return [change("no_events", str(error))]
        return []

    def _is_polled(self, clock: VmClock) -> bool:
        try:
            self._waiting.listen(clock)
        except PermissionError:  # the driver of an older kernel has no poll(2)
            return False
        return True


def _import_events() -> None:
    with suppress(Exception):  # whoever imports it next gets the same exception
        import_module("pyroute2.netlink.uevent")

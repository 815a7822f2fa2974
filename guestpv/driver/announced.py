# SPDX-License-Identifier: MIT
"""All that this machine announces: the kernel's uevents, and the hypervisor's vmclock."""

import selectors
from contextlib import ExitStack
from typing import Self

from guestpv.driver import vmclock
from guestpv.driver.events import Event, EventSource
from guestpv.driver.vmclock import VmClock
from guestpv.errors import PermissionDeniedError


class Announced:
    """For a poll loop: wait until it is readable, then read() all. A context manager.

    A vmclock that does not say when it changes is asked at each read(), so read from time to time.
    """

    def __init__(self) -> None:
        self.trouble: PermissionDeniedError | None = None
        """Why there are no uevents, if there are none."""
        self._sources: list[EventSource | VmClock] = []
        with ExitStack() as stack:
            self._selector = stack.enter_context(selectors.DefaultSelector())
            if clock := VmClock.find(vmclock.PATH):
                self._sources.append(stack.enter_context(clock))
                if clock.notifies:
                    self._register(clock)
            try:
                uevents = stack.enter_context(EventSource())
            except PermissionDeniedError as error:
                self.trouble = error
            else:
                self._sources.append(uevents)
                self._register(uevents)
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._stack.close()

    def fileno(self) -> int:
        """It is readable when there is something to be read."""
        # What select() waits with: an epoll instance, which can be waited for itself.
        return int(self._selector.fileno())

    def read(self) -> list[Event]:
        """What has been announced, without waiting."""
        return [event for source in self._sources for event in source.read()]

    def _register(self, source: EventSource | VmClock) -> None:
        try:
            self._selector.register(source, selectors.EVENT_READ)
        except PermissionError:  # the vmclock driver of an older kernel has no poll(2)
            return

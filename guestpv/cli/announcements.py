# SPDX-License-Identifier: MIT
"""What the kernel announces while `guestpv watch` runs: it ends a wait, and so shows at once."""

from contextlib import ExitStack, suppress
from importlib import import_module
from threading import Thread
from typing import Self

from guestpv.account.history import Change, change
from guestpv.cli.waiting import Waiting, Woken
from guestpv.errors import PermissionDeniedError
from guestpv.source.reader import Source


class Announcements:
    """Where they can't be had, watching goes on without: a snapshot shows the same, later."""

    def __init__(self, waiting: Waiting, source: Source) -> None:
        self._waiting = waiting
        self._stack = ExitStack()
        self._importing: Thread | None = None
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
        if not woken.events:
            return []
        from guestpv.driver.events import VmGenerationEvent

        restored = change("restored", "the VM was restored or cloned")
        return [restored for event in woken.events if isinstance(event, VmGenerationEvent)]

    def _listen(self) -> list[Change]:
        from guestpv.driver.events import EventSource

        try:
            self._waiting.listen(self._stack.enter_context(EventSource()))
        except PermissionDeniedError as error:
            return [change("no_events", str(error))]
        return []


def _import_events() -> None:
    with suppress(Exception):  # whoever imports it next gets the same exception
        import_module("guestpv.driver.events")

# SPDX-License-Identifier: MIT
"""What the kernel announces while `guestpv watch` runs: it ends a wait, and so shows at once."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from importlib import import_module
from threading import Thread
from typing import TYPE_CHECKING, Self

from guestpv.account.changes import Change, VmChanges, change
from guestpv.cli.waiting import Waiting
from guestpv.source.reader import Source

if TYPE_CHECKING:
    from guestpv.driver.announced import Announced


class Announcements:
    """Where they can't be had, watching goes on without: a snapshot shows the same, later."""

    def __init__(self, waiting: Waiting, source: Source) -> None:
        self._waiting = waiting
        self._stack = ExitStack()
        self._importing: Thread | None = None
        self._announced: Announced | None = None
        self._vm = VmChanges()
        if source.kind != "image":  # which may be of any machine, and the events are of this one
            # pyroute2 takes long to import, above all where the hypervisor takes much of the
            # time: nobody should wait for it, at the beginning or at the end.
            self._importing = Thread(target=_import_announced, daemon=True)
            self._importing.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def changes(self) -> list[Change]:
        """What they say that no snapshot shows."""
        if self._importing is not None and not self._importing.is_alive():
            self._importing = None
            return self._listen()
        events = self._announced.read() if self._announced else []
        return list(filter(None, map(self._vm.change, events)))

    def _listen(self) -> list[Change]:
        from guestpv.driver.announced import Announced

        self._announced = self._stack.enter_context(Announced())
        self._waiting.listen(self._announced)
        trouble = self._announced.trouble
        return [change("no_events", str(trouble))] if trouble else []


def _import_announced() -> None:
    with suppress(Exception):  # whoever imports it next gets the same exception
        import_module("pyroute2.netlink.uevent")
        import_module("guestpv.driver.announced")

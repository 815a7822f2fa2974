# SPDX-License-Identifier: MIT
"""What the ways in which `guestpv watch` shows a history have in common."""

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence

from guestpv.account.changes import Change
from guestpv.account.history import History
from guestpv.cli.waiting import suspend


class View(ABC):
    def begin(self, history: History) -> None:  # noqa: B027 - a view may have nothing to show yet
        """Show what there is before the first interval."""

    @abstractmethod
    def show(self, history: History, changes: Sequence[Change], ended: bool) -> None:
        """Show *changes*, and if an interval *ended*, its figures."""

    def key(self, key: str) -> None:  # noqa: B027 - a view may ignore keys
        """React to a key that was pressed."""

    def suspend(self) -> None:
        """Stop the process, as Ctrl-Z should; returns when it goes on."""
        suspend()


def clock(time_s: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(time_s))

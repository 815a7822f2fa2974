# SPDX-License-Identifier: MIT
"""What must not be interrupted half-way."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def undisturbed() -> Iterator[None]:
    """Ctrl-C and what else ends a process wait until what was changed is undone.

    Their handlers are put off. To block the signals would not do: another thread, as numpy has
    them, would take them, and Python would still call the handler in this one.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # no handler is ever called here
        return
    came: list[int] = []
    before: dict[int, Any] = {}
    try:
        for ending in signal.SIGINT, signal.SIGTERM, signal.SIGHUP:
            before[ending] = signal.signal(ending, lambda number, _: came.append(number))
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for number in came:
            signal.raise_signal(number)

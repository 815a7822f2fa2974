# SPDX-License-Identifier: MIT
"""What is being done: on a terminal as it is done, elsewhere once a minute."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner

_SELDOM_S = 60.0


@contextmanager
def progress(console: Console) -> Iterator[Callable[[str], None]]:
    """A line that changes, while this lasts. What else is written goes where it went before."""
    spinner = Spinner("dots", "starting")
    with Live(
        spinner,
        console=console,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    ):
        yield lambda what: spinner.update(text=what)


@contextmanager
def seldom(clock: Callable[[], float] = time.monotonic) -> Iterator[Callable[[str], None]]:
    """A line on stderr each minute, so that whoever watches a long run's log sees that it goes on.

    None at the beginning: most runs take less.
    """
    said = clock()

    def say(what: str) -> None:
        nonlocal said
        if clock() - said >= _SELDOM_S:
            said = clock()
            print(f"guestpv: {what}", file=sys.stderr, flush=True)

    yield say

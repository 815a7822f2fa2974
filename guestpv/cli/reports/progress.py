# SPDX-License-Identifier: MIT
"""What is being done, on stderr."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console


@contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """A line that changes, while this lasts."""
    with Console(stderr=True).status("starting") as status:
        yield lambda what: status.update(what)

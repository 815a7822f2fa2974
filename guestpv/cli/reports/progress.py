# SPDX-License-Identifier: MIT
"""What is being done, on a terminal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner


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

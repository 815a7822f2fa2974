# SPDX-License-Identifier: MIT
"""How a lab begins: from saved machines if they are there and sound, else by booting.

Each way takes machines that were described and not started, and returns when they run, have the
project, and this run has been let in. If it fails the next is tried, with new machines.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from . import proof, saved
from .cache import Kept
from .errors import LabError, NotReadyError, RefusedError
from .machine import NO_MONITOR
from .machines import Machines
from .progress import say, step
from .saved import Saved

Way = Callable[[Machines, Saved], None]


# How it shows that what goes on is not what was saved: also by answers that make no sense.
_UNSOUND = (LabError, *NO_MONITOR, ValueError, IndexError)


class _NothingSavedError(Exception):
    """There is nothing to go on from."""


def begin(attempt: Callable[[Way], None], *, boot: bool) -> None:
    """Begin in the first way that works."""
    for way in () if boot else (_go_on, _go_on_from_boot):
        try:
            return attempt(way)
        except _NothingSavedError:
            continue
        except RefusedError:
            raise
        except _UNSOUND as error:
            say(f"{error}\nlab: that saved machine is of no use, and is removed")
    try:
        attempt(_boot)
    except NotReadyError as error:
        # Seen under an emulated host, at one boot in some 550: its kernel warned in a system
        # call, and both vCPUs waited for interrupts that came no more. So the host is new, too.
        say(f"{error}\nlab: trying once more, from the start")
        attempt(_boot)


def _go_on(machines: Machines, kept: Saved) -> None:
    """From machines that have all."""
    with _removed_if_useless(kept.ready()) as path, step(f"going on with {machines.spec}"):
        checked = saved.restore(machines, path)
        _let_in(machines)
        checked.result()


def _go_on_from_boot(machines: Machines, kept: Saved) -> None:
    """From machines that have booted, and get what of the project has changed."""
    with _removed_if_useless(kept.booted()) as path:
        with step(f"going on with {machines.spec}, as booted"):
            checked = saved.restore(machines, path, to_be_saved=True)
            machines.furnish(kept.furnishing)
            checked.result()
        kept.save_ready(machines)
        _let_in(machines)


def _boot(machines: Machines, kept: Saved) -> None:
    machines.boot()
    kept.save_booted(machines)
    machines.furnish(kept.furnishing)
    kept.save_ready(machines)
    machines.admit()


def _let_in(machines: Machines) -> None:
    """As Machines.admit; and meanwhile it is seen whether time and counts go on."""
    outermost, *inner = machines.all
    outermost.admit()
    with ThreadPoolExecutor(1) as beside:
        # Not the other way round: what logs in ends with the thread that has started it.
        admitted = [beside.submit(machine.admit) for machine in inner]
        before = proof.counts(machines)
        outermost.connect()
        for each in admitted:
            each.result()
    for machine in inner:
        machine.connect()
    proof.prove(before, proof.counts(machines))


@contextmanager
def _removed_if_useless(place: Path | None) -> Iterator[Path]:
    """Whoever comes next is not to try again what did not work: it would be saved anew."""
    if place is None:
        raise _NothingSavedError
    try:
        yield place
    except RefusedError:
        raise
    except _UNSOUND:
        Kept(place).discard()
        raise

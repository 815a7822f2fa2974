# SPDX-License-Identifier: MIT
"""Taking CPU time away from a guest: work on its host that the scheduler prefers to the guest.

Each of the host's CPUs gets a busy loop under SCHED_DEADLINE, which the kernel lets run for
exactly the given part of each period, before anything else.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from .errors import LabError
from .site import Site

PERIOD_NS = 20_000_000
HIGHEST = 90  # the kernel keeps 5 % for others, and the guest has to go on

_START = """
for cpu in $(seq {cpus}); do
    (
        sleep {after_s}
        exec chrt --deadline --sched-runtime {runtime} --sched-deadline {period} \
            --sched-period {period} 0 sh -c 'while :; do :; done'
    ) >/dev/null 2>&1 </dev/null &
    echo $!
done
"""


def check_percent(percent: int, *, has_host: bool) -> None:
    """Raise LabError if that can't be taken."""
    if percent and not has_host:
        raise LabError("there is no hypervisor that could take time from the guest")
    if not 0 <= percent <= HIGHEST:
        raise LabError(f"steal is a percentage from 0 to {HIGHEST}, not {percent}")


class Contention:
    """The contention on one host; there is none at first."""

    def __init__(self, host: Site, cpus: int) -> None:
        self._host = host
        self._cpus = cpus
        self._loops: list[str] = []

    def set(self, percent: int, *, after_s: float = 0) -> None:
        """Take about this much of each period of each CPU, in a while, until it is set anew."""
        check_percent(percent, has_host=bool(self._cpus))
        if self._loops:
            self._host.run(["kill", *self._loops]).check_returncode()
            self._loops = []
        if percent:
            start = _START.format(
                cpus=self._cpus,
                runtime=PERIOD_NS * percent // 100,
                period=PERIOD_NS,
                after_s=after_s,
            )
            self._loops = self._host.run(["sh", "-c", start]).stdout.split()

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Take nothing for a while, in which the guest does not run anyway."""
        if not self._loops:
            yield
            return
        self._host.run(["kill", "-STOP", *self._loops]).check_returncode()
        try:
            yield
        finally:
            self._host.run(["kill", "-CONT", *self._loops]).check_returncode()

# SPDX-License-Identifier: MIT
"""What is stolen from each of many cgroups, as they come and go."""

import os
from collections.abc import Callable, Sequence
from glob import glob
from pathlib import Path

from guestpv.errors import Error, NoSourceError
from guestpv.latency.counter import CgroupCounter, Counter, counter
from guestpv.latency.many import Many

MOUNTS = Path("/proc/self/mounts")


class Cgroups(Many[str]):
    """Those that match patterns, named by their paths below the root of cgroup v2."""

    most = 512

    def __init__(self, patterns: Sequence[str], say: Callable[[str], None]) -> None:
        """*patterns* are as in ``system.slice/*``. Raises NoSourceError without cgroup v2."""
        super().__init__(say)
        self._root = _root()
        self._patterns = patterns

    def _there(self) -> set[str]:
        # Which takes it that what was listed may be gone when it is looked into.
        found = (name for pattern in self._patterns for name in glob(pattern, root_dir=self._root))
        return {name.rstrip("/") for name in found if (self._root / name).is_dir()}

    def _is_another(self, one: str, counted: Counter) -> bool:
        """As that of a service that was restarted."""
        return isinstance(counted, CgroupCounter) and not counted.is_of(self._root / one)

    def _count(self, one: str) -> Counter:
        directory = self._root / one
        try:
            return counter(cgroup=directory)
        except NoSourceError as error:
            if directory.is_dir():  # it is not it that is missing
                raise Error(error.what, error.why, error.fix) from error
            raise

    def _descriptors_each(self) -> int:
        return 1 + 4 * os.sysconf("SC_NPROCESSORS_CONF")  # those that are offline may come


def _root() -> Path:
    for line in MOUNTS.read_text().splitlines():
        _, where, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(where)
    raise NoSourceError("cgroups: none to count", "No cgroup v2 is mounted here")

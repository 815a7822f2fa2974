# SPDX-License-Identifier: MIT
"""Which cgroup lost how much, as metrics of Prometheus."""

import resource
from collections.abc import Callable, Iterator, Sequence
from glob import glob
from pathlib import Path

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from guestpv.errors import Error, NoSourceError
from guestpv.latency.bounds import Bounds
from guestpv.latency.counter import Counter, counter

MOST = 512
"""So many cgroups are counted, whatever a pattern matches: each is two series, and four file
descriptors for each CPU."""

MOUNTS = Path("/proc/self/mounts")


class CgroupCollector(Collector):
    """Follows the cgroups that match patterns, and reads them at each collection.

    Not in between, as vCPUs are: to read an event interrupts the CPU that it is of.
    """

    def __init__(self, patterns: Sequence[str], say: Callable[[str], None]) -> None:
        """*patterns* are of paths below the root of cgroup v2, as in ``system.slice/*``.

        Raises NoSourceError where cgroup v2 is not mounted.
        """
        self._root = _root()
        self._patterns = patterns
        self._counters: dict[str, Counter] = {}
        self._left_out = 0
        self._say = say
        self._said = ""
        # The soft limit is low for those who use select(2), and the exporter does not.
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    def describe(self) -> list[Metric]:
        """So that registering it does not read."""
        return []

    def collect(self) -> Iterator[Metric]:
        self._follow()
        stolen = CounterMetricFamily(
            "guestpv_cgroup_stolen_seconds",
            "What was stolen from the tasks of a cgroup and those below it; at least.",
            labels=["cgroup"],
        )
        unknown = CounterMetricFamily(
            "guestpv_cgroup_unknown_seconds",
            "How much more that may be, since CPUs went and came, or counts started again.",
            labels=["cgroup"],
        )
        for name, bounds in self._read():
            stolen.add_metric([name], bounds.least_ns / 1e9)
            unknown.add_metric([name], (bounds.most_ns - bounds.least_ns) / 1e9)
        yield stolen
        yield unknown
        yield GaugeMetricFamily(
            "guestpv_cgroups_left_out",
            f"How many more match, and are not counted: beyond {MOST}, or not permitted.",
            value=self._left_out,
        )

    def close(self) -> None:
        for each in self._counters.values():
            each.close()
        self._counters.clear()

    def _read(self) -> Iterator[tuple[str, Bounds]]:
        for name, each in self._counters.items():
            try:
                yield name, each.read()
            except (Error, OSError) as error:
                self._explain(error)

    def _follow(self) -> None:
        """Those that stay are counted on, however many come."""
        there = self._matching()
        for name in self._counters.keys() - there:
            self._counters.pop(name).close()
        said = self._said
        for name in sorted(there - self._counters.keys()):
            if len(self._counters) == MOST:
                break
            try:
                self._counters[name] = counter(cgroup=self._root / name)
            except Error as error:  # which may be that it has gone since
                self._explain(error)
        self._left_out = len(there) - len(self._counters)
        if not self._left_out and self._said == said:
            self._said = ""

    def _matching(self) -> set[str]:
        # Which takes it that what was listed may be gone when it is looked into.
        found = (name for pattern in self._patterns for name in glob(pattern, root_dir=self._root))
        return {name.rstrip("/") for name in found if (self._root / name).is_dir()}

    def _explain(self, error: Exception) -> None:
        """Once, and not for each of hundreds."""
        if not self._said:
            self._said = str(error)
            self._say(self._said)


def _root() -> Path:
    for line in MOUNTS.read_text().splitlines():
        _, where, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(where)
    raise NoSourceError(
        "cgroups: none to count", "No cgroup v2 is mounted here", "leave --cgroup out"
    )

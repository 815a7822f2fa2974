# SPDX-License-Identifier: MIT
"""Which cgroup lost how much, as metrics of Prometheus."""

from collections.abc import Iterator

import numpy as np
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from guestpv.agent.textformat import ColumnFamily
from guestpv.latency.cgroups import Cgroups


class CgroupCollector(Collector):
    """Reads cgroups at each collection.

    Not in between, as vCPUs are: to read an event interrupts the CPU that it is of.
    """

    def __init__(self, cgroups: Cgroups) -> None:
        self._cgroups = cgroups

    def describe(self) -> list[Metric]:
        """So that registering it does not read."""
        return []

    def collect(self) -> Iterator[Metric]:
        read = self._cgroups.read()
        # A cgroup's name can be any bytes, and a label is UTF-8.
        names = [name.encode("utf-8", "backslashreplace").decode() for name in read]
        least_ns = [bounds.least_ns for bounds in read.values()]
        more_ns = [bounds.most_ns - bounds.least_ns for bounds in read.values()]
        yield ColumnFamily(
            "counter",
            "guestpv_cgroup_stolen_seconds",
            "What was stolen from the tasks of a cgroup and those below it; at least.",
            {"cgroup": names},
            np.array(least_ns) / 1e9,
        )
        yield ColumnFamily(
            "counter",
            "guestpv_cgroup_unknown_seconds",
            "How much more that may be, since CPUs went and came, or counts started again.",
            {"cgroup": names},
            np.array(more_ns) / 1e9,
        )
        yield GaugeMetricFamily(
            "guestpv_cgroups_left_out",
            "How many more match, and are not counted: too many, or not permitted.",
            value=self._cgroups.left_out,
        )

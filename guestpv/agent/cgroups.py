# SPDX-License-Identifier: MIT
"""Which cgroup lost how much, as metrics of Prometheus."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

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
        for name, bounds in self._cgroups.read().items():
            stolen.add_metric([name], bounds.least_ns / 1e9)
            unknown.add_metric([name], (bounds.most_ns - bounds.least_ns) / 1e9)
        yield stolen
        yield unknown
        yield GaugeMetricFamily(
            "guestpv_cgroups_left_out",
            "How many more match, and are not counted: too many, or not permitted.",
            value=self._cgroups.left_out,
        )

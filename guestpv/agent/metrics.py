# SPDX-License-Identifier: MIT
"""What a monitor saw, as metrics of Prometheus.

Names and units are by its rules: base units, _total for what never falls. Each family has at most
one series for a vCPU. What is not known has no series, so that no graph shows it as 0; of time for
which it is not known what was stolen there is a counter of its own.
"""

import platform
from collections.abc import Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from guestpv.agent.monitor import Look, Monitor
from guestpv.agent.textformat import ColumnFamily
from guestpv.page.abi import State
from guestpv.page.names import name_of
from guestpv.source.reader import Snapshot


@cache
def own_version() -> str:
    """guestpv's, or "unknown" where it is run from a checkout."""
    try:
        return version("guestpv")
    except PackageNotFoundError:
        return "unknown"


class MonitorCollector(Collector):
    """A look at each collection, and what it gave."""

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor

    def describe(self) -> list[Metric]:
        """So that registering it does not look."""
        return []

    def collect(self) -> Iterator[Metric]:
        self._monitor.look()
        yield from self._about()
        if self._monitor.last is not None:
            yield from _about_source(self._monitor.last)
            yield from _by_cpu(self._monitor.last)

    def _about(self) -> Iterator[Metric]:
        monitor = self._monitor
        yield InfoMetricFamily(
            "guestpv_build",
            "Which guestpv this is.",
            {"version": own_version(), "python": platform.python_version()},
        )
        yield GaugeMetricFamily(
            "guestpv_up",
            "Whether the source could be read at the last look; if not, it has no series.",
            value=monitor.last is not None,
        )
        yield CounterMetricFamily("guestpv_looks", "Looks at the source.", value=monitor.looks)
        yield GaugeMetricFamily(
            "guestpv_last_look_timestamp_seconds",
            "When the source was last read, in Unix time; 0 if it never was.",
            value=monitor.last_time_s,
        )
        errors = CounterMetricFamily(
            "guestpv_read_errors", "Looks that failed, by kind.", labels=["kind"]
        )
        for kind, count in monitor.errors.items():
            errors.add_metric([kind], count)
        yield errors
        yield CounterMetricFamily(
            "guestpv_source_instances",
            "Instances of the source that were seen: one for each load of the module.",
            value=monitor.instances,
        )


def _about_source(look: Look) -> Iterator[Metric]:
    source = look.source
    yield InfoMetricFamily(
        "guestpv_source",
        "What is read: the device, a page image, or /proc/stat; simulated if nothing was stolen.",
        {
            "kind": source.kind,
            "path": source.path.encode("utf-8", "backslashreplace").decode(),
            "simulated": "true" if source.simulated else "false",
            "instance_id": f"{int(look.snapshot['instance'][0]):#018x}",
        },
    )
    yield GaugeMetricFamily(
        "guestpv_source_resolution_seconds",
        "Time from one value that a count can have to the next.",
        value=source.resolution_ns / 1e9,
    )


def _by_cpu(look: Look) -> Iterator[Metric]:
    rows, totals = look.snapshot, look.totals
    # Nothing is stolen from a CPU that is offline; of others it must be known what is.
    counted = rows["valid"] | (rows["state"] == State.ABSENT)
    yield _counter(
        "guestpv_stolen_seconds",
        "Stolen from a vCPU since this exporter began, at least; none while that is not known.",
        *(rows, totals["total_ns"] / 1e9, counted),
    )
    yield _counter(
        "guestpv_stolen_unknown_seconds",
        "Time since this exporter began of which it is not known how much was stolen.",
        *(rows, totals["unknown_ns"] / 1e9),
    )
    yield _counter(
        "guestpv_count_restarts",
        "How often the hypervisor's count began anew, as the module says.",
        *(rows, totals["restarts"]),
    )
    yield _gauge(
        "guestpv_stolen_step_max_seconds",
        "The most that was stolen from one look to the next in the last minute: no single steal of"
        " that time was longer.",
        *(rows, look.greatest_step_ns / 1e9, look.step_known),
    )
    cpus = list(map(str, rows["cpu"].tolist()))
    states = rows["state"].tolist()
    names = {state: name_of(State, state) for state in set(states)}
    yield ColumnFamily(
        "gauge",
        "guestpv_vcpu_state",
        "1 for what can be said of a vCPU: absent, online, offline, refused or starting.",
        {"cpu": cpus, "state": [names[state] for state in states]},
        np.ones(len(rows)),
    )
    if look.source.kind != "procfs":
        seen = rows["valid"] | (rows["revision"] != 0) | (rows["attributes"] != 0)
        yield _gauge(
            "guestpv_structure_revision",
            "The structure's revision; a count is interpreted only if it is 0.",
            *(rows, rows["revision"], seen),
        )
        yield _gauge(
            "guestpv_structure_attributes",
            "The structure's attributes; a count is interpreted only if they are 0.",
            *(rows, rows["attributes"], seen),
        )
    if look.procstat is not None:
        known = look.procstat["steal_known"]
        yield _gauge(
            "guestpv_procstat_steal_seconds",
            "What the kernel shows as stolen in /proc/stat: in ticks, and it may run backwards.",
            *(rows, look.procstat["steal_ns"] / 1e9, known),
        )
        yield _gauge(
            "guestpv_procstat_differs",
            "1 if that contradicts the hypervisor's count.",
            *(rows, look.procstat_differs, known & rows["valid"]),
        )


def _counter(name: str, about: str, rows: Snapshot, values: Any, chosen: Any = ...) -> Metric:
    return _family("counter", name, about, rows, values, chosen)


def _gauge(name: str, about: str, rows: Snapshot, values: Any, chosen: Any = ...) -> Metric:
    return _family("gauge", name, about, rows, values, chosen)


def _family(
    typ: str, name: str, about: str, rows: Snapshot, values: Any, chosen: Any
) -> ColumnFamily:
    """Of the rows that are *chosen*."""
    cpus = list(map(str, rows["cpu"][chosen].tolist()))
    return ColumnFamily(typ, name, about, {"cpu": cpus}, values[chosen].astype(float))

# SPDX-License-Identifier: MIT
"""The exporter's metrics for OpenTelemetry: sent by OTLP over HTTP, with the SDK's own exporter.

What is stolen is `system.cpu.time` with the `cpu.mode` steal, and CPUs are `cpu.logical_number`, as
OpenTelemetry's semantic conventions for CPUs have it, which are still in development. For all else
they have nothing: that is named as for Prometheus, with units apart, so that a backend which makes
Prometheus' names of OpenTelemetry's gets those that the exporter serves.

The SDK's instruments are not used: they would keep values that were collected once by another
thread, and no more than 2000 series of each.
"""

import logging
import socket
import time
from collections.abc import Iterable
from threading import Event, Thread

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Metric,
    MetricExportResult,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from prometheus_client.core import Metric as Family

from guestpv.agent.metrics import own_version
from guestpv.errors import Error

_CONVENTIONS = {"guestpv_stolen_seconds": ("system.cpu.time", {"cpu.mode": "steal"})}
"""Families for whose contents there is a convention: its name, and its attributes."""


_LONGEST_S = 60.0


class Otlp:
    """Sends to one endpoint. For one thread at a time."""

    def __init__(self, endpoint: str) -> None:
        """*endpoint* is as in ``http://collector:4318``: the path of metrics is added to it. What
        else there is to say (headers, certificates, compression) comes from the environment
        variables that OpenTelemetry has for it."""
        self._endpoint = f"{endpoint.rstrip('/')}/v1/metrics"
        self._exporter = OTLPMetricExporter(self._endpoint)
        self._trouble = _Trouble()
        self._resource = _resource()
        self._scope = InstrumentationScope("guestpv", own_version())
        self._began_ns = time.time_ns()
        self._sending: Thread | None = None
        self._over = Event()

    def send(self, families: Iterable[Family]) -> None:
        """Raises Error if the other side does not take them, or not in time."""
        what = f"{self._endpoint}: no metrics sent"
        if self._sending and self._sending.is_alive():
            raise Error(what, "Those before have not been answered yet")
        now_ns = time.time_ns()
        metrics = [
            _metric(family, self._began_ns, now_ns)
            for family in families
            if family.name.startswith("guestpv_")  # not those of any process
        ]
        scope = ScopeMetrics(self._scope, metrics, schema_url="")
        self._trouble.first = ""
        data = MetricsData([ResourceMetrics(self._resource, [scope], schema_url="")])
        sent: list[MetricExportResult | Exception] = []

        def export() -> None:
            try:
                sent.append(self._exporter.export(data))
            except Exception as error:
                sent.append(error)
            self._over.set()

        # The SDK's time limit begins anew with each byte of an answer. And a process does not wait
        # for a daemon to end.
        self._over.clear()
        self._sending = Thread(target=export, name="otlp", daemon=True)
        self._sending.start()
        self._over.wait(_LONGEST_S)
        match sent:
            case [MetricExportResult.SUCCESS]:
                return
            case [Exception() as error]:
                raise error
            case [_]:
                raise Error(what, self._trouble.first)
        raise Error(what, f"They have not been answered in {_LONGEST_S:g} s")

    def close(self) -> None:
        """Waits for nothing more."""
        self._exporter.shutdown()
        self._over.set()


class _Trouble(logging.Handler):
    """What the SDK says of it, which it only logs."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.first = ""
        logger = logging.getLogger("opentelemetry")
        logger.propagate = False
        logger.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self.first = self.first or record.getMessage().rstrip(".")


def _resource() -> Resource:
    """Of this machine, unless the environment (OTEL_RESOURCE_ATTRIBUTES) says something else."""
    own = {
        "service.name": "guestpv",
        "service.version": own_version(),
        "host.name": socket.gethostname(),
    }
    return Resource.create({**own, **OTELResourceDetector().detect().attributes})


def _metric(family: Family, began_ns: int, now_ns: int) -> Metric:
    name, attributes = _CONVENTIONS.get(family.name, (_own_name(family), {}))
    points = [
        NumberDataPoint(
            {**attributes, **dict(map(_attribute, sample.labels.items()))},
            start_time_unix_nano=began_ns,
            time_unix_nano=now_ns,
            value=float(sample.value),
        )
        for sample in family.samples
    ]
    unit = "s" if family.name.endswith("_seconds") else "1"
    if family.type == "counter":
        cumulative = AggregationTemporality.CUMULATIVE
        return Metric(name, family.documentation, unit, Sum(points, cumulative, is_monotonic=True))
    return Metric(name, family.documentation, unit, Gauge(points))


def _own_name(family: Family) -> str:
    """As in ``guestpv.stolen_unknown`` for guestpv_stolen_unknown_seconds, which is in seconds."""
    name = family.name.removesuffix("_seconds").replace("_", ".", 1)
    return f"{name}_info" if family.type == "info" else name


def _attribute(label: tuple[str, str]) -> tuple[str, str | int]:
    name, value = label
    return ("cpu.logical_number", int(value)) if name == "cpu" else (name, value)

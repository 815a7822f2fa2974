# SPDX-License-Identifier: MIT
"""Metrics for OpenTelemetry, sent by its SDK as OTLP over HTTP.

What its semantic conventions have a name for has that name
(https://opentelemetry.io/docs/specs/semconv/system/system-metrics/), all else begins with
``guestpv.``. As for Prometheus, what is not known has no point. The SDK's own environment variables
say how often they are sent, with which headers and certificates, and of which resource they are.
"""

import logging
import platform
import uuid
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Self

import requests
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import MeterProvider, ObservableCounter, ObservableGauge
from opentelemetry.sdk.metrics.export import (
    CardinalityLimits,
    MetricExportResult,
    MetricsData,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.resources import OTELResourceDetector, Resource

from guestpv.agent.monitor import Look, Monitor
from guestpv.agent.version import VERSION
from guestpv.errors import ConfigError, Error

PATH = "/v1/metrics"
"""What is added to an endpoint (https://opentelemetry.io/docs/specs/otlp/#otlphttp-request)."""

CPU_TIME = "system.cpu.time"

COUNTERS = {
    CPU_TIME: ("s", "Stolen from a vCPU since this exporter began, at least."),
    "guestpv.cpu.unknown_time": (
        *("s", "Time since this exporter began of which it is not known how much was stolen."),
    ),
    "guestpv.cpu.count_restarts": (
        *("{restart}", "How often the hypervisor's count began anew, as the module says."),
    ),
    "guestpv.source.instances": (
        *("{instance}", "Instances of the source that were seen: one for each load of the module."),
    ),
    "guestpv.source.errors": ("{error}", "Looks at the source that failed, by error.type."),
}
"""Unit and description of each."""

GAUGES = {
    "guestpv.cpu.steal_step_max": (
        *("s", "The most that was stolen from one look to the next in the last minute."),
    ),
    "guestpv.source.up": ("1", "Whether the source could be read."),
    "guestpv.source.info": ("1", "What is read; guestpv.source.simulated if nothing was stolen."),
}

_MOST_POINTS = 1 << 16  # of an instrument; the SDK adds up whatever is above its own limit of 2000
_ENDS_WITHIN_MS = 3000.0
_NO_ANSWER = "There is no answer"
_INSTANCE_IDS = uuid.UUID("4d63009a-8d0f-11ee-aad7-4c796ed8e320")
"""The semantic conventions' namespace for ids of service instances that are made from others."""

Say = Callable[[str], None]
Observed = dict[str, list[Observation]]


def observations(monitor: Monitor) -> Observed:
    """What the monitor's last look gave, by the names of the instruments."""
    observed: Observed = {name: [] for name in (*COUNTERS, *GAUGES)}
    observed["guestpv.source.up"] = [Observation(int(monitor.last is not None))]
    observed["guestpv.source.instances"] = [Observation(monitor.instances)]
    observed["guestpv.source.errors"] = [
        Observation(count, {"error.type": kind}) for kind, count in monitor.errors.items()
    ]
    if monitor.last is not None:
        observed.update(_of_look(monitor.last))
    return observed


def _of_look(look: Look) -> Observed:
    cpus = look.snapshot["cpu"].tolist()

    def points(values: Any, chosen: Any, **more: str) -> list[Observation]:
        return [
            Observation(value, {"cpu.logical_number": cpu, **more})
            for cpu, value, known in zip(cpus, values.tolist(), chosen.tolist(), strict=True)
            if known
        ]

    every = look.snapshot["cpu"] >= 0
    about: dict[str, str | bool] = {
        "guestpv.source.kind": look.source.kind,
        "guestpv.source.path": look.source.path.encode("utf-8", "backslashreplace").decode(),
        "guestpv.source.simulated": look.source.simulated,
    }
    return {
        CPU_TIME: points(look.totals["total_ns"] / 1e9, look.counted, **{"cpu.mode": "steal"}),
        "guestpv.cpu.unknown_time": points(look.totals["unknown_ns"] / 1e9, every),
        "guestpv.cpu.count_restarts": points(look.totals["restarts"], every),
        "guestpv.cpu.steal_step_max": points(look.greatest_step_ns / 1e9, look.step_known),
        "guestpv.source.info": [Observation(1, about)],
    }


class Otlp:
    """Looks whenever the SDK collects, and sends what was seen. A context manager; in the end it
    sends once more."""

    def __init__(
        self, endpoint: str, source: str, monitor: Monitor, looks: ThreadPoolExecutor, say: Say
    ) -> None:
        """*monitor* is used in the thread of *looks* alone. Raises ConfigError if a variable of the
        environment can't be."""
        self._monitor = monitor
        self._looks = looks
        self._observed: Observed = {}
        self._warnings = _Warnings(say)
        logger = logging.getLogger("opentelemetry")
        logger.propagate = False
        logger.addHandler(self._warnings)
        limits: CardinalityLimits = {
            ObservableCounter: _MOST_POINTS,
            ObservableGauge: _MOST_POINTS,
        }
        try:
            reader = PeriodicExportingMetricReader(
                _Sender(endpoint + PATH, say), cardinality_limits=limits
            )
        except ValueError as error:
            raise ConfigError(
                f"{endpoint}: no metrics are sent",
                "A variable OTEL_… of the environment does not serve"
                f" ({' '.join(str(error).split())})",
                "correct it",
            ) from error
        self._provider = MeterProvider(
            metric_readers=[reader], resource=_resource(source), shutdown_on_exit=False
        )
        meter = self._provider.get_meter("guestpv", VERSION)
        for name, (unit, about) in COUNTERS.items():
            meter.create_observable_counter(name, [partial(self._observe, name)], unit, about)
        for name, (unit, about) in GAUGES.items():
            meter.create_observable_gauge(name, [partial(self._observe, name)], unit, about)
        say(f"metrics are sent to {endpoint}{PATH}")

    def _observe(self, name: str, _: CallbackOptions) -> Iterable[Observation]:
        """An instrument is asked once in a collection, so all of one are of the same look."""
        if name not in self._observed:
            self._observed = self._looks.submit(self._look).result()
        return self._observed.pop(name)

    def _look(self) -> Observed:
        self._monitor.look()
        return observations(self._monitor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._warnings.setLevel(logging.CRITICAL)  # of what is broken off, it tells a lot
        self._provider.shutdown(_ENDS_WITHIN_MS)


class _Sender(OTLPMetricExporter):
    """Says once when nothing can be sent, and once when it can again."""

    def __init__(self, url: str, say: Say) -> None:
        self._session = _Session()
        self._url = url
        self._say = say
        self._is_sent = True
        self._is_sending = False
        super().__init__(url, session=self._session)

    def export(
        self, metrics_data: MetricsData, timeout_millis: float | None = 10_000, **more: Any
    ) -> MetricExportResult:
        self._is_sending = True
        result = super().export(metrics_data, timeout_millis, **more)
        self._is_sending = False
        is_sent = result is MetricExportResult.SUCCESS
        if is_sent and not self._is_sent:
            self._say(f"{self._url}: metrics are sent again")
        elif self._is_sent and not is_sent:
            why = self._session.trouble or "They could not be encoded"
            self._say(str(Error(f"{self._url}: metrics not sent", why, "it is tried again")))
        self._is_sent = is_sent
        return result

    def shutdown(self, timeout_millis: float = 30_000, **more: Any) -> None:
        """The SDK calls it when the last metrics were sent, or the time for that is up."""
        if self._is_sending and self._is_sent:
            why = self._session.trouble or _NO_ANSWER
            self._say(str(Error(f"{self._url}: the last metrics not sent", why)))
        self._is_sent = False  # what the SDK's thread still does has nothing to say
        super().shutdown(timeout_millis, **more)


class _Session(requests.Session):
    """Keeps what went wrong last, which the exporter has for its log alone."""

    trouble = ""

    def request(self, *args: Any, **options: Any) -> requests.Response:
        try:
            response = super().request(*args, **options)
        except requests.RequestException as error:
            self.trouble = _why(error)
            raise
        self.trouble = "" if response.ok else f"The answer is {response.status_code}"
        return response


def _why(error: requests.RequestException) -> str:
    """The error of the system behind those of the libraries, if there is one."""
    if isinstance(error, requests.Timeout):
        return _NO_ANSWER
    behind: BaseException | None = error
    while behind is not None:
        if isinstance(behind, OSError) and behind.strerror:
            return behind.strerror
        behind = behind.__cause__ or behind.__context__
    return str(error) or type(error).__name__


class _Warnings(logging.Handler):
    """What the SDK says, once; but for what its exporter does, which is said by _Sender."""

    def __init__(self, say: Say) -> None:
        super().__init__(logging.WARNING)
        self._say = say
        self._said: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if text not in self._said and not record.name.startswith("opentelemetry.exporter."):
            self._said.add(text)
            self._say(f"OpenTelemetry: {text}")


def _resource(source: str) -> Resource:
    """Whatever OTEL_RESOURCE_ATTRIBUTES and OTEL_SERVICE_NAME say goes before this."""
    own: Mapping[str, Any] = {
        "service.name": "guestpv",
        "service.version": VERSION,
        "service.instance.id": _instance_id(source),
        "host.name": platform.node(),
    }
    return Resource.create({**own, **OTELResourceDetector().detect().attributes})


def _instance_id(source: str) -> str:
    """The same for this machine and source at all times, without giving the machine's id away."""
    try:
        machine = uuid.UUID(Path("/etc/machine-id").read_text().strip())
    except (OSError, ValueError):  # it has none
        return str(uuid.uuid4())
    return str(uuid.uuid5(_INSTANCE_IDS, f"{machine} {source}"))

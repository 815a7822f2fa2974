# SPDX-License-Identifier: MIT
"""Metrics as text: byte for byte what prometheus_client makes of them, and quicker where a family
has many series.

Most of its time goes into an object and a few calls for each series. Here the lines of a family
are made in one go. They are the same in both of Prometheus' formats; all else (heads of families,
families of one series) is left to prometheus_client.
"""

from collections.abc import Mapping, Sequence
from functools import cache, cached_property
from itertools import chain

import numpy as np
import numpy.typing as npt
from prometheus_client import generate_latest
from prometheus_client.core import Metric
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample
from prometheus_client.utils import floatToGoString

_SUFFIXES = {"counter": "_total", "gauge": ""}
_EOF = b"# EOF\n"
_EXPONENT = 1e6  # from here on Go writes one
_ESCAPED = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})


class ColumnFamily(Metric):
    """A family whose series stand in columns: one for each label, and one of values."""

    def __init__(
        self,
        typ: str,
        name: str,
        documentation: str,
        labels: Mapping[str, Sequence[str]],
        values: npt.NDArray[np.float64],
    ) -> None:
        """A counter or a gauge. *labels*, one or more, in the order of their names, and *values*:
        an element for each series."""
        super().__init__(name, documentation, typ)
        del self.samples  # there are none before they are asked for
        self._sample_name = name + _SUFFIXES[typ]
        self._labels = labels
        self._values = values

    @cached_property
    def samples(self) -> list[Sample]:  # type: ignore[override]
        """As everything else that takes a Metric needs them."""
        return [
            Sample(self._sample_name, dict(zip(self._labels, labels, strict=True)), value)
            for *labels, value in zip(*self._labels.values(), self._values.tolist(), strict=True)
        ]

    def lines(self) -> str:
        """A line for each series."""
        values = list(map(repr, self._values.tolist()))
        for row in np.flatnonzero(~(np.abs(self._values) < _EXPONENT)):  # NaN is one of them, too
            values[row] = floatToGoString(self._values[row])  # type: ignore[no-untyped-call]
        columns = map(_escaped, self._labels.values())
        labels = ",".join(f'{name}="%s"' for name in self._labels)
        line = f"{self._sample_name}{{{labels}}} %s\n"
        return line * len(values) % tuple(chain.from_iterable(zip(*columns, values, strict=True)))


def render(registry: Collector, openmetrics: bool) -> bytes:
    """What is collected, in Prometheus' text format 0.0.4, or in OpenMetrics 1.0."""
    parts = []
    for family in registry.collect():
        if isinstance(family, ColumnFamily):
            parts.append(_head(family.type, family.name, family.documentation, openmetrics))
            parts.append(family.lines().encode())
        else:
            parts.append(_generate(family, openmetrics))
    if openmetrics:
        parts.append(_EOF)
    return b"".join(parts)


@cache
def _head(typ: str, name: str, documentation: str, openmetrics: bool) -> bytes:
    return _generate(Metric(name, documentation, typ), openmetrics)


def _generate(family: Metric, openmetrics: bool) -> bytes:
    registry = _Family(family)
    if openmetrics:
        text: bytes = generate_openmetrics(registry)  # type: ignore[no-untyped-call]
        return text.removesuffix(_EOF)
    return generate_latest(registry)


class _Family(Collector):
    """As much of a registry as is asked for one."""

    def __init__(self, family: Metric) -> None:
        self._family = family

    def collect(self) -> list[Metric]:
        return [self._family]


def _escaped(labels: Sequence[str]) -> Sequence[str]:
    if "".join(labels).isalnum():  # as CPU numbers and states are
        return labels
    return [label.translate(_ESCAPED) for label in labels]

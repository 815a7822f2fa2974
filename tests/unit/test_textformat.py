# SPDX-License-Identifier: MIT
"""The exporter's own text is what prometheus_client makes of the same metrics, byte for byte."""

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain
from prometheus_client.registry import Collector

from guestpv.agent.exporter import Exporter
from guestpv.agent.textformat import ColumnFamily, render

ODD = 'a "quoted\\" \\n name\n of ü\r\t'
PLAIN = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily}


class Families(Collector):
    """A registry of what was collected before."""

    def __init__(self, *families):
        self._families = families

    def collect(self):
        return self._families


def theirs(registry, openmetrics):
    return generate_openmetrics(registry) if openmetrics else generate_latest(registry)


names = st.lists(st.sampled_from(["cgroup", "cpu", "state"]), min_size=1, unique=True).map(sorted)
labels = st.one_of(st.text(st.characters(codec="utf-8")), st.sampled_from(["", "0", ODD]))
values = st.one_of(st.floats(), st.integers(-(2**64), 2**64).map(float))


@st.composite
def tables(draw):
    """Names of labels, and rows of labels with a value."""
    own = draw(names)
    row = st.tuples(*(labels for _ in own), values)
    return own, draw(st.lists(row, max_size=20))


@pytest.mark.parametrize("openmetrics", [False, True])
@given(typ=st.sampled_from(list(PLAIN)), about=st.one_of(labels, st.just(ODD)), table=tables())
@example("counter", "", (["cpu"], [("0", 1e6), ("1", math.nextafter(1e6, 0)), ("2", 2.0**64)]))
@example("gauge", "", (["cpu"], [("0", math.nan), ("1", math.inf), ("2", -math.inf), ("3", -1e7)]))
def test_each_series_is_as_theirs(openmetrics, typ, about, table):
    own, rows = table
    family = PLAIN[typ]("guestpv_it_seconds", about, labels=own)
    for *row, value in rows:
        family.add_metric(row, value)
    columns = {name: [row[number] for row in rows] for number, name in enumerate(own)}
    array = np.array([row[-1] for row in rows], float)
    ours = ColumnFamily(typ, "guestpv_it_seconds", about, columns, array)
    other = GaugeMetricFamily("guestpv_other", about, value=1)
    between = Families(other, family, other), Families(other, ours, other)
    expected = theirs(between[0], openmetrics)
    assert render(between[1], openmetrics) == expected
    assert theirs(between[1], openmetrics) == expected, "it has samples for whoever wants them"


actions = st.tuples(
    st.sampled_from(["steal", "take_back", "restart", "revise", "refuse", "offline", "online"]),
    st.integers(0, 3),
    st.integers(0, 10**16),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(happened=st.lists(actions))
def test_whatever_becomes_of_a_machine(machine_of, happened):
    machine = machine_of(4)
    exporter = Exporter(machine.path, pytest.fail, process=True)
    try:
        exporter.render(openmetrics=False)
        for what, cpu, ns in happened:
            match what:
                case "steal" | "take_back":
                    with np.errstate(over="ignore"):  # a count may be anything
                        getattr(machine, what)(cpu, np.uint64(ns))
                case "revise":
                    machine.revise(cpu, ns % 3)
                case _:
                    getattr(machine, what)(cpu)
        collected = Families(*exporter.registry.collect())
    finally:
        exporter.thread.shutdown()
    for is_openmetrics, parse in (False, plain), (True, openmetrics):
        text = render(collected, is_openmetrics)
        assert text == theirs(collected, is_openmetrics)
        parsed = [sample for family in parse(text.decode()) for sample in family.samples]
        assert len(parsed) == sum(len(family.samples) for family in collected.collect())


def test_what_is_read_back_is_what_was_written():
    cgroups = [ODD, "", 'x"', "\\", "\\n", "kubepods/ü"]
    values = [0.1, 1e-9, 123456.789012345, 1e6, 2.0**63, 1e300]
    written = Families(
        ColumnFamily("gauge", "guestpv_it", ODD, {"cgroup": cgroups}, np.array(values))
    )
    for is_openmetrics, parse in (False, plain), (True, openmetrics):
        (family,) = parse(render(written, is_openmetrics).decode())
        read = {sample.labels["cgroup"]: sample.value for sample in family.samples}
        assert read == dict(zip(cgroups, values, strict=True))


def test_a_family_without_series_is_there_all_the_same():
    registry = CollectorRegistry()
    registry.register(Families(ColumnFamily("gauge", "guestpv_it", "", {"cpu": []}, np.empty(0))))
    assert b"# TYPE guestpv_it gauge\n" in render(registry, False)
    assert render(registry, True).endswith(b"# EOF\n")

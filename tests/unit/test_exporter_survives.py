# SPDX-License-Identifier: MIT
"""What becomes of the source while guestpv exporter reads it: it goes on, and a metric says so."""

import os
import time

import pytest
from prometheus_client.parser import text_string_to_metric_families

from guestpv.agent.exporter import Exporter
from guestpv.page.image import write_image
from guestpv.simulation.machine import SimulatedMachine
from guestpv.simulation.script import parse

SECOND = 1_000_000_000


@pytest.fixture
def exporter_of():
    """An exporter within this process, so that it looks when it is asked, and at no other time."""
    exporters = []

    def begin(path):
        exporters.append(Exporter(str(path), lambda _: None, process=False))
        return exporters[-1]

    yield begin
    for exporter in exporters:
        exporter.thread.shutdown()


def metrics(exporter):
    """Value of each sample, by name and labels."""
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(exporter.render(False).decode())
        for sample in family.samples
    }


def of(name, cpu, **labels):
    return (f"guestpv_{name}", *sorted({"cpu": str(cpu), **labels}.items()))


def stolen(cpu):
    return of("stolen_seconds_total", cpu)


def test_all_vcpus_but_one_go_offline(exporter_of, machine):
    exporter = exporter_of(machine.path)
    for cpu in range(4):
        machine.steal(cpu, SECOND)
    assert [metrics(exporter)[stolen(cpu)] for cpu in range(4)] == [1, 1, 1, 1]
    for cpu in 1, 2, 3:
        machine.offline(cpu)
    machine.steal(0, SECOND)
    alone = metrics(exporter)
    assert alone["guestpv_up",] == 1
    assert [alone[stolen(cpu)] for cpu in range(4)] == [2, 1, 1, 1]
    assert [alone.get(of("vcpu_state", cpu, state="offline")) for cpu in range(4)] == [
        None,
        1,
        1,
        1,
    ]
    assert all(alone[of("stolen_unknown_seconds_total", cpu)] == 0 for cpu in range(4))

    for cpu in 1, 2, 3:
        machine.online(cpu)
    back = metrics(exporter)
    assert [back[of("count_restarts_total", cpu)] for cpu in range(4)] == [0, 1, 1, 1]
    for cpu in 1, 2, 3:
        machine.steal(cpu, SECOND // 4)
    assert [metrics(exporter)[stolen(cpu)] for cpu in range(4)] == [2, 1.25, 1.25, 1.25]


def test_a_revision_that_is_not_known_comes_and_goes(exporter_of, machine):
    exporter = exporter_of(machine.path)
    machine.steal(0, SECOND)
    before = metrics(exporter)
    machine.revise(0, 7)
    machine.steal(0, SECOND)
    unknown = metrics(exporter)
    assert unknown[of("structure_revision", 0)] == 7
    assert stolen(0) not in unknown
    assert unknown[of("stolen_unknown_seconds_total", 0)] > 0
    assert unknown[of("stolen_unknown_seconds_total", 1)] == 0
    assert unknown["guestpv_up",] == 1
    machine.revise(0, 0)
    after = metrics(exporter)
    assert after[of("structure_revision", 0)] == 0
    assert after[stolen(0)] == before[stolen(0)] + 1, "the count went on in its epoch"


def test_the_permission_is_taken_away_and_given_back(serve, machine, as_others):
    served = serve(machine.path, before=as_others)
    machine.steal(0, SECOND)
    assert served.metrics()[stolen(0)] == 1
    os.chmod(machine.path, 0)
    denied = served.metrics()
    assert denied["guestpv_up",] == 0
    assert denied["guestpv_read_errors_total", ("kind", "permission_denied")] >= 1
    assert stolen(0) not in denied
    served.said("permission denied")
    machine.steal(0, SECOND)
    os.chmod(machine.path, 0o400)
    again = served.metrics()
    assert again["guestpv_up",] == 1
    assert again[stolen(0)] == 2, "it is the same page, so its count tells of the time between"
    served.said("read again")


def moved(path, keeps_counts):
    """From this machine 20 % is stolen; it is moved after two seconds."""
    script = f"[[event]]\nat_s = 2\nwhat = 'migrate'\nkeeps_counts = {str(keeps_counts).lower()}"
    return SimulatedMachine(path, 2, seed=1, percent=20, script=parse(script))


def test_a_migration_that_keeps_the_counts_is_no_event(exporter_of, tmp_path):
    with moved(tmp_path / "page", keeps_counts=True) as machine:
        exporter = exporter_of(machine.path)
        machine.advance(1)
        before = metrics(exporter)
        machine.advance(3)
        after = metrics(exporter)
    assert 0.2 < after[stolen(0)] - before[stolen(0)] < 1
    for cpu in 0, 1:
        assert after[of("count_restarts_total", cpu)] == 0
        assert after[of("stolen_unknown_seconds_total", cpu)] == 0


def test_a_migration_that_loses_the_counts_is_a_restart(exporter_of, tmp_path):
    with moved(tmp_path / "page", keeps_counts=False) as machine:
        exporter = exporter_of(machine.path)
        machine.advance(1)
        before = metrics(exporter)
        machine.advance(3)
        after = metrics(exporter)
    for cpu in 0, 1:
        assert after[of("count_restarts_total", cpu)] == 1
        assert after[stolen(cpu)] > before[stolen(cpu)]
        assert after[of("stolen_unknown_seconds_total", cpu)] > 0


@pytest.mark.parametrize("stepped_s", [-(10**9), 10**9])
def test_a_clock_that_is_stepped_moves_nothing_but_the_time_of_the_last_look(
    exporter_of, machine, monkeypatch, stepped_s
):
    exporter = exporter_of(machine.path)
    machine.steal(0, 2 * SECOND)
    before, clock = metrics(exporter), time.time
    monkeypatch.setattr(time, "time", lambda: clock() + stepped_s)
    machine.steal(0, SECOND)
    after = metrics(exporter)
    last_look = ("guestpv_last_look_timestamp_seconds",)
    assert after[last_look] - before[last_look] == pytest.approx(stepped_s, abs=60)
    assert after[stolen(0)] == 3
    assert after[of("stolen_step_max_seconds", 0)] == 2, "that was less than a minute ago"
    assert after[of("stolen_unknown_seconds_total", 0)] == 0


def test_another_instance_takes_the_place_of_the_one_that_is_read(exporter_of, machine):
    exporter = exporter_of(machine.path)
    machine.steal(0, SECOND)
    before = metrics(exporter)
    write_image(machine.path, [50 * SECOND] * 4)
    after = metrics(exporter)
    assert after["guestpv_up",] == 1
    assert after["guestpv_source_instances_total",] == 2
    assert after[stolen(0)] == before[stolen(0)], "counts of two instances are not compared"
    assert after[of("stolen_unknown_seconds_total", 0)] > 0


def test_another_machine_takes_the_place_of_the_one_that_is_read(exporter_of, machine):
    exporter = exporter_of(machine.path)
    machine.steal(0, SECOND)
    assert metrics(exporter)[stolen(0)] == 1
    write_image(machine.path, [50 * SECOND] * 2)
    after = metrics(exporter)
    assert after["guestpv_source_instances_total",] == 2
    assert [after.get(stolen(cpu)) for cpu in range(4)] == [0, 0, None, None]

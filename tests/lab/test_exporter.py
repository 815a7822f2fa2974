# SPDX-License-Identifier: MIT
"""What becomes of a guest while its exporter runs: it goes on, and a metric says what happened."""

import time
import urllib.request
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families
from structures import add, ipa

from pvlab import Lab

VCPUS = 2
PORT = 9857
PATIENCE_S = 60
SECOND = 10**9

# Root without what lets root open everything, so that permissions can be taken away.
BEGIN = (
    "nohup setsid setpriv --bounding-set=-dac_override,-dac_read_search"
    " guestpv exporter >/tmp/exporter.log 2>&1 </dev/null &"
)
UNLOAD = "until guestpv unload 2>/tmp/busy; do grep -q 'in use' /tmp/busy || exit 1; done"

Metrics = dict[tuple[str, ...], float]


class Exporter:
    """It runs in the guest, and is asked from this machine."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self.shell(BEGIN)
        self._url = f"http://127.0.0.1:{lab.guest.forward(PORT)}/metrics"
        ends = time.monotonic() + PATIENCE_S
        while True:
            try:
                self.began_s = self.metrics()["process_start_time_seconds",]
                return
            except OSError:
                assert time.monotonic() < ends, self.shell("cat /tmp/exporter.log")
                time.sleep(0.2)

    def metrics(self) -> Metrics:
        """Value of each sample, by name and labels' values. Each time it looks at the device."""
        with urllib.request.urlopen(self._url, timeout=PATIENCE_S) as answer:
            text = answer.read().decode()
        return {
            (sample.name, *sample.labels.values()): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def shell(self, script: str) -> str:
        done = self._lab.run(["sh", "-c", script])
        assert done.returncode == 0, done.stderr
        return done.stdout

    def online(self, cpu: int, value: int) -> None:
        self.shell(f"echo {value} >/sys/devices/system/cpu/cpu{cpu}/online")


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(vcpus=VCPUS, load=True) as lab:
        yield lab


@pytest.fixture(scope="module")
def running(lab: Lab) -> Exporter:
    return Exporter(lab)


@pytest.fixture
def exporter(running: Exporter) -> Iterator[Exporter]:
    """At the end of each test it is still the same process, and reads, and no total has fallen."""
    before = running.metrics()
    assert before["guestpv_up",] == 1
    yield running
    after = running.metrics()
    assert after["guestpv_up",] == 1
    assert after["process_start_time_seconds",] == running.began_s
    for cpu in range(VCPUS):
        assert stolen(after, cpu) >= stolen(before, cpu)
    assert "Traceback" not in running.shell("cat /tmp/exporter.log")


def stolen(metrics: Metrics, cpu: int) -> float:
    return metrics["guestpv_stolen_seconds_total", str(cpu)]


def unknown(metrics: Metrics) -> list[float]:
    return [metrics["guestpv_stolen_unknown_seconds_total", str(cpu)] for cpu in range(VCPUS)]


def restarts(metrics: Metrics) -> list[float]:
    return [metrics["guestpv_count_restarts_total", str(cpu)] for cpu in range(VCPUS)]


def test_the_module_is_unloaded_and_another_instance_is_loaded(exporter):
    before = exporter.metrics()
    exporter.shell(UNLOAD)
    gone = exporter.metrics()
    assert gone["guestpv_up",] == 0
    assert ("guestpv_stolen_seconds_total", "0") not in gone
    errors = ("guestpv_read_errors_total", "no_source")
    assert gone[errors] > before[errors]
    exporter.shell("guestpv load")
    back = exporter.metrics()
    assert back["guestpv_up",] == 1
    assert back["guestpv_source_instances_total",] == before["guestpv_source_instances_total",] + 1
    assert all(now > then for now, then in zip(unknown(back), unknown(before), strict=True))


def test_all_vcpus_but_one_are_offline(lab, exporter):
    for cpu in range(VCPUS):
        add(lab, cpu, SECOND)  # so that a count which begins anew is lower
    before = exporter.metrics()
    for cpu in range(1, VCPUS):
        exporter.online(cpu, 0)
    alone = exporter.metrics()
    assert alone["guestpv_up",] == 1
    assert ("guestpv_vcpu_state", "0", "online") in alone
    for cpu in range(1, VCPUS):
        assert ("guestpv_vcpu_state", str(cpu), "offline") in alone
    assert restarts(alone) == restarts(before)
    for cpu in range(1, VCPUS):
        exporter.online(cpu, 1)
    grown = [
        now - then for now, then in zip(restarts(exporter.metrics()), restarts(before), strict=True)
    ]
    assert grown == [0, 1]


def test_a_revision_changes(lab, exporter):
    before = exporter.metrics()
    lab.write_guest_memory(ipa(1), b"\1")
    try:
        changed = exporter.metrics()
        assert changed["guestpv_structure_revision", "1"] == 1
        assert ("guestpv_stolen_seconds_total", "1") not in changed
        assert unknown(changed)[1] > unknown(before)[1]
        assert unknown(changed)[0] == unknown(before)[0]
    finally:
        lab.write_guest_memory(ipa(1), b"\0")
    assert exporter.metrics()["guestpv_structure_revision", "1"] == 0


def test_the_permission_is_taken_away(exporter):
    exporter.shell("chmod 0 /dev/guestpv")
    denied = exporter.metrics()
    assert denied["guestpv_up",] == 0
    assert denied["guestpv_read_errors_total", "permission_denied"] >= 1
    exporter.shell("chmod 400 /dev/guestpv")


def test_the_vm_is_migrated(lab, exporter):
    before = exporter.metrics()
    lab.move()
    after = exporter.metrics()
    assert restarts(after) == restarts(before)
    assert unknown(after) == unknown(before)
    assert after["guestpv_looks_total",] > before["guestpv_looks_total",]


def test_the_clock_is_stepped(exporter):
    """Only the time of the last look is by that clock."""
    day_s = 86400
    for step_s in day_s, -day_s:
        before = exporter.metrics()
        exporter.shell(f"date -s @$(($(date +%s) + {step_s}))")
        after = exporter.metrics()
        last_look = ("guestpv_last_look_timestamp_seconds",)
        assert abs(after[last_look] - before[last_look] - step_s) < 60
        for cpu in range(VCPUS):
            assert stolen(after, cpu) - stolen(before, cpu) < 60
        assert unknown(after) == unknown(before)
        assert restarts(after) == restarts(before)

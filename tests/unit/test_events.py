# SPDX-License-Identifier: MIT
"""Uevents: what the kernel sends becomes events, and all else is left alone."""

import select
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guestpv.cpulist import CpuList, listed
from guestpv.driver.events import (
    CountEvent,
    CpuEvent,
    EventSource,
    ModuleEvent,
    OverrunEvent,
    VmGenerationEvent,
    event_of,
)

COUNT = {
    "SUBSYSTEM": "misc",
    "DEVNAME": "guestpv",
    "GUESTPV_EVENT": "restart",
    "GUESTPV_REASON": "found-lower",
    "GUESTPV_CPUS": "0-3,7",
    "GUESTPV_MORE": "1",
    "GUESTPV_MISSED": "12",
}


@pytest.mark.parametrize("action", ["online", "offline"])
def test_cpu(action):
    uevent = {"SUBSYSTEM": "cpu", "ACTION": action, "DEVPATH": "/devices/system/cpu/cpu12"}
    assert event_of(uevent) == CpuEvent(12, action == "online")


def test_count():
    event = event_of(COUNT)
    assert event == CountEvent("restart", CpuList.parse("0-3,7"), True, "found-lower", 12)


def test_count_with_no_more_than_it_needs():
    uevent = {"SUBSYSTEM": "misc", "GUESTPV_EVENT": "lost", "GUESTPV_CPUS": "511"}
    assert event_of(uevent) == CountEvent("lost", CpuList.parse("511"), False, None, 0)


def test_restored_machine_of_which_no_count_was_lower():
    uevent = {"SUBSYSTEM": "misc", "GUESTPV_EVENT": "restored"}
    assert event_of(uevent) == CountEvent("restored", cpus=None)


@given(st.sets(st.integers(0, 600), min_size=1))
def test_every_list_of_cpus_is_understood(cpus):
    event = event_of(COUNT | {"GUESTPV_CPUS": listed(sorted(cpus))})
    assert {cpu for run in event.cpus.ranges for cpu in run} == cpus


def test_restored_machine():
    uevent = {"ACTION": "change", "SUBSYSTEM": "platform", "NEW_VMGENID": "1"}
    assert event_of(uevent) == VmGenerationEvent()


@pytest.mark.parametrize("action", ["add", "remove"])
def test_module(action):
    uevent = {"SUBSYSTEM": "misc", "ACTION": action, "DEVPATH": "/devices/virtual/misc/guestpv"}
    assert event_of(uevent) == ModuleEvent(action == "add")


@pytest.mark.parametrize(
    "uevent",
    [
        {},
        {"SUBSYSTEM": "misc", "ACTION": "add", "DEVPATH": "/devices/virtual/misc/fuse"},
        {"SUBSYSTEM": "net", "ACTION": "add", "DEVPATH": "/devices/virtual/net/lo"},
        {"SUBSYSTEM": "cpu", "ACTION": "add", "DEVPATH": "/devices/system/cpu/cpu1"},
        {"SUBSYSTEM": "cpu", "ACTION": "online", "DEVPATH": "/devices/system/cpu"},
        {"SUBSYSTEM": "cpu", "ACTION": "online"},
        COUNT | {"GUESTPV_CPUS": "x"},
        COUNT | {"GUESTPV_CPUS": "3-"},
        COUNT | {"GUESTPV_MISSED": "many"},
        COUNT | {"SUBSYSTEM": "block"},
    ],
)
def test_anything_else(uevent):
    assert event_of(uevent) is None


@given(st.dictionaries(st.sampled_from([*COUNT, "ACTION", "DEVPATH", "NEW_VMGENID"]), st.text()))
def test_no_uevent_is_fatal(uevent):
    event_of(uevent)


def test_the_kernel_is_heard(cpu0):
    with EventSource() as source:
        assert source.read() == []
        cpu0.write_text("offline")
        cpu0.write_text("change")
        cpu0.write_text("online")
        events = []
        while len(events) < 2:
            assert select.select([source], [], [], 10)[0]
            events += source.read()
        assert events == [CpuEvent(0, False), CpuEvent(0, True)]
        assert source.read() == []


def test_burst_that_is_too_large_is_said_and_loses_nothing_else(cpu0):
    with EventSource() as source:
        for _ in range(5000):
            cpu0.write_text("online")
        *events, last = source.read()
        assert 0 < len(events) < 5000
        assert set(events) == {CpuEvent(0, True)}
        assert last == OverrunEvent()
        cpu0.write_text("offline")
        assert source.read() == [CpuEvent(0, False)]


def test_who_listens_to_no_uevents_does_not_import_pyroute2():
    """It takes as long as all that validate needs."""
    program = "import sys, guestpv.validate, guestpv.cli.watch; print('pyroute2' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr

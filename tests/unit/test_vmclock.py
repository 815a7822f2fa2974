# SPDX-License-Identifier: MIT
"""/dev/vmclock0, simulated: a file with its layout. No hypervisor of the lab has the device."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

import guestpv
from guestpv.account.changes import VmChanges
from guestpv.cli.announcements import Announcements
from guestpv.cli.waiting import Waiting
from guestpv.driver import vmclock
from guestpv.driver.events import ClockDisruptionEvent, CountEvent, VmGenerationEvent
from guestpv.driver.vmclock import VmClock
from guestpv.source.reader import Source

HAS_GENERATION, NOTIFIES = 1 << 8, 1 << 9


class Device:
    """The hypervisor's side, field by field as the kernel's header has them."""

    FIELDS = (
        ("magic", "I"),
        ("size", "I"),
        ("version", "H"),
        ("counter_id", "B"),
        ("time_type", "B"),
        ("seq_count", "I"),
        ("disruption_marker", "Q"),
        ("flags", "Q"),
        ("pad", "2s"),
        ("clock_status", "B"),
        ("leap_second_smearing_hint", "B"),
        ("tai_offset_sec", "h"),
        ("leap_indicator", "B"),
        ("counter_period_shift", "B"),
        ("counter_value", "Q"),
        ("counter_period_frac_sec", "Q"),
        ("counter_period_esterror_rate_frac_sec", "Q"),
        ("counter_period_maxerror_rate_frac_sec", "Q"),
        ("time_sec", "Q"),
        ("time_frac_sec", "Q"),
        ("time_esterror_nanosec", "Q"),
        ("time_maxerror_nanosec", "Q"),
        ("vm_generation_counter", "Q"),
    )
    FORMAT = "<" + "".join(code for _, code in FIELDS)

    def __init__(self, path, **fields):
        self.path = str(path)
        self.fields = {name: b"" if code == "2s" else 0 for name, code in self.FIELDS}
        self.set(magic=0x4B4C4356, size=4096, version=1, flags=HAS_GENERATION)
        self.set(**fields)

    def set(self, **fields):
        self.fields |= fields
        page = struct.pack(self.FORMAT, *self.fields.values()).ljust(4096, b"\0")
        with open(self.path, "wb") as file:
            file.write(page)


@pytest.fixture(params=[0, NOTIFIES])
def device(tmp_path, request):
    """A file can't be polled, and nor can the device of the first kernels that have one."""
    flags = HAS_GENERATION | request.param
    path = tmp_path / "vmclock0"
    return Device(path, flags=flags, vm_generation_counter=7, disruption_marker=3)


@pytest.fixture
def clock(device):
    with VmClock.find(device.path) as clock:
        yield clock


def test_restored_vm_is_told_once(device, clock):
    assert clock.read() == []
    device.set(seq_count=2, vm_generation_counter=8, disruption_marker=4)
    assert clock.read() == [VmGenerationEvent()]
    assert clock.read() == []


def test_moved_vm_is_not_a_restored_one(device, clock):
    device.set(seq_count=2, disruption_marker=4)
    assert clock.read() == [ClockDisruptionEvent()]
    assert clock.read() == []


def test_what_is_changing_is_not_believed(device, clock):
    device.set(seq_count=1, vm_generation_counter=8)
    assert clock.read() == []
    device.set(seq_count=2)
    assert clock.read() == [VmGenerationEvent()]


def test_other_changes_are_none_of_ours(device, clock):
    device.set(seq_count=2, counter_value=10**15, time_sec=10**9, clock_status=2)
    assert clock.read() == []


@pytest.mark.parametrize("absent", [{"flags": 0}, {"size": 104}])
def test_generation_that_is_not_there_is_not_read(tmp_path, absent):
    """Older hypervisors have no such field, and what stands in its place means nothing."""
    device = Device(tmp_path / "vmclock0", **absent)
    with VmClock.find(device.path) as clock:
        device.set(seq_count=2, vm_generation_counter=8)
        assert clock.read() == []
        device.set(seq_count=4, disruption_marker=1)
        assert clock.read() == [ClockDisruptionEvent()]


def test_whether_poll_is_of_use(device):
    for flags, notifies in (0, False), (HAS_GENERATION, False), (NOTIFIES, True):
        device.set(flags=flags)
        with VmClock.find(device.path) as clock:
            assert clock.notifies is notifies


@pytest.mark.parametrize("fields", [{"magic": 0}, {"version": 2}])
def test_another_format_is_left_alone(device, fields):
    device.set(**fields)
    assert VmClock.find(device.path) is None


def test_none_there(tmp_path):
    assert VmClock.find(str(tmp_path / "vmclock0")) is None


@given(content=st.binary(max_size=200))
def test_garbage_is_no_clock(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("garbage") / "vmclock0"
    path.write_bytes(content)
    assert VmClock.find(str(path)) is None


# What `guestpv watch` makes of it


@pytest.fixture
def announced(device, monkeypatch):
    """What is announced when it is asked for."""
    monkeypatch.setattr(vmclock, "PATH", device.path)
    source = Source(kind="device", path="/dev/guestpv", resolution_ns=1, description="")
    with Waiting(keys=False) as waiting, Announcements(waiting, source) as announcements:
        announcements._importing.join()
        announcements.changes()
        yield lambda: [change.kind for change in announcements.changes()]


def test_watch_announces_it(device, announced):
    assert announced() == []
    device.set(seq_count=2, disruption_marker=4)
    assert announced() == ["moved"]
    device.set(seq_count=4, disruption_marker=5, vm_generation_counter=8)
    assert announced() == ["restored"]


def test_events_tell_of_it(device, monkeypatch):
    monkeypatch.setattr(vmclock, "PATH", device.path)
    with guestpv.events("procfs", interval_s=1e-9) as events:
        device.set(seq_count=2, vm_generation_counter=8)
        assert "restored" in [event.kind for event in events.read()]


@pytest.fixture
def told():
    """What is said of the kernel's events."""
    vm = VmChanges()
    return lambda *events: [said.kind for said in map(vm.change, events) if said]


def test_one_restore_that_three_tell_of_is_announced_once(device, told):
    with VmClock.find(device.path) as clock:
        device.set(seq_count=2, vm_generation_counter=8)
        assert told(VmGenerationEvent(), *clock.read()) == ["restored"]
    assert told(CountEvent("restored")) == []


def test_the_modules_word_is_enough(told):
    assert told(CountEvent("restored")) == ["restored"]
    assert told(CountEvent("restart", reason="hotplug")) == []

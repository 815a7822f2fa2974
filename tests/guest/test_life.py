# SPDX-License-Identifier: MIT
"""CPUs that go and come back, and machines that sleep: counts restart, and readers are told."""

import os
import select
import subprocess
from pathlib import Path

import pytest

import guestpv
from guestpv.account.delta import delta
from guestpv.page import abi


def cpu_of(switch):
    return int(switch.parent.name.removeprefix("cpu"))


def write_once(switch, value):
    """Python's files write again when they are closed, and then the CPU does go."""
    fd = os.open(switch, os.O_WRONLY)
    try:
        os.write(fd, value)
    finally:
        os.close(fd)


@pytest.fixture
def fail_at():
    """Have a CPU's next way up or down fail at a state of hotplug, by its name."""
    states = Path("/sys/devices/system/cpu/hotplug/states").read_text().splitlines()
    pairs = (line.split(":", 1) for line in states)
    numbers = {name.strip(): number.strip() for number, name in pairs}

    def fail(cpu, name):
        if name not in numbers:
            pytest.skip(f"this kernel has no {name}")
        Path(f"/sys/devices/system/cpu/cpu{cpu}/hotplug/fail").write_text(numbers[name])

    return fail


def test_hotplug_starts_a_new_epoch_where_the_count_restarts(loaded, last_cpu):
    cpu = cpu_of(last_cpu)
    with guestpv.open() as reader:
        before = reader.snapshot()
        last_cpu.write_text("0")
        gone = reader.snapshot()
        assert gone[cpu]["state"] == abi.State.OFFLINE
        assert gone[cpu]["epoch"] == before[cpu]["epoch"]
        assert reader.stolen_ns(cpu) >= before[cpu]["stolen_ns"]  # the last count still stands

        last_cpu.write_text("1")
        back = reader.snapshot()
        assert back[cpu]["state"] == abi.State.ONLINE
        assert back[0]["epoch"] == before[0]["epoch"]
        change = delta(before, back)
        assert not change[0]["restarted"]
        assert (change["stolen_ns"] < 60_000_000_000).all()

        if back[cpu]["stolen_ns"] < gone[cpu]["stolen_ns"]:
            assert back[cpu]["epoch"] == before[cpu]["epoch"] + 1
            assert back[cpu]["reason"] == abi.Reason.HOTPLUG
            assert back[cpu]["epoch_stolen_ns"] <= back[cpu]["stolen_ns"]
            assert change[cpu]["restarted"]


def test_a_mapping_made_before_serves_a_cpu_that_came_later(last_cpu, request):
    cpu = cpu_of(last_cpu)
    last_cpu.write_text("0")
    request.getfixturevalue("loaded")
    with guestpv.open() as reader:
        assert reader.snapshot()[cpu]["state"] == abi.State.ABSENT
        for call in abi.CALLS:
            assert reader.entries[cpu][call] == abi.NOT_CALLED
        with pytest.raises(guestpv.StructureError):
            reader.read(cpu)
        last_cpu.write_text("1")
        assert reader.snapshot()[cpu]["state"] == abi.State.ONLINE
        assert reader.read(cpu).epoch == 1


FAILING = ["workqueue:online", "hypervisor/arm/pvtime:online", "sched:active"]
"""After the kernel has let go of its structure, and asks for it again; before that; and first."""


@pytest.mark.parametrize("state", FAILING)
def test_a_failed_offline_is_no_restart(loaded, last_cpu, fail_at, state):
    cpu = cpu_of(last_cpu)
    with guestpv.open() as reader:
        before = reader.snapshot()[cpu]
        fail_at(cpu, state)
        with pytest.raises(OSError):
            write_once(last_cpu, b"0")
        after = reader.snapshot()[cpu]
    assert after["state"] == abi.State.ONLINE
    lower = after["stolen_ns"] < before["stolen_ns"]  # if the kernel asked for it again
    assert after["epoch"] == before["epoch"] + lower


def test_a_cpu_that_fails_on_its_way_up_is_offline_again(loaded, last_cpu, fail_at):
    cpu = cpu_of(last_cpu)
    with guestpv.open() as reader:
        last_cpu.write_text("0")
        gone = reader.snapshot()[cpu]
        fail_at(cpu, "workqueue:online")
        with pytest.raises(OSError):
            write_once(last_cpu, b"1")
        failed = reader.snapshot()[cpu]
        assert failed["state"] == abi.State.OFFLINE
        assert failed["epoch"] == gone["epoch"]
        assert failed["valid"]
        last_cpu.write_text("1")
        assert reader.snapshot()[cpu]["state"] == abi.State.ONLINE


def test_poll_tells_of_a_change_of_the_index_until_it_is_read(loaded, last_cpu):
    fd = os.open("/dev/guestpv", os.O_RDONLY)
    try:
        poll = select.poll()
        poll.register(fd, select.POLLIN | select.POLLPRI)
        assert poll.poll(0) == []
        last_cpu.write_text("0")
        for _ in range(2):
            assert poll.poll(0) == [(fd, select.POLLIN | select.POLLPRI)]
        before = int.from_bytes(os.read(fd, 4), "little")
        assert before % 2 == 0
        assert poll.poll(0) == []
        switch = subprocess.Popen(["sh", "-c", f"sleep 1; echo 1 > {last_cpu}"])
        assert poll.poll(30_000) == [(fd, select.POLLIN | select.POLLPRI)]
        switch.wait()
        assert int.from_bytes(os.read(fd, 4), "little") > before
    finally:
        os.close(fd)


@pytest.mark.parametrize("sleep", ["freeze", "disk"])
def test_structures_survive_sleep(loaded, sleep):
    power = Path("/sys/power")
    with guestpv.open() as reader:
        before, addresses = reader.snapshot(), reader.entries["ipa"].copy()
        if sleep == "disk" and "disk" not in (power / "state").read_text():
            pytest.skip("this kernel cannot hibernate")
        if sleep == "freeze" and Path("/dev/rtc0").exists():
            subprocess.run(["rtcwake", "-m", "freeze", "-s", "5"], check=True)
        elif sleep == "disk":  # there is no swap, so the attempt is given up in the end
            with pytest.raises(OSError):
                write_once(power / "state", b"disk")
        else:  # nothing would wake it: go as far as can be gone without
            (power / "pm_test").write_text("devices")
            try:
                (power / "state").write_text(sleep)
            finally:
                (power / "pm_test").write_text("none")
        after = reader.snapshot()
        assert (after["state"] == abi.State.ONLINE).all()
        # The first CPU was not away; that others were, on the way to an image, restarts them.
        assert after[0]["epoch"] == before[0]["epoch"]
        assert after[0]["stolen_ns"] >= before[0]["stolen_ns"]
        assert (reader.entries["ipa"] == addresses).all()
        assert (delta(before, after)["stolen_ns"] < 60_000_000_000).all()
        for cpu in reader.cpus:
            reader.read(cpu)

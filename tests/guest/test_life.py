# SPDX-License-Identifier: MIT
"""CPUs that go and come back, and machines that sleep: counts restart, and readers are told."""

import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

import guestpv
from guestpv.account.delta import delta
from guestpv.page import abi


def cpu_of(switch):
    return int(switch.parent.name.removeprefix("cpu"))


def test_hotplug_starts_a_new_epoch(loaded, last_cpu):
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
        assert back[cpu]["epoch"] == before[cpu]["epoch"] + 1
        assert back[0]["epoch"] == before[0]["epoch"]

        change = delta(before, back)
        assert change[cpu]["restarted"]
        assert not change[0]["restarted"]
        assert (change["stolen_ns"] < 60_000_000_000).all()


def test_a_mapping_made_before_serves_a_cpu_that_came_later(last_cpu, request):
    cpu = cpu_of(last_cpu)
    last_cpu.write_text("0")
    request.getfixturevalue("loaded")
    with guestpv.open() as reader:
        assert reader.snapshot()[cpu]["state"] == abi.State.ABSENT
        with pytest.raises(guestpv.StructureError):
            reader.read(cpu)
        last_cpu.write_text("1")
        assert reader.snapshot()[cpu]["state"] == abi.State.ONLINE
        assert reader.read(cpu).epoch == 1


def test_hotplug_storm_under_a_reader(loaded, last_cpu):
    """A reader that never stops sees whole rows only, whatever the CPU does meanwhile."""
    cpu = cpu_of(last_cpu)
    switcher = subprocess.Popen(
        ["sh", "-c", f"for i in 1 2 3 4 5; do echo 0 >{last_cpu}; echo 1 >{last_cpu}; done"]
    )
    epochs = []
    with guestpv.open() as reader:
        while switcher.poll() is None:
            row = reader.snapshot()[cpu]
            assert row["state"] in (abi.State.ONLINE, abi.State.OFFLINE)
            assert row["revision"] == 0
            epochs.append(int(row["epoch"]))
        epochs.append(int(reader.snapshot()[cpu]["epoch"]))
    assert (np.diff(epochs) >= 0).all()
    assert epochs[-1] == epochs[0] + 5 or epochs[-1] == 6


def test_watch_says_that_a_cpu_went_and_came_back(loaded, last_cpu, command):
    watch = subprocess.Popen(
        ["guestpv", "watch", "--interval", "0.5", "--count", "16"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert watch.stdout is not None
    watch.stdout.readline()
    last_cpu.write_text("0")
    time.sleep(1)
    last_cpu.write_text("1")
    said, _ = watch.communicate(timeout=60)
    assert watch.returncode == 0
    assert "offline" in said
    assert "restart" in said


def test_uevents_tell_of_a_restarted_count(loaded, last_cpu):
    monitor = subprocess.Popen(
        ["python3", "-c", UEVENTS], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
    )
    assert monitor.stdout is not None
    assert monitor.stdout.readline() == "ready\n"
    last_cpu.write_text("0")
    last_cpu.write_text("1")
    said, _ = monitor.communicate(timeout=60)
    assert f"GUESTPV_CPU={cpu_of(last_cpu)}" in said
    assert "GUESTPV_EPOCH=2" in said


UEVENTS = """
import socket, sys
s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 15)
s.bind((0, 1))
s.settimeout(30)
print("ready", flush=True)
while b"GUESTPV_EVENT=restart" not in (message := s.recv(4096)):
    pass
print(message.decode().replace(chr(0), " "))
"""


@pytest.mark.parametrize("sleep", ["freeze", "disk"])
def test_structures_survive_sleep(loaded, sleep):
    power = Path("/sys/power")
    with guestpv.open() as reader:
        before, addresses = reader.snapshot(), reader.entries["ipa"].copy()
        if sleep == "disk" and "disk" not in (power / "state").read_text():
            pytest.skip("this kernel cannot hibernate")
        if sleep == "freeze" and Path("/dev/rtc0").exists():
            subprocess.run(["rtcwake", "-m", "freeze", "-s", "5"], check=True)
        else:  # nothing would wake it: go as far as can be gone without
            (power / "pm_test").write_text("processors" if sleep == "disk" else "devices")
            try:
                (power / "state").write_text(sleep)
            finally:
                (power / "pm_test").write_text("none")
        after = reader.snapshot()
        assert (after["state"] == abi.State.ONLINE).all()
        assert (reader.entries["ipa"] == addresses).all()
        assert (delta(before, after)["stolen_ns"] < 60_000_000_000).all()
        for cpu in reader.cpus:
            reader.read(cpu)

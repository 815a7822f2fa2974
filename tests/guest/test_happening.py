# SPDX-License-Identifier: MIT
"""guestpv events on the real module: CPUs that go and come, reloads, and a burst of both."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
from forkserver import GUESTPV

import guestpv

MODULE = f"/lib/modules/{os.uname().release}/extra/guestpv.ko"
BURST = 20


@pytest.fixture
def told(loaded):
    """What is told of what happens next, once *last* has been."""
    with guestpv.events() as events:

        def until(last):
            got = []
            while not got or (got[-1].kind, got[-1].cpu) != last:
                got.append(next(events))
            return got + events.read()

        yield until


def toggle(switch, times=1):
    for _ in range(times):
        switch.write_text("0")
        switch.write_text("1")


def cpu_of(switch):
    return int(switch.parent.name.removeprefix("cpu"))


def test_each_time_a_cpu_goes_and_comes_back_is_told(told, last_cpu):
    cpu = cpu_of(last_cpu)
    with guestpv.open() as reader:
        epoch = reader.snapshot()[cpu]["epoch"]
        toggle(last_cpu, BURST)
        epochs = reader.snapshot()[cpu]["epoch"] - epoch
        last_cpu.write_text("0")
    got = [one for one in told(("offline", cpu)) if one.cpu == cpu]
    ways = [one.kind for one in got if one.kind in ("online", "offline")]
    while len(ways) < 2 * BURST + 1:
        ways += [one.kind for one in told(("offline", cpu)) if one.kind in ("online", "offline")]
    assert ways == ["offline", "online"] * BURST + ["offline"]
    print(f"{epochs} restarts")


def test_the_module_can_go_and_come_meanwhile(told, parameters):
    for _ in range(3):
        subprocess.run(["rmmod", "guestpv"], check=True)
        subprocess.run(["insmod", MODULE, *parameters], check=True)
    kinds = []
    while kinds.count("module_loaded") < 3:
        kinds += [one.kind for one in told(("module_loaded", None))]
    assert [kind for kind in kinds if kind.startswith("module")] == [
        "module_gone",
        "module_loaded",
    ] * 3
    assert "restart" not in kinds


def test_a_burst_that_is_too_large_is_said_and_what_it_hid_is_found(told, last_cpu):
    cpu = cpu_of(last_cpu)
    other = Path("/sys/devices/system/cpu/cpu0/uevent")
    for _ in range(3000):
        other.write_text("change")
    last_cpu.write_text("0")  # nobody hears of it
    kinds = [(one.kind, one.cpu) for one in told(("offline", cpu))]
    assert kinds.index(("overrun", None)) < kinds.index(("offline", cpu))
    last_cpu.write_text("1")
    assert ("online", cpu) in [(one.kind, one.cpu) for one in told(("online", cpu))]


def test_the_command_does_not_keep_the_module(loaded):
    with subprocess.Popen(
        [*GUESTPV, "events", "--json"], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["kind"] == "begin"
        subprocess.run(["rmmod", "guestpv"], check=True)
        assert json.loads(process.stdout.readline())["kind"] == "module_gone"
        process.terminate()
        assert process.wait(60) == 0


WITHOUT_NETLINK = (
    *("strace", "-f", "--seccomp-bpf", "-qq", "-o/dev/null"),
    *("-etrace=socket", "-einject=socket:error=EPERM"),
)


def test_without_netlink_the_devices_poll_tells_of_it_and_keeps_the_module(loaded, last_cpu):
    cpu = cpu_of(last_cpu)
    with subprocess.Popen(
        [*WITHOUT_NETLINK, "guestpv", "events", "--json", "--interval=3600"],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None

        def next_event():
            event = json.loads(process.stdout.readline())
            return event["kind"], event["cpu"]

        assert next_event() == ("begin", None)
        assert next_event() == ("no_events", None)
        assert subprocess.run(["rmmod", "guestpv"], capture_output=True).returncode != 0
        last_cpu.write_text("0")
        assert next_event() == ("offline", cpu)
        last_cpu.write_text("1")
        while next_event() != ("online", cpu):
            pass
        process.stdout.close()
        # Nobody reads any more: it sees that by itself, or by what it would have written.
        assert process.wait(60) in (0, -signal.SIGPIPE)

# SPDX-License-Identifier: MIT
"""A count that restarts, as it does on KVM when its CPU comes back, is told by all that tell."""

import json
import os
import subprocess
import time

import pytest
from forkserver import GUESTPV

import guestpv

pytestmark = pytest.mark.contended
MODULE = f"/lib/modules/{os.uname().release}/extra/guestpv.ko"


@pytest.fixture
def stolen_from(loaded, last_cpu):
    """The last CPU, of which so much was stolen that its count will be lower when it is back."""
    cpu = int(last_cpu.parent.name.removeprefix("cpu"))
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    with guestpv.open() as reader:
        until = time.monotonic() + 60
        while reader.stolen_ns(cpu) < 500_000_000:
            assert time.monotonic() < until, "nothing is stolen: this wants a contended guest"
    os.sched_setaffinity(0, before)
    return cpu


def test_watch_says_that_a_cpu_went_and_came_back(stolen_from, last_cpu, command):
    watch = subprocess.Popen(
        [*GUESTPV, "watch", "--interval", "0.5", "--count", "16"],
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


def test_uevents_tell_of_a_restarted_count(stolen_from, last_cpu):
    monitor = subprocess.Popen(
        ["python3", "-c", UEVENTS], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
    )
    assert monitor.stdout is not None
    assert monitor.stdout.readline() == "ready\n"
    last_cpu.write_text("0")
    last_cpu.write_text("1")
    said, _ = monitor.communicate(timeout=60)
    assert f"GUESTPV_CPUS={stolen_from}" in said
    assert "GUESTPV_REASON=hotplug" in said


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


def test_events_tell_of_it_with_epoch_and_reason(stolen_from, last_cpu):
    with guestpv.events() as events, guestpv.open() as reader:
        last_cpu.write_text("0")
        last_cpu.write_text("1")
        restart = next(event for event in events if event.kind == "restart")
        epoch = reader.snapshot()[stolen_from]["epoch"]
    assert (restart.cpu, restart.epoch, restart.reason) == (stolen_from, epoch, "hotplug")


def test_totals_go_on_over_a_hotplug_and_a_reload(stolen_from, last_cpu, parameters):
    cpu = stolen_from
    with guestpv.open() as reader:
        totals = guestpv.Totals(reader)
        last_cpu.write_text("0")
        assert totals.update()["valid"][cpu]
        last_cpu.write_text("1")
        rows = totals.update()
        assert rows["restarts"][cpu] == 1
        assert rows["unknown_ns"][cpu] > 0
        assert (rows["total_ns"] <= 10**9).all()  # and not what the count was before
        assert rows["valid"][0]
        saved = json.loads(json.dumps(totals.save()))

    subprocess.run(["rmmod", "guestpv"], check=True)
    with pytest.raises(guestpv.NoSourceError):
        guestpv.open()
    subprocess.run(["insmod", MODULE, *parameters], check=True)
    with guestpv.open() as reader:
        again = guestpv.Totals.restore(reader, saved)
        assert again.rows["other_instance"].all()
        assert [again.total(cpu) for cpu in reader.cpus] == rows["total_ns"].tolist()
        assert (again.rows["unknown_ns"] > rows["unknown_ns"]).all()
        assert again.update()["valid"].all()

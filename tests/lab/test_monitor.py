# SPDX-License-Identifier: MIT
"""What nobody in the guest does: the host changes structures, and the module finds out."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager

import forking
import pytest
from preloaded import START, guestpv
from structures import add, ipa

from pvlab import Lab

VCPUS = 4

LISTEN = """
import socket, sys
s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 15)
s.bind((0, 1))
s.settimeout(float(sys.argv[1]))
print("ready", file=sys.stderr, flush=True)
try:
    while True:
        message = s.recv(4096)
        if b"GUESTPV_" in message:
            fields = message.decode().split(chr(0))[1:-1]
            words = dict(field.split("=", 1) for field in fields)
            print({name: words[name] for name in words if name.startswith("GUESTPV_")}, flush=True)
except TimeoutError:
    pass
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(kernel="claim-6.1", vcpus=VCPUS, load=True, prepare=START) as lab:
        yield lab


@pytest.fixture
def loaded(lab: Lab) -> None:
    """Anew, by CPU 3, which is idle afterwards."""
    lab.run(["sh", "-c", "guestpv unload && taskset -c 3 guestpv load"]).check_returncode()


def entries(lab: Lab) -> list[dict]:
    return json.loads(guestpv(lab, "info", "--json").stdout)["cpus"]


@contextmanager
def uevents(lab: Lab, seconds: float) -> Iterator[list[dict[str, str]]]:
    """Those of guestpv, from now on and until so many seconds after the block has ended."""
    listen = f"python3 -c '{LISTEN}' {seconds} >/tmp/uevents 2>/tmp/ready & echo $!"
    pid = lab.run(["sh", "-c", listen]).stdout.strip()
    lab.run(["sh", "-c", "until grep -q ready /tmp/ready; do sleep 0.1; done"]).check_returncode()
    said: list[dict[str, str]] = []
    yield said
    lab.run(["sh", "-c", f"while kill -0 {pid} 2>/dev/null; do sleep 0.2; done"])
    lines = lab.run(["cat", "/tmp/uevents"]).stdout.splitlines()
    said += [json.loads(line.replace("'", '"')) for line in lines]


def test_counts_that_all_restarted_are_one_event(lab, loaded):
    lab.qmp("stop")
    for vcpu in range(VCPUS):
        add(lab, vcpu, 10**12)
    lab.qmp("cont")
    time.sleep(2.5)
    with uevents(lab, 2) as said:
        lab.qmp("stop")  # so that one look finds all
        for vcpu in range(VCPUS):
            add(lab, vcpu, -(10**12))
        lab.qmp("cont")
    (event,) = said
    assert event["GUESTPV_EVENT"] == "restart"
    assert event["GUESTPV_REASON"] == "found-lower"
    assert event["GUESTPV_CPUS"] == f"0-{VCPUS - 1}"
    assert [entry["epoch"] for entry in entries(lab)] == [2] * VCPUS


def test_a_revision_is_seen_though_the_cpu_that_loaded_the_module_is_idle(lab, loaded):
    with uevents(lab, 2) as said:
        lab.write_guest_memory(ipa(2), b"\1")
    lab.write_guest_memory(ipa(2), b"\0")
    assert {"GUESTPV_EVENT": "revision", "GUESTPV_CPUS": "2"} in said


def test_how_often_to_look_can_be_changed_while_it_is_loaded(lab, loaded):
    check_ms = "/sys/module/guestpv/parameters/check_ms"
    lab.run(["sh", "-c", f"echo 0 > {check_ms}"]).check_returncode()
    with uevents(lab, 2) as said:
        lab.write_guest_memory(ipa(1), b"\1")
    assert said == []
    with uevents(lab, 2) as said:
        lab.run(["sh", "-c", f"echo 100 > {check_ms}"]).check_returncode()
    assert said == [{"GUESTPV_EVENT": "revision", "GUESTPV_CPUS": "1"}]
    lab.write_guest_memory(ipa(1), b"\0")


def test_a_count_that_restarts_for_ever_is_not_an_event_for_ever(lab, loaded):
    lab.run(["sh", "-c", "echo 50 > /sys/module/guestpv/parameters/check_ms"]).check_returncode()
    flip = """
import time
while True:
    for count in 10**15, 10**12:
        write(8, count.to_bytes(8, "little"))
        time.sleep(0.1)
"""
    with uevents(lab, 2) as said, lab.writing(ipa(3), flip):
        time.sleep(8)
    assert 1 <= len(said) <= 10
    assert entries(lab)[3]["epoch"] > 12


def test_a_vm_that_was_forked_is_told_and_looked_at_at_once():
    """Where the stand-in for what tells it loads: see forking.py."""
    with Lab(kernel="stock-6.1", load=True, prepare=START) as lab:
        forking.bring(lab, "stock-6.1")
        add(lab, 1, 10**12)
        time.sleep(2.5)
        lab.run(["sh", "-c", "echo 0 > /sys/module/guestpv/parameters/check_ms"]).check_returncode()
        add(lab, 1, -(10**12))
        with uevents(lab, 2) as said:
            forking.tell(lab)
        epochs = [entry["epoch"] for entry in entries(lab)]
    assert said == [
        {"GUESTPV_EVENT": "restart", "GUESTPV_REASON": "restored", "GUESTPV_CPUS": "1"},
        {"GUESTPV_EVENT": "restored"},
    ]
    assert epochs == [1, 2]

# SPDX-License-Identifier: MIT
"""guestpv validate where there is less than usual; and nothing that it does remains."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from forkserver import GUESTPV

LOADED = Path("/sys/module/guestpv")
ONLINE = Path("/sys/devices/system/cpu/online")


@pytest.fixture
def validate(command):
    """The checks by id; none of them failed."""

    def run(*options):
        done = command("validate", "--quick", "--json", *options)
        return {check["id"]: check for check in json.loads(done.stdout)["checks"]}

    return run


def test_the_module_is_loaded_for_the_run(unloaded, command):
    done = command("validate", "--only", "discovery,address")
    assert "the module was not loaded, and is for this run" in done.stderr
    assert "PASS address.apart" in " ".join(done.stdout.split())
    assert "0 failed" in done.stdout
    assert not LOADED.exists()


def test_one_vcpu(last_cpu, request, validate):
    last_cpu.write_text("0")
    request.getfixturevalue("loaded")
    if os.cpu_count() != 1:
        pytest.skip("more than two vCPUs")
    checks = validate("--disruptive", "--skip", "life.suspend,life.reload")
    for check in "discovery.alike", "counter.remote":
        assert "one vCPU only" in checks[check]["text"]
    for check in "address.stable", "kernel.hotplug", "life.hotplug":
        assert checks[check]["verdict"] == "skip"
    assert checks["life.hotplug"]["text"] == "there is no CPU that can be taken offline"
    assert checks["counter.monotonic"]["verdict"] == "pass"


def test_who_may_not_change_the_guest_is_told_so(loaded):
    os.chmod("/dev/guestpv", 0o444)
    command = ["guestpv", "validate", "--json", "--disruptive", "--only", "life"]
    nobody = ["setpriv", "--reuid=65534", "--clear-groups", "--", *command]
    done = subprocess.run(nobody, capture_output=True, text=True)
    assert done.returncode == 0, done
    checks = {check["id"]: check for check in json.loads(done.stdout)["checks"]}
    assert "may not take cpu1 offline" in checks["life.hotplug"]["text"]
    assert checks["life.suspend"]["verdict"] == "skip"
    assert checks["life.reload"]["text"] == "only root may load modules"


def test_what_is_interrupted_is_undone(loaded):
    """At moments that the start of the report is a mark for: CPUs go and come in what follows."""
    before = ONLINE.read_text()
    command = [*GUESTPV, "validate", "--tap", "--disruptive", "--only", "discovery.smccc,life"]
    for delay_s, end in (0.05, signal.SIGINT), (0.2, signal.SIGTERM):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            said = [process.stdout.readline() for _ in range(2)]
            assert said == ["TAP version 14\n", "ok 1 - discovery.smccc\n"]
            time.sleep(delay_s)
            process.send_signal(end)
            said = process.stdout.read()
        assert process.returncode in (0, 130)
        assert "interrupted" in said or process.returncode == 0
        assert ONLINE.read_text() == before
        assert LOADED.exists()

# SPDX-License-Identifier: MIT
"""Things that happen to a VM, and hosts that lose counts in them: judged from a record before it.

Each is real but kexec, which is in tests/unit/test_life_events.py, with records that are made up.
"""

import json
import time
from collections.abc import Iterator

import forking
import pytest
from hotplug import switch
from preloaded import START, guestpv
from reportschema import VALIDATOR
from structures import count, ipa

from pvlab import Lab

FAILED, MISMATCH = 11, 2
CHECK_MS = "/sys/module/guestpv/parameters/check_ms"
VCPUS = 2


SOME_NS = 10_000_000
on_one_kernel = pytest.mark.parametrize("lab", ["claim-6.1"], indirect=True, scope="module")
"""Where it makes no difference who owns them, or another test shows the same for both."""


@pytest.fixture(scope="module", params=["stock-6.1", "claim-6.1"])
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    with Lab(kernel=request.param, vcpus=VCPUS, load=True, prepare=START) as lab:
        yield lab


@pytest.fixture(autouse=True)
def some_was_stolen(lab: Lab) -> None:
    if min(count(lab, vcpu) for vcpu in range(VCPUS)) <= SOME_NS:
        take_some(lab)


def take_some(lab: Lab) -> None:
    """From each vCPU: a count of zero can't be lost."""
    lab.steal(50)
    spin = "for cpu in 0 1; do taskset -c $cpu timeout 2 sh -c 'while :; do :; done' & done; wait"
    lab.run(["sh", "-c", spin])
    lab.steal(0)


def record(lab: Lab) -> str:
    done = guestpv(lab, "validate", "--record", "/proc/self/fd/1")
    assert done.returncode == 0, done
    counts = [int(cpu["stolen_ns"]) for cpu in json.loads(done.stdout)["cpus"]]
    assert len(counts) == VCPUS
    assert min(counts) > SOME_NS
    return done.stdout


def compare(lab: Lab, before: str, event: str, expect: int = 0) -> dict[str, dict]:
    """What each check found."""
    options = ("--json", "--compare", "/proc/self/fd/0", "--event", event)
    done = guestpv(lab, "validate", *options, input=before)
    assert done.returncode == expect, done
    assert "Traceback" not in done.stderr
    report = json.loads(done.stdout)
    VALIDATOR.validate(report)
    checks = {check["id"]: check for check in report["checks"]}
    for id, check in checks.items():
        print(f"{event:12} {check['verdict']:4} {id:16} {check['text']}")
    return {id.removeprefix("life."): check for id, check in checks.items()}


def not_passed(checks: dict[str, dict]) -> dict[str, str]:
    return {id: check["verdict"] for id, check in checks.items() if check["verdict"] != "pass"}


def lose_counts(lab: Lab, vcpu: int) -> None:
    """In a stop of some milliseconds, as on a host that begins to count anew."""
    lab.qmp("stop")
    lab.write_guest_memory(ipa(vcpu), bytes(16))
    lab.qmp("cont")


@on_one_kernel
def test_a_vm_that_is_moved_keeps_its_counts(lab):
    before = record(lab)
    lab.move()
    for event in "migrated", "host-upgraded":
        assert not_passed(compare(lab, before, event)) == {}


@on_one_kernel
def test_a_count_that_a_short_migration_loses_fails(lab):
    before = record(lab)
    lose_counts(lab, 1)
    checks = compare(lab, before, "migrated", expect=FAILED)
    assert not_passed(checks) == {"continues": "fail"}
    assert checks["continues"]["cpus"] == [1]
    assert "found lower" in checks["continues"]["text"]


@on_one_kernel
def test_the_time_of_a_stop_that_is_counted_fails(lab):
    before = record(lab)
    began = time.monotonic_ns()
    lab.qmp("stop")
    time.sleep(10)  # longer than it takes to compare
    counted = count(lab, 0) + time.monotonic_ns() - began
    lab.write_guest_memory(ipa(0) + 8, counted.to_bytes(8, "little"))
    lab.qmp("cont")
    checks = compare(lab, before, "migrated", expect=FAILED)
    assert not_passed(checks) == {"grew": "fail"}
    assert "was stopped is counted" in checks["grew"]["advice"]


@on_one_kernel
def test_a_snapshot_since_the_record(lab):
    before = record(lab)
    saved = lab.save()
    take_some(lab)
    lab.restore(saved)
    assert not_passed(compare(lab, before, "restored")) == {}
    assert not_passed(compare(lab, before, "cloned")) == {}


@on_one_kernel
def test_a_snapshot_that_is_older_than_the_record(lab):
    saved = lab.save()
    take_some(lab)
    before = record(lab)
    lab.restore(saved)
    checks = compare(lab, before, "restored")
    assert not_passed(checks) == {"announced": "warn"}
    assert "cpu0-1 set back with the snapshot" in checks["continues"]["text"]


@pytest.mark.parametrize("lab", ["stock-6.1"], indirect=True, scope="module")
def test_a_restored_vm_that_is_told_so_announces_what_it_lost(lab, request):
    """Where the stand-in for what tells it loads: see forking.py."""
    forking.bring(lab, request.node.callspec.params["lab"])
    before = record(lab)
    lab.run(["sh", "-c", f"echo 0 >{CHECK_MS}"]).check_returncode()
    lose_counts(lab, 0)
    try:
        forking.tell(lab)
        checks = compare(lab, before, "restored")  # before a look without a word can find it
    finally:
        lab.run(["sh", "-c", f"echo 1000 >{CHECK_MS}"]).check_returncode()
    assert not_passed(checks) == {}
    assert checks["announced"]["text"] == "cpu0: lower after a restore or resume"
    compare(lab, before, "migrated", expect=FAILED)


def test_hotplug_restarts_what_came_online_and_nothing_else(lab):
    before = record(lab)
    compare(lab, before, "hotplug", expect=MISMATCH)
    switch(lab, 1)
    checks = compare(lab, before, "hotplug")
    assert not_passed(checks) == {}
    assert "cpu0 went on; cpu1 came online" in checks["continues"]["text"]
    assert checks["announced"]["text"] == "cpu1: lower when the CPU came online"
    assert not_passed(compare(lab, before, "migrated")) == {}
    lose_counts(lab, 0)
    assert not_passed(compare(lab, before, "hotplug", expect=FAILED)) == {"continues": "fail"}


def test_an_offline_cpu_keeps_its_count_over_a_migration(lab):
    online = "/sys/devices/system/cpu/cpu1/online"
    lab.run(["sh", "-c", f"echo 0 >{online}"]).check_returncode()
    before = record(lab)
    lab.move()
    assert not_passed(compare(lab, before, "migrated")) == {}
    lose_counts(lab, 1)
    compare(lab, before, "migrated", expect=FAILED)
    lab.run(["sh", "-c", f"echo 1 >{online}"]).check_returncode()


@on_one_kernel
def test_a_record_of_another_load_of_the_module_is_not_compared(lab):
    before = record(lab)
    lab.run(["sh", "-c", "guestpv unload && guestpv load"]).check_returncode()
    compare(lab, before, "migrated", expect=MISMATCH)
    compare(lab, before, "host-upgraded")


@on_one_kernel
def test_a_full_disk_leaves_the_record_that_is_there(lab):
    small = "mkdir -p /tmp/small && mount -t tmpfs -o size=8k small /tmp/small && cd /tmp/small"
    fill = "echo before >x; cat /dev/zero >zeros"
    lab.run(["sh", "-c", f"{small} && {fill}"])
    done = guestpv(lab, "validate", "--record", "/tmp/small/x")
    assert done.returncode == 1
    assert "the record can't be written. No space left on device" in done.stderr
    assert lab.run(["sh", "-c", "cd /tmp/small; ls; cat x"]).stdout == "x\nzeros\nbefore\n"
    lab.run(["umount", "/tmp/small"]).check_returncode()


@on_one_kernel
def test_a_reboot_begins_anew(lab):
    before = record(lab)
    for event in "rebooted", "kexec":
        compare(lab, before, event, expect=MISMATCH)
    lab.reboot()
    guestpv(lab, "load").check_returncode()
    for event in "rebooted", "kexec":
        checks = compare(lab, before, event)
        assert not_passed(checks) == {"continues": "skip", "stayed": "skip"}
        assert "s of uptime" in checks["grew"]["text"]
    compare(lab, before, "migrated", expect=MISMATCH)

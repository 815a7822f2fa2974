# SPDX-License-Identifier: MIT
"""A host that breaks its promises: each fault is seen, and over when its block is.

Those of counts that stand still, or do not restart, are seen in test_validate.py.
"""

import json
import subprocess
from collections.abc import Iterator

import pytest

from pvlab import Lab, LabError, equipment
from pvlab.faults import hypercalls
from pvlab.kernels import KERNELS, kernel

ARCH_FEATURES, PV_TIME_FEATURES, PV_TIME_ST = 0x80000001, 0xC5000020, 0xC5000021
UNDEFINED = 0xC500003F
STRUCTURES = 0x090A0000  # where QEMU has them, 64 bytes apart
CLOCK = 0x09010040  # in the page of QEMU's real-time clock
IN_RAM, MISALIGNED = 0x48000000, STRUCTURES + 0x84
VCPUS = 4

# From the CPU that is asked first, and may be refused: that must not decide for the others.
INSERT = "rmmod guestpv 2>/dev/null; taskset -c 0 insmod /lib/modules/$(uname -r)/extra/guestpv.ko"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(kernel="claim-6.1", vcpus=VCPUS) as lab:
        lab.run(["sh", "-c", INSERT]).check_returncode()
        yield lab


def answers(lab):
    """What each vCPU is answered when the module is inserted now."""
    lab.run(["sh", "-c", INSERT]).check_returncode()
    return json.loads(lab.run(["guestpv", "info", "--json"]).stdout)["cpus"]


def structure(vcpu):
    return STRUCTURES + 64 * vcpu


def count(lab, vcpu):
    return int.from_bytes(lab.read_guest_memory(structure(vcpu) + 8, 8), "little")


def modules(lab):
    return lab.host.run(["cat", "/proc/modules"]).stdout


@pytest.mark.parametrize("host", [each.name for each in KERNELS.values() if each.hosts])
def test_the_hosts_modules_build_without_a_warning(host):
    assert hypercalls.module(kernel(host)).warnings() == []
    assert equipment.wake(kernel(host)).warnings() == []


def test_checkpatch_finds_nothing_in_them():
    script = kernel("claim-6.1").directory() / "build/scripts/checkpatch.pl"
    options = ["--no-tree", "--strict", "--terse", "--max-line-length=100", "--file"]
    files = [*hypercalls.HERE.glob("*.c"), *equipment.WAKE.glob("*.c")]
    checked = subprocess.run([script, *options, *files], capture_output=True, text=True)
    assert (checked.stdout + checked.stderr, checked.returncode) == ("", 0)


def test_hypercalls_are_answered_wrongly_to_those_for_whom_it_is_meant(lab):
    with (
        lab.answering(call=PV_TIME_ST, answer=IN_RAM, vcpu=1),
        lab.answering(call=PV_TIME_ST, answer=MISALIGNED, vcpu=2),
        lab.answering(call=ARCH_FEATURES, arg=PV_TIME_FEATURES, answer=-1, vcpu=0),
        lab.answering(call=PV_TIME_FEATURES, arg=UNDEFINED, answer=0xFFFF_FFFF),
    ):
        cpus = answers(lab)
    assert [cpu["st_return"] for cpu in cpus] == [None, IN_RAM, MISALIGNED, structure(3)]
    assert [cpu["arch_features"] for cpu in cpus] == [-1, 0, 0, 0]
    assert [cpu["features_undefined"] for cpu in cpus] == [None] + [0xFFFF_FFFF] * 3
    assert [cpu["features_st"] for cpu in cpus] == [None, 0, 0, 0]

    assert "pvfault" not in modules(lab)
    lab.run(["sh", "-c", INSERT]).check_returncode()
    *_, line = (line for line in lab.run(["dmesg"]).stdout.splitlines() if "guestpv:" in line)
    assert f"guestpv: {VCPUS} stolen-time structures" in line


def test_a_cpu_that_is_refused_is_named_and_a_devices_page_is_not_mapped(lab):
    with lab.answering(call=PV_TIME_ST, answer=CLOCK, vcpu=1):
        cpus = answers(lab)
    assert [cpu["fault"] for cpu in cpus] == ["none", "shared_page", "none", "none"]
    log = lab.run(["dmesg"]).stdout
    assert f"cpu1: refused: memory of a device is in the same page (address {CLOCK:#x})" in log


def test_more_wrong_answers_than_there_is_room_for_are_refused(lab):
    faults = lab._hypercalls
    free, faults._answers = faults._answers, [hypercalls.WrongAnswer(call=1)] * hypercalls.ANSWERS
    with pytest.raises(LabError, match="no more than 8"), lab.answering(call=1, answer=0):
        pass
    faults._answers = free


def test_memory_is_written_where_the_guest_sees_it(lab):
    lab.write_guest_memory(structure(1), b"\x01\0\0\0\x02")
    assert lab.read_guest_memory(structure(1), 5) == b"\x01\0\0\0\x02"
    lab.write_guest_memory(structure(1), bytes(5))
    with pytest.raises(LabError, match="no memory at 0x30000000"):
        lab.read_guest_memory(0x30000000, 4)


def test_a_writer_writes_for_as_long_as_it_is_to(lab):
    with lab.flipping_revision(structure(1)):
        for revision in b"\0", b"\1":
            assert any(lab.read_guest_memory(structure(1), 1) == revision for _ in range(20))
    assert lab.read_guest_memory(structure(1), 8) == bytes(8)

    before = count(lab, 1)
    with lab.creeping_count(structure(1), by_ns=1 << 40):
        assert count(lab, 1) > before + (1 << 40)
    assert count(lab, 1) < before + (1 << 40)

    with lab.tearing_count(structure(1)):
        assert any(count(lab, 1) > before + (1 << 36) for _ in range(50))
    assert count(lab, 1) < before + (1 << 40)


def test_a_writer_that_fails_is_reported(lab):
    with (
        pytest.raises(LabError, match="ended by itself"),
        lab.writing(structure(1), "write(0, 'no bytes')"),
    ):
        lab.host.run(["sleep", "0.5"])

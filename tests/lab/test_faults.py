# SPDX-License-Identifier: MIT
"""A host that breaks its promises: each fault is seen, and over when its block is.

Those of counts that stand still, or do not restart, are seen in test_validate.py.
"""

import json
import time
from collections.abc import Iterator

import pytest
from preloaded import START, guestpv
from structures import count, ipa

from pvlab import Lab, LabError, Lie
from pvlab.faults import hypercalls

ARCH_FEATURES, PV_TIME_FEATURES, PV_TIME_ST = 0x80000001, 0xC5000020, 0xC5000021
UNDEFINED = 0xC500003F
CLOCK = 0x09010040  # in the page of QEMU's real-time clock
IN_RAM, MISALIGNED = 0x48000000, ipa(2) + 4
VCPUS = 4

# From the CPU that is asked first, and may be refused: that must not decide for the others.
INSERT = "rmmod guestpv 2>/dev/null; taskset -c 0 insmod /lib/modules/$(uname -r)/extra/guestpv.ko"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(kernel="claim-6.1", vcpus=VCPUS, prepare=START) as lab:
        lab.run(["sh", "-c", INSERT]).check_returncode()
        yield lab


def answers(lab):
    """What each vCPU is answered when the module is inserted now."""
    lab.run(["sh", "-c", INSERT]).check_returncode()
    return json.loads(guestpv(lab, "info", "--json").stdout)["cpus"]


SPIN = """
for cpu in $(seq 0 $(($(nproc) - 1))); do
    taskset -c $cpu sh -c 'while :; do :; done' </dev/null >/dev/null 2>&1 &
    echo $!
done
"""


@pytest.fixture(scope="module")
def contended(lab):
    """Every vCPU is busy, and there are twice as many as CPUs: they take time from each other."""
    loops = lab.run(["sh", "-c", SPIN]).stdout.split()
    yield lab
    lab.run(["kill", *loops])


WAIT_NS = 250_000_000
"""When a vCPU was stopped it may have waited so long for a slice. KVM counts that when it runs."""


def taken_and_told(lab, vcpu, lie, seconds=2.0):
    """What the host took from a vCPU while its count lied, and what that told, both in ns."""

    def both():
        lab.qmp("stop")  # nothing moves between the one look and the other
        seen = lab.vcpu_run_delay_ns()[vcpu], count(lab, vcpu)
        lab.qmp("cont")
        return seen

    with lab.lying(lie):
        both()  # goes on with the lie, if not sooner
        before = both()
        time.sleep(seconds)
        after = both()
    return (later - sooner for sooner, later in zip(before, after, strict=True))


def modules(lab):
    return lab.host.run(["cat", "/proc/modules"]).stdout


def test_hypercalls_are_answered_wrongly_to_those_for_whom_it_is_meant(lab):
    with (
        lab.answering(call=PV_TIME_ST, answer=IN_RAM, vcpu=1),
        lab.answering(call=PV_TIME_ST, answer=MISALIGNED, vcpu=2),
        lab.answering(call=ARCH_FEATURES, arg=PV_TIME_FEATURES, answer=-1, vcpu=0),
        lab.answering(call=PV_TIME_FEATURES, arg=UNDEFINED, answer=0xFFFF_FFFF),
    ):
        cpus = answers(lab)
    assert [cpu["st_return"] for cpu in cpus] == [None, IN_RAM, MISALIGNED, ipa(3)]
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
    lab.write_guest_memory(ipa(1), b"\x01\0\0\0\x02")
    assert lab.read_guest_memory(ipa(1), 5) == b"\x01\0\0\0\x02"
    lab.write_guest_memory(ipa(1), bytes(5))
    with pytest.raises(LabError, match="no memory at 0x30000000"):
        lab.read_guest_memory(0x30000000, 4)


def test_a_writer_writes_for_as_long_as_it_is_to(lab):
    with lab.flipping_revision(ipa(1)):
        for revision in b"\0", b"\1":
            assert any(lab.read_guest_memory(ipa(1), 1) == revision for _ in range(20))
    assert lab.read_guest_memory(ipa(1), 8) == bytes(8)

    before = count(lab, 1)
    with lab.creeping_count(ipa(1), by_ns=1 << 40):
        assert count(lab, 1) > before + (1 << 40)
    assert count(lab, 1) < before + (1 << 40)

    with lab.tearing_count(ipa(1)):
        assert any(count(lab, 1) > before + (1 << 36) for _ in range(50))
    assert count(lab, 1) < before + (1 << 40)


def test_a_writer_that_fails_is_reported(lab):
    with (
        pytest.raises(LabError, match="ended by itself"),
        lab.writing(ipa(1), "write(0, 'no bytes')"),
    ):
        lab.host.run(["sleep", "0.5"])


def test_halted_time_is_told_of_a_vcpu_that_sleeps(lab):
    with lab.lying(Lie(counts_halted=True), vcpu=2):
        before = count(lab, 2)
        lab.run(["taskset", "-c", "2", "sleep", "1"])
        assert count(lab, 2) - before > 900_000_000


# What is told of what is taken; of what is not told in parts, the least and the most of it.
LIES = {
    "the truth": (Lie(), 1, 1),
    "half": (Lie(scale=0.5), 0.5, 0.5),
    "double": (Lie(scale=2), 2, 2),
    "microseconds": (Lie(scale=1e-3), 1e-3, 1e-3),
    "one slice in three lost": (Lie(lose_every=3), 0.4, 0.9),
    "2 ms of a slice at most": (Lie(cap_ns=2_000_000), 0.01, 0.9),
    "the sum of all": (Lie(counts_all=True), 2, 8),
    "frozen from the beginning": (Lie(freeze_after_ns=1), 0, 0),
}


@pytest.mark.parametrize("name", LIES)
def test_a_count_tells_what_its_lie_makes_of_what_was_taken(contended, name):
    lie, least, most = LIES[name]
    taken_ns, told_ns = taken_and_told(contended, 1, lie)
    print(f"{taken_ns} ns were taken, {told_ns} ns told: {told_ns / taken_ns:.6f} of it")
    assert taken_ns > 2 * WAIT_NS
    error_ns = WAIT_NS * most
    assert least * taken_ns - error_ns <= told_ns <= most * taken_ns + error_ns


def test_a_lie_is_over_when_its_block_is_and_there_is_one_at_a_time(contended):
    before = count(contended, 1)
    with contended.lying(Lie(big_endian=True)):
        with pytest.raises(LabError, match="lie already"), contended.lying(Lie(scale=2)):
            pass
        time.sleep(0.5)
        swapped = count(contended, 1).to_bytes(8, "big")
    assert before < int.from_bytes(swapped, "little") < before + 60 * 10**9
    assert "pvfault" not in modules(contended)
    contended.run(["sh", "-c", INSERT]).check_returncode()  # a new claim, a new count

    taken_ns, told_ns = taken_and_told(contended, 1, Lie())
    assert abs(told_ns - taken_ns) < WAIT_NS


def test_a_count_of_few_bits_begins_again_and_a_late_one_comes(contended):
    with contended.lying(Lie(bits=20)):
        time.sleep(0.3)
        assert all(count(contended, vcpu) < 1 << 20 for vcpu in range(VCPUS))
    contended.run(["sh", "-c", INSERT]).check_returncode()

    with contended.lying(Lie(late_ns=60_000_000_000)):
        before = count(contended, 1)
        time.sleep(0.5)
        assert count(contended, 1) == before
    with contended.lying(Lie(late_ns=200_000_000)):
        time.sleep(1)
        assert count(contended, 1) > before

# SPDX-License-Identifier: MIT
"""A guest that is held, saved, and moved, and what of it is the same afterwards."""

import re
import time
from collections.abc import Iterator

import pytest

from pvlab import Lab, LabError

TICKING = "nohup setsid sh -c 'while :; do echo; sleep 0.1; done' >/tmp/ticks 2>&1 </dev/null &"
ASK = 'busybox nc $(echo "$GUESTPV_HOST_ACCOUNT" | tr : " ") </dev/null'


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(kernel="claim-6.1", vcpus=2) as lab:
        yield lab


def shell(lab, script):
    done = lab.run(["sh", "-c", script])
    assert (done.stderr, done.returncode) == ("", 0)
    return done.stdout


def clocks(lab):
    """The guest's monotonic clock, and its clock of real time, which QEMU keeps; in seconds."""
    monotonic, _, real = shell(lab, "cat /proc/uptime /sys/class/rtc/rtc0/since_epoch").split()
    return float(monotonic), int(real)


def account(lab):
    """The host's account of what it took from each vCPU, as the guest reads it."""
    return [int(ns) for ns in re.findall(r"^\d+ (\d+)$", shell(lab, ASK), re.MULTILINE)]


def test_the_guest_reads_the_hosts_account(lab):
    before = lab.vcpu_run_delay_ns()
    read = account(lab)
    after = lab.vcpu_run_delay_ns()
    for earliest, ns, latest in zip(before, read, after, strict=True):
        assert earliest <= ns <= latest


def test_a_paused_guest_does_not_notice_but_for_its_clock_of_real_time(lab):
    before = clocks(lab)
    began = time.monotonic()
    lab.pause(3)
    after = clocks(lab)
    assert time.monotonic() - began >= 3
    assert after[1] - before[1] >= 3
    assert after[0] - before[0] < after[1] - before[1] - 1


def test_a_moved_guest_goes_on_with_all_that_ran_in_it(lab):
    shell(lab, TICKING)
    lab.steal(40)
    for _ in range(2):
        before = clocks(lab)[0], int(shell(lab, "wc -l </tmp/ticks"))
        lab.move()
        after = clocks(lab)[0], int(shell(lab, "sleep 0.3; wc -l </tmp/ticks"))
        assert after > before
        assert after[1] > before[1]
    lab.steal(0)
    assert len(account(lab)) == 2


def test_a_saved_guest_is_restored_as_often_as_it_is_to(lab):
    shell(lab, "echo saved >/tmp/when")
    saved = lab.save()
    for _ in range(2):
        shell(lab, "echo later >/tmp/when")
        lab.restore(saved)
        assert shell(lab, "cat /tmp/when") == "saved\n"


def test_a_host_without_pv_time_does_not_accept_the_guest(lab):
    saved = lab.save()
    with pytest.raises(LabError, match='Unknown ramblock "pvtime", cannot accept migration'):
        lab.move(steal_time=False)
    with pytest.raises(LabError, match="it ended"):
        lab.run(["true"])
    lab.restore(saved)
    assert clocks(lab)

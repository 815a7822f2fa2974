# SPDX-License-Identifier: MIT
"""Nothing that guestpv does changes what the kernel sees: PV_TIME_ST would reset the count."""

import os
import subprocess
import threading
import time
from contextlib import contextmanager

import pytest

import guestpv
from guestpv.page import abi
from guestpv.validate.kernel import nohz_full

pytestmark = pytest.mark.contended


def kernel_steal_ticks():
    """The kernel's own account, per CPU, through its own mapping."""
    with open("/proc/stat") as stat:
        lines = [line.split() for line in stat if line.startswith("cpu")]
    return {line[0]: int(line[8]) for line in lines if line[0] != "cpu"}


class StealWatch(threading.Thread):
    """Looks at /proc/stat all the time and keeps each figure that went backwards."""

    def __init__(self):
        super().__init__(daemon=True)
        self.backwards = []
        self.over = threading.Event()

    def run(self):
        last = kernel_steal_ticks()
        while not self.over.wait(0.1):
            now = kernel_steal_ticks()
            self.backwards += [(cpu, last[cpu], now[cpu]) for cpu in now if now[cpu] < last[cpu]]
            last = now

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.join()


@contextmanager
def busy():
    """A spinning process on each CPU: only who wants to run can be stolen from."""
    spinners = [
        subprocess.Popen(["taskset", "-c", str(cpu), "sh", "-c", "while :; do :; done"])
        for cpu in range(os.cpu_count())
    ]
    try:
        yield
    finally:
        for spinner in spinners:
            spinner.kill()
            spinner.wait()


@pytest.fixture
def kernel_counts():
    """The kernel has seen steal on every CPU before the test begins: a reset would show."""
    if not os.path.exists("/sys/kernel/btf/vmlinux"):
        pytest.skip("this kernel keeps no account of steal")
    deadline = time.monotonic() + 60
    with busy():
        while min(kernel_steal_ticks().values()) < 50:
            assert time.monotonic() < deadline, "no steal in a minute: is the lab contended?"
            time.sleep(0.1)


def test_kernel_accounting_never_goes_backwards(kernel_counts, unloaded, command):
    before = kernel_steal_ticks()
    with StealWatch() as kernel:
        command("load")
        command("info")
        command("read")
        command("watch", "--count", "2", "--interval", "0.2")
        command("unload")
    after = kernel_steal_ticks()
    assert kernel.backwards == []
    assert all(after[cpu] >= before[cpu] for cpu in before)
    # The run queue's clock goes on: with a broken account the kernel stops giving steal at all.
    assert any(after[cpu] > before[cpu] for cpu in before)


def test_adopted_count_is_the_one_the_kernel_has_counted_from_boot(kernel_counts, loaded):
    """A claim would have started again from zero, below the kernel's own figure."""
    ticks = kernel_steal_ticks()
    with guestpv.open() as reader:
        for row in reader.snapshot():
            assert row["origin"] == abi.Origin.ADOPTED
            if row["cpu"] in nohz_full():  # once offline, their figure is Linux's own defect
                continue
            seen_by_kernel_ns = ticks[f"cpu{row['cpu']}"] * 10_000_000
            assert row["stolen_ns"] >= seen_by_kernel_ns - 20_000_000


def test_claimed_steal_shows_where_procstat_has_none(loaded):
    if os.path.exists("/sys/kernel/btf/vmlinux"):
        pytest.skip("this kernel accounts for steal itself")
    with guestpv.open() as reader, busy():
        before = reader.snapshot()
        time.sleep(2)
        after = reader.snapshot()
    assert (after["origin"] == abi.Origin.CLAIMED).all()
    assert (after["stolen_ns"] > before["stolen_ns"]).all()
    assert set(kernel_steal_ticks().values()) == {0}

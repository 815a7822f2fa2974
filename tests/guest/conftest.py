# SPDX-License-Identifier: MIT
"""Tests that run inside a guest of the lab, as root, against the real module."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from forkserver import GUESTPV

from guestpv.driver import btf

MODULE = f"/lib/modules/{os.uname().release}/extra/guestpv.ko"
LOADED = Path("/sys/module/guestpv")
VMLINUX = Path("/sys/kernel/btf/vmlinux")
PARANOID = Path("/proc/sys/kernel/perf_event_paranoid")

Command = Callable[..., subprocess.CompletedProcess[str]]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "contended: while the host takes time away")
    config.addinivalue_line("markers", "anyway: and while it does not")


def _command(*args: str, returncode: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([*GUESTPV, *args], capture_output=True, text=True, timeout=120)
    assert done.returncode == returncode, f"guestpv {' '.join(args)}: {done}"
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture
def command() -> Command:
    """Run guestpv, and expect the return code (0 unless given)."""
    return _command


def kernel_log() -> list[str]:
    return subprocess.run(["dmesg", "-t"], capture_output=True, text=True).stdout.splitlines()


@pytest.fixture
def new_log_lines() -> Callable[[], list[str]]:
    """Call it to get what the kernel logged about guestpv since the test began.

    Without the taint that comes with the first module from outside, in whichever test that is.
    """
    before = len(kernel_log())
    return lambda: [
        line for line in kernel_log()[before:] if "guestpv" in line and "taint" not in line
    ]


@pytest.fixture(scope="session")
def parameters() -> tuple[str, ...]:
    """What insmod needs on this kernel: nothing where there is nothing to adopt."""
    if not VMLINUX.exists():
        return ()
    offset = btf.adopt_offset(VMLINUX.read_bytes())
    kernel = os.uname()
    return (f"adopt_offset={offset}", f'adopt_build="{kernel.release} {kernel.version}"')


def _remove() -> None:
    if LOADED.exists():
        subprocess.run(["rmmod", "guestpv"], check=True)


@pytest.fixture
def unloaded() -> Iterator[None]:
    """The module is out, before and after."""
    _remove()
    yield
    _remove()


@pytest.fixture
def loaded(unloaded: None, parameters: tuple[str, ...]) -> None:
    """The module is in; it goes when the test is over."""
    subprocess.run(["insmod", MODULE, *parameters], check=True)


@pytest.fixture
def last_cpu() -> Iterator[Path]:
    """The sysfs switch of the last CPU; the CPU is online again afterwards."""
    cpus = sorted(Path("/sys/devices/system/cpu").glob("cpu[0-9]*/online"))
    switch = cpus[-1]
    yield switch
    if switch.read_text().strip() != "1":
        switch.write_text("1")


@pytest.fixture
def pinned() -> Iterator[int]:
    """This thread stays on the last CPU, and so does what it starts."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(allowed)})
    yield max(allowed)
    os.sched_setaffinity(0, allowed)


@pytest.fixture
def paranoid() -> Iterator[Callable[[int], object]]:
    """Set to how many perf events are forbidden; it is as before afterwards."""
    before = PARANOID.read_text()
    yield lambda level: PARANOID.write_text(str(level))
    PARANOID.write_text(before)

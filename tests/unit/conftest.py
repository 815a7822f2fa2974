# SPDX-License-Identifier: MIT
"""A machine in a file: a page image, in which a test plays the hypervisor and the module.

And what reads it: the command line, an exporter.
"""

import ctypes
import fcntl
import mmap
import os
import platform
import resource
import struct
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from prometheus_client.parser import text_string_to_metric_families

from guestpv.errors import Error, PermissionDeniedError
from guestpv.latency import perf
from guestpv.latency.counter import counter
from guestpv.page import layout
from guestpv.page.abi import Fault, Reason, State
from guestpv.page.image import structures, write_image

# How long an example takes says nothing on a machine that is busy.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

SECOND = 1_000_000_000
PATIENCE_S = 60


class Machine:
    """A page image that changes while it is read."""

    def __init__(self, path, stolen_ns):
        write_image(path, stolen_ns)
        self.path = str(path)
        with open(path, "r+b") as file:
            image = np.frombuffer(mmap.mmap(file.fileno(), 0), np.uint8)
        self.structures = structures(image)
        self.header = np.ndarray((), layout.HEADER, image)
        self.entries = np.ndarray(len(stolen_ns), layout.ENTRY, image, layout.HEADER.itemsize)

    def steal(self, cpu, ns):
        self.structures["stolen_time"][cpu] += ns

    def take_back(self, cpu, ns):
        self.structures["stolen_time"][cpu] -= ns

    def restart(self, cpu, reason=Reason.FOUND_LOWER):
        """A new epoch that is announced before the count is seen to be lower."""
        self.header["sequence"] += 1
        self.structures["stolen_time"][cpu] = 0
        self.entries["epoch"][cpu] += 1
        self.entries["reason"][cpu] = reason
        self.entries["epoch_stolen_ns"][cpu] = 0
        self.header["sequence"] += 1

    def revise(self, cpu, revision):
        self.structures["revision"][cpu] = revision

    def offline(self, cpu):
        self.enter(cpu, state=State.OFFLINE)

    def online(self, cpu):
        """As after a hotplug: the count begins anew."""
        self.structures["stolen_time"][cpu] = 0
        epoch = self.entries["epoch"][cpu] + 1
        self.enter(cpu, state=State.ONLINE, epoch=epoch, reason=Reason.HOTPLUG, epoch_stolen_ns=0)

    def refuse(self, cpu, fault=Fault.SYSTEM_RAM):
        self.enter(cpu, state=State.REFUSED, fault=fault, offset=0)

    def enter(self, cpu, **fields):
        """Change the index as the module does: the sequence is odd meanwhile."""
        self.header["sequence"] += 1
        for field, value in fields.items():
            self.entries[field][cpu] = value
        self.header["sequence"] += 1


@pytest.fixture
def machine_of(tmp_path):
    """So many vCPUs, from which one second was stolen, two, three and so on."""
    return lambda vcpus: Machine(tmp_path / "page", [SECOND * (n + 1) for n in range(vcpus)])


@pytest.fixture
def machine(machine_of):
    """Four vCPUs from which one to four seconds were stolen."""
    return machine_of(4)


@pytest.fixture
def large_machine(tmp_path):
    """64 vCPUs from which as many milliseconds were stolen as their numbers say."""
    return Machine(tmp_path / "large", [1_000_000 * cpu for cpu in range(64)])


@pytest.fixture
def guestpv():
    """Run the command line as a user does."""

    def run(*args):
        command = [sys.executable, "-m", "guestpv", *args]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    return run


@pytest.fixture
def cpu0():
    """Where a uevent of CPU 0 can be asked for, without anything else happening.

    All who listen hear it, so one test at a time has it: others may run beside it.
    """
    uevent = Path("/sys/devices/system/cpu/cpu0/uevent")
    with uevent.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            uevent.write_text("change")
        except OSError:
            pytest.skip("only root can ask the kernel for a uevent")
        yield uevent


@pytest.fixture
def pmu(tmp_path, monkeypatch):
    """The kernel's clocks stand in for the module's PMU: the same calls. Of PERF_TYPE_SOFTWARE the
    events 0 and 1 are the time on a CPU, so all of it is stolen, and as much again is unknown."""
    (tmp_path / "pmu").mkdir()
    (tmp_path / "pmu/type").write_text("1\n")
    monkeypatch.setattr(perf, "PMU", tmp_path / "pmu")
    try:
        counter().close()
    except PermissionDeniedError as error:
        pytest.skip(f"perf events are forbidden here: {error}")
    return tmp_path / "pmu"


@pytest.fixture
def cgroups(pmu):
    """Makes cgroups, and removes them."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    root = next((Path(where) for _, where, kind, *_ in mounts if kind == "cgroup2"), None)
    if not root or os.getuid():
        pytest.skip("only root can make cgroups, where cgroup v2 is mounted")
    made = []

    def make(name):
        made.append(root / f"guestpv-test-{os.getpid()}-{name}")
        made[-1].mkdir()
        try:
            counter(cgroup=made[-1]).close()
        except Error as error:
            pytest.skip(f"no cgroup is counted here: {error}")
        return made[-1]

    yield make
    for group in made:
        with suppress(FileNotFoundError):
            group.rmdir()


@pytest.fixture
def spin_in_cgroup():
    """Keep a CPU busy for so many seconds, in a process of that cgroup."""

    def spin(group, seconds):
        pid = os.fork()
        if not pid:
            (group / "cgroup.procs").write_text(str(os.getpid()))
            end = time.thread_time() + seconds
            while time.thread_time() < end:
                pass
            os._exit(0)
        os.waitpid(pid, 0)

    return spin


class Served:
    """A running exporter."""

    def __init__(self, process, log):
        self.process = process
        self.log = log.read_text
        address = self.said("metrics at ").split("metrics at ")[1].split("/metrics")[0]
        self.url, self.port = address, int(address.rpartition(":")[2])

    def said(self, text):
        """The line of its log that has *text*, when it is there."""
        ends = time.monotonic() + PATIENCE_S
        while time.monotonic() < ends:
            for line in self.log().splitlines():
                if text in line:
                    return line
            assert self.process.poll() is None, self.log()
            time.sleep(0.02)
        raise AssertionError(f"{text!r} was not said: {self.log()}")

    def get(self, path="/metrics", context=None, **headers):
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(self.url + path, headers=headers)
        return urllib.request.urlopen(request, timeout=PATIENCE_S, context=context)

    def metrics(self, **arguments):
        """Value of each sample, by name and labels."""
        text = self.get(**arguments).read().decode()
        return {
            (sample.name, *sorted(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }


@pytest.fixture
def serve(tmp_path):
    """An exporter of a source, on a port of its own; *before* it, a command that runs it."""
    processes = []

    def begin(source, *arguments, before=(), **options):
        log = tmp_path / f"log{len(processes)}"
        command = [*before, sys.executable, "-m", "guestpv", "exporter"]
        command += ["--source", source, "--listen", "127.0.0.1:0", *arguments]
        with log.open("w") as file:
            process = subprocess.Popen(command, stderr=file, **options)
        processes.append(process)
        return Served(process, log)

    yield begin
    for process in processes:
        process.kill()
        process.wait()


@pytest.fixture
def files_left():
    """For a while this process may open so many files more, and no others."""

    @contextmanager
    def limit(more):
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        free = [os.dup(0) for _ in range(more)]
        for fd in free:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(free, default=-1) + 1, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)

    return limit


@pytest.fixture
def as_others():
    """A command that runs another for which files have permissions, as they have none for root."""
    if os.getuid():
        return ()
    return ("setpriv", "--bounding-set=-dac_override,-dac_read_search")


@pytest.fixture
def forbid_netlink():
    """For a process to call before it begins: socket(AF_NETLINK, …) fails with EPERM.

    By seccomp, as a container may have it.
    """
    socket = {"x86_64": 41, "aarch64": 198}[platform.machine()]
    program = [
        (0x20, 0, 0, 0),  # load the number of the system call
        (0x15, 0, 3, socket),
        (0x20, 0, 0, 16),  # load its first argument
        (0x15, 0, 1, 16),  # AF_NETLINK
        (0x06, 0, 0, 0x00050000 | 1),  # fail with EPERM
        (0x06, 0, 0, 0x7FFF0000),  # allow
    ]

    def forbid():
        lines = b"".join(struct.pack("HBBI", *line) for line in program)
        code = ctypes.create_string_buffer(lines)
        fprog = struct.pack("HxxxxxxQ", len(program), ctypes.addressof(code))
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
        assert libc.prctl(22, 2, fprog, 0, 0) == 0  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER

    return forbid

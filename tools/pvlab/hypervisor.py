# SPDX-License-Identifier: MIT
"""Which hypervisor serves the guest: the one part that another hypervisor would replace."""

import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from . import account
from .console import Console
from .equipment import equipment
from .errors import LabError
from .kernels import Kernel
from .machine import DIRECTORY, Machine
from .run import Run
from .site import Site, ThisMachine

# All there is, but for what costs time and is nothing to PV-time: pointers that are signed by every
# function of the kernel, and vectors whose every operation is a call and a loop of QEMU's. And not
# LPA2: where a walk of its first level ends at stage 2, QEMU 7.2 reports level -1, which is that of
# stage 1, and KVM does not know such a fault. A guest with 52-bit addresses could not be moved.
_EMULATED_CPU = ("-cpu", "max,pauth=off,sve=off,sme=off,lpa2=off")
_BY_CLOCK = ("-accel", "tcg,thread=multi")
# Each instruction takes two nanoseconds, about as many as it does by the clock.
_BY_INSTRUCTIONS = ("-accel", "tcg,thread=single", "-icount", "shift=1")


@dataclass(frozen=True, slots=True)
class Hypervisor:
    """Where the guest's QEMU runs, and how it executes the guest, offering PV-time or not.

    account: the command that says what the host took from each vCPU, if there is a host
    """

    host: Site
    cpus: int
    how: Callable[[bool], tuple[str, ...]]
    account: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a hypervisor is to serve, and from what host.

    gives: files of this machine that the guest's QEMU needs, each with a name for its disk
    virtual_time_stops, icount: see Lab
    """

    run: Run
    console: Console
    gives: Mapping[str, Path]
    host_kernel: Kernel
    virtual_time_stops: bool
    icount: bool


def kvm(wanted: Wanted) -> Hypervisor:
    """Linux's KVM: this machine's, or that of an arm64 machine which QEMU emulates."""

    def how(steal_time: bool) -> tuple[str, ...]:
        cpu = "host" if steal_time else "host,kvm-steal-time=off"
        if not wanted.virtual_time_stops:
            cpu += ",kvm-no-adjvtime=on"
        return ("-machine", "virt,gic-version=host", "-accel", "kvm", "-cpu", cpu)

    here = ThisMachine(wanted.run)
    if platform.machine() == "aarch64" and os.access("/dev/kvm", os.R_OK | os.W_OK):
        if wanted.icount:
            raise LabError("no host is emulated here, whose instructions could be counted")
        told = ("/bin/sh", str(account.SCRIPT), str(here.directory / "guest.pid"))
        return Hypervisor(here, os.cpu_count() or 1, how, told)

    # QEMU counts the instructions of one CPU after another: of two, each would stand still while
    # the other runs, for uneven parts of the time.
    time, cpus = (_BY_INSTRUCTIONS, 1) if wanted.icount else (_BY_CLOCK, 2)
    host = Machine(
        "host",
        wanted.run,
        here,
        wanted.host_kernel,
        ("-machine", "virt,virtualization=on,gic-version=3", *_EMULATED_CPU, *time),
        cpus=cpus,
        memory_mb=2048,
        disks={"payload": equipment(wanted.host_kernel), **wanted.gives},
        serves=wanted.console,
    )
    # Static, it starts in a third of the time, and there it counts.
    script, pid = account.PLACE / account.SCRIPT.name, DIRECTORY / "guest.pid"
    return Hypervisor(host, host.cpus, how, ("/bin/busybox", "sh", str(script), str(pid)))


def none(wanted: Wanted) -> Hypervisor:
    """Plain emulation: a guest whose firmware has never heard of PV-time."""
    how = ("-machine", "virt,gic-version=3", *_EMULATED_CPU, *_BY_CLOCK)
    return Hypervisor(ThisMachine(wanted.run), 0, lambda steal_time: how)


HYPERVISORS: dict[str, Callable[[Wanted], Hypervisor]] = {"kvm": kvm, "none": none}

# SPDX-License-Identifier: MIT
"""Which hypervisor serves the guest: the one part that another hypervisor would replace."""

import os
import platform
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from .cache import cache_dir
from .kernels import kernel
from .machine import Machine
from .progress import step
from .run import Run
from .site import Site, ThisMachine

# QEMU's default way of signing pointers costs an emulated machine a third of its speed.
_EMULATED_CPU = ("-cpu", "max,pauth-impdef=on", "-accel", "tcg,thread=multi")


@dataclass(frozen=True, slots=True)
class Hypervisor:
    """Where the guest's QEMU runs, and how it executes the guest, offering PV-time or not."""

    host: Site
    cpus: int
    how: Callable[[bool], tuple[str, ...]]


@contextmanager
def kvm(run: Run, *, virtual_time_stops: bool) -> Iterator[Hypervisor]:
    """Linux's KVM: this machine's, or that of an arm64 machine which QEMU emulates."""

    def how(steal_time: bool) -> tuple[str, ...]:
        cpu = "host" if steal_time else "host,kvm-steal-time=off"
        if not virtual_time_stops:
            cpu += ",kvm-no-adjvtime=on"
        return ("-machine", "virt,gic-version=host", "-accel", "kvm", "-cpu", cpu)

    if platform.machine() == "aarch64" and os.access("/dev/kvm", os.R_OK | os.W_OK):
        yield Hypervisor(ThisMachine(), os.cpu_count() or 1, how)
        return

    host = Machine(
        "host",
        run,
        ThisMachine(),
        kernel("stock-6.1"),
        ("-machine", "virt,virtualization=on,gic-version=3", *_EMULATED_CPU),
        cpus=2,
        memory_mb=2048,
        shares=(cache_dir(), run.directory),
    )
    try:
        with step("booting the host"):
            host.start()
        yield Hypervisor(host, host.cpus, how)
    finally:
        host.stop()


@contextmanager
def none(run: Run, *, virtual_time_stops: bool) -> Iterator[Hypervisor]:
    """Plain emulation: a guest whose firmware has never heard of PV-time."""
    how = ("-machine", "virt,gic-version=3", *_EMULATED_CPU)
    yield Hypervisor(ThisMachine(), 0, lambda steal_time: how)


HYPERVISORS: dict[str, Callable[..., AbstractContextManager[Hypervisor]]] = {
    "kvm": kvm,
    "none": none,
}

# SPDX-License-Identifier: MIT
"""A lab: a guest, and the hypervisor that serves it, from `with` to the end of its block."""

import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Self, cast

from . import prepare
from . import run as runs
from .contention import Contention
from .errors import LabError
from .hypervisor import HYPERVISORS
from .kernels import kernel
from .machine import Machine
from .progress import step


class Lab:
    """A guest that runs, and its host.

    kernel: the guest's, by its name in KERNELS
    vcpus: how many the guest has; more than the host has CPUs is fine
    steal: about how much of a busy vCPU's time the host takes away, in percent
    steal_time: whether the hypervisor offers PV-time to the guest
    hypervisor: by its name in HYPERVISORS; `none` is a guest under plain emulation
    load: whether to load the module, before any time is taken
    """

    def __init__(
        self,
        *,
        kernel: str = "stock-6.1",
        vcpus: int = 2,
        steal: int = 0,
        steal_time: bool = True,
        hypervisor: str = "kvm",
        load: bool = False,
    ) -> None:
        self._kernel = kernel
        self._vcpus = vcpus
        self._steal = steal
        self._steal_time = steal_time
        self._hypervisor = hypervisor
        self._load = load
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            chosen = kernel(self._kernel)
            if not chosen.bootable:
                raise LabError(f"{chosen.name} is there to build modules against, not to boot")
            prepare.prepare(chosen, kernel("stock-6.1"))
            run = runs.begin()
            stack.callback(run.end)
            serve = HYPERVISORS[self._hypervisor]
            served = stack.enter_context(serve(run, steal_time=self._steal_time))
            self.host = served.host
            self.guest = Machine(
                "guest", run, self.host, chosen, served.how, cpus=self._vcpus, memory="768M"
            )
            stack.callback(self.guest.stop)
            with step(f"booting the guest: {self._kernel}, {self._vcpus} vCPUs"):
                self.guest.start()
            if self._load:
                self._load_module()
            self._contention = Contention(self.host, served.cpus)
            self.steal(self._steal)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _load_module(self) -> None:
        with step("loading the module"):
            done = self.guest.run(["guestpv", "load"])
        if done.returncode != 0:
            raise LabError(done.stderr.strip())

    def run(
        self, command: Sequence[str], *, timeout: float | None = None, input: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the guest. Raises LabError if the guest dies or the time is up."""
        return self.guest.run(command, timeout=timeout, input=input)

    def steal(self, percent: int) -> None:
        """Take about this much of a busy vCPU's time away from now on."""
        self._contention.set(percent)

    def qmp(self, command: str, **arguments: object) -> object:
        """Have the guest's QEMU execute a command: `stop`, `cont`, `system_wakeup`."""
        return self.guest.qmp(command, **arguments)

    def vcpu_run_delay_ns(self) -> list[int]:
        """How long each vCPU has waited to run, as the host's own scheduler counts it."""
        cpus = cast(list[dict[str, int]], self.qmp("query-cpus-fast"))
        files = [f"/proc/{cpu['thread-id']}/schedstat" for cpu in cpus]
        lines = self.host.run(["cat", *files]).stdout.splitlines()
        return [int(line.split()[1]) for line in lines]

    def write_guest_memory(self, ipa: int, content: bytes) -> None:
        """Write where the guest sees physical address `ipa`, as a faulty hypervisor would."""
        cpus = cast(list[dict[str, int]], self.qmp("query-cpus-fast"))
        answer = str(self.qmp("human-monitor-command", command_line=f"gpa2hva {ipa:#x}"))
        if " is 0x" not in answer:
            raise LabError(f"nothing to write to at {ipa:#x}: {answer.strip()}")
        address = int(answer.split(" is ")[1], 16)
        program = "import sys; f = open(sys.argv[1], 'r+b', 0); f.seek(int(sys.argv[2])); "
        program += f"f.write({content!r})"
        memory = f"/proc/{cpus[0]['thread-id']}/mem"
        self.host.run(["python3", "-c", program, memory, str(address)]).check_returncode()

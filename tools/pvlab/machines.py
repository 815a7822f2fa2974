# SPDX-License-Identifier: MIT
"""A guest and what serves it: the two machines of a lab, from their first breath to their last."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from . import account
from .console import Console
from .errors import LabError, RefusedError
from .hypervisor import HYPERVISORS, Wanted
from .initrd import initrd
from .kernels import kernel
from .machine import Machine
from .payload import UNPACK, payload
from .progress import step
from .run import Run

# What a command of guestpv's needs is read from the disk and stays in the guest's memory.
WARM_PYTHON = "python3 -c 'import numpy, pyroute2, rich.live, typer'"
WARM_PACKAGE = "guestpv info >/dev/null 2>&1"


@dataclass(frozen=True, slots=True)
class Spec:
    """What machines are wanted; see Lab."""

    kernel: str
    vcpus: int
    memory_mb: int
    steal_time: bool
    hypervisor: str
    host_kernel: str
    append: str
    virtual_time_stops: bool
    icount: bool

    def __str__(self) -> str:
        said = [self.kernel, f"{self.vcpus} vCPUs, {self.memory_mb} MB"]
        said += ["emulated" if self.hypervisor == "none" else f"on {self.host_kernel}"]
        said += ["no PV-time"] * (not self.steal_time)
        said += ["its clocks go on while it is paused"] * (not self.virtual_time_stops)
        said += ["time by instructions"] * self.icount
        said += [self.append] * bool(self.append)
        return ", ".join(said)


@dataclass(frozen=True, slots=True)
class Furnishing:
    """What is done in a guest that has booted, before a run begins; see Lab."""

    load: bool = False
    prepare: tuple[str, ...] = ()

    def __str__(self) -> str:
        said = ", the module loaded" if self.load else ""
        return said + (f", after {shlex.join(self.prepare)}" if self.prepare else "")


class Machines:
    """They are described when this is made; `boot`, or `saved.restore`, lets them run."""

    def __init__(self, run: Run, spec: Spec) -> None:
        self.run = run
        self.spec = spec
        chosen = kernel(spec.kernel)
        self.payload = payload(chosen)
        gives = {
            "kernel": chosen.directory() / "Image",
            "initrd": initrd(chosen),
            "guest": self.payload,
        }
        console = Console(run.directory, "guest")
        host = kernel(spec.host_kernel)
        wanted = Wanted(run, console, gives, host, spec.virtual_time_stops, spec.icount)
        served = HYPERVISORS[spec.hypervisor](wanted)
        self.host, self.host_cpus, self.how = served.host, served.cpus, served.how
        self.account = served.account
        self.guest = Machine(
            "guest",
            run,
            served.host,
            chosen,
            served.how(spec.steal_time),
            cpus=spec.vcpus,
            memory_mb=spec.memory_mb,
            disks={"payload": self.payload},
            words=spec.append,
            forwards=[account.offered(served.account)] if served.account else [],
            environment=account.ENVIRONMENT if served.account else {},
            console=console,
        )

    @property
    def all(self) -> list[Machine]:
        """From the outermost on."""
        return [self.host, self.guest] if isinstance(self.host, Machine) else [self.guest]

    @property
    def are_emulated(self) -> bool:
        """Whether QEMU emulates the outermost of them, and so all of them can be saved at once."""
        return isinstance(self.host, Machine) or not self.host_cpus

    def boot(self) -> None:
        """Boot them. Their consoles take commands when this returns, and nothing else does."""
        if isinstance(self.host, Machine):
            with step("booting the host"):
                self.host.boot()
                self.host.tell(f"{UNPACK} && insmod {account.PLACE}/pvwake.ko")
                self.host.open_ports()
        with step(f"booting the guest: {self.spec}"):
            self.guest.boot()
            self.guest.tell(WARM_PYTHON)

    def furnish(self, furnishing: Furnishing) -> None:
        """Give the guest the project, and what else is to be there when a run begins."""
        self.guest.tell(f"{UNPACK} && {WARM_PACKAGE}; true")
        if furnishing.load:
            self._do("loading the module", ["guestpv", "load"])
        if furnishing.prepare:
            self._do("preparing the guest", furnishing.prepare)

    def _do(self, what: str, command: Sequence[str]) -> None:
        with step(what):
            done = self.guest.run(command)
        if done.returncode != 0:
            raise RefusedError(done.stderr.strip())

    def admit(self) -> None:
        """Let this run in, at all of them."""
        for machine in self.all:
            machine.admit()
        for machine in self.all:
            machine.connect()

    def vcpu_run_delay_ns(self) -> list[int]:
        """How long each vCPU has waited to run, as the host's own scheduler counts it."""
        if not self.account:
            raise LabError("there is no hypervisor that could take time from the guest")
        return account.parse(self.host.run(self.account).stdout)

    def stop(self) -> None:
        for machine in reversed(self.all):
            machine.stop()

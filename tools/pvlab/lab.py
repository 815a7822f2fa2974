# SPDX-License-Identifier: MIT
"""A lab: a guest, and the hypervisor that serves it, from `with` to the end of its block."""

import subprocess
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Self

from . import begin, migration, prepare
from . import run as runs
from .contention import Contention, check_percent
from .errors import LabError
from .faults import HypercallFaults, Lie, WrongAnswer
from .faults.hypercalls import ANY
from .faults.memory import CREEPING_COUNT, FLIPPING_REVISION, STRUCTURE, TEARING_COUNT, GuestMemory
from .hypervisor import HYPERVISORS
from .kernels import KERNELS, kernel
from .machine import Memory
from .machines import Furnishing, Machines, Spec
from .saved import Saved


@dataclass(frozen=True, slots=True)
class SavedGuest:
    """A guest as it was, in files on the host."""

    state: Path
    memory: Path

    @classmethod
    def at(cls, path: Path) -> Self:
        return cls(path.with_suffix(".state"), path.with_suffix(".memory"))


class Lab:
    """A guest that runs, and its host.

    kernel: the guest's, by its name in KERNELS
    vcpus: how many the guest has; more than the host has CPUs is fine
    steal: about how much of a busy vCPU's time the host takes away, in percent
    steal_after_s: how many seconds later it begins to
    steal_time: whether the hypervisor offers PV-time to the guest
    hypervisor: by its name in HYPERVISORS; `none` is a guest under plain emulation
    host_kernel: the host's, by its name in KERNELS
    append: words for the command line of the guest's kernel
    load: whether to load the module, before any time is taken
    prepare: a command of the guest's, after that; later runs go on from what it has left
    memory_mb: how much the guest has; the less, the sooner it is moved
    virtual_time_stops: whether the guest's clocks stand still while it is paused, as QEMU has it
    icount: whether an emulated host, which has one CPU then, takes its time from the instructions
        it executes, so that nothing else that this machine does takes any of it
    boot: whether to boot even where a saved machine would serve
    """

    def __init__(
        self,
        *,
        kernel: str = "stock-6.1",
        vcpus: int = 2,
        steal: int = 0,
        steal_after_s: float = 0,
        steal_time: bool = True,
        hypervisor: str = "kvm",
        host_kernel: str = "stock-6.1",
        append: str = "",
        load: bool = False,
        prepare: Sequence[str] = (),
        memory_mb: int = 512,
        virtual_time_stops: bool = True,
        icount: bool = False,
        boot: bool = False,
    ) -> None:
        if "\n" in append:
            raise LabError("words for a kernel's command line have no line break in them")
        self._spec = Spec(
            kernel=kernel,
            vcpus=vcpus,
            memory_mb=memory_mb,
            steal_time=steal_time,
            hypervisor=hypervisor,
            host_kernel=host_kernel,
            append=append,
            virtual_time_stops=virtual_time_stops,
            icount=icount,
        )
        self._steal = steal
        self._steal_after_s = steal_after_s
        self._furnishing = Furnishing(load, tuple(prepare))
        self._boot = boot
        self._saved = count()
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        chosen, host = kernel(self._spec.kernel), kernel(self._spec.host_kernel)
        if self._spec.hypervisor not in HYPERVISORS:
            there = ", ".join(HYPERVISORS)
            raise LabError(f"no hypervisor '{self._spec.hypervisor}'; there are: {there}")
        check_percent(self._steal, has_host=self._spec.hypervisor != "none")
        if self._spec.icount and self._spec.hypervisor == "none":
            raise LabError("there is no host whose instructions could be counted")
        if not chosen.bootable:
            raise LabError(f"{chosen.name} is there to build modules against, not to boot")
        if not host.hosts:
            hosts = ", ".join(each.name for each in KERNELS.values() if each.hosts)
            raise LabError(f"{host.name} does not serve guests in this lab: {hosts} do")
        prepare.prepare(chosen, hosts=[host] if self._spec.hypervisor == "kvm" else [])
        begin.begin(self._begin, boot=self._boot)
        return self

    def _begin(self, way: begin.Way) -> None:
        """Have machines of our own in that way; nothing of them stays if it fails."""
        with ExitStack() as stack:
            run = runs.begin()
            stack.callback(run.end)
            machines = Machines(run, self._spec)
            stack.callback(machines.stop)
            way(machines, Saved(machines, self._furnishing))
            self._machines, self.host, self.guest = machines, machines.host, machines.guest
            self._memory = GuestMemory(self.host, self.qmp)
            self._hypercalls = HypercallFaults(self.host)
            self._contention = Contention(self.host, machines.host_cpus)
            self._contention.set(self._steal, after_s=self._steal_after_s)
            self._stack = stack.pop_all()

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def run(
        self, command: Sequence[str], *, timeout: float | None = 600, input: str | None = None
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
        return self._machines.vcpu_run_delay_ns()

    # What the guest's memory holds, and what a hypervisor writes there that should not.

    def read_guest_memory(self, ipa: int, size: int) -> bytes:
        """Read what the guest sees at physical address `ipa`."""
        return self._memory.read(ipa, size)

    def write_guest_memory(self, ipa: int, content: bytes) -> None:
        """Write where the guest sees physical address `ipa`, as a faulty hypervisor would."""
        self._memory.write(ipa, content)

    def writing(
        self, ipa: int, program: str, *, size: int = STRUCTURE
    ) -> AbstractContextManager[None]:
        """Have a Python program on the host write at `ipa` for as long as this lasts.

        It calls `write(offset, content)` and `read(offset, size)`, and goes on for ever. At the
        end the first `size` bytes at `ipa` are what they were at the beginning.
        """
        return self._memory.writing(ipa, program, size)

    def flipping_revision(self, ipa: int) -> AbstractContextManager[None]:
        """The structure's revision is 1 and 0 in turn, as fast as the host can."""
        return self.writing(ipa, FLIPPING_REVISION, size=4)

    def tearing_count(self, ipa: int, *, by_ns: int = 1 << 31) -> AbstractContextManager[None]:
        """The count goes on in steps, written as two halves: too low between the two at times."""
        return self.writing(ipa, TEARING_COUNT.format(by_ns=by_ns))

    def creeping_count(self, ipa: int, *, by_ns: int) -> AbstractContextManager[None]:
        """The count goes on in steps that nobody has stolen, as fast as the host can."""
        return self.writing(ipa, CREEPING_COUNT.format(by_ns=by_ns))

    # Hypercalls that are not answered as they should be.

    def answering(
        self,
        *,
        call: int,
        answer: int,
        arg: int | None = None,
        vcpu: int | None = None,
        register: int = 0,
    ) -> AbstractContextManager[None]:
        """A hypercall is answered with `answer`; of any argument and any vCPU if none is given.

        In another register than x0, it is what else the hypervisor leaves there.
        """
        any_arg, any_vcpu = (ANY if each is None else each for each in (arg, vcpu))
        return self._hypercalls.answering(WrongAnswer(call, any_arg, any_vcpu, answer, register))

    def frozen(self, *, vcpu: int | None = None) -> AbstractContextManager[None]:
        """The count of a vCPU, or of all, does not move; afterwards it makes up for it at once."""
        return self._hypercalls.masking("freeze", vcpu)

    def not_restarting(self, *, vcpu: int | None = None) -> AbstractContextManager[None]:
        """The count of a vCPU, or of all, goes on when PV_TIME_ST is called, as when one comes."""
        return self._hypercalls.masking("keep", vcpu)

    def lying(self, lie: Lie, *, vcpu: int | None = None) -> AbstractContextManager[None]:
        """The count of a vCPU, or of all, tells a lie; what is added afterwards is true again.

        lab.lying(Lie(scale=0.5)) hides half of what is stolen. The count begins with what it is,
        and so it stays afterwards what the lie has made of it: a new claim begins a new count.
        """
        return self._hypercalls.lying(lie, vcpu)

    # The guest is booted anew, held, saved, and moved.

    def reboot(self) -> None:
        """End the guest, and boot it again: what the host does wrong now, it does from then on."""
        with self._contention.suspended():
            self.guest.quit()
            self.guest.boot()
            self._machines.furnish(Furnishing())
            self.guest.admit()
            self.guest.connect()

    def pause(self, seconds: float) -> None:
        """Hold the guest for a while."""
        self.qmp("stop")
        time.sleep(seconds)
        self.qmp("cont")

    def save(self) -> SavedGuest:
        """Save the guest as it is now, and let it go on."""
        saved = SavedGuest.at(self._movable() / f"saved{next(self._saved)}")
        with self._contention.suspended():
            migration.save(self.guest, saved.state)
            self._copy(self.guest.memory, saved.memory)
        self.qmp("cont")
        return saved

    def restore(self, saved: SavedGuest, *, steal_time: bool | None = None) -> None:
        """End the guest that runs, and go on with one that was saved; as often as you like."""
        with self._contention.suspended():
            self.guest.quit()
            self._copy(saved.memory, self.guest.memory)
            self._resume(saved.state, steal_time)

    def move(self, *, steal_time: bool | None = None) -> None:
        """Move the guest to another QEMU, which offers PV-time or not; else as it is now.

        Raises LabError with QEMU's words if that does not accept it. The guest is gone then.
        """
        state = self._movable() / "moving"
        with self._contention.suspended():
            migration.save(self.guest, state)
            self.guest.quit()
            self._resume(state, steal_time)

    def _movable(self) -> Path:
        """Where a guest that can be moved keeps what is needed for that."""
        if not self._machines.host_cpus:
            raise LabError("guest: without a hypervisor it can't be saved")
        return self.host.directory

    def _resume(self, state: Path, steal_time: bool | None) -> None:
        offered = self._spec.steal_time if steal_time is None else steal_time
        self.guest.resume(state, Memory(self.guest.memory), self._machines.how(offered))
        self.guest.connect()

    def _copy(self, source: Path, target: Path) -> None:
        self.host.run(["cp", "--sparse=always", str(source), str(target)]).check_returncode()

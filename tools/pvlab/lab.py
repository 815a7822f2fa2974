# SPDX-License-Identifier: MIT
"""A lab: a guest, and the hypervisor that serves it, from `with` to the end of its block."""

import subprocess
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Self, cast

from . import account, migration, prepare
from . import run as runs
from .contention import Contention
from .errors import LabError, NotReadyError
from .faults import HypercallFaults, WrongAnswer
from .faults.hypercalls import ANY
from .faults.memory import CREEPING_COUNT, FLIPPING_REVISION, STRUCTURE, TEARING_COUNT, GuestMemory
from .hypervisor import HYPERVISORS, Hypervisor
from .kernels import kernel
from .machine import Machine
from .progress import say, step
from .run import Run


@dataclass(frozen=True, slots=True)
class Saved:
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
    steal_time: whether the hypervisor offers PV-time to the guest
    hypervisor: by its name in HYPERVISORS; `none` is a guest under plain emulation
    load: whether to load the module, before any time is taken
    memory_mb: how much the guest has; the less, the sooner it is moved
    virtual_time_stops: whether the guest's clocks stand still while it is paused, as QEMU has it
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
        memory_mb: int = 768,
        virtual_time_stops: bool = True,
    ) -> None:
        self._kernel = kernel
        self._vcpus = vcpus
        self._steal = steal
        self._steal_time = steal_time
        self._hypervisor = hypervisor
        self._load = load
        self._memory_mb = memory_mb
        self._virtual_time_stops = virtual_time_stops
        self._saved = count()
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        chosen = kernel(self._kernel)
        if not chosen.bootable:
            raise LabError(f"{chosen.name} is there to build modules against, not to boot")
        prepare.prepare(chosen, kernel("stock-6.1"))
        try:
            self._start()
        except NotReadyError as error:
            # Seen under an emulated host, at one boot in some 550: its kernel warned in a system
            # call, and both vCPUs waited for interrupts that came no more. So the host is new, too.
            say(f"{error}\nlab: trying once more, from the start")
            self._start()
        return self

    def _start(self) -> None:
        with ExitStack() as stack:
            self._run = run = runs.begin()
            stack.callback(run.end)
            serve = HYPERVISORS[self._hypervisor]
            served = stack.enter_context(serve(run, virtual_time_stops=self._virtual_time_stops))
            self.host, self._how = served.host, served.how
            self.guest = self._machine(run, served)
            stack.callback(self.guest.stop)
            with step(f"booting the guest: {self._kernel}, {self._vcpus} vCPUs"):
                self.guest.start()
            if self._load:
                self._load_module()
            self._memory = GuestMemory(self.host, self.qmp)
            self._hypercalls = HypercallFaults(self.host)
            self._contention = Contention(self.host, served.cpus)
            self.steal(self._steal)
            self._stack = stack.pop_all()

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _machine(self, run: Run, served: Hypervisor) -> Machine:
        return Machine(
            "guest",
            run,
            served.host,
            kernel(self._kernel),
            served.how(self._steal_time),
            cpus=self._vcpus,
            memory_mb=self._memory_mb,
            moves=served.cpus > 0,
            forwards=[account.offered(run, served.host)] if served.cpus else [],
            environment=account.ENVIRONMENT if served.cpus else {},
        )

    def _load_module(self) -> None:
        with step("loading the module"):
            done = self.guest.run(["guestpv", "load"])
        if done.returncode != 0:
            raise LabError(done.stderr.strip())

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
        cpus = cast(list[dict[str, int]], self.qmp("query-cpus-fast"))
        files = [f"/proc/{cpu['thread-id']}/schedstat" for cpu in cpus]
        lines = self.host.run(["cat", *files]).stdout.splitlines()
        return [int(line.split()[1]) for line in lines]

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
        self, *, call: int, answer: int, arg: int | None = None, vcpu: int | None = None
    ) -> AbstractContextManager[None]:
        """A hypercall is answered with `answer`; of any argument and any vCPU if none is given."""
        any_arg, any_vcpu = (ANY if each is None else each for each in (arg, vcpu))
        return self._hypercalls.answering(WrongAnswer(call, any_arg, any_vcpu, answer))

    def frozen(self, *, vcpu: int | None = None) -> AbstractContextManager[None]:
        """The count of a vCPU, or of all, does not move; afterwards it makes up for it at once."""
        return self._hypercalls.masking("freeze", vcpu)

    def not_restarting(self, *, vcpu: int | None = None) -> AbstractContextManager[None]:
        """The count of a vCPU, or of all, goes on when PV_TIME_ST is called, as when one comes."""
        return self._hypercalls.masking("keep", vcpu)

    # The guest is held, saved, and moved.

    def pause(self, seconds: float) -> None:
        """Hold the guest for a while."""
        self.qmp("stop")
        time.sleep(seconds)
        self.qmp("cont")

    def save(self) -> Saved:
        """Save the guest as it is now, and let it go on."""
        saved = Saved.at(self._run.memory / f"saved{next(self._saved)}")
        with self._contention.suspended():
            migration.save(self.guest, saved.state)
            self._copy(self.guest.memory, saved.memory)
        self.qmp("cont")
        return saved

    def restore(self, saved: Saved, *, steal_time: bool | None = None) -> None:
        """End the guest that runs, and go on with one that was saved; as often as you like."""
        with self._contention.suspended():
            self.guest.quit()
            self._copy(saved.memory, self.guest.memory)
            self._resume(saved.state, steal_time)

    def move(self, *, steal_time: bool | None = None) -> None:
        """Move the guest to another QEMU, which offers PV-time or not; else as it is now.

        Raises LabError with QEMU's words if that does not accept it. The guest is gone then.
        """
        state = self._run.memory / "moving"
        with self._contention.suspended():
            migration.save(self.guest, state)
            self.guest.quit()
            self._resume(state, steal_time)

    def _resume(self, state: Path, steal_time: bool | None) -> None:
        offered = self._steal_time if steal_time is None else steal_time
        self.guest.resume(state, self._how(offered))

    def _copy(self, source: Path, target: Path) -> None:
        self.host.run(["cp", "--sparse=always", str(source), str(target)]).check_returncode()

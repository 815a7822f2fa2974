# SPDX-License-Identifier: MIT
"""A virtual machine: a QEMU at a site, its console in a file here, its commands by ssh.

It is a site itself: a host for guests is a machine in whose QEMU-emulated EL2 another QEMU runs.
"""

import asyncio
import logging
import re
import shlex
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from qemu.qmp import QMPClient, QMPError

from .console import CHECKED_EVERY_S, Console
from .errors import LabError, NotReadyError
from .initrd import initrd
from .kernels import Kernel
from .process import last_lines
from .run import Run
from .site import Address, Program, Site, free_port
from .ssh import Ssh

# The TCP ports that a machine has for the guest that it serves: its ssh, and its QEMU's monitor.
GUEST_SSH, GUEST_MONITOR = 2222, 4444
NO_MONITOR = (OSError, EOFError, QMPError)
MONITOR_ANSWERS_WITHIN_S = 60
BOOTS_WITHIN_S = 180  # it takes 3 to 20 on two cores, both machines emulated
CONSOLE_ANSWERS_WITHIN_S = 300  # Python's first start takes a minute on a crowded machine
WAKES_WITHIN_S = 30
# A migration's stream is without the memory: QEMU would look for zeros in each of its pages.
MEMORY_STAYS = {"capability": "x-ignore-shared", "state": True}
ADMISSION = "/dev/lab-run"
DIRECTORY = Path("/run/lab")  # of what a machine has for the guest that it serves

logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL)  # what it logs, it raises as well


@dataclass(frozen=True, slots=True)
class Memory:
    """The file that is a machine's memory, at its site.

    shared: whether what the machine writes goes to the file, or to a copy of its own
    """

    path: Path
    shared: bool = True


class Machine:
    """One machine. `how` is how its QEMU executes it: the arguments for board, CPU, accelerator.

    disks: files of the machine that the lab is run on, by the serial numbers of the disks as which
        it sees them, read-only; to a guest of its own it can hand them on
    words: for its kernel's command line
    serves: the console of the guest that it is a host for, if it is one
    forwards: ways out of its network, as QEMU's -netdev wants them
    environment: what its commands find in theirs
    """

    def __init__(
        self,
        name: str,
        run: Run,
        site: Site,
        kernel: Kernel,
        how: Sequence[str],
        *,
        cpus: int,
        memory_mb: int,
        disks: Mapping[str, Path],
        words: str = "",
        serves: Console | None = None,
        forwards: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        console: Console | None = None,
    ) -> None:
        self.name = name
        self.cpus = cpus
        self.console = console or Console(run.directory, name)
        self.memory_mb = memory_mb
        self._run = run
        self.site = site
        self._kernel = kernel
        self._how = how
        self._disks = {"run": run.admission, **disks}
        self._words = words
        self._serves = serves
        self._forwards = forwards
        self._environment = environment or {}
        self._memory: Memory | None = None
        self._qemu: Program | None = None
        self._ssh: Ssh | None = None
        self._ports: dict[int, int] = {}
        self._forwarded: dict[int, int] = {}
        self._monitor: Address = ""

    # Its beginning and its end.

    def boot(self) -> None:
        """Boot. Its console takes commands when this returns."""
        before = self.console.boots
        self._launch(Memory(self.site.memory_of(self.name)), *self._software())
        self._wait_until(lambda: self.console.boots > before, BOOTS_WITHIN_S, "boot")

    def resume(
        self, state: Path, memory: Memory, how: Sequence[str] | None = None, timeout: float = 180
    ) -> None:
        """Go on under a new QEMU, from what `migration.save` wrote and what is in the memory."""
        self._how = how or self._how
        self._launch(memory, "-incoming", "defer")
        self._wait_until(self._has_monitor, timeout, "start")
        self.qmp("migrate-set-capabilities", capabilities=[MEMORY_STAYS])
        self.qmp("migrate-incoming", uri=f"exec:cat {state}")
        self._wait_until(self._is_loaded, timeout, "accept its saved state")
        self.qmp("cont")

    def wake(self) -> None:
        """Have its timers armed again: it goes on from a saved state. Why: wake/pvwake.c."""
        self.tell("echo >/sys/module/pvwake/parameters/wake", timeout=WAKES_WITHIN_S)

    def goes_on(self) -> None:
        """It runs already, at a site that goes on from a saved state with it inside."""
        self._memory = Memory(self.site.memory_of(self.name))
        self._qemu = self.site.launched(self.name)
        _, self._monitor = self._offered_monitor()

    def admit(self) -> None:
        """Have it let this run in. Raises LabError if its clock stands still."""
        said = self.tell(f"now={time.time():.0f} . {ADMISSION}")
        # The kernel may have put a word in.
        slept = re.search(r"slept from ([\d.]+) to ([\d.]+)", said)
        if not slept or not float(slept[2]) > float(slept[1]):
            raise LabError(f"{self.name}: its clock stands still:\n{last_lines(said)}")

    def open_ports(self) -> None:
        """Find out which ports of this machine lead to its own."""
        table = self.qmp("human-monitor-command", command_line="info usernet")
        found = re.findall(r"HOST_FORWARD\S*\s+\d+\s+\S+\s+(\d+)\s+\S+\s+(\d+)", str(table))
        self._ports = {int(own): self.site.reach(int(port)) for port, own in found}

    def connect(self) -> None:
        """Log in. It has been told to let us."""
        self.open_ports()
        ssh = Ssh(self._run, self.name, self._ports[22], self._environment)
        if not ssh.connect():
            raise self.failure("it does not let us log in")
        for own, port in self._forwarded.items():
            ssh.forward(port, own)
        self._ssh = ssh  # until then another thread has the console

    def forward(self, own: int) -> int:
        """The port of this machine that leads to one of its loopback's.

        It is the same when it has been moved, or booted anew; nobody listens there in between.
        """
        if self._ssh is None:
            raise LabError(f"{self.name} is not running")
        if own not in self._forwarded:
            port = free_port()
            self._ssh.forward(port, own)
            self._forwarded[own] = port
        return self._forwarded[own]

    def quit(self) -> None:
        """End its QEMU, and wait until the ports that it had are free again."""
        self._hang_up()
        if self._qemu and self.is_alive():
            with suppress(*NO_MONITOR):  # it may end before it has answered
                self.qmp("quit")
            if self._qemu.is_alive(MONITOR_ANSWERS_WITHIN_S):
                raise self.failure("it was told to end, and did not")

    def stop(self) -> None:
        """Pull the plug."""
        self._hang_up()
        if self._qemu:
            self._qemu.kill()

    def _hang_up(self) -> None:
        if self._ssh and self._ssh.master:
            self._ssh.master.kill()
            self._ssh.master.wait()
        self._ssh = None

    def _launch(self, memory: Memory, *more: str) -> None:
        self._memory = memory
        where, self._monitor = self._offered_monitor()
        qemu = ["qemu-system-aarch64", *self._how, "-qmp", f"{where},server=on,wait=off"]
        self._qemu = self.site.launch(self.name, [*qemu, *self.arguments(), *more])

    def _offered_monitor(self) -> tuple[str, Address]:
        return self.site.monitor(self._run.directory / f"{self.name}.qmp")

    def _wait_until(self, done: Callable[[], bool], timeout: float, what: str) -> None:
        """Return when it has done what it is to do first of all."""
        looked = time.monotonic()
        deadline = looked + timeout
        while not done():
            if time.monotonic() > looked + CHECKED_EVERY_S:
                if not self.is_alive():
                    raise self.failure(f"it ended, and did not {what}")
                looked = time.monotonic()
            if time.monotonic() > deadline:
                raise NotReadyError(str(self.failure(f"it did not {what} within {timeout:g} s")))
            time.sleep(0.01)

    def _has_monitor(self) -> bool:
        """Whether its QEMU, started just now, takes commands."""
        with suppress(*NO_MONITOR):
            self.qmp("query-status")
            return True
        return False

    def _is_loaded(self) -> bool:
        """Whether a QEMU that goes on from a saved state has read all of it."""
        with suppress(*NO_MONITOR):  # it may just have ended
            return cast(dict[str, str], self.qmp("query-status"))["status"] != "inmigrate"
        return False

    # How it is.

    def is_alive(self, patience: float = 0) -> bool:
        """Whether its QEMU still runs; wait for a moment if it may be about to end."""
        return self._qemu is not None and self._qemu.is_alive(patience)

    def check(self) -> None:
        """Raise LabError if ssh's 255 was not the command's: the machine ended, or is cut off."""
        if not self.is_alive(patience=2):
            raise self.failure("it ended while the command ran")
        if self._ssh and not self._ssh.is_connected:
            raise self.failure("it runs, but the connection to it was lost")

    @property
    def alarms(self) -> list[str]:
        """The lines of its console that stand above registers and call traces, which fill it."""
        return re.findall(r"(?:Kernel panic - |BUG: |WARNING: ).*", self.console.text)

    def failure(self, what: str) -> LabError:
        """The error that says what happened to it, with the last that it and its QEMU said."""
        parts = [f"{self.name}: {what}"]
        for machine in (self.site, self):
            if isinstance(machine, Machine):
                # The first tells most, and the last is the panic if there was one.
                ends = dict.fromkeys([*machine.alarms[:1], *machine.alarms[-1:]])
                parts += [f"The {machine.name}'s kernel: {line}" for line in ends]
        with suppress(LabError):
            if self._qemu and (said := self._qemu.said().strip()):
                parts += ["QEMU said:", last_lines(said)]
        parts += ["The end of its console:", last_lines(self.console.text) or "  | (nothing)"]
        return LabError("\n".join(parts))

    # What it is told.

    def qmp(self, command: str, **arguments: object) -> object:
        """Have a command executed by QEMU, and return its answer. Write `_` for `-`."""
        named = {name.replace("_", "-"): value for name, value in arguments.items()}
        answer = asyncio.wait_for(_execute(self._monitor, command, named), MONITOR_ANSWERS_WITHIN_S)
        try:
            return asyncio.run(answer)
        except TimeoutError:
            raise self.failure(f"its QEMU did not answer to {command}") from None

    def tell(self, script: str, timeout: float = CONSOLE_ANSWERS_WITHIN_S) -> str:
        """Have a line of shell executed by way of its console; return what it printed."""
        code, said = self._by_console(script, timeout)
        if code != 0:
            raise LabError(f"{self.name}: {script:.60} … ended with {code}:\n{last_lines(said)}")
        return said

    def _by_console(self, script: str, timeout: float) -> tuple[int, str]:
        def check() -> None:
            if not self.is_alive():
                raise self.failure("it ended")

        try:
            return self.console.run(script, timeout=timeout, check=check)
        except NotReadyError as error:
            raise NotReadyError(str(self.failure(str(error)))) from None

    def argv(self, command: Sequence[str], *, pty: bool = False) -> list[str]:
        """The command line on this machine of a command on that one."""
        if self._ssh is None:
            raise LabError(f"{self.name} is not running")
        return self._ssh.argv(command, pty=pty)

    def run(
        self, argv: Sequence[str], *, timeout: float | None = None, input: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on it. Raises LabError if it dies meanwhile, or takes too long."""
        if self._ssh is None:
            code, said = self._by_console(shlex.join(argv), timeout or CONSOLE_ANSWERS_WITHIN_S)
            return subprocess.CompletedProcess(list(argv), code, said, said)
        try:
            done = subprocess.run(
                self.argv(argv), input=input or "", capture_output=True, text=True, timeout=timeout
            )
        except subprocess.TimeoutExpired:
            raise self.failure(f"{' '.join(argv)} did not end within {timeout:g} s") from None
        if done.returncode == 255:
            self.check()
        done.args = list(argv)
        return done

    # What makes it a site.

    @property
    def directory(self) -> Path:
        return DIRECTORY

    @property
    def root(self) -> str:
        return "/dev/lab-root"

    def file(self, path: Path) -> str:
        (serial,) = (serial for serial, disk in self._disks.items() if disk == path)
        return f"/dev/lab-{serial}"

    def console_of(self, console: Console, id: str) -> str:
        return f"serial,id={id},path=/dev/hvc0"

    def memory_of(self, name: str) -> Path:
        return DIRECTORY / f"{name}.memory"

    def launch(self, name: str, argv: Sequence[str]) -> Program:
        pid, said = DIRECTORY / f"{name}.pid", DIRECTORY / f"{name}.said"
        self.tell(f"setsid {shlex.join(argv)} </dev/null >{said} 2>&1 & echo $! >{pid}")
        return self.launched(name)

    def launched(self, name: str) -> Program:
        return _Launched(self, DIRECTORY / f"{name}.pid", DIRECTORY / f"{name}.said")

    def listener(self) -> str:
        return f":{GUEST_SSH}"

    def reach(self, port: int) -> int:
        return self._ports[port]

    def monitor(self, path: Path) -> tuple[str, Address]:
        return f"tcp::{GUEST_MONITOR}", ("127.0.0.1", self._ports[GUEST_MONITOR])

    # What its QEMU is told of it.

    @property
    def memory(self) -> Path:
        """The file that is its memory."""
        if self._memory is None:
            raise LabError(f"{self.name} is not running")
        return self._memory.path

    def _software(self) -> list[str]:
        """What it boots."""
        words = f"lab.name={self.name}" + (" lab.host" if self._serves else "")
        words = f"console=ttyAMA0 panic=-1 loglevel=5 {words} {self._words}"
        return [
            *("-kernel", self.site.file(self._kernel.directory() / "Image")),
            *("-initrd", self.site.file(initrd(self._kernel))),
            *("-append", words.strip()),
        ]

    def description(self) -> list[str]:
        """All that makes it the machine that it is, once it has booted."""
        return [*self._how, *self.arguments(), *self._software()]

    def arguments(self) -> list[str]:
        """What QEMU is to know of it, however it is executed and whatever it begins with."""
        forwards = [f"hostfwd=tcp:{self.site.listener()}-:22", *self._forwards]
        arguments = [
            *("-nodefaults", "-display", "none", "-no-reboot"),
            *("-name", f"{self.name},debug-threads=on"),
            *("-smp", str(self.cpus), "-m", f"{self.memory_mb}M"),
            *("-chardev", self.site.console_of(self.console, "console")),
            *("-serial", "chardev:console"),
            *("-device", "virtio-rng-device"),
        ]
        if self._memory:
            share = "on" if self._memory.shared else "off"
            backend = f"size={self.memory_mb}M,mem-path={self._memory.path},share={share}"
            arguments += ["-object", f"memory-backend-file,id=ram,{backend}"]
            arguments += ["-machine", "memory-backend=ram"]
        if self._serves:
            forwards += [f"hostfwd=tcp:127.0.0.1:0-:{port}" for port in (GUEST_SSH, GUEST_MONITOR)]
            arguments += ["-chardev", self._serves.chardev("guest"), "-device"]
            arguments += ["virtio-serial-device", "-device", "virtconsole,chardev=guest"]
        arguments += ["-netdev", ",".join(("user,id=net,restrict=on", *forwards))]
        arguments += ["-device", "virtio-net-device,netdev=net"]
        arguments += _disk("root", self.site.root)
        for serial, path in self._disks.items():
            arguments += _disk(serial, self.site.file(path))
        return arguments


class _Launched:
    """A program on a machine of the lab."""

    def __init__(self, machine: Machine, pid: Path, said: Path) -> None:
        self._machine = machine
        self._pid = pid
        self._said = said

    def is_alive(self, patience: float = 0) -> bool:
        deadline = time.monotonic() + patience
        alive = ["sh", "-c", f"kill -0 $(cat {self._pid})"]
        try:
            while self._machine.is_alive() and self._machine.run(alive).returncode == 0:
                if time.monotonic() >= deadline:
                    return True
                time.sleep(0.05)
        except LabError:
            pass
        return False

    def kill(self) -> None:
        """It goes with its machine: nothing of it would stay."""

    def said(self) -> str:
        return self._machine.run(["cat", str(self._said)]).stdout


async def _execute(monitor: Address, command: str, arguments: Mapping[str, object]) -> object:
    client = QMPClient()
    await client.connect(monitor)
    try:
        return await client.execute(command, arguments)
    finally:
        await client.disconnect()


def _disk(serial: str, path: str) -> list[str]:
    options = f"if=none,id={serial},format=raw,readonly=on,file.locking=off,file={path}"
    if path in (ADMISSION, "/dev/lab-guest"):
        # Past its site's cache: to a host that goes on from a saved state there may be another.
        options += ",cache.direct=on"
    return ["-drive", options, "-device", f"virtio-blk-device,drive={serial},serial={serial}"]

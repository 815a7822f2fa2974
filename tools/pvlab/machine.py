# SPDX-License-Identifier: MIT
"""A virtual machine: a QEMU at a site, its console in a file here, its commands by ssh.

It is a site itself: a host for guests is a machine in whose QEMU-emulated EL2 another QEMU runs.
"""

import asyncio
import logging
import re
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, cast

from qemu.qmp import QMPClient, QMPError

from .errors import LabError, NotReadyError
from .initrd import initrd
from .kernels import Kernel
from .payload import payload
from .process import last_lines
from .run import Run
from .site import Address, Site
from .ssh import Ssh

READY = "lab: ready"
# The TCP ports that a machine has for the guest that it serves: its ssh, and its QEMU's monitor.
GUEST_SSH, GUEST_MONITOR = 2222, 4444
NO_MONITOR = (OSError, EOFError, QMPError)
MONITOR_ANSWERS_WITHIN_S = 60
BOOTS_WITHIN_S = 90  # it takes 3 to 12 on two cores, both machines emulated
# A migration's stream is without the memory: QEMU would look for zeros in each of its pages.
MEMORY_STAYS = {"capability": "x-ignore-shared", "state": True}

logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL)  # what it logs, it raises as well


class Machine:
    """One machine. `how` is how its QEMU executes it: the arguments for board, CPU, accelerator.

    `shares` are directories of this machine that it sees under the paths that they have here.
    If it `moves`, it can be saved and go on from what was saved.
    `forwards` are ways out of its network, as QEMU's -netdev wants them, and `environment` is
    what its commands find in theirs.
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
        shares: Sequence[Path] = (),
        moves: bool = False,
        forwards: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.cpus = cpus
        self._run = run
        self._site = site
        self._kernel = kernel
        self._how = how
        self._memory_mb = memory_mb
        self._shares = shares
        self.moves = moves
        self._forwards = forwards
        self._environment = environment or {}
        self._console = run.directory / f"{name}.console"
        self._messages = run.directory / f"{name}.qemu"
        self._qemu: subprocess.Popen[bytes] | None = None
        self._ssh: Ssh | None = None
        self._ports: dict[int, int] = {}

    def start(self) -> None:
        """Boot. It takes commands when this returns."""
        self._launch(*self._memory(), *self._software())
        self._wait_until(self._is_ready, BOOTS_WITHIN_S, "boot")
        self._connect()
        for tag, path in enumerate(self._shares):
            self.run(["mkdir", "-p", str(path)]).check_returncode()
            options = "version=9p2000.L,msize=524288"
            mount = ["mount", "-t", "9p", "-o", options, f"share{tag}", str(path)]
            self.run(mount).check_returncode()
        if self._shares:
            mount = ["mount", "-t", "tmpfs", "-o", "huge=always,size=100%", "memory"]
            self.run([*mount, str(self._run.memory)]).check_returncode()

    def resume(self, state: Path, how: Sequence[str], timeout: float = 180) -> None:
        """Go on under a new QEMU, from what `migration.save` wrote and what is in its memory."""
        self._how = how
        self._launch(*self._memory(), "-incoming", "defer")
        self._wait_until(self._has_monitor, timeout, "start")
        self.qmp("migrate-set-capabilities", capabilities=[MEMORY_STAYS])
        self.qmp("migrate-incoming", uri=f"exec:cat {state}")
        self._wait_until(self._is_loaded, timeout, "accept its saved state")
        self.qmp("cont")
        self._connect()

    def quit(self) -> None:
        """End its QEMU, and wait until the ports that it had are free again."""
        if self._ssh and self._ssh.master:
            self._ssh.master.kill()
            self._ssh.master.wait()
        if self._qemu and self.is_alive():
            with suppress(*NO_MONITOR):  # it may end before it has answered
                self.qmp("quit")
            try:
                self._qemu.wait(MONITOR_ANSWERS_WITHIN_S)
            except subprocess.TimeoutExpired:
                raise self.failure("it was told to end, and did not") from None

    def _launch(self, *more: str) -> None:
        where, self._monitor = self._site.monitor(self._run.directory / f"{self.name}.qmp")
        qemu = ["qemu-system-aarch64", *self._how, "-qmp", f"{where},server=on,wait=off"]
        with self._messages.open("wb") as messages:
            self._qemu = self._site.popen([*qemu, *self._arguments(), *more], messages)

    def _wait_until(self, done: Callable[[], bool], timeout: float, what: str) -> None:
        """Return when it has done what it is to do first of all."""
        deadline = time.monotonic() + timeout
        while not done():
            if not self.is_alive(patience=0.05):
                raise self.failure(f"it ended, and did not {what}")
            if time.monotonic() > deadline:
                raise NotReadyError(str(self.failure(f"it did not {what} within {timeout:g} s")))

    def _is_ready(self) -> bool:
        """Whether /init has said on the console that the machine takes commands."""
        return READY in self.console

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

    def _connect(self) -> None:
        table = self.qmp("human-monitor-command", command_line="info usernet")
        found = re.findall(r"HOST_FORWARD\S*\s+\d+\s+\S+\s+(\d+)\s+\S+\s+(\d+)", str(table))
        self._ports = {int(own): self._site.reach(int(port)) for port, own in found}
        self._ssh = Ssh(self._run.directory, self.name, self._ports[22], self._environment)
        if not self._ssh.connect():
            raise self.failure("it does not let us log in")

    def stop(self) -> None:
        """Pull the plug."""
        for child in (self._ssh and self._ssh.master, self._qemu):
            if child:
                child.kill()
                child.wait()

    def is_alive(self, patience: float = 0) -> bool:
        """Whether its QEMU still runs; wait for a moment if it may be about to end."""
        return _is_running(self._qemu, patience)

    def check(self) -> None:
        """Raise LabError if ssh's 255 was not the command's: the machine ended, or is cut off."""
        if not self.is_alive(patience=2):
            raise self.failure("it ended while the command ran")
        if self._ssh and not _is_running(self._ssh.master):
            raise self.failure("it runs, but the connection to it was lost")

    @property
    def console(self) -> str:
        """What it said on its console up to now."""
        return self._console.read_text(errors="replace") if self._console.exists() else ""

    @property
    def alarms(self) -> list[str]:
        """The lines of its console that stand above registers and call traces, which fill it."""
        return re.findall(r"(?:Kernel panic - |BUG: |WARNING: ).*", self.console)

    def failure(self, what: str) -> LabError:
        """The error that says what happened to it, with the last that it and its QEMU said."""
        parts = [f"{self.name}: {what}"]
        for machine in (self._site, self):
            if isinstance(machine, Machine):
                # The first tells most, and the last is the panic if there was one.
                ends = dict.fromkeys([*machine.alarms[:1], *machine.alarms[-1:]])
                parts += [f"The {machine.name}'s kernel: {line}" for line in ends]
        if said := self._messages.read_text(errors="replace").strip():
            parts += ["QEMU said:", last_lines(said)]
        parts += ["The end of its console:", last_lines(self.console) or "  | (nothing)"]
        return LabError("\n".join(parts))

    def qmp(self, command: str, **arguments: object) -> object:
        """Have a command executed by QEMU, and return its answer. Write `_` for `-`."""
        named = {name.replace("_", "-"): value for name, value in arguments.items()}
        answer = asyncio.wait_for(_execute(self._monitor, command, named), MONITOR_ANSWERS_WITHIN_S)
        try:
            return asyncio.run(answer)
        except TimeoutError:
            raise self.failure(f"its QEMU did not answer to {command}") from None

    # Commands on it, which also make it a site.

    def argv(self, command: Sequence[str], *, pty: bool = False) -> list[str]:
        """The command line on this machine of a command on that one."""
        if self._ssh is None:
            raise LabError(f"{self.name} is not running")
        return self._ssh.argv(command, pty=pty)

    def popen(self, argv: Sequence[str], output: IO[bytes]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self.argv(argv),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def run(
        self, argv: Sequence[str], *, timeout: float | None = None, input: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on it. Raises LabError if it dies meanwhile, or takes too long."""
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

    @property
    def root(self) -> str:
        return "/dev/lab-root"

    def listener(self) -> str:
        return f":{GUEST_SSH}"

    def reach(self, port: int) -> int:
        return self._ports[port]

    def monitor(self, path: Path) -> tuple[str, Address]:
        return f"tcp::{GUEST_MONITOR}", ("127.0.0.1", self._ports[GUEST_MONITOR])

    @property
    def memory(self) -> Path:
        """The file that is its memory."""
        return self._run.memory / self.name

    def _software(self) -> list[str]:
        """What it boots."""
        words = f"lab.name={self.name} lab.key={self._run.public_key}"
        if self._shares:
            words += " lab.shares"
        return [
            *("-kernel", str(self._kernel.directory() / "Image")),
            *("-initrd", str(initrd(self._kernel))),
            *("-append", f"console=ttyAMA0 panic=-1 loglevel=5 {words}"),
        ]

    def _memory(self) -> list[str]:
        """Memory in a file of its site, which another QEMU can take over as it is."""
        if not self.moves:
            return []
        file = f"size={self._memory_mb}M,mem-path={self.memory},share=on,align=2M"
        return ["-object", f"memory-backend-file,id=ram,{file}", "-machine", "memory-backend=ram"]

    def _arguments(self) -> list[str]:
        """What QEMU is to know of every machine, however it is executed."""
        forwards = [f"hostfwd=tcp:{self._site.listener()}-:22", *self._forwards]
        if self._shares:
            forwards += [f"hostfwd=tcp:127.0.0.1:0-:{port}" for port in (GUEST_SSH, GUEST_MONITOR)]
        arguments = [
            *("-nodefaults", "-display", "none", "-no-reboot"),
            *("-name", f"{self.name},debug-threads=on"),
            *("-pidfile", str(self._run.memory / f"{self.name}.pid")),
            *("-smp", str(self.cpus), "-m", f"{self._memory_mb}M"),
            *("-chardev", f"file,id=console,path={self._console},append=on"),
            *("-serial", "chardev:console"),
            *("-device", "virtio-rng-device"),
            *("-netdev", ",".join(("user,id=net,restrict=on", *forwards))),
            *("-device", "virtio-net-device,netdev=net"),
            *_disk("root", self._site.root),
            *_disk("payload", str(payload(self._kernel))),
        ]
        for tag, path in enumerate(self._shares):
            arguments += _share(f"share{tag}", path)
        return arguments


async def _execute(monitor: Address, command: str, arguments: Mapping[str, object]) -> object:
    client = QMPClient()
    await client.connect(monitor)
    try:
        return await client.execute(command, arguments)
    finally:
        await client.disconnect()


def _is_running(process: subprocess.Popen[bytes] | None, patience: float = 0) -> bool:
    try:
        return process is not None and process.wait(patience) is None
    except subprocess.TimeoutExpired:
        return True


def _disk(serial: str, path: str) -> list[str]:
    options = f"if=none,id={serial},format=raw,readonly=on,file.locking=off,file={path}"
    return ["-drive", options, "-device", f"virtio-blk-device,drive={serial},serial={serial}"]


def _share(tag: str, path: Path) -> list[str]:
    options = f"local,id={tag},path={path},security_model=none"
    return ["-fsdev", options, "-device", f"virtio-9p-device,fsdev={tag},mount_tag={tag}"]

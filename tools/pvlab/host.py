# SPDX-License-Identifier: MIT
"""Which hypervisor serves the guest: the one part that another would replace."""

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from qemu.qmp.legacy import QEMUMonitorProtocol

from . import boot
from .cache import cache_dir
from .image import root_image
from .kernels import kernel
from .machine import Machine
from .process import bound
from .progress import step
from .ssh import Ssh

# The TCP ports of the host at which it serves the guest's ssh and its QEMU's monitor.
GUEST_SSH, GUEST_QMP = 2222, 4444


class EmulatedHost:
    """An arm64 machine with EL2 that QEMU emulates, in which Debian's kernel is a full KVM host.

    It sees this machine's files where the guest needs them: the cache, and the directory of the
    run, both under the paths that they have here.
    """

    name = "host"
    cpus = 2
    root = "/dev/lab-root"

    def __init__(self, directory: Path, key: str) -> None:
        self._directory = directory
        self._key = key
        self._console = directory / "host.console"
        self._messages = directory / "host.qemu"
        self._qemu: subprocess.Popen[bytes] | None = None
        self._ports: dict[int, int] = {}

    def start(self) -> None:
        monitor = self._directory / "host.qmp"
        ports = (22, GUEST_SSH, GUEST_QMP)
        machine = Machine(
            name=self.name,
            kernel=kernel("stock-6.1"),
            root=str(root_image()),
            console=self._console,
            key=self._key,
            cpus=self.cpus,
            memory="2G",
            forwards=tuple(f"hostfwd=tcp:127.0.0.1:0-:{port}" for port in ports),
        )
        with step("booting the host"):
            self._qemu = subprocess.Popen(
                bound(
                    [
                        "qemu-system-aarch64",
                        *("-machine", "virt,virtualization=on,gic-version=3"),
                        *("-cpu", "max,pauth-impdef=on", "-accel", "tcg,thread=multi"),
                        *("-qmp", f"unix:{monitor},server=on,wait=off"),
                        *machine.arguments(),
                        *_share("cache", cache_dir(), readonly=True),
                        *_share("run", self._directory, readonly=False),
                    ]
                ),
                stdin=subprocess.DEVNULL,
                stdout=self._messages.open("wb"),
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            boot.wait_until_ready(self.name, self._qemu, self._console, self._messages, 120)
            with QEMUMonitorProtocol(str(monitor)) as qmp:
                qmp.connect()
                table = qmp.cmd("human-monitor-command", **{"command-line": "info usernet"})
            found = re.findall(r"HOST_FORWARD\S*\s+\d+\s+\S+\s+(\d+)\s+\S+\s+(\d+)", str(table))
            self._ports = {int(inner): int(outer) for outer, inner in found}
            self._ssh = Ssh(self._directory, self.name, self.port(22))
            self._ssh.connect()
            for tag, path in ("cache", cache_dir()), ("run", self._directory):
                mount = (
                    f"mkdir -p {path}; mount -t 9p -o version=9p2000.L,msize=524288 {tag} {path}"
                )
                self._ssh.run(["sh", "-c", mount]).check_returncode()

    def port(self, number: int) -> int:
        """The port on this machine that leads to one of the host's."""
        return self._ports[number]

    def argv(self, command: Sequence[str], *, pty: bool = False) -> list[str]:
        return self._ssh.argv(command, pty=pty)

    def popen(self, command: Sequence[str], output: IO[bytes]) -> subprocess.Popen[bytes]:
        """Start a command on the host; it lives as long as the host does."""
        return subprocess.Popen(
            self.argv(command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def run(
        self, command: Sequence[str], *, timeout: float | None = None, input: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on the host."""
        return self._ssh.run(command, timeout=timeout, input=input)

    def stop(self) -> None:
        if self._qemu:
            self._qemu.kill()
            self._qemu.wait()


def _share(tag: str, path: Path, *, readonly: bool) -> list[str]:
    options = f"local,id={tag},path={path},security_model=none"
    if readonly:
        options += ",readonly=on"
    return ["-fsdev", options, "-device", f"virtio-9p-device,fsdev={tag},mount_tag={tag}"]

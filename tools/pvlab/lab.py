# SPDX-License-Identifier: MIT
"""A lab: a KVM host and a guest in it, from `with` to the end of its block."""

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from . import boot
from .host import GUEST_QMP, GUEST_SSH, EmulatedHost
from .kernels import kernel
from .machine import Machine
from .progress import step
from .ssh import Ssh, new_key


class Lab:
    """A host and a guest that run.

    kernel: the guest's, by its name in KERNELS; vcpus: how many, also more than the host has CPUs.
    """

    def __init__(self, *, kernel: str = "stock-6.1", vcpus: int = 2) -> None:
        self._kernel = kernel
        self._vcpus = vcpus

    def __enter__(self) -> Self:
        self._directory = Path(tempfile.mkdtemp(prefix="guestpv-lab-"))
        try:
            self._key = new_key(self._directory)
            self.host = EmulatedHost(self._directory, self._key)
            self.host.start()
            self._start_guest()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop()

    def _stop(self) -> None:
        self.host.stop()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _start_guest(self) -> None:
        console = self._directory / "guest.console"
        messages = self._directory / "guest.qemu"
        machine = Machine(
            name="guest",
            kernel=kernel(self._kernel),
            root=self.host.root,
            console=console,
            key=self._key,
            cpus=self._vcpus,
            memory="768M",
            forwards=(f"hostfwd=tcp::{GUEST_SSH}-:22",),
        )
        with step(f"booting the guest: {self._kernel}, {self._vcpus} vCPUs"):
            qemu = self.host.popen(
                [
                    "qemu-system-aarch64",
                    *("-machine", "virt,gic-version=host", "-accel", "kvm", "-cpu", "host"),
                    *("-qmp", f"tcp::{GUEST_QMP},server=on,wait=off"),
                    *machine.arguments(),
                ],
                messages.open("wb"),
            )
            boot.wait_until_ready("guest", qemu, console, messages, 180)
            self._ssh = Ssh(self._directory, "guest", self.host.port(GUEST_SSH))
            self._ssh.connect()

    def argv(self, command: Sequence[str], *, pty: bool = False) -> list[str]:
        """The command line, on this machine, of a command in the guest."""
        return self._ssh.argv(command, pty=pty)

    def run(
        self, command: Sequence[str], *, timeout: float | None = None, input: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the guest."""
        return self._ssh.run(command, timeout=timeout, input=input)

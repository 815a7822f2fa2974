# SPDX-License-Identifier: MIT
"""Where the QEMU of a machine runs: on this machine, or on another machine of the lab."""

import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from . import process
from .console import Console
from .image import root_image
from .run import Run

Address = str | tuple[str, int]


def free_port() -> int:
    """A TCP port of this machine's loopback at which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Program(Protocol):
    """A program at a site, which lives no longer than the site does."""

    def is_alive(self, patience: float = 0) -> bool:
        """Whether it still runs; wait for a moment if it may be about to end."""

    def kill(self) -> None:
        """End it."""

    def said(self) -> str:
        """What it has printed."""


class Site(Protocol):
    """A place for QEMUs."""

    @property
    def directory(self) -> Path:
        """Where the run's files are there: what is large is in memory, on a host of the lab's."""

    @property
    def root(self) -> str:
        """The root image, or the disk that holds it."""

    def file(self, path: Path) -> str:
        """The name that a file of this machine's has there."""

    def console_of(self, console: Console, id: str) -> str:
        """The character device that leads to a console here, as QEMU's -chardev wants it."""

    def memory_of(self, name: str) -> Path:
        """Where the memory of a machine there belongs."""

    def launch(self, name: str, argv: Sequence[str]) -> Program:
        """Start a program, which then is known there by this name."""

    def launched(self, name: str) -> Program:
        """One that was started there before."""

    def run(
        self, argv: Sequence[str], *, timeout: float | None = None, input: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command."""

    def listener(self) -> str:
        """Where a QEMU can listen for TCP connections from here, as its hostfwd wants it."""

    def reach(self, port: int) -> int:
        """The port of this machine that leads to a port of the site's."""

    def monitor(self, path: Path) -> tuple[str, Address]:
        """Where a QEMU can offer its monitor: as its -qmp wants it, and where it is from here."""


class _Child:
    """A program on this machine."""

    def __init__(self, argv: Sequence[str], output: Path) -> None:
        self._output = output
        with output.open("wb") as file:
            # In a session of its own, so that Ctrl-C reaches the lab, and the lab decides.
            self._process = subprocess.Popen(
                process.bound(argv),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def is_alive(self, patience: float = 0) -> bool:
        try:
            return self._process.wait(patience) is None
        except subprocess.TimeoutExpired:
            return True

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def said(self) -> str:
        return self._output.read_text(errors="replace")


class ThisMachine:
    """The machine that the lab is run on."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._launched: dict[str, Program] = {}

    @property
    def directory(self) -> Path:
        return self._run.directory

    @property
    def root(self) -> str:
        return str(root_image())

    def file(self, path: Path) -> str:
        return str(path)

    def console_of(self, console: Console, id: str) -> str:
        return console.chardev(id)

    def memory_of(self, name: str) -> Path:
        return self._run.memory(name)

    def launch(self, name: str, argv: Sequence[str]) -> Program:
        child = _Child(argv, self.directory / f"{name}.said")
        (self.directory / f"{name}.pid").write_text(f"{child.pid}\n")
        self._launched[name] = child
        return child

    def launched(self, name: str) -> Program:
        return self._launched[name]

    def run(
        self, argv: Sequence[str], *, timeout: float | None = None, input: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            process.bound(argv), input=input or "", capture_output=True, text=True, timeout=timeout
        )

    def listener(self) -> str:
        return "127.0.0.1:0"  # QEMU finds a free port, and is asked which

    def reach(self, port: int) -> int:
        return port

    def monitor(self, path: Path) -> tuple[str, Address]:
        return f"unix:{path}", str(path)

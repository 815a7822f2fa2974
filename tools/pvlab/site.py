# SPDX-License-Identifier: MIT
"""Where the QEMU of a machine runs: on this machine, or on another machine of the lab."""

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Protocol

from . import process
from .image import root_image

Address = str | tuple[str, int]


class Site(Protocol):
    """A place for QEMUs. Paths of the cache and of the run are the same at every site."""

    @property
    def root(self) -> str:
        """The root image, or the disk that holds it."""

    def popen(self, argv: Sequence[str], output: IO[bytes]) -> subprocess.Popen[bytes]:
        """Start a program that lives no longer than the site does."""

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


class ThisMachine:
    """The machine that the lab is run on."""

    @property
    def root(self) -> str:
        return str(root_image())

    def popen(self, argv: Sequence[str], output: IO[bytes]) -> subprocess.Popen[bytes]:
        # In a session of its own, so that Ctrl-C reaches the lab, and the lab decides.
        return subprocess.Popen(
            process.bound(argv),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

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

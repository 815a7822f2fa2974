# SPDX-License-Identifier: MIT
"""Waiting for a machine to come up, and telling what happened to it when it does not."""

import subprocess
import time
from pathlib import Path

from .errors import LabError
from .process import last_lines

READY = "lab: ready"


def console_text(console: Path) -> str:
    return console.read_text(errors="replace") if console.exists() else ""


def failure(what: str, console: Path, messages: Path) -> LabError:
    """The error that says what happened, with the last that the machine and its QEMU said."""
    said = messages.read_text(errors="replace") if messages.exists() else ""
    parts = [what]
    if said.strip():
        parts += ["QEMU said:", last_lines(said)]
    parts += ["The end of its console:", last_lines(console_text(console)) or "  | (nothing)"]
    return LabError("\n".join(parts))


def wait_until_ready(
    name: str, qemu: subprocess.Popen[bytes], console: Path, messages: Path, timeout: float
) -> None:
    """Return when /init has said on the console that the machine takes commands."""
    deadline = time.monotonic() + timeout
    while READY not in console_text(console):
        if qemu.poll() is not None:
            raise failure(
                f"{name} ended while it booted (status {qemu.returncode})", console, messages
            )
        if time.monotonic() > deadline:
            raise failure(f"{name} did not boot within {timeout:.0f} s", console, messages)
        time.sleep(0.05)

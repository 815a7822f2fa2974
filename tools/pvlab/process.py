# SPDX-License-Identifier: MIT
"""Child processes, none of which outlives the lab, not even one that is killed with SIGKILL."""

import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from .errors import LabError

_running: set[subprocess.Popen[str]] = set()


def bound(argv: Sequence[str], with_signal: str = "KILL") -> list[str]:
    """The command line that runs `argv` and ends it when the thread that started it is gone."""
    return ["setpriv", "--pdeathsig", with_signal, "--", *argv]


def run(*argv: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    """Run a step of a build and return its output; if it fails, say so with the output's end."""
    command = [str(argument) for argument in argv]
    child = subprocess.Popen(
        bound(command, "TERM"),
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        process_group=0,
    )
    _running.add(child)
    try:
        output, _ = child.communicate()
    except BaseException:
        _end(child)
        raise
    finally:
        _running.discard(child)
    if child.returncode:
        raise LabError(
            f"{' '.join(command)}\nended with {child.returncode}. Its last lines were:\n"
            + last_lines(output)
        )
    return output


def end_all() -> None:
    """End every step of a build that runs, in whichever thread, with all that it started."""
    for child in list(_running):
        _end(child)


def _end(child: subprocess.Popen[str]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGTERM)


def last_lines(text: str, count: int = 20) -> str:
    return "\n".join("  | " + line for line in text.rstrip().splitlines()[-count:])

# SPDX-License-Identifier: MIT
"""Child processes, none of which outlives the lab, not even one that is killed with SIGKILL."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

from .errors import LabError


def bound(argv: Sequence[str], signal: str = "KILL") -> list[str]:
    """The command line that runs `argv` and ends it when the thread that started it is gone."""
    return ["setpriv", "--pdeathsig", signal, "--", *argv]


def run(*argv: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    """Run a step of a build and return its output; if it fails, say so with the output's end."""
    command = [str(argument) for argument in argv]
    # SIGTERM, so that make, mmdebstrap and the like get to end their own children.
    done = subprocess.run(
        bound(command, "TERM"),
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    if done.returncode:
        raise LabError(
            f"{' '.join(command)}\nended with {done.returncode}. Its last lines were:\n"
            + last_lines(done.stdout)
        )
    return done.stdout


def last_lines(text: str, count: int = 20) -> str:
    return "\n".join("  | " + line for line in text.rstrip().splitlines()[-count:])

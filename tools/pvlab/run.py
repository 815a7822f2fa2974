# SPDX-License-Identifier: MIT
"""One run of the lab: the files that it needs while it lasts, and the key to its machines."""

import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Run:
    """Where a run's consoles, sockets and key are, and the public key that its machines accept."""

    directory: Path
    public_key: str

    @property
    def memory(self) -> Path:
        """Where what is large and used at once belongs: in memory, on a host of the lab's own."""
        return self.directory / "memory"

    def end(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)


def begin() -> Run:
    # Not in the cache, whose path may be too long for a socket's name.
    directory = Path(tempfile.mkdtemp(prefix="guestpv-lab-"))
    key = directory / "key"
    keygen = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(key)]
    subprocess.run(keygen, check=True, stdin=subprocess.DEVNULL)
    run = Run(directory, key.with_suffix(".pub").read_text().split()[1])
    run.memory.mkdir()
    return run

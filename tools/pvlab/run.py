# SPDX-License-Identifier: MIT
"""One run of the lab: the files that it needs while it lasts, and the keys to its machines."""

import base64
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Run:
    """Where a run's consoles, sockets and keys are.

    public_key: the one that its machines accept
    host_key: the one by which they are known, as dropbear has it, in base 64
    """

    directory: Path
    public_key: str
    host_key: str
    _descriptors: list[int] = field(default_factory=list)

    @property
    def key(self) -> Path:
        return _key(self.directory)

    @property
    def known_hosts(self) -> Path:
        return self.directory / "known_hosts"

    def memory(self, name: str) -> Path:
        """A new file in memory, of which nothing stays when the run is over."""
        descriptor = os.memfd_create(name)
        self._descriptors.append(descriptor)
        return Path(f"/proc/{os.getpid()}/fd/{descriptor}")

    def end(self) -> None:
        while self._descriptors:
            os.close(self._descriptors.pop())
        shutil.rmtree(self.directory, ignore_errors=True)


HOST_ALIAS = "lab"
"""The name under which ssh knows a run's machines: their ports are no names."""


def begin() -> Run:
    # Not in the cache, whose path may be too long for a socket's name.
    directory = Path(tempfile.mkdtemp(prefix="guestpv-lab-"))
    key, host_key = _key(directory), directory / "host_key"
    _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", key)
    # Made here: two machines that go on from one saved state draw the same random numbers at first.
    made = _run("dropbearkey", "-t", "ed25519", "-f", host_key)
    (public,) = (line for line in made.splitlines() if line.startswith("ssh-ed25519 "))
    run = Run(
        directory,
        key.with_suffix(".pub").read_text().split()[1],
        base64.b64encode(host_key.read_bytes()).decode(),
    )
    run.known_hosts.write_text(f"{HOST_ALIAS} {public}\n")
    return run


def _key(directory: Path) -> Path:
    return directory / "key"


def _run(*argv: str | Path) -> str:
    done = subprocess.run(argv, check=True, stdin=subprocess.DEVNULL, capture_output=True)
    return done.stdout.decode()

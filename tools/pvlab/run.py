# SPDX-License-Identifier: MIT
"""One run of the lab: the files that it needs while it lasts, and the keys to its machines."""

import base64
import os
import secrets
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from . import process

# What a machine executes to let a run in, of which `now` is the time. It answers with two readings
# of its clock, between which it slept. The keys are made here, and not by the machines: two that go
# on from one saved state draw the same random numbers at first.
_ADMISSION = """set -e
date -s "@$now" >/dev/null
echo {seed} >/dev/urandom
echo {host_key} | base64 -d >/etc/dropbear/dropbear_ed25519_host_key
echo ssh-ed25519 {public_key} >/root/.ssh/authorized_keys
read -r before _ </proc/uptime
sleep 0.02
read -r after _ </proc/uptime
echo "slept from $before to $after"
exit
"""
ADMISSION_SIZE = 4096

HOST_ALIAS = "lab"
"""The name under which ssh knows a run's machines: their ports are no names."""


@dataclass(frozen=True, slots=True)
class Run:
    """Where a run's consoles, sockets and keys are."""

    directory: Path
    _descriptors: list[int] = field(default_factory=list)

    @property
    def admission(self) -> Path:
        """A disk with the script by which a machine lets this run in."""
        return self.directory / "admission"

    @property
    def key(self) -> Path:
        return self.directory / "key"

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


def begin() -> Run:
    # Not in the cache, whose path may be too long for a socket's name.
    run = Run(Path(tempfile.mkdtemp(prefix="guestpv-lab-")))
    try:
        _make_keys(run)
    except BaseException:
        run.end()
        raise
    return run


def _make_keys(run: Run) -> None:
    host_key = run.directory / "host_key"
    process.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", run.key)
    made = process.run("dropbearkey", "-t", "ed25519", "-f", host_key)
    (public,) = (line for line in made.splitlines() if line.startswith("ssh-ed25519 "))
    run.known_hosts.write_text(f"{HOST_ALIAS} {public}\n")
    script = _ADMISSION.format(
        seed=secrets.token_hex(),
        host_key=base64.b64encode(host_key.read_bytes()).decode(),
        public_key=run.key.with_suffix(".pub").read_text().split()[1],
    )
    run.admission.write_text(script)
    os.truncate(run.admission, ADMISSION_SIZE)

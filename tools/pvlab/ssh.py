# SPDX-License-Identifier: MIT
"""Commands on a machine of the lab, by ssh over one connection that stays open."""

import shlex
import subprocess
import time
from collections.abc import Mapping, Sequence

from .errors import LabError
from .process import bound
from .run import HOST_ALIAS, Run

# A machine that has not answered for this long is lost. One that is paused or asleep answers later.
LOST_AFTER_S = 120
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Ssh:
    """A connection to one machine. Its master is the process that holds it."""

    def __init__(self, run: Run, name: str, port: int, environment: Mapping[str, str]) -> None:
        self.master: subprocess.Popen[bytes] | None = None
        self._environment = [f"{name}={value}" for name, value in environment.items()]
        self._control = run.directory / f"{name}.ssh"
        self._options = [
            "-q",
            "-F/dev/null",
            f"-oControlPath={self._control}",
            f"-oUserKnownHostsFile={run.known_hosts}",
            f"-oHostKeyAlias={HOST_ALIAS}",
            "-oStrictHostKeyChecking=yes",
            "-oIdentitiesOnly=yes",
            "-oHostKeyAlgorithms=ssh-ed25519",
            f"-i{run.key}",
            f"-p{port}",
            "root@127.0.0.1",
        ]

    def connect(self, timeout: float = 60) -> bool:
        """Log in, and return whether that went well: the machine takes commands then."""
        self._control.unlink(missing_ok=True)
        alive = [f"-oServerAliveInterval={LOST_AFTER_S // 8}", "-oServerAliveCountMax=7"]
        self.master = subprocess.Popen(
            bound(["ssh", "-M", "-N", *alive, *self._options]),
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + timeout
        while not self._control.exists():
            if self.master.poll() is not None or time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True

    @property
    def is_connected(self) -> bool:
        return self.master is not None and self.master.poll() is None

    def forward(self, port: int, own: int) -> None:
        """Have a port of this machine's loopback lead to one of that one's, while this lasts."""
        ask = ["ssh", "-O", "forward", f"-L127.0.0.1:{port}:127.0.0.1:{own}", *self._options]
        done = subprocess.run(bound(ask), stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode != 0:
            raise LabError(f"no port {port} could be had that leads to {own}: {done.stderr}")

    def argv(self, command: Sequence[str], *, pty: bool = False) -> list[str]:
        """The command line, on this machine, of a command on that one."""
        remote = f"PATH={PATH} exec {shlex.join(['env', *self._environment, *command])}"
        # When the connection is lost, the command is to fail, not to wait for one of its own.
        no_other = "-oProxyCommand=false"
        return bound(["ssh", "-tt" if pty else "-T", no_other, *self._options, remote])

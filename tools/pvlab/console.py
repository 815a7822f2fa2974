# SPDX-License-Identifier: MIT
"""A machine's console: a log of what it says, and the way to tell it something before ssh works.

/init executes each line that comes by it (see `init`). That needs neither a network nor a key nor
a timer, and so it works on a machine that was started from a saved state just now.
"""

import re
import secrets
import shutil
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from .errors import LabError, NotReadyError

READY = "lab: ready"
CHECKED_EVERY_S = 1  # it costs the host of a guest some of its time
LONGEST = 4000  # characters in a line, which the terminal of a Linux console takes


class Console:
    """The console of one machine, in the directory of its run."""

    def __init__(self, directory: Path, name: str) -> None:
        self.name = name
        self.log = directory / f"{name}.console"
        self._socket = directory / f"{name}.tty"
        self._one_at_a_time = threading.Lock()

    def chardev(self, id: str) -> str:
        """The character device by which a QEMU on this machine offers it."""
        offered = f"path={self._socket},server=on,wait=off"
        return f"socket,id={id},{offered},logfile={self.log},logappend=on"

    def follow(self, earlier: Path) -> None:
        """Begin with what it said before its state was saved."""
        shutil.copy(earlier, self.log)

    @property
    def text(self) -> str:
        """What was said on it up to now."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    @property
    def boots(self) -> int:
        """How often /init has said that it takes commands: once each time that it booted."""
        return self.text.count(READY)

    def run(self, script: str, *, timeout: float, check: Callable[[], None]) -> tuple[int, str]:
        """Have a line of shell executed; return its exit code and what it printed.

        check: raises if there is no use in waiting any longer
        Raises NotReadyError if the time is up.
        """
        token = secrets.token_hex(4)
        line = f"{token} {script}\n"
        if "\n" in script or len(line) > LONGEST:
            raise LabError(f"{self.name}: that is no line for its console: {script}")
        looked = time.monotonic()
        deadline = looked + timeout
        answer = re.compile(
            rf"lab: {token} begins\r?\n(.*?)lab: {token} ended with (\d+)\r?\n", re.DOTALL
        )
        with self._one_at_a_time, self._connect(deadline) as connection:
            connection.sendall(line.encode())
            connection.setblocking(False)
            while not (found := answer.search(self.text)):
                # What it says is in the log; here it only is taken out of QEMU's way, which waits.
                with suppress(BlockingIOError):
                    connection.recv(1 << 20)
                now = time.monotonic()
                if now > looked + CHECKED_EVERY_S:
                    check()
                    looked = time.monotonic()
                if now > deadline:
                    raise NotReadyError(
                        f"{self.name}: its console did not answer within {timeout:g} s"
                    )
                time.sleep(0.005)
        return int(found[2]), found[1].replace("\r", "")

    def _connect(self, deadline: float) -> socket.socket:
        """A way in, for one command: QEMU waits for whoever listens and does not read."""
        while True:
            connection = socket.socket(socket.AF_UNIX)
            try:
                connection.connect(str(self._socket))
            except OSError as error:
                connection.close()
                if time.monotonic() > deadline:
                    raise LabError(f"{self.name}: no way to its console: {error}") from None
                time.sleep(0.01)
            else:
                return connection

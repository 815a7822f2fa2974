# SPDX-License-Identifier: MIT
"""The host's own account of each vCPU, where somebody lets the guest read it.

A TCP port at which each connection is given a line for each vCPU, ``VCPU NANOSECONDS``: for how
long its thread has waited for a CPU of the host, the second figure of its schedstat. On a Linux
host a few lines of shell behind inetd, socat or QEMU's guestfwd do it; guestpv's lab has one.
"""

import socket
from dataclasses import dataclass

import numpy as np

from guestpv.errors import NoSourceError
from guestpv.source.reader import Reader, Snapshot

_TIMEOUT_S = 20.0
_TRIES = 5
_STILL_NS = 1_000_000


@dataclass(frozen=True, slots=True)
class HostView:
    """What the host said, between two snapshots."""

    before: Snapshot
    run_delay_ns: dict[int, int]
    """By vCPU."""
    after: Snapshot

    @property
    def moved_ns(self) -> int:
        """By how much the counts grew meanwhile."""
        grown_ns = self.after["stolen_ns"].astype(np.int64) - self.before["stolen_ns"].astype(
            np.int64
        )
        return int(np.abs(grown_ns).max())


@dataclass(frozen=True, slots=True)
class HostAccount:
    """An address where the account can be read."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> "HostAccount":
        """From ``HOST:PORT``. Raises ValueError if *text* is nothing like it."""
        host, colon, port = text.rpartition(":")
        if not (colon and host and port.isascii() and port.isdigit() and int(port) < 65536):
            raise ValueError(f"{text!r} is not HOST:PORT")
        return cls(host, int(port))

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"

    def view(self, reader: Reader) -> HostView:
        """Ask now, a few times, and take the answer during which the counts moved least.

        Raises NoSourceError if there is no answer, or none that makes sense.
        """
        views = []
        for _ in range(_TRIES):
            before = reader.snapshot()
            views.append(HostView(before, self._ask(), reader.snapshot()))
            if views[-1].moved_ns <= _STILL_NS:
                break
        return min(views, key=lambda view: view.moved_ns)

    def _ask(self) -> dict[int, int]:
        try:
            return self._read()
        except (OSError, ValueError) as error:
            raise NoSourceError(
                f"{self}: the host's account was not read",
                str(error) or type(error).__name__,
                "check --host-account, or leave it out",
            ) from error

    def _read(self) -> dict[int, int]:
        with socket.create_connection((self.host, self.port), _TIMEOUT_S) as connection:
            lines = connection.makefile("r", encoding="ascii").read().splitlines()
        account = {}
        for line in lines:
            vcpu, run_delay_ns = line.split()
            account[int(vcpu)] = int(run_delay_ns)
        if not account:
            raise ValueError("it was empty")
        return account

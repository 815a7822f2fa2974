# SPDX-License-Identifier: MIT
"""Telling systemd what became of a service (sd_notify(3))."""

import os
import socket
from contextlib import suppress


def notify(state: str) -> None:
    """Say *state*, as in ``READY=1``; without a systemd that wants to know, do nothing."""
    name = os.environ.get("NOTIFY_SOCKET")
    if not name:
        return
    address = f"\0{name[1:]}" if name.startswith("@") else name
    # That nobody is told is no reason to end what is running well.
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.sendto(state.encode(), address)

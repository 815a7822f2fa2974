# SPDX-License-Identifier: MIT
"""What has come on a netlink socket of pyroute2's, for a poll loop."""

import errno
import socket
from typing import Any

_BYTES = 1 << 16


def received(netlink: Any) -> tuple[list[bytes], bool]:
    """All datagrams, without waiting; and whether others came that are lost.

    Not by the socket's get(): it would move them into a queue that no poll() sees.
    """
    datagrams: list[bytes] = []
    overrun = False
    while True:
        try:
            datagrams.append(bytes(netlink.recv(_BYTES, socket.MSG_DONTWAIT)))
        except BlockingIOError:
            return datagrams, overrun
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            overrun = True  # those that are left in the queue count

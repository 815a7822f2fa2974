# SPDX-License-Identifier: MIT
"""What the kernel announces by uevents: CPUs, counts that restarted, a VM that was restored."""

import errno
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self

from pyroute2.netlink.uevent import MONITOR_GROUP_KERNEL, UeventSocket

from guestpv.errors import PermissionDeniedError

_DATAGRAM_BYTES = 16384


@dataclass(frozen=True, slots=True)
class CpuEvent:
    """A CPU came online, or went."""

    cpu: int
    online: bool


@dataclass(frozen=True, slots=True)
class CountEvent:
    """The module says what became of a CPU's count.

    *what* is ``restart`` (a new epoch), ``found`` or ``lost`` (its structure), or ``revision``
    (the structure has another revision or attributes than before).
    """

    what: str
    cpu: int
    epoch: int
    revision: int
    attributes: int


@dataclass(frozen=True, slots=True)
class VmGenerationEvent:
    """The VM was restored from a snapshot, or cloned (drivers/virt/vmgenid.c)."""


Event = CpuEvent | CountEvent | VmGenerationEvent


def event_of(uevent: Mapping[str, str]) -> Event | None:
    """The event that a uevent's variables tell of; None if it is about something else."""
    try:
        match uevent:
            case {"SUBSYSTEM": "cpu", "ACTION": "online" | "offline" as action, "DEVPATH": path}:
                return CpuEvent(int(path.rpartition("/cpu")[2]), action == "online")
            case {"SUBSYSTEM": "misc", "GUESTPV_EVENT": what}:
                cpu, epoch, revision, attributes = (
                    int(uevent[f"GUESTPV_{name}"])
                    for name in ("CPU", "EPOCH", "REVISION", "ATTRIBUTES")
                )
                return CountEvent(what, cpu, epoch, revision, attributes)
            case {"NEW_VMGENID": _}:
                return VmGenerationEvent()
    except (KeyError, ValueError):
        return None  # not one of the kernel's: anybody with the privilege may send uevents
    return None


class EventSource:
    """The kernel's uevents, for a poll loop: wait until it is readable, then read() all."""

    def __init__(self) -> None:
        """Raises PermissionDeniedError where uevents can't be received."""
        try:
            self._socket = UeventSocket()
            self._socket.bind(groups=MONITOR_GROUP_KERNEL)
        except (OSError, KeyError) as error:  # pyroute2 has a KeyError for "could not bind"
            raise PermissionDeniedError(
                "No events from the kernel",
                f"A netlink socket for uevents could not be had ({error})",
                "allow NETLINK_KOBJECT_UEVENT in this container",
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def fileno(self) -> int:
        return int(self._socket.fileno())

    def read(self) -> list[Event]:
        """All events that have come, without waiting."""
        events: list[Event] = []
        while datagram := self._receive():
            events += filter(None, map(event_of, self._parse(datagram)))
        return events

    def _receive(self) -> bytes | None:
        # Not the socket's get(): it would move datagrams into a queue that no poll() sees.
        while True:
            try:
                return bytes(self._socket.recv(_DATAGRAM_BYTES, socket.MSG_DONTWAIT))
            except BlockingIOError:
                return None
            except OSError as error:
                if error.errno != errno.ENOBUFS:  # some were lost; those that are left count
                    raise

    def _parse(self, datagram: bytes) -> Iterable[Mapping[str, str]]:
        try:
            return list(self._socket.marshal.parse(datagram))
        except UnicodeDecodeError:
            return []

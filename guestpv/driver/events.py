# SPDX-License-Identifier: MIT
"""What the kernel announces by uevents: CPUs, counts that restarted, a VM that was restored."""

import fcntl
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self

from guestpv.cpulist import CpuList
from guestpv.driver.datagrams import received
from guestpv.errors import PermissionDeniedError

_NS_GET_USERNS = 0xB701  # <linux/nsfs.h>
_FIRST_USERS = 0xEFFFFFFD  # the inode of the first user namespace: PROC_USER_INIT_INO


@dataclass(frozen=True, slots=True)
class CpuEvent:
    """A CPU came online, or went."""

    cpu: int
    online: bool


@dataclass(frozen=True, slots=True)
class CountEvent:
    """The module says what became of counts; the index of its device has the details.

    *what* is ``restart`` (a new epoch, for a *reason*), ``found`` or ``lost`` (the structure),
    ``revision`` (the structure has another revision or attributes than before), or ``restored``
    (the VM was, or it was cloned; counts that were lower after it have a ``restart``).
    """

    what: str
    cpus: CpuList | None = None  # None: no CPU's count is concerned
    more: bool = False  # other CPUs' counts, too: they did not all fit
    reason: str | None = None  # of a restart: hotplug, found-lower, restored, relearned
    missed: int = 0  # events that the module held back since the one before: too many came


@dataclass(frozen=True, slots=True)
class ModuleEvent:
    """The module was loaded, and its device is there; or removed."""

    loaded: bool


@dataclass(frozen=True, slots=True)
class OverrunEvent:
    """More came than the kernel keeps for who does not read them: of those before this, and of no
    others, some may be lost."""


@dataclass(frozen=True, slots=True)
class VmGenerationEvent:
    """The VM was restored from a snapshot, or cloned (vmgenid in Linux 6.8 alone; vmclock)."""


@dataclass(frozen=True, slots=True)
class ClockDisruptionEvent:
    """The VM's clock was disrupted, as by moving it to another host (vmclock)."""


Event = (
    CpuEvent | CountEvent | ModuleEvent | OverrunEvent | VmGenerationEvent | ClockDisruptionEvent
)


def event_of(uevent: Mapping[str, str]) -> Event | None:
    """The event that a uevent's variables tell of; None if it is about something else."""
    try:
        match uevent:
            case {"SUBSYSTEM": "cpu", "ACTION": "online" | "offline" as action, "DEVPATH": path}:
                return CpuEvent(int(path.rpartition("/cpu")[2]), action == "online")
            case {"SUBSYSTEM": "misc", "GUESTPV_EVENT": what}:
                cpus = uevent.get("GUESTPV_CPUS")
                return CountEvent(
                    what,
                    CpuList.parse(cpus) if cpus else None,
                    uevent.get("GUESTPV_MORE") == "1",
                    uevent.get("GUESTPV_REASON"),
                    int(uevent.get("GUESTPV_MISSED", "0")),
                )
            case {
                "SUBSYSTEM": "misc",
                "ACTION": "add" | "remove" as action,
                "DEVPATH": "/devices/virtual/misc/guestpv",
            }:
                return ModuleEvent(action == "add")
            case {"NEW_VMGENID": _}:
                return VmGenerationEvent()
    except ValueError:
        return None  # not one of the kernel's: anybody with the privilege may send uevents
    return None


def _is_left_out() -> bool:
    """Whether a socket for uevents can be had, and nothing ever comes: the kernel sends them to the
    networks of the first user namespace alone."""
    try:
        with open("/proc/self/ns/net", "rb") as network:
            owner = fcntl.ioctl(network, _NS_GET_USERNS)
    except OSError:  # it is outside of this one, and nearly always the first
        return False
    try:
        return os.fstat(owner).st_ino != _FIRST_USERS
    finally:
        os.close(owner)


class EventSource:
    """The kernel's uevents, for a poll loop: wait until it is readable, then read() all."""

    def __init__(self) -> None:
        """Raises PermissionDeniedError where uevents can't be received."""
        # Slower to import than all else together, and who only needs the events' names has no use.
        from pyroute2.netlink.uevent import MONITOR_GROUP_KERNEL, UeventSocket

        try:
            self._socket = UeventSocket()
            self._socket.bind(groups=MONITOR_GROUP_KERNEL)
        except (OSError, KeyError) as error:  # pyroute2 has a KeyError for "could not bind"
            raise PermissionDeniedError(
                "No events from the kernel",
                f"A netlink socket for uevents could not be had ({error})",
                "allow NETLINK_KOBJECT_UEVENT in this container",
            ) from error
        if _is_left_out():
            self._socket.close()
            raise PermissionDeniedError(
                "No events from the kernel",
                "It gives none to a container with a network and users of its own",
                "let the container have the machine's network",
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def fileno(self) -> int:
        return int(self._socket.fileno())

    def read(self) -> list[Event]:
        """All events that have come, without waiting; the last is an OverrunEvent if others came
        that are lost."""
        datagrams, overrun = received(self._socket)
        events = [
            event
            for datagram in datagrams
            for event in map(event_of, self._parse(datagram))
            if event
        ]
        return [*events, OverrunEvent()] if overrun else events

    def _parse(self, datagram: bytes) -> Iterable[Mapping[str, str]]:
        try:
            return list(self._socket.marshal.parse(datagram))
        except UnicodeDecodeError:
            return []

# SPDX-License-Identifier: MIT
"""The module's perf events (kmod/pmu.c): what was stolen, and the time of which that is unknown."""

import errno
import os
import struct
import time
from pathlib import Path

from guestpv._native import perf_event_open
from guestpv.errors import BusyError, Error, NoSourceError, PermissionDeniedError, StructureError
from guestpv.latency.bounds import Bounds
from guestpv.page.abi import PerfEvent

PMU = Path("/sys/bus/event_source/devices/guestpv")
PARANOID = Path("/proc/sys/kernel/perf_event_paranoid")
CONTROLLERS = Path("/proc/cgroups")

# nr, time_enabled, time_running, and a value of each event: perf_event_open(2), PERF_FORMAT_GROUP
_GROUP = struct.Struct("@5Q")

_PATIENCE_S = 1.0


def require_pmu() -> None:
    """Raises NoSourceError where the module has no perf events."""
    if not PMU.exists():
        raise NoSourceError(
            "perf event guestpv/stolen/: not there",
            "The module is not loaded, or this kernel has no perf events",
            "run 'sudo guestpv load'",
        )


class PerfGroup:
    """Both events of a thread, of a CPU, or of a cgroup on a CPU, read together by one read(2)."""

    __slots__ = ("_fds",)

    def __init__(
        self,
        of: str,
        pid: int,
        cpu: int = -1,
        *,
        tree: bool = False,
        on_exec: bool = False,
        cgroup: bool = False,
    ) -> None:
        """As perf_event_open(2); *of* is what an error calls it."""
        self._fds: list[int] = []
        require_pmu()
        try:
            pmu = int((PMU / "type").read_text())
            for event in PerfEvent:
                group = self._fds[0] if self._fds else -1
                self._fds.append(
                    perf_event_open(pmu, event, pid, cpu, group, tree, on_exec, cgroup)
                )
        except OSError as error:
            self.close()
            raise _explain(error, of, pid == 0, cpu >= 0, cgroup) from error

    def read(self) -> tuple[int, Bounds]:
        """For how long it was counted (ns), and what was stolen meanwhile."""
        if not self._fds:
            raise ValueError("read of a closed counter")
        _, enabled, running, stolen, unknown = _GROUP.unpack(self._read())
        # Events of software are never refused a CPU; should one be, that is unknown, too.
        return enabled, Bounds(stolen, stolen + unknown + enabled - running)

    def _read(self) -> bytes:
        """A task of a tree gives its events back one by one when it ends, and the kernel reads no
        sum meanwhile (__perf_read_group_add() in kernel/events/core.c)."""
        until = time.monotonic() + _PATIENCE_S
        while True:
            try:
                return os.read(self._fds[0], _GROUP.size)
            except ChildProcessError:
                if time.monotonic() > until:
                    raise BusyError(
                        "perf event guestpv/stolen/: not read",
                        f"A task of those that it counts has been about to end for {_PATIENCE_S} s",
                        "read it again",
                    ) from None
                time.sleep(0.0001)  # this CPU may be the one that it waits for

    def close(self) -> None:
        while self._fds:
            os.close(self._fds.pop())

    def __del__(self) -> None:
        self.close()


def _explain(error: OSError, of: str, own: bool, whole_cpu: bool, cgroup: bool) -> Error:
    what = f"perf event guestpv/stolen/ of {of}: {os.strerror(error.errno or 0).lower()}"
    match error.errno:
        case errno.EACCES:
            return _not_permitted(what, own, whole_cpu)
        case errno.EPERM | errno.ENOSYS:  # the kernel's own refusal is another, whoever asks
            return PermissionDeniedError(
                what,
                "A filter of system calls (a container's, a service's) forbids perf_event_open",
                "allow it in the container's seccomp profile or the service's SystemCallFilter",
            )
        case errno.ENODATA:
            return StructureError(
                what,
                "No vCPU has a count that means anything",
                "'guestpv info' says what is wrong with each",
            )
        case errno.EBADF if cgroup:
            return NoSourceError(what, "It is no cgroup", "name a directory of cgroup v2")
        case errno.EINVAL if cgroup:
            return Error(what, "This kernel has no events of cgroups (CONFIG_CGROUP_PERF)")
        case errno.ENOENT if cgroup and _is_of_cgroup_v1():
            return Error(
                what,
                "Perf events are with cgroup v1 here, in a hierarchy of their own (/proc/cgroups)",
                "name a directory of that, or mount cgroup v2 alone",
            )
        case errno.ENOENT if cgroup:
            return Error(
                what,
                "Its parent gave it no controller, so not that of perf events either",
                "write '+pids' to the parent's cgroup.subtree_control, or start it by systemd",
            )
        case errno.ESRCH:
            return NoSourceError(what, "It has ended, or never was")
        case errno.ENOENT | errno.ENODEV:
            return NoSourceError(
                what, "The module was unloaded meanwhile", "run 'sudo guestpv load'"
            )
        case errno.EMFILE:
            return Error(what, "Each counter takes two of them", "raise 'ulimit -n'")
        case _:
            return Error(what, "The kernel refused it")


def _is_of_cgroup_v1() -> bool:
    """Whether the kernel has the controller of perf events in a hierarchy of v1, where v2 has 0."""
    try:
        lines = CONTROLLERS.read_text().splitlines()
    except OSError:
        return False
    return any(name == "perf_event" and number != "0" for name, number, *_ in map(str.split, lines))


def _not_permitted(what: str, own: bool, whole_cpu: bool) -> Error:
    try:
        level = int(PARANOID.read_text())
    except (OSError, ValueError):
        return PermissionDeniedError(what, "The kernel forbids it")
    if level > 2:
        return PermissionDeniedError(
            what,
            f"kernel.perf_event_paranoid is {level}, which forbids all perf events to users",
            "run 'sudo sysctl kernel.perf_event_paranoid=2', or be root",
        )
    if whole_cpu:
        return PermissionDeniedError(
            what,
            "Events of whole CPUs and of cgroups are for those who may see what all do",
            "be root, or have CAP_PERFMON",
        )
    if own:
        return PermissionDeniedError(
            what, "A security module, as SELinux, forbids it", "allow this user perf events there"
        )
    return PermissionDeniedError(
        what,
        "It is another user's",
        "be root, or have CAP_PERFMON and CAP_SYS_PTRACE",
    )

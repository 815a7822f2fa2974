# SPDX-License-Identifier: MIT
"""What tasks waited for a vCPU while this guest ran others: of all descendants that end.

/proc tells it of a task that is there. Of those that are gone the kernel gives an account at their
end (Documentation/accounting/taskstats.rst), to root, whether or not delay accounting is on: the
wait in the run queue is the scheduler's own (kernel/delayacct.c, delayacct_add_tsk).
"""

import ctypes
import errno
import os
import socket
from array import array
from collections import defaultdict
from pathlib import Path
from typing import Any, Self

from guestpv.driver.datagrams import received
from guestpv.errors import Error, PermissionDeniedError

_POSSIBLE = Path("/sys/devices/system/cpu/possible")
_QUEUE_BYTES = 16 << 20
_SO_RCVBUFFORCE = 33
_MOST_TASKS = 1 << 22
"""So many are remembered, in 16 bytes each."""
_PR_SET_CHILD_SUBREAPER, _PR_GET_CHILD_SUBREAPER = 36, 37


class EndedTasks:
    """The kernel's accounts of all tasks that end, for a poll loop: read() when it is readable.

    Whose parent ends before it is this process's child from then on, as long as this is entered, so
    that descendants are known for what they are; and is waited for here.
    """

    def __init__(self) -> None:
        """Raises PermissionDeniedError, or another Error, where the kernel gives none."""
        # It takes longer to import than all else together.
        from pyroute2.netlink import NLM_F_ACK, NLM_F_REQUEST
        from pyroute2.netlink.exceptions import NetlinkError
        from pyroute2.netlink.taskstats import TASKSTATS_CMD_GET, TaskStats, tcmd

        request = tcmd()
        request["cmd"], request["version"] = TASKSTATS_CMD_GET, 1
        cpus = _POSSIBLE.read_text().strip()
        request["attrs"].append(["TASKSTATS_CMD_ATTR_REGISTER_CPUMASK", cpus])
        self._socket = TaskStats()
        try:
            self._socket.bind()
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _QUEUE_BYTES)
            flags = NLM_F_REQUEST | NLM_F_ACK
            list(self._socket.nlm_request(request, self._socket.prid, msg_flags=flags))
        except (NetlinkError, OSError) as error:
            self._socket.close()
            raise _refused(error) from error
        self.forget()

    def __enter__(self) -> Self:
        self._was_subreaper = ctypes.c_int()
        _prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(self._was_subreaper))
        _prctl(_PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(1))
        return self

    def __exit__(self, *_: object) -> None:
        _prctl(_PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(self._was_subreaper.value))
        self._socket.close()

    def fileno(self) -> int:
        return int(self._socket.fileno())

    def forget(self) -> None:
        """All that ended until now."""
        self._tasks, self._parents, self._waited_ns = array("I"), array("I"), array("Q")
        self._lost = False
        self._orphans: set[int] = set()

    def read(self, child: int) -> None:
        """Take what has come, without waiting; *child* is for somebody else to wait for."""
        datagrams, overrun = received(self._socket)
        self._lost |= overrun
        for datagram in datagrams:
            for message in self._socket.marshal.parse(datagram):
                self._take(message, child)
        for orphan in tuple(self._orphans):
            try:
                ended, _ = os.waitpid(orphan, os.WNOHANG)
            except ChildProcessError:  # it was a thread
                ended = orphan
            if ended:
                self._orphans.remove(orphan)

    def _take(self, message: Any, child: int) -> None:
        account = message.get_attr("TASKSTATS_TYPE_AGGR_PID")
        if account is None:
            return
        if len(self._tasks) == _MOST_TASKS:
            self._lost = True
            return
        stats = account.get_attr("TASKSTATS_TYPE_STATS")
        self._tasks.append(stats["ac_pid"])
        self._parents.append(stats["ac_ppid"])
        self._waited_ns.append(stats["cpu_delay_total"])
        if stats["ac_ppid"] == os.getpid() and stats["ac_pid"] != child:
            self._orphans.add(stats["ac_pid"])

    def waited_ns(self) -> int | None:
        """What all descendants that ended waited, together; None if that can't be told, since too
        many ended, or so many that a number was given to another's child, too."""
        parent_of: dict[int, int] = {}
        children = defaultdict(list)
        for task, parent, waited_ns in zip(
            self._tasks, self._parents, self._waited_ns, strict=True
        ):
            children[parent].append((task, waited_ns))
            self._lost |= parent_of.setdefault(task, parent) != parent
        if self._lost:
            return None
        whole_ns = 0
        parents = [os.getpid()]  # a thread has its process's parent
        while parents:
            for task, waited_ns in children.pop(parents.pop(), ()):
                whole_ns += waited_ns
                parents.append(task)
        return whole_ns


def _refused(error: Exception) -> Error:
    what = "What ended tasks waited is not known"
    code = getattr(error, "code", None) or getattr(error, "errno", None)
    if code in (errno.EPERM, errno.EACCES, errno.EINVAL):
        return PermissionDeniedError(
            what,
            "The kernel gives accounts of them to root alone, and to no container",
            "run it as root of the guest itself",
        )
    return Error(what, f"This kernel gives no accounts of them ({error})")


def _prctl(*args: Any) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(*args):
        raise OSError(ctypes.get_errno(), "prctl")

# SPDX-License-Identifier: MIT
"""Whether a guest that goes on from a saved state has counts that go on as its host's account."""

import re
import shlex
import time
from dataclasses import dataclass

from . import account
from .errors import LabError
from .machine import Machine
from .machines import Machines

# Where QEMU's virt machine has the structures, 64 bytes apart.
STRUCTURES, WORDS_APART = 0x090A0000, 8
# A vCPU that waits to run just now has waited for longer than it has been told of.
UNTOLD_NS = 50_000_000


@dataclass(frozen=True, slots=True)
class Counts:
    """Of each vCPU, in ns: what its structure tells it, and what the host's scheduler knows.

    apart_ns: how long it took to read both, the one after the other
    """

    told: list[int]
    true: list[int]
    apart_ns: int


def counts(machines: Machines) -> Counts | None:
    """As they are now; None where nobody counts."""
    if not isinstance(machines.host, Machine) or not machines.spec.steal_time:
        return None
    began = time.monotonic_ns()
    words = machines.guest.cpus * WORDS_APART
    line = f"xp /{words}gx {STRUCTURES:#x}"
    said = str(machines.guest.qmp("human-monitor-command", command_line=line))
    values = [int(value, 16) for value in re.findall(r" (0x[0-9a-f]{16})", said)]
    # By the console, which is quicker than ssh.
    true = account.parse(machines.host.tell(shlex.join(machines.account)))
    told = values[1::WORDS_APART]
    if not len(told) == len(true) == machines.guest.cpus:
        raise LabError(f"guest: counts of {len(told)} and {len(true)} of its vCPUs were read")
    return Counts(told, true, time.monotonic_ns() - began)


def prove(before: Counts | None, after: Counts | None) -> None:
    """Raise LabError unless between the two the guest was told of what the host has counted."""
    if before is None or after is None:
        return
    # A vCPU can't have waited for longer than the reading took.
    unsure_ns = before.apart_ns + after.apart_ns + UNTOLD_NS
    for vcpu, first in enumerate(before.told):
        told = after.told[vcpu] - first
        true = after.true[vcpu] - before.true[vcpu]
        if not after.told[vcpu]:
            continue  # nobody has asked for the structure yet
        if abs(told - true) > unsure_ns:
            raise LabError(
                f"guest: the count of its vCPU {vcpu} went on by {told / 1e6:.1f} ms, and the"
                f" host's account of it by {true / 1e6:.1f} ms"
            )

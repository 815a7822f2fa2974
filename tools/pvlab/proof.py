# SPDX-License-Identifier: MIT
"""Whether machines that go on from a saved state really do."""

from dataclasses import dataclass

from .errors import LabError
from .machine import Machine
from .machines import Machines

# Where QEMU's virt machine has the structures, 64 bytes apart.
STRUCTURES, STRIDE = 0x090A0000, 64
# A vCPU that waits to run now has waited for longer than it has been told yet.
TOLERANCE_NS = 50_000_000

_TICKS = "read a _ </proc/uptime; sleep 0.03; read b _ </proc/uptime; echo $a $b"


@dataclass(frozen=True, slots=True)
class Counts:
    """Of each vCPU, in ns: what the guest's structure says, and the host's scheduler."""

    told: list[int]
    true: list[int]


def counts(machines: Machines) -> Counts | None:
    """As they are now; None where there is no hypervisor of the lab's own."""
    if not isinstance(machines.host, Machine):
        return None
    told = []
    for vcpu in range(machines.guest.cpus):
        line = f"xp /1gx {STRUCTURES + STRIDE * vcpu + 8:#x}"
        answer = str(machines.guest.qmp("human-monitor-command", command_line=line))
        told.append(int(answer.split(":")[1], 16))
    return Counts(told, machines.vcpu_run_delay_ns())


def prove(machines: Machines, before: Counts | None) -> None:
    """Raise LabError unless clocks tick, and the guest's count goes on as the host's does."""
    for machine in machines.all:
        ticks = machine.tell(_TICKS, timeout=10).split()
        if not float(ticks[1]) > float(ticks[0]):
            raise LabError(f"{machine.name}: its clock stands still: {ticks}")
    now = counts(machines)
    print(before, now)

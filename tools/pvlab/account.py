# SPDX-License-Identifier: MIT
"""The host's account of what it took from each vCPU, where the guest itself can read it.

A TCP connection to ADDRESS, from in the guest, yields a line `VCPU RUN_DELAY_NS` for each vCPU:
the guest's QEMU starts account.sh on the host for it. Every command in the guest finds the address
in its environment.
"""

import re
from collections.abc import Sequence
from pathlib import Path

SCRIPT = Path(__file__).parent / "account.sh"
PLACE = Path("/usr/local/lib/lab")  # of it and other things, on a host of the lab's own
ADDRESS = "10.0.2.100:4567"  # in the network that QEMU makes for the guest
ENVIRONMENT = {"GUESTPV_HOST_ACCOUNT": ADDRESS}


def offered(command: Sequence[str]) -> str:
    """What the guest's QEMU is told of it in its -netdev."""
    return f"guestfwd=tcp:{ADDRESS}-cmd:{' '.join(command)}"


def parse(said: str) -> list[int]:
    """What it says, in the order of the vCPUs."""
    by_vcpu = {int(vcpu): int(ns) for vcpu, ns in re.findall(r"^(\d+) (\d+)$", said, re.MULTILINE)}
    return [by_vcpu[vcpu] for vcpu in sorted(by_vcpu)]

# SPDX-License-Identifier: MIT
"""The host's account of what it took from each vCPU, where the guest itself can read it.

A TCP connection to ADDRESS, from in the guest, yields a line `VCPU RUN_DELAY_NS` for each vCPU:
the guest's QEMU starts account.sh on the host for it. Every command in the guest finds the address
in its environment.
"""

import shutil
from pathlib import Path

from .run import Run

SCRIPT = Path(__file__).parent / "account.sh"
ADDRESS = "10.0.2.100:4567"  # in the network that QEMU makes for the guest
ENVIRONMENT = {"GUESTPV_HOST_ACCOUNT": ADDRESS}


def offered(run: Run) -> str:
    """What the guest's QEMU is told of it, in its -netdev."""
    script = run.directory / SCRIPT.name
    shutil.copy(SCRIPT, script)  # to where the host sees it
    script.chmod(0o755)
    return f"guestfwd=tcp:{ADDRESS}-cmd:{script} {run.directory / 'guest.pid'}"

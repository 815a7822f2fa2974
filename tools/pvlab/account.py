# SPDX-License-Identifier: MIT
"""The host's account of what it took from each vCPU, where the guest itself can read it.

A TCP connection to ADDRESS, from in the guest, yields a line `VCPU RUN_DELAY_NS` for each vCPU:
the guest's QEMU starts account.sh on the host for it. Every command in the guest finds the address
in its environment.
"""

from pathlib import Path

from .machine import Machine
from .run import Run
from .site import Site

SCRIPT = Path(__file__).parent / "account.sh"
ADDRESS = "10.0.2.100:4567"  # in the network that QEMU makes for the guest
ENVIRONMENT = {"GUESTPV_HOST_ACCOUNT": ADDRESS}


def offered(run: Run, host: Site) -> str:
    """What the guest's QEMU is told of it, in its -netdev."""
    script = run.memory / SCRIPT.name
    host.run(["sh", "-c", "cat >$0", str(script)], input=SCRIPT.read_text()).check_returncode()
    # Static, it starts in a third of the time, and there it counts.
    shell = "/bin/busybox sh" if isinstance(host, Machine) else "/bin/sh"
    return f"guestfwd=tcp:{ADDRESS}-cmd:{shell} {script} {run.memory / 'guest.pid'}"

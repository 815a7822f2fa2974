# SPDX-License-Identifier: MIT
"""A machine's state, saved to files at its site: its devices as a migration writes them."""

import time
from pathlib import Path
from typing import cast

from .errors import LabError
from .machine import MEMORY_STAYS, Machine

UNLIMITED = 1 << 40  # bytes a second; without it, QEMU spares a network that is not there

SAVED_WITHIN_S = 180


def save(machine: Machine, state: Path) -> None:
    """Stop it, and write all but its memory. `cont` lets it go on, under this QEMU."""
    machine.qmp("stop")
    machine.qmp("migrate-set-capabilities", capabilities=[MEMORY_STAYS])
    machine.qmp("migrate-set-parameters", max_bandwidth=UNLIMITED)
    # QEMU does not ask how `cat` has ended: on a full disk the end of the state would be missing.
    machine.qmp("migrate", uri=f"exec:cat >{state} && : >{state}.whole")
    deadline = time.monotonic() + SAVED_WITHIN_S
    while (status := _status(machine)) != "completed":
        if status in ("failed", "cancelled") or time.monotonic() > deadline:
            raise LabError(f"{machine.name}: its state could not be saved to {state}")
        time.sleep(0.05)
    whole = 'for i in $(seq 200); do test ! -e "$0" || exec rm "$0"; sleep 0.02; done; false'
    if machine.site.run(["sh", "-c", whole, f"{state}.whole"]).returncode != 0:
        raise LabError(f"{machine.name}: not all of its state could be written to {state}")


def _status(machine: Machine) -> str:
    return cast(dict[str, str], machine.qmp("query-migrate")).get("status", "none")

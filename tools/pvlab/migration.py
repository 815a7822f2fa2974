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
    if not machine.moves:
        raise LabError(f"{machine.name}: its memory is not in a file, so it can't be saved")
    machine.qmp("stop")
    machine.qmp("migrate-set-capabilities", capabilities=[MEMORY_STAYS])
    machine.qmp("migrate-set-parameters", max_bandwidth=UNLIMITED)
    machine.qmp("migrate", uri=f"exec:cat >{state}")
    deadline = time.monotonic() + SAVED_WITHIN_S
    while (status := _status(machine)) != "completed":
        if status in ("failed", "cancelled") or time.monotonic() > deadline:
            raise LabError(f"{machine.name}: its state could not be saved to {state}")
        time.sleep(0.05)


def _status(machine: Machine) -> str:
    return cast(dict[str, str], machine.qmp("query-migrate")).get("status", "none")

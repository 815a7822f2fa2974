# SPDX-License-Identifier: MIT
"""A machine's state, saved to a file at its site, as a migration writes it."""

import time
from typing import cast

from .errors import LabError
from .machine import Machine

UNLIMITED = 1 << 40  # bytes a second; without it, QEMU spares a network that is not there


def save(machine: Machine, path: str) -> None:
    """Stop it, and write its state. `cont` lets it go on, under this QEMU."""
    machine.qmp("stop")
    machine.qmp("migrate-set-parameters", max_bandwidth=UNLIMITED)
    machine.qmp("migrate", uri=f"exec:cat >{path}")
    while (status := _status(machine)) != "completed":
        if status in ("failed", "cancelled"):
            raise LabError(f"{machine.name}: its state could not be saved to {path}")
        time.sleep(0.05)


def _status(machine: Machine) -> str:
    return cast(dict[str, str], machine.qmp("query-migrate")).get("status", "none")

# SPDX-License-Identifier: MIT
"""The columns of `guestpv watch`, as text."""

import numpy as np

from guestpv.account.history import Figures
from guestpv.page.abi import Reason, State
from guestpv.page.names import fault_text

SIMULATED = "SIMULATED"
"""Begins whatever is shown of counts that are."""

WIDTHS = {
    "CPU": 4,
    "STATE": 8,
    "STOLEN s": 11,
    "STOLEN %": 8,
    "DEMAND %": 8,
    "KERNEL %": 9,
    "WORST %": 7,
    "RESTARTS": 8,
}
"""Title and width of each column, in their order.

CPU, STATE  which vCPU, and whether it is online
STOLEN s    the hypervisor's count
STOLEN %    of the last interval
DEMAND %    the same, of the time for which the vCPU had something to run
KERNEL %    what /proc/stat says was stolen; ≠ if it contradicts the count since the beginning
WORST %     of the worst interval since the beginning
RESTARTS    how often the count restarted since the beginning
"""


def cells(cpu: str, state: str, figures: Figures) -> dict[str, str]:
    differs = "≠" if figures.procstat_differs else " "
    return {
        "CPU": cpu,
        "STATE": state,
        "STOLEN s": seconds(figures.stolen_ns),
        "STOLEN %": percent(figures.stolen_percent),
        "DEMAND %": percent(figures.demand_stolen_percent),
        "KERNEL %": percent(figures.procstat_percent) + differs,
        "WORST %": percent(figures.worst_percent),
        "RESTARTS": str(figures.restarts or "-"),
    }


def percent(figure: float | None) -> str:
    return "-" if figure is None else f"{figure:.1f}"


def seconds(ns: int | None, digits: int = 3) -> str:
    return "-" if ns is None else f"{ns / 1e9:.{digits}f}"


def objection(row: np.void) -> str | None:
    """Why there is no count, where there is none."""
    if row["state"] == State.REFUSED:
        return fault_text(row["fault"])
    if row["revision"] or row["attributes"]:
        return f"revision {row['revision']}, attributes {row['attributes']:#x}: unknown"
    return None


def began_anew(row: np.void) -> bool:
    """Whether the epoch says more than that the structure was seen at all."""
    return row["reason"] not in (Reason.NONE, Reason.FIRST_SEEN)

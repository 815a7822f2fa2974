# SPDX-License-Identifier: MIT
"""The orders in which CPUs can be shown."""

from enum import StrEnum

import numpy as np

from guestpv.account.history import History, Rows


class Sort(StrEnum):
    CPU = "cpu"
    STOLEN = "stolen"
    PERCENT = "percent"


def order(history: History, rows: Rows, sort: Sort) -> Rows:
    """*rows* in that order: by number, or those from which most was stolen first."""
    if sort == Sort.CPU:
        return np.sort(rows)
    figures = history.rows["stolen_ns"] if sort == Sort.STOLEN else history.percent
    most = np.nan_to_num(figures[rows].astype(np.float64), nan=-1.0)
    return rows[np.argsort(-most, kind="stable")]

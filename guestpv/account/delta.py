# SPDX-License-Identifier: MIT
"""What was stolen between two snapshots, where that can be said."""

import numpy as np
import numpy.typing as npt

from guestpv.source.reader import Snapshot

DELTA = np.dtype(
    [
        ("cpu", np.uint32),
        ("valid", np.bool_),
        ("restarted", np.bool_),
        ("stolen_ns", np.uint64),
        ("interval_ns", np.uint64),
    ]
)
"""One CPU between two snapshots.

===============  ==================================================================================
``cpu``          CPU number
``valid``        whether ``stolen_ns`` can be said: both counts are
``restarted``    the count started again: another epoch, or a lower count in the same one
``stolen_ns``    nanoseconds stolen; if restarted, at least so many; 0 where not valid
``interval_ns``  nanoseconds between the snapshots
===============  ==================================================================================
"""


def delta(earlier: Snapshot, later: Snapshot) -> npt.NDArray[np.void]:
    """Per CPU what was stolen from one snapshot to a later one of the same reader.

    Returns an array of `DELTA`, shape as the snapshots'. No difference is taken across a restart,
    so none is negative, or huge. Raises ValueError if the snapshots are not of the same CPUs, or
    in the wrong order.
    """
    if earlier.shape != later.shape or (earlier["cpu"] != later["cpu"]).any():
        raise ValueError("the snapshots are not of the same CPUs")
    if (later["monotonic_ns"] < earlier["monotonic_ns"]).any():
        raise ValueError("the later snapshot was taken before the earlier one")

    rows = np.zeros(later.shape, DELTA)
    rows["cpu"] = later["cpu"]
    rows["interval_ns"] = later["monotonic_ns"] - earlier["monotonic_ns"]
    rows["valid"] = earlier["valid"] & later["valid"]
    rows["restarted"] = rows["valid"] & (
        (earlier["epoch"] != later["epoch"]) | (later["stolen_ns"] < earlier["stolen_ns"])
    )
    # PV_TIME_ST starts a count from zero, so all of it came after the restart. A restored VM brings
    # back an old count: one that does not fit into the interval was not stolen in it.
    since_restart = np.where(later["stolen_ns"] <= rows["interval_ns"], later["stolen_ns"], 0)
    went_on = later["stolen_ns"] - earlier["stolen_ns"]
    stolen_ns = np.where(rows["restarted"], since_restart, went_on)
    rows["stolen_ns"] = np.where(rows["valid"], stolen_ns, 0)
    return rows

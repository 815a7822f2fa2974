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
        ("other_instance", np.bool_),
        ("stolen_ns", np.uint64),
        ("backwards_ns", np.uint64),
        ("interval_ns", np.uint64),
    ]
)
"""One CPU between two snapshots. In each row, at least ``stolen_ns`` were stolen.

==================  ===============================================================================
``cpu``             CPU number
``valid``           whether exactly ``stolen_ns`` were: the count went on from one to the other
``restarted``       the count started again, in another epoch: ``stolen_ns`` is what it has grown by
                    since the module first saw it in the newest epoch
``other_instance``  the module was loaded again (procfs: it is another boot), so that the counts
                    can't be compared: ``stolen_ns`` is 0
``stolen_ns``       nanoseconds
``backwards_ns``    by how much the count is lower, though its epoch is the same: ``stolen_ns`` is 0
``interval_ns``     nanoseconds between the snapshots
==================  ===============================================================================

A row that is neither valid nor one of these three had no count at one of the two ends.
"""


def delta(earlier: Snapshot, later: Snapshot) -> npt.NDArray[np.void]:
    """Per CPU what was stolen from one snapshot to a later one, be it of the same reader or not.

    Returns an array of `DELTA`, shape as the snapshots'. No difference is taken of counts that the
    source does not vouch for as one, so none is negative, or more than was stolen. Raises
    ValueError if the snapshots are not of the same CPUs, or in the wrong order.
    """
    rows = np.zeros(later.shape, DELTA)
    fill_delta(rows, earlier, later)
    return rows


def fill_delta(rows: npt.NDArray[np.void], earlier: Snapshot, later: Snapshot) -> None:
    """As `delta`, into *rows* that have its fields, all of them 0."""
    if earlier.shape != later.shape or (earlier["cpu"] != later["cpu"]).any():
        raise ValueError("the snapshots are not of the same CPUs")
    if (later["monotonic_ns"] < earlier["monotonic_ns"]).any():
        raise ValueError("the later snapshot was taken before the earlier one")

    before, now = earlier["stolen_ns"], later["stolen_ns"]
    same_instance = earlier["instance"] == later["instance"]
    same_epoch = same_instance & (earlier["epoch"] == later["epoch"])
    comparable = same_epoch & earlier["valid"] & later["valid"]
    lower = comparable & (now < before)

    rows["cpu"] = later["cpu"]
    rows["interval_ns"] = later["monotonic_ns"] - earlier["monotonic_ns"]
    rows["other_instance"] = ~same_instance
    rows["valid"] = comparable & ~lower
    np.subtract(now, before, out=rows["stolen_ns"], where=rows["valid"])
    np.subtract(before, now, out=rows["backwards_ns"], where=lower)
    if not same_epoch.all():
        new_epoch = same_instance & ~same_epoch
        rows["restarted"] = new_epoch & (earlier["epoch"] != 0)  # 0: there was none yet
        first = later["epoch_stolen_ns"]
        grown = np.subtract(
            now,
            first,
            out=np.zeros_like(now),
            where=new_epoch & later["valid"] & (now >= first),
        )
        # A restored VM may have brought back an old count since the epoch began.
        rows["stolen_ns"] += np.minimum(grown, rows["interval_ns"])

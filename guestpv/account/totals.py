# SPDX-License-Identifier: MIT
"""What was stolen from each CPU since a beginning: totals that never fall."""

from collections.abc import Mapping
from operator import index
from typing import Any, Self, SupportsIndex

import numpy as np
import numpy.typing as npt

from guestpv.account.delta import DELTA, fill_delta
from guestpv.cpulist import listed
from guestpv.errors import FormatError, NoSuchCpuError
from guestpv.page.abi import Origin, State
from guestpv.source.procfs import boot_id
from guestpv.source.reader import Reader, Snapshot

TOTALS = np.dtype(
    [
        *DELTA.descr,
        ("total_ns", np.uint64),
        ("restarts", np.uint64),
        ("unknown_ns", np.uint64),
    ]
)
"""One CPU after an update. The fields of `DELTA` are there, too, of the time since the update
before; if the CPU had no count then, ``stolen_ns`` and ``backwards_ns`` are since it last had one.

==============  ===================================================================================
``total_ns``    nanoseconds stolen since the beginning, at least; it never falls
``restarts``    how often the count started again since then, as far as the source says so
``unknown_ns``  how much of the time since then went by in intervals, from one update to the next,
                of which it is not known how much was stolen, or only that it was at least so much
==============  ===================================================================================

While ``unknown_ns`` stays the same, ``total_ns`` grows by exactly what is stolen (the row is
``valid``). A CPU that is absent before and after is offline, and nothing is stolen from it.

A count that went down in its epoch may have been shown too low, and go up again to where it was. So
what it grows by counts only from there on, and until then the rows are not ``valid``.
"""

Rows = npt.NDArray[np.void]

_MOST = np.uint64(np.iinfo(np.uint64).max)
_VERSION = 1


def _sum(total: npt.NDArray[np.uint64], more: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """At the end of 64 bits it stays."""
    together: npt.NDArray[np.uint64] = total + np.minimum(more, _MOST - total)
    return together


class Totals:
    """Per CPU what was stolen since this was made, kept up by `update`.

    For example::

        totals = guestpv.Totals(reader)
        while True:
            time.sleep(15)
            totals.update()
            print(totals.total(0), "ns stolen from cpu0")

    If the source vanishes, `update` raises what the reader does, and nothing is lost. Go on with a
    new one by setting ``reader``, or in another process with what `save` gave: by instance and
    epoch it is known whether the counts went on.
    """

    def __init__(self, reader: Reader | None, first: Snapshot | None = None) -> None:
        """Begin now, or at a *first* snapshot. Without a *reader*, each update must be given one.

        Raises as `Reader.snapshot` does.
        """
        if first is None:
            if reader is None:
                raise ValueError("neither a reader nor a first snapshot")
            first = reader.snapshot()
        self.reader = reader
        """Of which a snapshot is taken; may be replaced by one that has the same CPUs."""
        self.rows: Rows = np.zeros(len(first), TOTALS)
        """An array of `TOTALS`, as of the last update."""
        self.rows["cpu"] = first["cpu"]
        self._total_ns = np.zeros(len(first), np.uint64)
        self._restarts = np.zeros(len(first), np.uint64)
        self._unknown_ns = np.zeros(len(first), np.uint64)
        self._behind_ns = np.zeros(len(first), np.uint64)
        """By how much the count is lower than it was before, in its epoch."""
        self._last = first.copy()
        self._counted = self._last
        """Per CPU, the last row that had a count; before there is one, the first of all."""

    def update(self, snapshot: Snapshot | None = None, *, same_boot: bool = False) -> Rows:
        """Add what was stolen since the update before, until now or a *snapshot* taken since then.

        With *same_boot*, it is a snapshot of the same guest's device in the same boot as the one
        before: then at least so much is known over a reload of the module, too, as the kernel's own
        count grew by meanwhile, or another since the module is back.

        Returns a new array of `TOTALS`, a row for each CPU. Raises as `Reader.snapshot` does, or
        ValueError as `delta` does; then the totals are as before.
        """
        if snapshot is None:
            if self.reader is None:
                raise ValueError("there is no reader to take a snapshot of")
            snapshot = self.reader.snapshot()
        else:
            snapshot = snapshot.copy()  # it may be filled again
        before, now = self._last, snapshot
        rows = np.zeros(len(now), TOTALS)
        fill_delta(rows, self._counted, now)
        if (now["monotonic_ns"] < before["monotonic_ns"]).any():
            raise ValueError("the snapshot was taken before the last one")
        rows["interval_ns"] = now["monotonic_ns"] - before["monotonic_ns"]
        if same_boot and (reloaded := rows["other_instance"]).any():
            rows["stolen_ns"][reloaded] = self._at_least_over_reload(now)[reloaded]
        self._leave_out_regained(rows, now)
        rows["valid"] &= before["valid"]
        rows["valid"] |= (before["state"] == State.ABSENT) & (now["state"] == State.ABSENT)
        self._total_ns = _sum(self._total_ns, rows["stolen_ns"])
        unknown_ns = np.where(rows["valid"], np.uint64(0), rows["interval_ns"])
        self._unknown_ns = _sum(self._unknown_ns, unknown_ns)
        rows["restarted"] &= now["valid"]  # if not, it is counted when there is a count again
        if rows["restarted"].any():
            epochs = now["epoch"].astype(np.int64) - self._counted["epoch"]
            times = np.where(rows["restarted"], epochs.clip(1), 0)
            self._restarts = _sum(self._restarts, times.astype(np.uint64))
        rows["total_ns"] = self._total_ns
        rows["unknown_ns"] = self._unknown_ns
        rows["restarts"] = self._restarts

        self.rows, self._last = rows, now
        self._counted = now if now["valid"].all() else np.where(now["valid"], now, self._counted)
        return rows

    def _at_least_over_reload(self, now: Snapshot) -> npt.NDArray[np.uint64]:
        """What was stolen since there last was a count, in another instance of the same boot.

        A count that is the kernel's is as it was when the module comes back. If it restarted while
        nobody looked, it grew by more than it is higher now; if it is lower, by what it has grown
        by since the module came back.
        """
        last = self._counted
        went_on = (now["origin"] == Origin.ADOPTED) & last["valid"] & (self._behind_ns == 0)
        went_on &= last["stolen_ns"] <= now["stolen_ns"]
        first_ns = np.where(went_on, last["stolen_ns"], now["epoch_stolen_ns"])
        known = now["valid"] & (first_ns <= now["stolen_ns"])
        grown_ns = np.where(known, now["stolen_ns"] - first_ns, np.uint64(0))
        elapsed_ns: npt.NDArray[np.uint64] = now["monotonic_ns"] - last["monotonic_ns"]
        return np.minimum(grown_ns, elapsed_ns)

    def _leave_out_regained(self, rows: Rows, now: Snapshot) -> None:
        """Take out of *rows* by what a count only came back to where it was in its epoch."""
        if rows["valid"].all() and not self._behind_ns.any():
            return  # as nearly always
        last = self._counted
        same = (last["instance"] == now["instance"]) & (last["epoch"] == now["epoch"])
        lower = same & last["valid"] & now["valid"] & (now["stolen_ns"] < last["stolen_ns"])
        behind_ns = np.where(same | ~now["valid"], self._behind_ns, np.uint64(0))
        rows["valid"] &= behind_ns == 0
        regained_ns = np.minimum(rows["stolen_ns"], behind_ns)
        rows["stolen_ns"] -= regained_ns
        behind_ns -= regained_ns
        fallen_ns = last["stolen_ns"] - now["stolen_ns"]
        self._behind_ns = np.where(lower, behind_ns + fallen_ns, behind_ns)

    def total(self, cpu: SupportsIndex | None = None) -> int:
        """Nanoseconds stolen from a CPU since the beginning, or from all, at least; exact.

        Raises NoSuchCpuError if the source has no such CPU.
        """
        if cpu is None:
            return sum(self._total_ns.tolist())  # NumPy's sum would end at 64 bits
        (row,) = np.nonzero(self.rows["cpu"] == index(cpu))
        if not len(row):
            cpus = listed(self.rows["cpu"].tolist())
            raise NoSuchCpuError(f"cpu{index(cpu)}: no such CPU", f"There are {cpus}", "use these")
        return int(self._total_ns[row[0]])

    def save(self) -> dict[str, Any]:
        """All that `restore` needs, as plain data that JSON can hold.

        Some of its integers are beyond 2**53: read it with a parser that keeps them, as Python's.
        """
        fields = ("cpu", "total_ns", "restarts", "unknown_ns")
        return {
            "version": _VERSION,
            "boot_id": boot_id(),
            "cpus": [
                {
                    **{field: int(row[field]) for field in fields},
                    "behind_ns": int(behind_ns),
                    "last": _saved(last),
                    "counted": _saved(counted),
                }
                for row, behind_ns, last, counted in zip(
                    self.rows, self._behind_ns, self._last, self._counted, strict=True
                )
            ],
        }

    @classmethod
    def restore(cls, reader: Reader, saved: Mapping[str, Any]) -> Self:
        """Go on from what `save` gave, be it of another process, and add what was stolen since.

        If it is of another boot, the time until then counts for nothing, and since then as unknown.
        CPUs that were not saved begin now; those that *reader* has no more are left out.

        Raises FormatError if *saved* is nothing that `save` gave, and as `Reader.snapshot` does.
        """
        first = reader.snapshot()
        totals = cls(reader, first)
        totals._counted = first.copy()
        try:
            if _integer(saved["version"]) != _VERSION:
                raise ValueError(f"version {saved['version']} is not {_VERSION}")
            same_boot = saved["boot_id"] == boot_id()
            for record in saved["cpus"]:
                for row in np.flatnonzero(first["cpu"] == _integer(record["cpu"])):
                    totals._total_ns[row] = _integer(record["total_ns"])
                    totals._restarts[row] = _integer(record["restarts"])
                    totals._unknown_ns[row] = _integer(record["unknown_ns"])
                    totals._behind_ns[row] = _integer(record["behind_ns"])
                    _restore(totals._last[row], record["last"], same_boot)
                    _restore(totals._counted[row], record["counted"], same_boot)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise FormatError(
                "Saved totals: not restored",
                f"They are not what Totals.save() gives ({type(error).__name__}: {error})",
                "begin anew, with Totals(reader)",
            ) from error
        totals.update(first)
        return totals


_NUMBERS = ("state", "instance", "epoch", "stolen_ns", "monotonic_ns")


def _saved(row: np.void) -> dict[str, Any]:
    return {field: row[field].item() for field in (*_NUMBERS, "valid")}


def _restore(row: np.void, record: Mapping[str, Any], same_boot: bool) -> None:
    now_ns = int(row["monotonic_ns"])
    for field in _NUMBERS:
        row[field] = _integer(record[field], row.dtype[field])
    if not isinstance(record["valid"], bool):
        raise TypeError(f"valid is {record['valid']!r}")
    row["valid"] = record["valid"]
    row["monotonic_ns"] = min(record["monotonic_ns"], now_ns) if same_boot else 0


def _integer(value: Any, dtype: npt.DTypeLike = np.uint64) -> int:
    """NumPy alone would take "12", 1.5 and True, too."""
    if isinstance(value, bool) or not 0 <= index(value) <= np.iinfo(np.dtype(dtype)).max:
        raise ValueError(f"{value!r} can't be")
    return index(value)

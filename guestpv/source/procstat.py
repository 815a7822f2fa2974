# SPDX-License-Identifier: MIT
"""The kernel's own account of each CPU's time, from /proc/stat."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

ACCOUNT = np.dtype(
    [
        ("present", np.bool_),
        ("run_known", np.bool_),
        ("steal_known", np.bool_),
        ("run_ns", np.int64),
        ("interrupts_ns", np.int64),
        ("steal_ns", np.int64),
        ("slack_ns", np.int64),
        ("idle_ns", np.int64),
    ]
)
"""One CPU: whether /proc/stat lists it (not while it is offline), and which figures are known (not
one that can't be: negative, or of centuries, as of a kernel that lost its baseline); the time for
which it ran something, how much of that went to interrupts, and the time that was stolen from it,
all in whole ticks and 0 where they are not known; how far the latter may be from a count that was
read just before, because time was stolen between; and for how long it had nothing to run."""

Accounts = npt.NDArray[np.void]
"""An array of ACCOUNT rows."""

TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")

_FEWEST_COLUMNS = 7  # of a whole line: all before steal, which is not everywhere
_MOST_NS = np.iinfo(np.int64).max
_MOST_DIGITS = len(str(_MOST_NS))


def accounts(cpus: Sequence[int], path: str = "/proc/stat") -> Accounts:
    """A row for each of *cpus*; none is present where /proc/stat can't be read."""
    try:
        return parse(cpus, Path(path).read_bytes())
    except OSError:
        return no_accounts(cpus)


def parse(cpus: Sequence[int], stat: bytes) -> Accounts:
    """A row for each of *cpus*, from the content of /proc/stat (proc_stat(5)).

    Container file systems serve a /proc/stat of their own, and not each is like the kernel's: lines
    that are not whole are left out, and so are CPUs that are not asked for. Of a CPU that is listed
    twice nothing is known, since nothing says which line is its own.
    """
    rows = no_accounts(cpus)
    row_of = {b"cpu%d" % cpu: row for row, cpu in enumerate(cpus)}
    for line in stat.split(b"\n")[:-1]:  # what no newline ends was cut off
        name, *fields = line.split() or [b""]
        if name and not name.startswith(b"cpu"):
            break
        row = row_of.get(name)
        if row is None or len(fields) < _FEWEST_COLUMNS or not all(map(_is_number, fields)):
            continue
        if rows["present"][row]:
            rows[row] = (True, False, False, 0, 0, 0, 0, 0)
            continue
        user, nice, system, idle, iowait, irq, softirq, *more = fields
        run_ns = _sum_ns((user, nice, system, irq, softirq))  # the time of own guests is in user
        interrupts_ns = None if run_ns is None else _sum_ns((irq, softirq))
        steal_ns = _sum_ns(more[:1]) if more else None  # some containers have no column for it
        idle_ns = _sum_ns((idle, iowait))
        known = run_ns is not None, steal_ns is not None
        rows[row] = (True, *known, run_ns or 0, interrupts_ns or 0, steal_ns or 0, 0, idle_ns or 0)
    return rows


def _is_number(field: bytes) -> bool:
    return field.removeprefix(b"-").isdigit()


def _sum_ns(ticks: Sequence[bytes]) -> int | None:
    """Nanoseconds of them together; None if no CPU can have so many."""
    if not all(field.isdigit() and len(field) <= _MOST_DIGITS for field in ticks):
        return None
    ns = sum(map(int, ticks)) * TICK_NS
    return ns if ns <= _MOST_NS else None


def no_accounts(cpus: Sequence[int]) -> Accounts:
    """In place of accounts() where /proc/stat says nothing of *cpus*, as for a page image."""
    return np.zeros(len(cpus), ACCOUNT)

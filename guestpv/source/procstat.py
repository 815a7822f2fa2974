# SPDX-License-Identifier: MIT
"""The kernel's own account of each CPU's time, from /proc/stat."""

import os
import re
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

_MOST_TICKS = np.iinfo(np.int64).max // TICK_NS
_NUMBER = rb"\s++-?\d++"
_LINE = re.compile(rb"\s*+(cpu\d++)(%b)(%b)?+(?:%b)*+\s*+" % (7 * _NUMBER, _NUMBER, _NUMBER))
"""Name, all columns before steal, and steal, which some containers have no column for."""
_NO_STEAL = b" -1"


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
    found: list[int] = []
    columns: list[bytes] = []
    for line in stat.split(b"\n")[:-1]:  # what no newline ends was cut off
        if whole := _LINE.fullmatch(line):
            name, *numbers = whole.groups(_NO_STEAL)
            if name in row_of:
                found.append(row_of[name])
                columns += numbers
    if not found:
        return rows
    ticks = np.fromstring(b"".join(columns), np.int64, sep=" ").reshape(len(found), -1)
    user, nice, system, idle, iowait, irq, softirq, steal = ticks.T  # user: with own guests' time
    run_ns, run_known = _sum_ns(user, nice, system, irq, softirq)
    steal_ns, steal_known = _sum_ns(steal)
    for field, values in (
        ("present", True),
        ("run_known", run_known),
        ("steal_known", steal_known),
        ("run_ns", run_ns),
        ("interrupts_ns", np.where(run_known, _sum_ns(irq, softirq)[0], 0)),
        ("steal_ns", steal_ns),
        ("idle_ns", _sum_ns(idle, iowait)[0]),
    ):
        rows[field][found] = values
    rows[np.bincount(found, minlength=len(rows)) > 1] = (True, False, False, 0, 0, 0, 0, 0)
    return rows


def _sum_ns(*ticks: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Nanoseconds of them together, and whether a CPU can have so many; 0 where not."""
    together = sum(ticks)
    known = (np.minimum.reduce(ticks) >= 0) & (np.maximum.reduce(ticks) <= _MOST_TICKS)
    known &= together <= _MOST_TICKS
    return np.where(known, together, 0) * TICK_NS, known


def no_accounts(cpus: Sequence[int]) -> Accounts:
    """In place of accounts() where /proc/stat says nothing of *cpus*, as for a page image."""
    return np.zeros(len(cpus), ACCOUNT)

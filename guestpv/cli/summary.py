# SPDX-License-Identifier: MIT
"""What `guestpv watch` says in words: how much is stolen, where, and what that does to the work."""

import numpy as np

from guestpv.account.history import History, Rows
from guestpv.cli.view import clock

_NAMED = 3


def summary(history: History, rows: Rows) -> dict[str, str]:
    """Three sentences by what they are about."""
    return {
        "now": _now(history, rows),
        "where": _where(history, rows),
        "so far": _so_far(history, rows),
    }


def _now(history: History, rows: Rows) -> str:
    figures = history.figures(rows)
    if figures.interval_stolen_ns is None or not history.interval_ns:
        return "measuring"
    stolen = figures.interval_stolen_ns / history.interval_ns
    known = int(np.count_nonzero(history.known[rows]))
    text = f"{stolen:.2f} CPU-s/s stolen, {figures.stolen_percent:.1f} % of {_vcpus(known)}"
    demand = figures.demand_stolen_percent
    if demand is not None and 0.5 < demand < 99.5:
        text += f"; work takes {100 / (100 - demand):.2f} x as long"
    return text


def _where(history: History, rows: Rows) -> str:
    """One vCPU: a neighbour on its physical CPU. All alike: the host is too full, or paused it."""
    stolen = history.stolen_ns[rows].tolist()  # NumPy's sum would end at 63 bits
    total = sum(stolen)
    if not total:
        return "nothing is stolen" if history.intervals else "-"
    by_most = sorted(range(len(stolen)), key=lambda row: -stolen[row])
    most = [row for row in by_most[:_NAMED] if stolen[row]]
    shares = [
        f"cpu{history.rows['cpu'][rows[row]]} {100 * stolen[row] / total:.0f} %" for row in most
    ]
    if rest := total - sum(stolen[row] for row in most):
        shares.append(f"the other {_vcpus(len(rows) - len(most))} {100 * rest / total:.0f} %")
    return ", ".join(shares)


def _so_far(history: History, rows: Rows) -> str:
    if not history.intervals:
        return "-"
    figures = history.figures(rows)
    at_least = "at least " if figures.unknown_ns else ""
    stolen_s, watched_s = figures.total_ns / 1e9, history.watched_ns / 1e9
    text = f"{at_least}{stolen_s:.3f} CPU-s stolen in {watched_s:.0f} s"
    worst = history.worst_percent[rows]
    if np.isnan(worst).all():
        return text
    row = rows[int(np.nanargmax(worst))]
    return (
        f"{text}; at worst {history.worst_percent[row]:.1f} % of cpu{history.rows['cpu'][row]}"
        f" at {clock(history.worst_time[row])}"
    )


def _vcpus(number: int) -> str:
    return f"{number} vCPU" if number == 1 else f"{number} vCPUs"

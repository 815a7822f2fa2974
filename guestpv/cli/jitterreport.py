# SPDX-License-Identifier: MIT
"""What `guestpv jitter` shows on a terminal: its tables, its histogram, and a gap taken apart."""

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from guestpv.cli.columns import SIMULATED
from guestpv.latency.bounds import Bounds
from guestpv.latency.jitter import (
    PERCENTILES,
    Gap,
    Histogram,
    VcpuNoise,
    bucket_edges,
    percentile_ns,
)

_BAR = 40
_MOSTLY = 0.5

_PARTS = {
    "stolen": "the hypervisor ran something else",
    "queue": "the guest ran something else on this vCPU, while the thread was ready to run",
    "other": "neither: interrupts of the guest, or exits that the host does not count",
}


def report(
    vcpus: Sequence[VcpuNoise],
    outlier: Gap | None,
    left_out: Mapping[int, str],
    about: Mapping[str, Any],
    simulated: bool = False,
) -> None:
    """Print all of it; *simulated* is what was stolen if a simulation says so."""
    console = Console(highlight=False, markup=False, emoji=False)
    title = f"Gaps of {us(about['threshold_ns'])} us and longer; times in us"
    console.print(title + f"; {SIMULATED} stolen time" * simulated, soft_wrap=True)
    console.print(noise_table(vcpus))
    if any(vcpu.gaps for vcpu in vcpus):
        console.print("", _percentiles(vcpus), "", _histogram(vcpus), sep="\n")
    if outlier:
        console.print("", *_taken_apart(outlier), sep="\n", soft_wrap=True)
    notes = _notes(vcpus, left_out)
    if notes:
        console.print("", *(f"  {note}" for note in notes), sep="\n", soft_wrap=True)


def noise_table(vcpus: Sequence[VcpuNoise]) -> Table:
    """The columns that users of osnoise know, and whose the noise was."""
    columns = ("CPU", "RUNTIME s", "NOISE", "% CPU AVAIL", "MAX", "STOLEN", "QUEUE", "OTHER")
    table = _table(*columns)
    for vcpu in vcpus:
        table.add_row(
            str(vcpu.cpu),
            f"{vcpu.wall_ns / 1e9:.1f}",
            us(vcpu.noise_ns),
            f"{100 - vcpu.noise_percent:.3f}",
            us(vcpu.longest_ns) if vcpu.gaps else "-",
            *(_range(getattr(vcpu, part)) for part in _PARTS),
        )
    return table


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def us(ns: float) -> str:
    """Microseconds, with the digits that count."""
    return f"{ns / 1e3:.0f}" if ns >= 1e5 else f"{ns / 1e3:.3g}"


def _range(bounds: Bounds | None) -> str:
    if bounds is None:
        return "-"
    least, most = us(bounds.least_ns), us(bounds.most_ns)
    return least if least == most else f"{least} to {most}"


def _percentiles(vcpus: Sequence[VcpuNoise]) -> Table:
    table = _table("CPU", "GAPS", *(f"P{percent:g}" for percent in PERCENTILES), "MAX")
    for vcpu in vcpus:
        table.add_row(
            *(str(vcpu.cpu), str(vcpu.gaps)),
            *_lengths(vcpu.histogram, vcpu.longest_ns),
        )
    if len(vcpus) > 1:
        histogram = _together(vcpus)
        longest_ns = max(vcpu.longest_ns for vcpu in vcpus)
        table.add_row("all", str(histogram.sum()), *_lengths(histogram, longest_ns))
    return table


def _lengths(histogram: Histogram, longest_ns: int) -> list[str]:
    lengths = [percentile_ns(histogram, percent, longest_ns) for percent in PERCENTILES]
    return ["-" if ns is None else us(ns) for ns in [*lengths, longest_ns or None]]


def _together(vcpus: Sequence[VcpuNoise]) -> Histogram:
    together: Histogram = np.stack([vcpu.histogram for vcpu in vcpus]).sum(axis=0, dtype=np.uint64)
    return together


def _histogram(vcpus: Sequence[VcpuNoise]) -> Table:
    """A line for each power of two between the shortest and the longest; bars are logarithmic."""
    least, _ = bucket_edges()
    counts = _together(vcpus)
    powers = np.frexp(least.astype(np.float64))[1]
    totals = np.bincount(powers, counts).astype(np.uint64).tolist()
    filled = [power for power, total in enumerate(totals) if total]
    table = _table("FROM", "TO", "GAPS")
    table.add_column("")
    full = math.log1p(max(totals))
    for power in range(filled[0], filled[-1] + 1):
        bar = "█" * round(_BAR * math.log1p(totals[power]) / full)
        low, high = (math.ldexp(1, exponent) for exponent in (power - 1, power))
        table.add_row(us(low), us(high), str(totals[power]), bar)
    return table


def _taken_apart(gap: Gap) -> list[str]:
    """When it was, by the clocks that logs and traces have, and what each part of it was."""
    realtime_s = time.time() - (time.monotonic_ns() - gap.began_ns) / 1e9
    moment = time.strftime("%H:%M:%S", time.localtime(realtime_s))
    lines = [
        f"cpu{gap.cpu}: a gap of {us(gap.length_ns)} us at {moment}{f'{realtime_s % 1:.6f}'[1:]}"
        f" (CLOCK_MONOTONIC {gap.began_ns / 1e9:.6f})"
    ]
    for part, what in _PARTS.items():
        bounds: Bounds | None = getattr(gap, part)
        if bounds is None:
            lines.append(f"  {part:7} {'not known':>16}")
        elif bounds.most_ns:
            lines.append(f"  {part:7} {_range(bounds) + ' us':>16}  {what}")
    lines.append(
        f"  the thread was switched out {_times(gap.involuntary + gap.voluntary)} by this guest"
    )
    lines.append(f"  {_verdict(gap)}")
    return lines


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"


def _verdict(gap: Gap) -> str:
    half_ns = _MOSTLY * gap.length_ns
    if gap.stolen and gap.stolen.least_ns > half_ns:
        return "It was the host: most of it was stolen."
    if gap.queue.least_ns > half_ns:
        return "It was this guest: for most of it something else of it ran on this vCPU."
    if gap.other.least_ns > half_ns:
        return "It was neither the host, by its count, nor another task of this guest."
    return "For no part is it certain that it was the most."


def _notes(vcpus: Sequence[VcpuNoise], left_out: Mapping[int, str]) -> list[str]:
    notes = [f"cpu{number}: left out, {why}" for number, why in left_out.items()]
    for vcpu in vcpus:
        if vcpu.left_ns:
            notes.append(
                f"cpu{vcpu.cpu}: it went offline, or the thread was moved away, after"
                f" {vcpu.wall_ns / 1e9:.1f} s; what is shown is from before"
            )
        if vcpu.restarts:
            notes.append(
                f"cpu{vcpu.cpu}: its count began anew or fell {_times(vcpu.restarts)}: what was"
                " stolen in the gap in which it did is not known"
            )
        if vcpu.late:
            notes.append(
                f"cpu{vcpu.cpu}: its count told of {us(vcpu.late_ns)} us too late,"
                f" {_times(vcpu.late)}: in which gaps they were is not certain"
            )
    return notes

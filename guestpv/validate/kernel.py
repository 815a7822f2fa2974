# SPDX-License-Identifier: MIT
"""kernel: what the guest's own kernel makes of the count."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from guestpv.account.delta import delta
from guestpv.account.kernel import KernelAccount
from guestpv.cpulist import CpuList, listed
from guestpv.source.procstat import TICK_NS
from guestpv.validate.check import (
    Effect,
    Finding,
    Level,
    Severity,
    check,
    failed,
    passed,
    skipped,
    warned,
)
from guestpv.validate.clauses import Clause
from guestpv.validate.guest import Guest
from guestpv.validate.kernelwatch import Sample

NOHZ_FULL = Path("/sys/devices/system/cpu/nohz_full")
"""The CPUs on which Linux accounts for time without a tick."""

_NO_STEAL = "this kernel accounts for no steal (CONFIG_PARAVIRT is not set)"
_NO_NOHZ = "no vCPU that was watched is in nohz_full"
_ALL_STOLEN = 0.95
"""Part of its time from which on /proc/stat gives a CPU up as stolen."""


@dataclass(frozen=True, slots=True)
class _Compared:
    """Both accounts of the same interval. Arrays have an element for each CPU of *cpus*."""

    cpus: npt.NDArray[np.intp]
    told_ns: npt.NDArray[np.int64]
    """What /proc/stat's steal grew by."""
    ran_ns: npt.NDArray[np.int64]
    """And its user, system and interrupts."""
    counted_ns: npt.NDArray[np.int64]
    differs: npt.NDArray[np.bool_]
    nohz: npt.NDArray[np.bool_]
    """Whether it is in nohz_full."""

    @property
    def stuck(self) -> npt.NDArray[np.bool_]:
        """Whether all its time is said to be stolen, against the count."""
        all_ns = self.told_ns + self.ran_ns
        given_up = (all_ns > 0) & (self.told_ns >= _ALL_STOLEN * all_ns)
        return self.nohz & self.differs & given_up & (self.told_ns > self.counted_ns)

    def apart(self, of: npt.NDArray[np.bool_]) -> tuple[str, list[int]]:
        """The CPUs for which *of* is true, those furthest apart first; and how far the first is."""
        rows = np.flatnonzero(of)
        rows = rows[np.argsort(-np.abs(self.told_ns - self.counted_ns)[rows], kind="stable")]
        return self.text(rows[0]), self.cpus[rows].tolist()

    def text(self, row: int | slice = slice(None)) -> str:
        told_ns, counted_ns = self.told_ns[row].sum(), self.counted_ns[row].sum()
        return f"/proc/stat {told_ns / 1e9:.2f} s, the count {counted_ns / 1e9:.3f} s"


@check(
    "kernel.agrees",
    "/proc/stat's steal agrees with the count, within its resolution",
    Clause.PROC_STAT,
    Effect.LOAD,
    level=Level.KERNEL,
)
def agrees(guest: Guest) -> Finding:
    compared = _compared(guest, guest.watched.samples)
    if isinstance(compared, str):
        return skipped(compared)
    told_ns, counted_ns = int(compared.told_ns.sum()), int(compared.counted_ns.sum())
    if not guest.adopted:
        if not told_ns and counted_ns > TICK_NS:
            return warned(
                f"{compared.text()}: {_NO_STEAL}",
                "read the count: top, vmstat and all that read /proc/stat show none",
            )
        return skipped(_NO_STEAL)
    finding = passed(compared.text(), procstat_steal_ns=told_ns, stolen_ns=counted_ns)
    if compared.nohz.all():
        finding = skipped("every vCPU that was watched is in nohz_full")
    elif (differs := compared.differs & ~compared.nohz).any():
        text, cpus = compared.apart(differs)
        advice = "trust the count, unless counter.monotonic or counter.passed failed, too"
        finding = failed(text, advice).on(cpus)
    return finding.but("Linux is late there: see kernel.nohz", compared.cpus[compared.nohz])


@check(
    "kernel.nohz",
    "On CPUs in nohz_full, too, /proc/stat's steal is up to date",
    Clause.VTIME,
    Effect.LOAD,
    level=Level.KERNEL,
    severity=Severity.LOW,
)
def nohz(guest: Guest) -> Finding:
    """A defect of Linux, so a healthy guest must not fail for it."""
    compared = _compared_nohz(guest, guest.watched.samples)
    if isinstance(compared, str):
        return skipped(compared)
    late = compared.nohz & compared.differs
    if not late.any():
        return passed(compared.text())
    text, cpus = compared.apart(late)
    return warned(
        text,
        "known of Linux: without a tick it books what was stolen only when the CPU enters the"
        " kernel, and shows it as user time until then. Take the count, or /proc/stat over minutes",
    ).on(cpus)


@check(
    "kernel.stuck",
    "/proc/stat does not give a CPU up as stolen that runs",
    Clause.VTIME_STEAL,
    Effect.LOAD,
    level=Level.KERNEL,
)
def stuck(guest: Guest) -> Finding:
    compared = _compared_nohz(
        guest, guest.watched.around
    )  # while it is busy, nothing may be booked
    if isinstance(compared, str):
        return skipped(compared)
    if not compared.stuck.any():
        return passed(f"cpu{listed(compared.cpus[compared.nohz].tolist())}: not then")
    text, cpus = compared.apart(compared.stuck)
    return warned(
        f"{text}: 100 % of its time is said to be stolen",
        "a known defect of Linux: a CPU in nohz_full was offline, which restarted its count, but"
        " prev_steal_time stays ahead of that, and the difference, taken as unsigned, is more than"
        " all the time there is. It lasts until the guest is booted again: take the count for these"
        " CPUs, user time as well is wrong in /proc/stat, and let CPUs in nohz_full stay online",
    ).on(cpus)


@check(
    "kernel.forward",
    "/proc/stat's steal does not run backwards",
    Clause.PROC_STAT_FORWARD,
    Effect.LOAD,
    level=Level.KERNEL,
)
def forward(guest: Guest) -> Finding:
    backwards_ns = guest.watched.kernel_backwards_ns[guest.asked]
    if backwards_ns.any():
        worst_first = np.argsort(-backwards_ns, kind="stable")[: np.count_nonzero(backwards_ns)]
        return failed(
            f"by {backwards_ns[worst_first[0]] / 1e9:.2f} s",
            "take rates from guestpv, which numbers epochs. A count that is set back does this (see"
            " counter.monotonic), and so does a CPU that comes back online (see life.hotplug)",
        ).on(np.array(guest.asked)[worst_first])
    if not guest.adopted:
        return skipped(_NO_STEAL)
    return passed("not while it was watched")


def _compared(guest: Guest, ends: tuple[Sample, Sample]) -> _Compared | str:
    """Of the vCPUs that were watched all the time; or why there is nothing to compare."""
    first, last = ends
    counted = delta(first.rows, last.rows)
    went_on = counted["valid"]
    cpus = guest.watched.judged["cpu"].astype(np.intp)
    cpus = cpus[went_on[cpus]]
    if not len(cpus):
        return "no count went on from the beginning to the end"
    counted_ns = counted["stolen_ns"].astype(np.int64)
    account = KernelAccount(first.kernel)
    account.tick(last.kernel, counted_ns, ~went_on)
    return _Compared(
        cpus=cpus,
        told_ns=account.steal_ns[cpus],
        ran_ns=account.run_ns[cpus],
        counted_ns=counted_ns[cpus],
        differs=account.differs[cpus],
        nohz=np.isin(cpus, nohz_full()),
    )


def _compared_nohz(guest: Guest, ends: tuple[Sample, Sample]) -> _Compared | str:
    """The same, for what is judged of CPUs in nohz_full only."""
    compared = _compared(guest, ends)
    if isinstance(compared, str):
        return compared
    if not guest.adopted:
        return _NO_STEAL
    return compared if compared.nohz.any() else _NO_NOHZ


def nohz_full() -> list[int]:
    """The CPUs in nohz_full; none where the kernel does not say, or says "(null)" as some do."""
    try:
        return list(CpuList.parse(NOHZ_FULL.read_text().strip()).cpus)
    except (OSError, ValueError):
        return []


@check(
    "kernel.hotplug",
    "/proc/stat's steal does not run backwards when a CPU was offline",
    Clause.PROC_STAT_HOTPLUG,
    Effect.HOTPLUG,
    level=Level.KERNEL,
)
def hotplug(guest: Guest) -> Finding:
    if isinstance(guest.hotplug, str):
        return skipped(guest.hotplug)
    if not guest.adopted:
        return skipped(_NO_STEAL)
    compared = [
        (switched.cpu, switched.procstat_before_ns, switched.procstat_after_ns)
        for switched in guest.hotplug
        if switched.procstat_before_ns is not None and switched.procstat_after_ns is not None
    ]
    if not compared:
        return skipped("/proc/stat does not say what was stolen from these CPUs")
    back = {cpu: (before, after) for cpu, before, after in compared if after < before}
    if back:
        before_ns, after_ns = next(iter(back.values()))
        return warned(
            f"from {before_ns / 1e9:.2f} s to {after_ns / 1e9:.2f} s",
            "a known defect of Linux: coming online, it asks for the structure again, which"
            " restarts the count, and /proc/stat with it. Agents that swallow a decrease, as"
            " node_exporter does, then show no steal, a graph flat at zero, until the count has"
            " passed where it was. Take rates from guestpv, which numbers epochs",
        ).on(back)
    if not any(before_ns for _, before_ns, _ in compared):
        return skipped("none of these CPUs had steal in /proc/stat to lose")
    return passed(f"cpu{listed([cpu for cpu, _, _ in compared])}: not then")

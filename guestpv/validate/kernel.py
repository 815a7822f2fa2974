# SPDX-License-Identifier: MIT
"""kernel: what the guest's own kernel makes of the count."""

import numpy as np

from guestpv.account.delta import delta
from guestpv.account.kernel import KernelAccount
from guestpv.cpulist import listed
from guestpv.source.procstat import TICK_NS
from guestpv.validate.check import Effect, Finding, Level, check, failed, passed, skipped, warned
from guestpv.validate.guest import Guest

_CLAUSE = "proc(5): steal"


@check(
    "kernel.agrees",
    "/proc/stat's steal agrees with the count, within its resolution",
    _CLAUSE,
    Effect.LOAD,
    level=Level.KERNEL,
)
def agrees(guest: Guest) -> Finding:
    first, last = guest.watched.samples
    cpus = guest.watched.judged["cpu"].astype(np.intp)
    counted = delta(first.rows, last.rows)
    went_on = counted["valid"]
    cpus = cpus[went_on[cpus]]
    if not len(cpus):
        return skipped("no count went on from the beginning to the end")
    stolen_ns = counted["stolen_ns"].astype(np.int64)
    account = KernelAccount(first.kernel)
    account.tick(last.kernel, stolen_ns, ~went_on)
    told_ns, counted_ns = int(account.steal_ns[cpus].sum()), int(stolen_ns[cpus].sum())
    text = f"/proc/stat {told_ns / 1e9:.2f} s, the count {counted_ns / 1e9:.3f} s"
    if not guest.adopted:
        if not told_ns and counted_ns > TICK_NS:
            return warned(
                f"{text}: this kernel accounts for no steal (CONFIG_PARAVIRT is not set)",
                "read the count: top, vmstat and all that read /proc/stat show none",
            )
        return skipped("this kernel accounts for no steal (CONFIG_PARAVIRT is not set)")
    for cpu in cpus[account.differs[cpus]]:
        return failed(
            f"cpu{cpu}: /proc/stat {account.steal_ns[cpu] / 1e9:.2f} s,"
            f" the count {stolen_ns[cpu] / 1e9:.3f} s",
            "trust the count, unless counter.monotonic or counter.passed failed, too",
        )
    return passed(text, procstat_steal_ns=told_ns, stolen_ns=counted_ns)


@check(
    "kernel.forward",
    "/proc/stat's steal does not run backwards",
    _CLAUSE,
    Effect.LOAD,
    level=Level.KERNEL,
)
def forward(guest: Guest) -> Finding:
    backwards_ns = guest.watched.kernel_backwards_ns
    if backwards_ns.any():
        cpu = int(np.argmax(backwards_ns))
        return failed(
            f"cpu{cpu}: by {backwards_ns[cpu] / 1e9:.2f} s",
            "a count that is set back does this: see counter.monotonic",
        )
    if not guest.adopted:
        return skipped("this kernel accounts for no steal (CONFIG_PARAVIRT is not set)")
    return passed("not while it was watched")


@check(
    "kernel.hotplug",
    "/proc/stat's steal does not run backwards when a CPU was offline",
    f"{_CLAUSE}; Linux, arch/arm64/kernel/paravirt.c",
    Effect.HOTPLUG,
    level=Level.KERNEL,
)
def hotplug(guest: Guest) -> Finding:
    if isinstance(guest.hotplug, str):
        return skipped(guest.hotplug)
    if not guest.adopted:
        return skipped("this kernel accounts for no steal (CONFIG_PARAVIRT is not set)")
    compared = [
        (switched.cpu, switched.procstat_before_ns, switched.procstat_after_ns)
        for switched in guest.hotplug
        if switched.procstat_before_ns is not None and switched.procstat_after_ns is not None
    ]
    if not compared:
        return skipped("/proc/stat does not say what was stolen from these CPUs")
    for cpu, before_ns, after_ns in compared:
        if after_ns < before_ns:
            return warned(
                f"cpu{cpu}: from {before_ns / 1e9:.2f} s to {after_ns / 1e9:.2f} s",
                "a known defect of Linux: coming online, it asks for the structure again, which"
                " restarts the count, and /proc/stat with it. Take rates from guestpv, which"
                " numbers epochs, or drop negative ones",
            )
    if not any(before_ns for _, before_ns, _ in compared):
        return skipped("none of these CPUs had steal in /proc/stat to lose")
    return passed(f"cpu{listed([cpu for cpu, _, _ in compared])}: not then")

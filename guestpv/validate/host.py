# SPDX-License-Identifier: MIT
"""host: the same interval, as the host's own scheduler counts it."""

from typing import Any

from guestpv.account.delta import delta
from guestpv.validate.check import Effect, Finding, Level, Severity, check, failed, passed, skipped
from guestpv.validate.clauses import Clause
from guestpv.validate.guest import Guest
from guestpv.validate.hostaccount import HostView

_ALLOWED = 0.02
_ALLOWED_NS = 5_000_000


@check(
    "host.agrees",
    "The count grew by what the host's scheduler kept the vCPU waiting",
    Clause.RUN_DELAY,
    Effect.LOAD,
    level=Level.KVM,
    severity=Severity.HIGH,
)
def agrees(guest: Guest) -> Finding:
    if isinstance(guest.watched.host, str):
        return skipped(guest.watched.host)
    begin, end = guest.watched.host
    watched = guest.watched.judged["cpu"].tolist()
    incomparable = {cpu: why for cpu in watched if (why := _incomparable(cpu, begin, end))}
    cpus = [cpu for cpu in watched if cpu not in incomparable]
    return _but(
        incomparable, _compared(cpus, begin, end) if cpus else skipped("none is comparable")
    )


def _compared(cpus: list[int], begin: HostView, end: HostView) -> Finding:
    errors = [(cpu, *_error_ns(cpu, begin, end)) for cpu in cpus]
    true_ns = {cpu: end.run_delay_ns[cpu] - begin.run_delay_ns[cpu] for cpu in cpus}
    figures: dict[str, Any] = {
        "errors": [
            {"cpu": cpu, "host_ns": true_ns[cpu], "error_ns": error, "uncertainty_ns": uncertainty}
            for cpu, error, uncertainty in errors
        ]
    }
    wrong = {
        cpu: error
        for cpu, error, uncertainty in errors
        if abs(error) > max(_ALLOWED_NS, _ALLOWED * true_ns[cpu]) + uncertainty
    }
    if wrong:
        worst_first = sorted(wrong, key=lambda cpu: -abs(wrong[cpu]))
        host_ns = true_ns[worst_first[0]]
        counted_ns = host_ns + wrong[worst_first[0]]
        text = f"the host {host_ns / 1e6:.1f} ms, the count {counted_ns / 1e6:.1f} ms"
        return failed(text, **figures).on(worst_first)
    cpu, error, uncertainty = max(errors, key=lambda each: abs(each[1]))
    text = f"{error / 1e6:+.1f} ± {uncertainty / 1e6:.1f} ms of {true_ns[cpu] / 1e6:.0f}"
    return passed(f"error: at most {text} (cpu{cpu})", **figures)


def _but(incomparable: dict[int, str], finding: Finding) -> Finding:
    for why in dict.fromkeys(incomparable.values()):
        finding = finding.but(why, [cpu for cpu in incomparable if incomparable[cpu] == why])
    return finding


def _incomparable(cpu: int, begin: HostView, end: HostView) -> str | None:
    """Why the two accounts are not of the same interval; None if they are."""
    if cpu not in begin.run_delay_ns or cpu not in end.run_delay_ns:
        return "the host's account has no such vCPU"
    if end.run_delay_ns[cpu] < begin.run_delay_ns[cpu]:
        return "the host's account began anew, as it does where a VM is moved"
    if not delta(begin.before, end.after)[cpu]["valid"]:
        return "its count did not go on from the beginning to the end"
    return None


def _error_ns(cpu: int, begin: HostView, end: HostView) -> tuple[int, int]:
    """How much more the count grew than the host's account, and how sure that is.

    The host was asked between two snapshots, so each end is known up to what they differ by.
    """
    true_ns = end.run_delay_ns[cpu] - begin.run_delay_ns[cpu]
    counts = [
        [int(snapshot["stolen_ns"][cpu]) for snapshot in (view.before, view.after)]
        for view in (begin, end)
    ]
    (begin_low, begin_high), (end_low, end_high) = counts
    grown_ns = (end_low + end_high - begin_low - begin_high) // 2
    uncertainty_ns = (end_high - end_low + begin_high - begin_low) // 2
    return grown_ns - true_ns, uncertainty_ns

# SPDX-License-Identifier: MIT
"""address: where the hypervisor put the structures."""

from itertools import pairwise

from guestpv.cpulist import listed
from guestpv.page.abi import STRUCTURE_ALIGNMENT, Fault, State
from guestpv.page.names import fault_text
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
from guestpv.validate.iomem import is_reserved_ram

_OF_THE_ADDRESS = (Fault.UNALIGNED, Fault.OUT_OF_RANGE, Fault.SYSTEM_RAM, Fault.OVERLAP)
"""Faults that have checks of their own."""
_ADVICE = (
    "no guest may map it, and guestpv did not: show this report (--json) to whoever runs the"
    " hypervisor"
)
_GIVE = (
    "have the VMM give each vCPU a structure; a guest that was moved here from a host without"
    " PV-time has to be rebooted, so that its kernel asks"
)
_UNKNOWN = "no address is known: the kernel keeps them, and where was not to be found out"


@check(
    "address.given",
    "Every vCPU that is online has a structure",
    Clause.GIVEN,
    live=False,
    level=Level.MUST,
)
def given(guest: Guest) -> Finding:
    entries = guest.entries
    if not entries["st_call"][guest.asked].any():
        return skipped("none was asked for, since the hypervisor does not vouch for PV_TIME_ST")
    if guest.probed and not _known(guest) and not _without(guest):
        return skipped(_UNKNOWN)
    if without := _without(guest):
        return failed(f"none: {fault_text(entries['fault'][without[0]])}", _GIVE).on(without)
    return passed(f"{len(guest.asked)} structures")


def _without(guest: Guest) -> list[int]:
    """The CPUs that were given no structure."""
    entries = guest.entries
    given = (Fault.NONE, Fault.PROBED, *_OF_THE_ADDRESS)
    return [
        cpu
        for cpu in guest.asked
        if entries["fault"][cpu] not in given
        or (entries["state"][cpu] == State.ONLINE and not entries["offset"][cpu])
    ]


@check(
    "address.aligned",
    "A structure is aligned to 64 bytes",
    Clause.ALIGNED,
    live=False,
    level=Level.MUST,
)
def aligned(guest: Guest) -> Finding:
    return _without_fault(guest, Fault.UNALIGNED, f"to {STRUCTURE_ALIGNMENT} bytes")


@check(
    "address.range",
    "A structure is inside the physical address size",
    Clause.ADDRESSABLE,
    live=False,
    level=Level.DERIVED,
    severity=Severity.CRITICAL,
)
def in_range(guest: Guest) -> Finding:
    return _without_fault(guest, Fault.OUT_OF_RANGE, "inside")


@check(
    "address.ram",
    "A structure is outside of the memory that the guest's kernel gives to programs",
    Clause.RESERVED,
    live=False,
    level=Level.SHOULD,
    severity=Severity.CRITICAL,
)
def outside_ram(guest: Guest) -> Finding:
    """In memory that is reserved and mapped it may be; guestpv can't show that to users."""
    entries = guest.entries
    inside = [cpu for cpu in guest.asked if entries["fault"][cpu] == Fault.SYSTEM_RAM]
    ipas = {cpu: int(entries["ipa"][cpu]) for cpu in inside}
    if guest.live and inside and all(map(is_reserved_ram, ipas.values())):
        return warned(
            f"{ipas[inside[0]]:#x}: in a reserved part of System RAM",
            "the interface allows that, but guestpv maps no page of System RAM to users, since the"
            " kernel may keep anything beside the structure: have the region marked no-map",
        ).on(inside)
    return _without_fault(guest, Fault.SYSTEM_RAM, "outside of System RAM")


@check(
    "address.apart",
    "Each vCPU has a structure of its own",
    Clause.ONE_EACH,
    live=False,
    level=Level.DERIVED,
)
def apart(guest: Guest) -> Finding:
    entries = guest.entries[guest.asked]
    given = (entries["offset"] != 0) | ((entries["fault"] == Fault.PROBED) & (entries["ipa"] != 0))
    ipas = sorted(entries["ipa"][given].tolist())
    distances = [later - earlier for earlier, later in pairwise(ipas)]
    if min(distances, default=STRUCTURE_ALIGNMENT) < STRUCTURE_ALIGNMENT:
        return failed(f"two structures are {min(distances)} bytes apart", _ADVICE)
    text = f"{min(distances)} bytes apart or more" if distances else "there is one only"
    return _without_fault(guest, Fault.OVERLAP, text)


@check(
    "address.stable",
    "A vCPU that was offline has its structure where it was",
    Clause.BASE_STAYS,
    Effect.HOTPLUG,
    level=Level.KVM,
)
def stable(guest: Guest) -> Finding:
    if isinstance(guest.hotplug, str):
        return skipped(guest.hotplug)
    ipas = {
        switched.cpu: (int(switched.entry_before["ipa"]), int(switched.entry_after["ipa"]))
        for switched in guest.hotplug
    }
    moved = [cpu for cpu, (before, after) in ipas.items() if before != after]
    if moved:
        before, after = ipas[moved[0]]
        return failed(f"{before:#x} before, {after:#x} after").on(moved)
    return passed(f"cpu{listed([switched.cpu for switched in guest.hotplug])}: where it was")


def _without_fault(guest: Guest, fault: Fault, text: str) -> Finding:
    """What the module, which checks each address before it maps it, refused."""
    entries = guest.entries
    if not _known(guest):
        return skipped("no structure was given" if _without(guest) else _UNKNOWN)
    cpus = [cpu for cpu in guest.asked if entries["fault"][cpu] == fault]
    if cpus:
        return failed(f"{int(entries['ipa'][cpus[0]]):#x}: {fault.text}", _ADVICE).on(cpus)
    return passed(text)


def _known(guest: Guest) -> list[int]:
    """The CPUs whose structure's address is known."""
    entries = guest.entries
    return [
        cpu
        for cpu in guest.asked
        if entries["ipa"][cpu] or entries["fault"][cpu] in _OF_THE_ADDRESS
    ]

# SPDX-License-Identifier: MIT
"""structure: revision and attributes, at every read over the run."""

from guestpv.page.since import since_text
from guestpv.validate.check import Effect, Finding, Level, check, failed, passed
from guestpv.validate.clauses import Clause
from guestpv.validate.guest import Guest

_ADVICE = "guestpv does not interpret the count until it is 0 again; ask who runs the hypervisor"


@check(
    "structure.revision",
    "The revision is 0, always",
    Clause.REVISION,
    Effect.LOAD,
    live=False,
    level=Level.MUST,
)
def revision(guest: Guest) -> Finding:
    return _always_zero(guest, "revision", 0)


@check(
    "structure.attributes",
    "The attributes are 0, always",
    Clause.ATTRIBUTES,
    Effect.LOAD,
    live=False,
    level=Level.MUST,
)
def attributes(guest: Guest) -> Finding:
    return _always_zero(guest, "attributes", 32)


def _always_zero(guest: Guest, field: str, shift: int) -> Finding:
    """In each snapshot, and at each look of the observers."""
    snapshots = [guest.first, guest.reader.snapshot()]
    looks = len(guest.asked) * len(snapshots)
    seen: dict[int, tuple[int, int]] = {}
    """By CPU, what was seen in place of 0, and how often."""
    if guest.live:
        snapshots += [guest.watched.before, guest.watched.after]
        looks += int(guest.watched.rows["looks"].sum())
        for row in guest.watched.rows:
            if value := int(row["unknown_word"]) >> shift & 0xFFFFFFFF:
                seen[int(row["cpu"])] = value, int(row["unknown"])
    for snapshot in snapshots:
        rows = snapshot[guest.asked]
        for row in rows[rows[field] != 0]:
            seen.setdefault(int(row["cpu"]), (int(row[field]), 1))
    if not seen:
        return passed(f"{looks:,} looks", looks=looks)
    cpu = min(seen)
    value, times = seen[cpu]
    entry = guest.entries[cpu]
    since = since_text(entry) if guest.live and entry[field] == value else ""
    text = f"{field} {value:#x} at {times:,} looks{since}"
    return failed(text, _ADVICE, cpu=cpu, looks=times, **{field: value}).on(sorted(seen))

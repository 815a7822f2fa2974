# SPDX-License-Identifier: MIT
"""What a run was able to judge: which CPUs, and whether the host took time from them meanwhile."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Self

import numpy as np

from guestpv.cpulist import listed
from guestpv.page.abi import State
from guestpv.validate.check import Unjudged
from guestpv.validate.guest import Guest

_CONTENDED = 0.05
"""Part of its time that must be missing from a vCPU for it to be contended."""


@dataclass(frozen=True, slots=True)
class Contention:
    """What was missing from a vCPU that was kept busy, and what its count grew by."""

    cpu: int
    watched_ns: int
    missing_ns: int
    """In pieces of 10 µs or more, without what the guest's own tasks and interrupts took."""
    counted_ns: int | None
    """None if it did not go on from the beginning to the end."""

    @property
    def share(self) -> float:
        """Part of the time that is missing, from 0 to 1."""
        return self.missing_ns / self.watched_ns if self.watched_ns else 0.0

    @property
    def contended(self) -> bool:
        return self.share >= _CONTENDED


@dataclass(frozen=True, slots=True)
class Coverage:
    """Which CPUs were judged, and under which contention."""

    unjudged: tuple[Unjudged, ...]
    """CPUs that should have been judged, and were not."""
    left_out: tuple[Unjudged, ...]
    """CPUs that are not there, or that the user did not ask for."""
    contention: tuple[Contention, ...] | None
    """Of each CPU that was watched all the time; None if none was to be."""

    @classmethod
    def of(cls, guest: Guest) -> Self:
        """Of what was judged so far: it asks for no evidence that no check has asked for."""
        left_out: dict[int, str] = {}
        chosen = guest.options.cpus
        for cpu, state in enumerate(guest.entries["state"]):
            if chosen is not None and cpu not in chosen:
                left_out[cpu] = "--cpu does not name it"
            elif state == State.ABSENT:
                left_out[cpu] = "it was never online"
        return cls(_grouped(guest.unjudged), _grouped(left_out), _contention(guest))


class Requirement(StrEnum):
    """What a user may demand of a run, so that its verdicts are worth something."""

    CONTENDED = "contended"
    """The host took time from each vCPU that was watched."""
    ALL_CPUS = "all-cpus"
    """Each CPU that is there and was asked for was judged."""


def unmet(requirement: Requirement, coverage: Coverage | None) -> str | None:
    """Why *requirement* is not met; None if it is. *coverage* is None if nothing was to be had."""
    if coverage is None:
        return "nothing was judged"
    match requirement:
        case Requirement.CONTENDED:
            if not coverage.contention:
                return "no vCPU was watched"
            idle = [vcpu for vcpu in coverage.contention if not vcpu.contended]
            if not idle:
                return None
            most = max(vcpu.share for vcpu in idle)
            cpus = listed(vcpu.cpu for vcpu in idle)
            return (
                f"cpu{cpus}: no more than {100 * most:.1f} % of the time was missing, and"
                f" {100 * _CONTENDED:.0f} % have to be; run it while the host is busy"
            )
        case Requirement.ALL_CPUS:
            return "; ".join(f"cpu{listed(u.cpus)}: {u.why}" for u in coverage.unjudged) or None


def _grouped(reasons: dict[int, str]) -> tuple[Unjudged, ...]:
    by_reason: dict[str, list[int]] = {}
    for cpu, why in reasons.items():
        by_reason.setdefault(why, []).append(cpu)
    return tuple(Unjudged(tuple(cpus), why) for why, cpus in by_reason.items())


def _contention(guest: Guest) -> tuple[Contention, ...] | None:
    if (watched := guest.seen) is None:
        return None
    rows = watched.judged
    missing_ns = rows["gaps_ns"].astype(np.int64) - rows["waited_ns"].astype(np.int64)
    missing_ns -= watched.interrupts_ns[rows["cpu"].astype(np.intp)]
    return tuple(
        Contention(
            cpu=int(row["cpu"]),
            watched_ns=int(row["ended_ns"] - row["began_ns"]),
            missing_ns=max(0, int(missing)),
            counted_ns=None if row["restarts"] else int(row["last_ns"]) - int(row["first_ns"]),
        )
        for row, missing in zip(rows, missing_ns, strict=True)
    )

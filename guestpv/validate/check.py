# SPDX-License-Identifier: MIT
"""What a check is: an id, the promise that it checks, and a function that judges a guest."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum, StrEnum
from typing import Any, Self

from guestpv.cpulist import listed
from guestpv.errors import Error
from guestpv.validate.clauses import Clause
from guestpv.validate.guest import Guest


class Verdict(StrEnum):
    """What became of a check."""

    PASS = "pass"
    """The promise was seen to be kept."""
    WARN = "warn"
    """Something else than the hypervisor breaks it, or something to know was seen."""
    FAIL = "fail"
    """The promise was seen to be broken."""
    ERROR = "error"
    """Something went wrong while it was checked."""
    SKIP = "skip"
    """It could not be checked, for a reason that is no error."""


class Effect(StrEnum):
    """What a check does to the guest."""

    NOTHING = "nothing"
    LOAD = "load"
    """It keeps every vCPU busy for a while, and judges what was watched meanwhile."""
    HOTPLUG = "hotplug"
    """It takes CPUs offline and back, which restarts their counts."""
    SUSPEND = "suspend"
    """The whole guest sleeps for some seconds."""
    RELOAD = "reload"
    """It removes the module and loads it again."""

    @property
    def disruptive(self) -> bool:
        """Whether it changes the guest, and so has to be asked for."""
        return self not in (Effect.NOTHING, Effect.LOAD)


class Level(StrEnum):
    """Whose promise it is, and so who is to blame where it is broken."""

    MUST = "must"
    """The specification demands it."""
    SHOULD = "should"
    """The specification, or Linux's document of the interface, advises it."""
    DERIVED = "derived"
    """It follows from what the specification demands."""
    KVM = "kvm"
    """KVM does it so; another hypervisor need not."""
    KERNEL = "kernel"
    """The guest's own Linux, which reads the count."""
    GUESTPV = "guestpv"
    """guestpv's own."""

    @property
    def blames_hypervisor(self) -> bool:
        """Whether a promise of this level that is broken makes stolen time untrustworthy."""
        return self in (Level.MUST, Level.SHOULD, Level.DERIVED)


class Needs(IntEnum):
    """How far the module must have come for a check to judge; each includes those before it."""

    INDEX = 0
    """It is loaded."""
    ANSWERS = 1
    """A hypervisor was asked."""
    STRUCTURES = 2
    """It mapped structures, which a load that only probes does not."""


class Severity(StrEnum):
    """How bad it is for the guest if the promise is broken."""

    CRITICAL = "critical"
    """Memory that is not a structure's may be read as one, or a guest be harmed otherwise."""
    HIGH = "high"
    """The count is wrong: no figure that is made of it can be used."""
    MEDIUM = "medium"
    """Some figures are wrong, or not to be had, and one can tell which."""
    LOW = "low"
    """Good to know: what is read is right."""


_SEVERITIES = {
    Level.MUST: Severity.HIGH,
    Level.SHOULD: Severity.MEDIUM,
    Level.DERIVED: Severity.HIGH,
    Level.KVM: Severity.LOW,
    Level.KERNEL: Severity.MEDIUM,
    Level.GUESTPV: Severity.MEDIUM,
}
"""Where a check does not say it itself."""

_HYPERVISOR = (
    "show this report (--json) to whoever runs the hypervisor, who has to mend it, and take no"
    " decision on its stolen time until then"
)
_ADVICE = {
    Level.MUST: _HYPERVISOR,
    Level.SHOULD: _HYPERVISOR,
    Level.DERIVED: _HYPERVISOR,
    Level.KVM: "if the host is KVM, show this report (--json) to whoever runs it; another"
    " hypervisor may do it so",
    Level.KERNEL: "trust the count, as guestpv reads it, and not what this guest's /proc/stat says",
    Level.GUESTPV: "this is guestpv's own mistake: please report it, with this report (--json)",
}
"""What to do about a promise that is broken, where the finding does not say it itself."""


@dataclass(frozen=True, slots=True)
class Unjudged:
    """CPUs on which something was not judged, and why."""

    cpus: tuple[int, ...]
    """In ascending order."""
    why: str


def grouped(reasons: Mapping[int, str]) -> tuple[Unjudged, ...]:
    """Why each CPU was not judged, by reason."""
    by_reason: dict[str, list[int]] = {}
    for cpu, why in reasons.items():
        by_reason.setdefault(why, []).append(cpu)
    return tuple(Unjudged(tuple(cpus), why) for why, cpus in by_reason.items())


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check saw."""

    verdict: Verdict
    text: str
    advice: str = ""
    """What a person can do about it."""
    figures: dict[str, Any] = field(default_factory=dict)
    """For programs; their names carry units."""
    cpus: tuple[int, ...] = ()
    """All CPUs on which the promise is broken, in ascending order; () if it is no CPU's own."""
    unjudged: tuple[Unjudged, ...] = ()
    """Of the CPUs that were judged by other checks, those that this one could not judge."""

    def on(self, cpus: Iterable[int]) -> Self:
        """The same, seen on *cpus*: all are listed, and the text says what of the first given."""
        given = [int(cpu) for cpu in cpus]
        example = f", on cpu{given[0]}" if len(given) > 1 else ""
        broken = tuple(sorted(given))
        return replace(self, text=f"cpu{listed(broken)}{example}: {self.text}", cpus=broken)

    def but(self, why: str, cpus: Iterable[int]) -> Self:
        """The same, but *cpus*, if there are any, were not judged, and *why*."""
        ordered = tuple(sorted(int(cpu) for cpu in cpus))
        if not ordered:
            return self
        return replace(self, unjudged=(*self.unjudged, Unjudged(ordered, why)))


def passed(text: str, **figures: Any) -> Finding:
    return Finding(Verdict.PASS, text, figures=figures)


def failed(text: str, advice: str = "", **figures: Any) -> Finding:
    return Finding(Verdict.FAIL, text, advice, figures)


def warned(text: str, advice: str = "", **figures: Any) -> Finding:
    return Finding(Verdict.WARN, text, advice, figures)


def by_cpu(
    found: Callable[[str, str], Finding], texts: Mapping[int, str], advice: str = ""
) -> Finding:
    """What *found*, `failed` or `warned`, makes of CPUs and of what was seen on each."""
    cpus = sorted(texts)
    return found(texts[cpus[0]], advice).on(cpus)


def skipped(text: str, **figures: Any) -> Finding:
    return Finding(Verdict.SKIP, text, figures=figures)


def errored(error: Exception) -> Finding:
    """What a check that raised *error* is worth."""
    match error:
        case Error():
            return Finding(Verdict.ERROR, f"{error.what}. {error.why}", error.fix)
        case OSError(strerror=str()):
            return Finding(Verdict.ERROR, f"{error.filename or 'reading'}: {error.strerror}")
        case _:
            return Finding(
                Verdict.ERROR,
                f"unexpected {type(error).__name__}: {error}",
                "this is a mistake in guestpv: please report it, with what GUESTPV_DEBUG=1 in the"
                " environment shows",
            )


Judge = Callable[[Guest], Finding]


@dataclass(frozen=True, slots=True)
class Check:
    """One promise."""

    id: str
    """``GROUP.NAME``; never changes."""
    promise: str
    """What is promised, as a sentence."""
    clause: Clause
    """What it follows from."""
    also: tuple[Clause, ...]
    """Other promises that are not kept where it fails."""
    level: Level
    severity: Severity
    effect: Effect
    live: bool
    """Whether it needs a hypervisor; if not, the index of a page image is enough."""
    needs: Needs
    judge: Judge

    @property
    def advice(self) -> str:
        """What to do if it fails, where the finding does not know better."""
        return _ADVICE[self.level]

    @property
    def group(self) -> str:
        return self.id.partition(".")[0]


CHECKS: dict[str, Check] = {}
"""All checks by id."""


def check(
    id: str,
    promise: str,
    clause: Clause,
    effect: Effect = Effect.NOTHING,
    *,
    level: Level,
    also: tuple[Clause, ...] = (),
    severity: Severity | None = None,
    live: bool = True,
    needs: Needs | None = None,
) -> Callable[[Judge], Judge]:
    """Enter the decorated function into the catalogue.

    *severity* is that of its level if it is None. Unless told what it *needs*, what is live or does
    something to the guest needs structures.
    """
    if needs is None:
        needs = Needs.STRUCTURES if live or effect != Effect.NOTHING else Needs.ANSWERS

    def enter(judge: Judge) -> Judge:
        worth = severity or _SEVERITIES[level]
        CHECKS[id] = Check(id, promise, clause, also, level, worth, effect, live, needs, judge)
        return judge

    return enter

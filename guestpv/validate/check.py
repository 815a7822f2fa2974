# SPDX-License-Identifier: MIT
"""What a check is: an id, the promise that it checks, and a function that judges a guest."""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Any

from guestpv.validate.guest import Guest


class Verdict(StrEnum):
    """What became of a check."""

    PASS = "pass"
    """The promise was seen to be kept."""
    WARN = "warn"
    """Something else than the hypervisor breaks it, or something to know was seen."""
    FAIL = "fail"
    """The promise was seen to be broken."""
    SKIP = "skip"
    """It could not be checked."""


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


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check saw. *figures* are for programs, their names carry units."""

    verdict: Verdict
    text: str
    advice: str = ""
    figures: dict[str, Any] = field(default_factory=dict)


def passed(text: str, **figures: Any) -> Finding:
    return Finding(Verdict.PASS, text, figures=figures)


def failed(text: str, advice: str = "", **figures: Any) -> Finding:
    return Finding(Verdict.FAIL, text, advice, figures)


def warned(text: str, advice: str = "", **figures: Any) -> Finding:
    return Finding(Verdict.WARN, text, advice, figures)


def skipped(text: str) -> Finding:
    return Finding(Verdict.SKIP, text)


Judge = Callable[[Guest], Finding]


@dataclass(frozen=True, slots=True)
class Check:
    """One promise."""

    id: str
    """``GROUP.NAME``; never changes."""
    promise: str
    """What is promised, as a sentence."""
    clause: str
    """Where: a clause of the specification, or what else it follows from."""
    level: Level
    effect: Effect
    live: bool
    """Whether it needs a hypervisor; if not, the index of a page image is enough."""
    needs: Needs
    judge: Judge

    @property
    def group(self) -> str:
        return self.id.partition(".")[0]


CHECKS: dict[str, Check] = {}
"""All checks by id."""


def check(
    id: str,
    promise: str,
    clause: str,
    effect: Effect = Effect.NOTHING,
    *,
    level: Level,
    live: bool = True,
    needs: Needs | None = None,
) -> Callable[[Judge], Judge]:
    """Enter the decorated function into the catalogue.

    Unless told what it *needs*, what is live or does something to the guest needs structures.
    """
    if needs is None:
        needs = Needs.STRUCTURES if live or effect != Effect.NOTHING else Needs.ANSWERS

    def enter(judge: Judge) -> Judge:
        CHECKS[id] = Check(id, promise, clause, level, effect, live, needs, judge)
        return judge

    return enter

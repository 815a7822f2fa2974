# SPDX-License-Identifier: MIT
"""What follows from all outcomes together: a verdict for each level, and whom to blame."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from guestpv.validate.check import Level, Verdict
from guestpv.validate.coverage import Coverage
from guestpv.validate.runner import Outcome

_WORST_FIRST = (Verdict.FAIL, Verdict.ERROR, Verdict.WARN, Verdict.PASS, Verdict.SKIP)

DISTRUST = "Don't trust this hypervisor's stolen time."
_BLAME = {
    Level.KVM: "This hypervisor does not do it as KVM does, which breaks no promise of the"
    " specification.",
    Level.KERNEL: "This guest's Linux misreports: trust the count, and not /proc/stat.",
    Level.GUESTPV: "guestpv did not do what it promises: please report it, with this report.",
}


@dataclass(frozen=True, slots=True)
class Statement:
    """One thing that follows from the run."""

    verdict: Verdict
    text: str
    checks: tuple[str, ...] = ()
    """The ids of the checks from which it follows."""


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """The one that counts; SKIP if there is none."""
    found = set(verdicts)
    return next((verdict for verdict in _WORST_FIRST if verdict in found), Verdict.SKIP)


def verdict_by_level(outcomes: Sequence[Outcome]) -> dict[Level, Verdict]:
    """Of each level, also of those of which nothing was checked: SKIP."""
    return {
        level: worst(
            outcome.finding.verdict for outcome in outcomes if outcome.check.level == level
        )
        for level in Level
    }


def was_judged(outcomes: Sequence[Outcome]) -> bool:
    """Whether there is a verdict on anything."""
    judged = (Verdict.PASS, Verdict.WARN, Verdict.FAIL)
    return any(outcome.finding.verdict in judged for outcome in outcomes)


def conclude(outcomes: Sequence[Outcome], coverage: Coverage | None) -> list[Statement]:
    """What follows, the worst first. Only what blames the hypervisor says not to trust it."""
    statements = []
    blaming = _ids(outcomes, Verdict.FAIL, [level for level in Level if level.blames_hypervisor])
    if blaming:
        statements.append(Statement(Verdict.FAIL, DISTRUST, blaming))
    elif was_judged(outcomes):
        text = "No promise of the hypervisor that was checked was broken."
        statements.append(Statement(Verdict.PASS, text))
    for level, text in _BLAME.items():
        if failing := _ids(outcomes, Verdict.FAIL, [level]):
            statements.append(Statement(Verdict.FAIL, text, failing))
    if misreporting := _ids(outcomes, Verdict.WARN, [Level.KERNEL]):
        statements.append(Statement(Verdict.WARN, _BLAME[Level.KERNEL], misreporting))
    if errors := _ids(outcomes, Verdict.ERROR, list(Level)):
        text = "Something went wrong while it was checked, so this is no verdict on all of it."
        statements.append(Statement(Verdict.ERROR, text, errors))
    if not was_judged(outcomes):
        statements.append(Statement(Verdict.WARN, "Nothing was judged."))
    vcpus = coverage.contention if coverage else None
    if vcpus and not any(vcpu.contended for vcpu in vcpus):
        text = (
            "Hardly any time was taken meanwhile, so a count that hides it would not have been"
            " found: run it while the host is busy."
        )
        statements.append(Statement(Verdict.WARN, text))
    return statements


def _ids(outcomes: Sequence[Outcome], verdict: Verdict, levels: Sequence[Level]) -> tuple[str, ...]:
    return tuple(
        outcome.check.id
        for outcome in outcomes
        if outcome.finding.verdict == verdict and outcome.check.level in levels
    )

# SPDX-License-Identifier: MIT
"""The report for a person: a line for each check as it ends, and what to do where one is wrong."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from guestpv.cli.reports import NAMES, Summary, count
from guestpv.cpulist import listed
from guestpv.validate import Check, Coverage, Outcome, Verdict, catalogue, verdict_by_level

_STYLES = {
    Verdict.PASS: "green",
    Verdict.WARN: "yellow",
    Verdict.FAIL: "bold red",
    Verdict.ERROR: "bold magenta",
    Verdict.SKIP: "dim",
}
_ID_WIDTH = max(len(check.id) for check in catalogue())
_NEED_MORE = (Verdict.FAIL, Verdict.WARN, Verdict.ERROR)


class PeopleConsole(Console):
    """Raises BrokenPipeError where rich would end the process."""

    def on_broken_pipe(self) -> None:
        raise  # which is what is being handled here


class PeopleReport:
    def __init__(self, console: Console) -> None:
        self._console = console
        self._told: set[str] = set()

    def begin(self, checks: Sequence[Check], failing: frozenset[Verdict]) -> None:
        """Nothing is said before there is something to say."""

    def outcome(self, outcome: Outcome) -> None:
        check, finding = outcome.check, outcome.finding
        self._told.add(check.id)
        text = Text(finding.text)
        if finding.verdict in _NEED_MORE:
            promised = f"promised: {check.promise} ({check.clause})"
            text.append(f"\n{promised}; {check.level}, {check.severity}", style="dim")
            if finding.advice:
                text.append(f"\n{finding.advice}", style="italic")
        for group in finding.unjudged:
            text.append(f"\nnot judged: cpu{listed(group.cpus)}: {group.why}", style="dim")
        style = _STYLES[finding.verdict]
        if self._console.width < 2 * _ID_WIDTH:
            head = (finding.verdict.upper(), style)
            self._console.print(Text.assemble(head, f" {check.id}: ", text))
            return
        line = Table.grid(padding=(0, 2))
        line.add_column(width=5)
        line.add_column(width=_ID_WIDTH)
        line.add_column()
        line.add_row(Text(finding.verdict.upper(), style=style), check.id, text)
        self._console.print(line)

    def end(self, summary: Summary) -> None:
        if summary.subject is None:
            return  # what was wrong is said on stderr, and there is nothing else to say
        for outcome in summary.outcomes:
            if outcome.check.id not in self._told:
                self.outcome(outcome)
        counts = count(summary.outcomes)
        said = ", ".join(f"{counts[verdict]} {name}" for verdict, name in NAMES.items())
        self._console.print(f"\n{said} in {summary.duration_s:.0f} s.")
        self._console.print(_levels(summary))
        for line in _coverage(summary.subject.coverage):
            self._console.print(line)
        for condition in summary.conditions:
            if not condition.met:
                said = f"{condition.name}: {condition.text}"
                self._console.print(Text(said, style=_STYLES[Verdict.ERROR]))
        for statement in summary.statements:
            self._console.print(Text(statement.text, style=_STYLES[statement.verdict]))


def _levels(summary: Summary) -> Text:
    """Each level with its verdict."""
    text = Text("Levels: ")
    for at, (level, verdict) in enumerate(verdict_by_level(summary.outcomes).items()):
        text.append(f"{', ' if at else ''}{level} ").append(verdict, style=_STYLES[verdict])
    return text.append(".")


def _coverage(coverage: Coverage) -> list[Text]:
    lines = []
    if vcpus := coverage.contention:
        shares = sorted(100 * vcpu.share for vcpu in vcpus)
        watched = listed(vcpu.cpu for vcpu in vcpus)
        missing = f"{shares[0]:.1f} to {shares[-1]:.1f} %"
        lines.append(Text(f"Contention: of the time of cpu{watched}, {missing} was missing."))
    for name, groups in ("Not judged", coverage.unjudged), ("Left out", coverage.left_out):
        lines += [Text(f"{name}: cpu{listed(group.cpus)}: {group.why}.") for group in groups]
    return lines

# SPDX-License-Identifier: MIT
"""The report for a person: a line for each check as it ends, and what to do where one is wrong."""

from collections import Counter
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from guestpv.cli.reports import NAMES, count
from guestpv.validate import Outcome, Verdict, catalogue

_STYLES = {
    Verdict.PASS: "green",
    Verdict.WARN: "yellow",
    Verdict.FAIL: "bold red",
    Verdict.SKIP: "dim",
}
_ID_WIDTH = max(len(check.id) for check in catalogue())


class PeopleConsole(Console):
    """Raises BrokenPipeError where rich would end the process."""

    def on_broken_pipe(self) -> None:
        raise  # which is what is being handled here


class PeopleReport:
    def __init__(self, console: Console) -> None:
        self._console = console

    def outcome(self, outcome: Outcome) -> None:
        check, finding = outcome.check, outcome.finding
        text = Text(finding.text)
        if finding.verdict in (Verdict.FAIL, Verdict.WARN):
            text.append(f"\npromised: {check.promise} ({check.clause})", style="dim")
            if finding.advice:
                text.append(f"\n{finding.advice}", style="italic")
        line = Table.grid(padding=(0, 2))
        line.add_column(width=4)
        line.add_column(width=_ID_WIDTH)
        line.add_column()
        style = _STYLES[finding.verdict]
        line.add_row(Text(finding.verdict.upper(), style=style), check.id, text)
        self._console.print(line)

    def end(self, outcomes: Sequence[Outcome], duration_s: float) -> None:
        counts = count(outcomes)
        said = ", ".join(f"{counts[verdict]} {name}" for verdict, name in NAMES.items())
        self._console.print(f"\n{said} in {duration_s:.0f} s.")
        self._console.print(_conclusion(counts))


def _conclusion(counts: Counter[Verdict]) -> Text:
    if counts[Verdict.FAIL]:
        return Text("Don't trust this hypervisor's stolen time.", style=_STYLES[Verdict.FAIL])
    if not counts[Verdict.PASS] + counts[Verdict.WARN]:
        return Text("Nothing was checked.", style=_STYLES[Verdict.WARN])
    return Text("No promise that was checked was broken.", style=_STYLES[Verdict.PASS])

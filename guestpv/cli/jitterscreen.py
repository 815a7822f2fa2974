# SPDX-License-Identifier: MIT
"""What `guestpv jitter` has found so far, on a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from guestpv.cli.jitterreport import noise_table, us
from guestpv.cli.waiting import WholeTerminal
from guestpv.latency.jitter import VcpuNoise

_HEADING = 4  # lines that are no rows, and one that says what is not shown


class Screen:
    """As many vCPUs as fit, the noisiest; while it is entered, it has the terminal."""

    def __init__(self, path: str | None, about: Mapping[str, Any]) -> None:
        words = [path or "no count of stolen time", f"gaps from {us(about['threshold_ns'])} us on"]
        if about["until_gap_ns"]:
            words.append(f"until one of {us(about['until_gap_ns'])} us")
        self._title = ", ".join(words)
        self._console = Console(highlight=False)
        self._live = Live(console=self._console, screen=True, auto_refresh=False)
        self._terminal = WholeTerminal(self._live)

    def __enter__(self) -> Self:
        self._terminal.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._terminal.__exit__()

    def suspend(self) -> None:
        self._terminal.suspend()

    def show(self, vcpus: Sequence[VcpuNoise], passed_s: float, seconds: float) -> None:
        room = max(1, self._console.height - _HEADING)
        noisiest = sorted(vcpus, key=lambda vcpu: -vcpu.noise_ns)[:room]
        shown = sorted(noisiest, key=lambda vcpu: vcpu.cpu)
        hidden = len(vcpus) - len(shown)
        keys = " q quit" + f"   {hidden} of {len(vcpus)} vCPUs hidden, the noisiest shown" * bool(
            hidden
        )
        title = f" guestpv jitter  {self._title}, {passed_s:.0f} of {seconds:g} s; times in us"
        page = Group(
            Text(title, no_wrap=True, overflow="crop"), noise_table(shown), Text(keys, style="dim")
        )
        self._live.update(page, refresh=True)

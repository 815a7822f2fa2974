# SPDX-License-Identifier: MIT
"""What `guestpv jitter` has found so far, on a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group
from rich.text import Text

from guestpv.cli.columns import SIMULATED
from guestpv.cli.jitterreport import noise_table, us
from guestpv.cli.waiting import WholeTerminal
from guestpv.latency.jitter import VcpuNoise
from guestpv.source.reader import Source

_HEADING = 4  # lines that are no rows, and one that says what is not shown


class Screen(WholeTerminal):
    """As many vCPUs as fit, the noisiest."""

    def __init__(self, source: Source | None, about: Mapping[str, Any]) -> None:
        super().__init__()
        words = [source.path if source else "no count of stolen time"]
        if source and source.simulated:
            words.insert(0, SIMULATED)
        words.append(f"gaps from {us(about['threshold_ns'])} us on")
        if about["until_gap_ns"]:
            words.append(f"until one of {us(about['until_gap_ns'])} us")
        self._title = ", ".join(words)

    def show(self, vcpus: Sequence[VcpuNoise], passed_s: float, seconds: float) -> None:
        room = max(1, self._console.height - _HEADING)
        noisiest = sorted(vcpus, key=lambda vcpu: -vcpu.noise_ns)[:room]
        shown = sorted(noisiest, key=lambda vcpu: vcpu.cpu)
        hidden = len(vcpus) - len(shown)
        keys = " q quit" + f"   {hidden} of {len(vcpus)} vCPUs hidden, the noisiest shown" * bool(
            hidden
        )
        title = f" guestpv jitter  {self._title}, {passed_s:.0f} of {seconds:g} s; times in us"
        heading = Text(title, no_wrap=True, overflow="crop")
        self.draw(Group(heading, noise_table(shown), Text(keys, style="dim")))

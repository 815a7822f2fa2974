# SPDX-License-Identifier: MIT
"""What a kernel does with real-time threads that never sleep."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from guestpv.errors import Error

RT_RUNTIME = Path("/proc/sys/kernel/sched_rt_runtime_us")
RT_PERIOD = Path("/proc/sys/kernel/sched_rt_period_us")
FAIR_SERVERS = Path("/sys/kernel/debug/sched/fair_server")
"""From Linux 6.12 on each CPU has one, and the two above mean nothing for tasks that are in no
group of real-time ones (kernel/sched/fair.c, fair_server_init; kernel/sched/debug.c)."""
_FAIR_SERVERS_SINCE = (6, 12)
_BY_DEFAULT_MS, _OF_MS = 50.0, 1000.0


@dataclass(frozen=True, slots=True)
class Kept:
    """What ordinary tasks have of a CPU in each period, whatever real-time threads want."""

    ms: float
    of_ms: float
    by: str
    end_it: str
    """A command that has them starve, or where it is found."""


def kept_for_others(cpu: int) -> Kept | None:
    """What that is on a CPU; None if it is nothing."""
    server = FAIR_SERVERS / f"cpu{cpu}"
    if (runtime_ns := _number(server / "runtime")) is not None:
        period_ns = _number(server / "period") or 0
        kept = Kept(runtime_ns / 1e6, period_ns / 1e6, "fair server", f"echo 0 >{server}/runtime")
    elif _kernel() >= _FAIR_SERVERS_SINCE:
        kept = Kept(_BY_DEFAULT_MS, _OF_MS, "fair server, by default", f"echo 0 >{server}/runtime")
    else:
        runs_us, period_us = _number(RT_RUNTIME), _number(RT_PERIOD)
        if runs_us is None or period_us is None or runs_us < 0:
            return None
        end_it = "sysctl kernel.sched_rt_runtime_us=-1"
        kept = Kept((period_us - runs_us) / 1e3, period_us / 1e3, "real-time throttling", end_it)
    return kept if kept.ms > 0 else None


def check(cpus: Sequence[int]) -> None:
    """Raises Error if real-time threads on those CPUs could leave none to what ends them."""
    runs_us = _number(RT_RUNTIME)
    off = runs_us is not None and runs_us < 0
    if os.sched_getaffinity(0) <= set(cpus) and (off or not any(map(kept_for_others, cpus))):
        raise Error(
            "--priority: refused",
            "Real-time threads may run for ever here (kernel.sched_rt_runtime_us is -1, or the fair"
            " servers were switched off), and on none of the CPUs that this process may use could"
            " anything else run, not even what ends it",
            "leave a CPU out of --cpu, or have the kernel keep some time for others again",
        )


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _kernel() -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", os.uname().release)[:2]))

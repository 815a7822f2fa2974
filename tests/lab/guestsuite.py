# SPDX-License-Identifier: MIT
"""tests/guest, run where they belong: in the lab's guest, on each kernel."""

import shlex
import subprocess
import threading
from collections.abc import Sequence
from typing import Any

from preloaded import COMMAND, START

from pvlab import Lab, progress

INDIFFERENT = ("run", "plugins", "jitter", "happening", "pmu_cost", "example", "validate")
"""To who owns the structures: these are run where the kernel does, or with --matrix."""

MODULES = (
    *(f"guestpv.cli.{name}" for name in ("events", "jitter", "run", "watch")),
    *("pytest", "pytest_benchmark.plugin", "pytest_rerunfailures", "guestpv.plugins.marker"),
)
"""Imported once, beside what the tests of labs need."""
PYTEST = (*COMMAND, "pytest", "-Wignore::pytest.PytestAssertRewriteWarning", "/root/tests/guest")
# What pytest makes of the tests when it collects them stays in its cache.
PREPARED = ("sh", "-c", shlex.join([*START, *MODULES]) + " && " + shlex.join([*PYTEST, "--co"]))
OPTIONS = ("-v", "-rsR", "--reruns=1", "--color=no", "--durations=10")
"""What fails at a bad moment of the machine is tried once more in there, and named at the end."""


def run_suite(machine: dict[str, Any], *, everything: bool, steal: int) -> None:
    """Those of the tests that are for a guest from which the host takes time, or the others."""
    left_out = () if everything or machine["kernel"] != "claim-6.1" else INDIFFERENT
    ignored = [f"--ignore=/root/tests/guest/test_{name}.py" for name in left_out]
    chosen = "contended" if steal else "not contended or anyway"
    with Lab(vcpus=2, steal=steal, prepare=PREPARED, **machine) as lab:
        words = ["timeout", "600", *PYTEST, *OPTIONS, "-m", chosen, *ignored]
        assert _run_aloud(lab, words) == []
        log = lab.run(["dmesg"]).stdout
        assert not [line for line in log.splitlines() if "WARNING" in line or "BUG" in line]


def _run_aloud(lab: Lab, command: Sequence[str], timeout: float = 660) -> list[str]:
    """Run pytest in the guest and show each line as it comes: it takes minutes.

    Returns what it says has failed, a line each: an assertion about it says so, too.
    """

    def give_up() -> None:
        progress.say(f"guest: {shlex.join(command)} did not end within {timeout} s")
        lab.guest.stop()

    # The connection's master holds the pipe as well: to end ssh alone would not end the reading.
    limit = threading.Timer(timeout, give_up)
    limit.daemon = True
    limit.start()
    with subprocess.Popen(
        lab.guest.argv(command),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout
        lines = []
        for line in process.stdout:
            lines.append(line.rstrip())
            progress.say(f"guest: {lines[-1]}")
    limit.cancel()
    if process.returncode == 255:
        lab.guest.check()
    failed = [line for line in lines if line.startswith(("FAILED ", "ERROR "))]
    return failed if failed or process.returncode == 0 else lines[-20:]
